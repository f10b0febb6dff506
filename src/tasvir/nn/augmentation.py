"""Augmentation of all that a discriminator sees, through which the generator learns: for few pictures.

Real and generated pictures pass the same augmentation, each with draws of its own; gradients flow through it to the
generated picture. It computes in float32. `diffaugment`: Zhao et al. 2020, arXiv 2006.10738. `ada`: Karras et al. 2020,
arXiv 2006.06676.

R1, R2 and the gradient penalty are at the augmented pictures. The code of ADA and of R3GAN differentiates on, through
the augmentation, to the pictures as they were; here that cannot be: sampling on a grid has no second derivative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import pi
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from tasvir.config import Count, Fraction, Range, Refused, flag
from tasvir.nn.everywhere import averaged, processes


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to every picture, real or generated, before the discriminator sees it; for few pictures."""

    name: Literal["none", "diffaugment", "ada"] = "none"
    """diffaugment changes every picture; ada as many as keep the discriminator from learning the set by heart."""
    policy: tuple[Literal["color", "translation", "cutout"], ...] = ("color", "translation", "cutout")
    """diffaugment: what is changed."""
    transforms: tuple[Literal["blit", "geometry", "color"], ...] = ("blit", "geometry", "color")
    """ada: mirroring, quarter turns and whole-pixel shifts; scaling, rotation and shifts; colours."""
    probability: Fraction = 0.0
    """ada: the probability of each transform at the start."""
    target: Annotated[float, Range(low=-1.0, high=1.0)] | None = 0.6
    """ada: the mean sign of real scores that the probability is adapted to; None keeps the probability."""
    pictures: Count = 500_000
    """ada: real pictures within which the probability can go from 0 to 1."""
    every: Count = 4
    """ada: steps between changes of the probability."""

    def check(self) -> None:
        """Raises `Refused` for settings that would change nothing."""
        for name, own in OWN.items():
            for setting in own:
                if self.name != name and getattr(self, setting) != getattr(AugmentConfig(), setting):
                    raise Refused(
                        f"{flag(f'model.augment.{setting}')} is a setting of {name}, and --model.augment.name is "
                        f"{self.name}: leave it out, or set --model.augment.name {name}."
                    )
            if self.name == name and not getattr(self, own[0]):
                raise Refused(f"{flag(f'model.augment.{own[0]}')} is empty, so {name} would change nothing.")


OWN = {"diffaugment": ("policy",), "ada": ("transforms", "probability", "target", "pictures", "every")}
"""The settings of each augmentation, first of which is what it does."""


class Augment(nn.Module):
    """Pictures [B,C,S,S] in [-1,1] to the same shape, float32; values may leave the range. `none` changes nothing."""

    def __init__(self, config: AugmentConfig):
        super().__init__()
        config.check()
        self.config = config
        self.change = AUGMENTATIONS[config.name](config)

    def forward(self, image: Tensor) -> Tensor:
        if self.config.name == "none":
            return image
        with torch.autocast(image.device.type, enabled=False):
            return self.change(image.float())

    def adapted(self, distance: Tensor, number: int) -> dict[str, Tensor]:
        """Become stronger or weaker by how far [B] the scores of `number` real pictures lie above the score at which a
        picture is called real (0, where that is 0); what is to be watched."""
        return self.change.adapted(distance, number) if isinstance(self.change, Adaptive) else {}


class DiffAugment(nn.Module):
    """The paper's three policies: colours, then a shift, then a square cut out.

    Brightness is shifted by up to ±0.5, saturation multiplied by up to 2 and contrast by 0.5 to 1.5; the picture is
    shifted by up to an eighth of its size, with zeros (mid grey) where it was; a square of half its size becomes zero.
    """

    def __init__(self, config: AugmentConfig):
        super().__init__()
        self.policy = config.policy

    def forward(self, image: Tensor) -> Tensor:
        count, size, device = len(image), image.shape[-1], image.device
        furthest, side = round_half_up(size / 8), round_half_up(size / 2)
        color = torch.rand(3, count, device=device)  # all draws, so that one policy leaves the others as they were
        shift = torch.randint(-furthest, furthest + 1, (2, count), device=device)
        middle = torch.randint(0, size + 1 - side % 2, (2, count), device=device)
        if "color" in self.policy:
            brightness, saturation, contrast = color[0] - 0.5, 2 * color[1], color[2] + 0.5
            rest = image.mean((1, 2, 3)) * (1 - contrast) + brightness
            image = recolored(image, contrast, contrast * saturation, torch.zeros_like(rest), rest)
        if "translation" in self.policy:
            image = shifted(image, *shift)
        if "cutout" in self.policy:
            image = image * ~square(size, middle - side // 2, side)
        return image


class Adaptive(nn.Module):
    """Adaptive discriminator augmentation: each transform of the pipeline with probability p, adapted by r_t.

    r_t = E[sign D(real)] (section 3, equation 1) is the mean over `every` steps and all processes; p rises where it is
    above the target, else falls, by the pictures seen over `pictures`, within 0 and 1. Where only differences of scores
    mean anything, the sign is of the distance to the middle between the means of real and of generated scores.

    The pipeline is appendix B's without image-space filters, noise and cutout, which are not in the paper's own choice
    either. Also left out are the wavelets around the geometric transforms: pictures are resampled bilinearly, mirrored
    at their borders, so strong enlargements and reductions alias.
    """

    probability: Tensor
    overfitting: Tensor
    signs: Tensor
    steps: Tensor

    def __init__(self, config: AugmentConfig):
        super().__init__()
        self.config = config
        self.register_buffer("probability", torch.tensor(config.probability))
        self.register_buffer("overfitting", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        count, size, device = len(image), image.shape[-1], image.device
        chosen = torch.rand(len(OFTEN), count, device=device)
        uniform = torch.rand(len(OFTEN), 2, count, device=device)
        normal = torch.randn(len(OFTEN), 2, count, device=device)
        often = torch.stack([often(self.probability) for often in OFTEN.values()])
        chosen = (chosen < often[:, None]).float()
        draws = {
            name: (chosen[place], uniform[place], normal[place]) for place, name in enumerate(OFTEN)
        }  # a transform that is not chosen is the identity
        moves = [
            matrix(*draws[name], size)
            for part in ("blit", "geometry")
            if part in self.config.transforms
            for name, matrix in MOVES[part].items()
        ]
        if moves:
            moved = resampled(image, reduce(torch.matmul, moves))
            names = [name for part in ("blit", "geometry") if part in self.config.transforms for name in MOVES[part]]
            untouched = torch.stack([draws[name][0] for name in names]).amax(0) == 0
            image = torch.where(untouched[:, None, None, None], image, moved)
        if "color" in self.config.transforms:
            image = recolored(image, *color_draws(draws))
        return image

    @torch.no_grad()
    def adapted(self, distance: Tensor, number: int) -> dict[str, Tensor]:
        self.signs += averaged(distance.detach().float().sign().mean())
        self.steps += 1
        due = self.steps >= self.config.every
        self.overfitting.copy_(torch.where(due, self.signs / self.steps, self.overfitting))
        if self.config.target is not None:
            seen = self.steps * (number * processes() / self.config.pictures)
            change = seen * (self.overfitting - self.config.target).sign()
            self.probability.copy_((self.probability + torch.where(due, change, 0.0)).clamp(0, 1))
        for passed in (self.signs, self.steps):
            passed.mul_((~due).float())
        return {"augmentation": self.probability.clone(), "overfitting": self.overfitting.clone()}


AUGMENTATIONS: dict[str, Callable[[AugmentConfig], nn.Module]] = {
    "none": lambda config: nn.Identity(),
    "diffaugment": DiffAugment,
    "ada": Adaptive,
}

# --- the transforms of ada: whether it is chosen [B] (0 or 1), draws from U(0,1) [2,B], draws from N(0,1) [2,B] ---

Draws = tuple[Tensor, Tensor, Tensor]


def _angle(chosen: Tensor, uniform: Tensor) -> Tensor:
    return chosen * pi * (2 * uniform[0] - 1)


def _powers(chosen: Tensor, normal: Tensor, deviation: float) -> Tensor:
    """Log-normal factors, 2^N(0, deviation²)."""
    return torch.exp2(chosen * deviation * normal[0])


def _flip(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    mirrored = 1 - 2 * chosen * (uniform[0] * 2).floor()
    return scaling(mirrored, torch.ones_like(mirrored))


def _quarters(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    return rotation(chosen * (uniform[0] * 4).floor() * (pi / 2))


def _whole_shift(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    pixels = chosen * ((2 * uniform - 1) * size / 8).round()
    return translation(pixels * (2 / size))


def _isotropic(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    factor = _powers(chosen, normal, 0.2)
    return scaling(factor, factor)


def _turn(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    return rotation(_angle(chosen, uniform))


def _anisotropic(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    factor = _powers(chosen, normal, 0.2)
    return scaling(factor, 1 / factor)


def _shift(chosen: Tensor, uniform: Tensor, normal: Tensor, size: int) -> Tensor:
    return translation(chosen * normal * (2 / 8))


MOVES: dict[str, dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]]] = {
    "blit": {"flip": _flip, "quarters": _quarters, "whole_shift": _whole_shift},
    "geometry": {
        "isotropic": _isotropic,
        "rotation_before": _turn,
        "anisotropic": _anisotropic,
        "rotation_after": _turn,
        "shift": _shift,
    },
}
"""In the order in which a picture undergoes them; each gives matrices [B,3,3] of where a pixel comes from."""

OFTEN: dict[str, Callable[[Tensor], Tensor]] = {name: lambda p: p for part in MOVES.values() for name in part} | {
    name: lambda p: p for name in ("brightness", "contrast", "luma_flip", "hue", "saturation")
}
"""How often each transform is chosen, by p; one rotation or the other, together as often as p."""
OFTEN |= {name: lambda p: 1 - (1 - p).sqrt() for name in ("rotation_before", "rotation_after")}


def color_draws(draws: dict[str, Draws]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Appendix B's colour transforms in their order, which is one change of luma, one of chroma, and a shift."""
    brightness = draws["brightness"][0] * 0.2 * draws["brightness"][2][0]
    contrast = _powers(draws["contrast"][0], draws["contrast"][2], 0.5)
    chosen, uniform, _ = draws["luma_flip"]
    luma = contrast * (1 - 2 * chosen * (uniform[0] * 2).floor())
    saturation = _powers(draws["saturation"][0], draws["saturation"][2], 1.0)
    return luma, contrast * saturation, _angle(*draws["hue"][:2]), luma * brightness


# --- formulae ---


def round_half_up(value: float) -> int:
    return int(value + 0.5)


def recolored(image: Tensor, luma: Tensor, chroma: Tensor, hue: Tensor, rest: Tensor) -> Tensor:
    """[B,C,H,W]: luma (the mean over channels) and the rest of each pixel multiplied by [B], the rest turned about the
    grey axis by `hue` [B] radians (three channels only), then [B] added. A grey picture is all luma.
    """
    channels, device = image.shape[1], image.device
    grey = torch.full((channels, channels), 1 / channels, device=device)
    colored = torch.eye(channels, device=device) - grey
    luma, chroma, hue = (value[:, None, None] for value in (luma, chroma, hue))
    matrix = luma * grey + chroma * hue.cos() * colored
    if channels == 3:
        matrix = matrix + chroma * hue.sin() * _across_grey(device)
    changed = torch.baddbmm(rest[:, None, None], matrix, image.flatten(2))
    return changed.view(image.shape)


def _across_grey(device: torch.device) -> Tensor:
    """The matrix of the cross product with the unit vector along grey (Rodrigues' rotation formula)."""
    one = 3**-0.5
    return torch.tensor([[0.0, -one, one], [one, 0.0, -one], [-one, one, 0.0]], device=device)


def shifted(image: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """[B,C,S,S] moved by whole pixels [B], with zeros where nothing was."""
    size = image.shape[-1]
    place = torch.arange(size, device=image.device)
    rows, columns = (place - by[:, None] for by in (down, right))
    kept = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None]
    index = (rows.clamp(0, size - 1) * size)[:, :, None] + columns.clamp(0, size - 1)[:, None]
    moved = image.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, image.shape[1], -1))
    return moved.view(image.shape) * kept[:, None]


def square(size: int, corner: Tensor, side: int) -> Tensor:
    """[B,1,S,S] bool: true within a square whose top and left are [2,B]; it may hang over the border."""
    place = torch.arange(size, device=corner.device)
    inside = (place >= corner[..., None]) & (place < corner[..., None] + side)
    return (inside[0, :, :, None] & inside[1, :, None, :])[:, None]


def resampled(image: Tensor, source: Tensor) -> Tensor:
    """[B,C,S,S] with each pixel taken bilinearly from where `source`, [B,3,3], sends it; mirrored at the borders.

    Coordinates are (right, down, 1), from -1 to 1 between the outer edges.
    """
    grid = affine_grid(source[:, :2], list(image.shape), align_corners=False)
    return grid_sample(image.contiguous(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _matrix(*entries: Tensor) -> Tensor:
    """[B,3,3] from the six entries [B] of its first two rows."""
    zero, one = torch.zeros_like(entries[0]), torch.ones_like(entries[0])
    return torch.stack([*entries, zero, zero, one], 1).unflatten(1, (3, 3))


def scaling(right: Tensor, down: Tensor) -> Tensor:
    """Where pixels come from when a picture is made larger by these factors [B]."""
    zero = torch.zeros_like(right)
    return _matrix(1 / right, zero, zero, zero, 1 / down, zero)


def rotation(angle: Tensor) -> Tensor:
    """Where pixels come from when a picture is turned by [B] radians, from right towards down."""
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero)


def translation(shift: Tensor) -> Tensor:
    """Where pixels come from when a picture is moved by [2,B] to the right and down."""
    zero, one = torch.zeros_like(shift[0]), torch.ones_like(shift[0])
    return _matrix(one, zero, -shift[0], zero, one, -shift[1])
