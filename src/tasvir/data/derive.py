"""Pairs out of plain pictures: what is made of a picture becomes the source from which it is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasvir.config import DataConfig, Refused
from tasvir.data.colors import lightness

HOLES, NOISE, HELD_OUT_NOISE = 6, 11, 12
"""Streams of random numbers; the others up to 10 belong to shuffling, augmentation and binarization."""


@dataclass(frozen=True)
class Derivation:
    """One way to make a source; `tasvir.config.DataConfig.derive` names it."""

    summary: str
    make: Callable[[Tensor, int, Tensor], Tensor] | None
    """Of pictures, scale and what was drawn, in batches on the device, after augmentation; None: see `packed`."""
    channels: int | None = None
    """Of the source; None: as many as the picture has."""
    color: bool = False
    """Whether only colour pictures have it."""

    @property
    def packed(self) -> bool:
        """Whether it is made once when packing, by `edges`, and stored beside the picture."""
        return self.make is None


def check(name: str, *, channels: int, size: int, scale: int, mask: float) -> None:
    """Raise `Refused` where pictures [channels,size,size] do not have this source; `none` always passes.

    `scale` is how many times smaller the low resolution is, `mask` the side of the hole as a part of the picture's.
    """
    if name == "none":
        return
    if DERIVATIONS[name].color and channels == 1:
        raise Refused(f"--data.derive {name} needs colour, but these pictures are grey. Use pictures in colour.")
    if name == "low-resolution" and size % scale:
        raise Refused(
            f"--data.size is {size}, which is not divisible by --data.scale {scale}."
            f" Use --data.size {max(scale, size - size % scale)} or another scale."
        )
    if name == "masked" and not hole_side(size, mask):
        raise Refused(f"--data.mask {mask} of {size} px is less than one pixel. Use at least {1 / size:.2g}.")


def source_shape(name: str, channels: int, size: int, scale: int) -> tuple[int, int]:
    """(channels, size) of the source made of pictures [channels,size,size]."""
    return DERIVATIONS[name].channels or channels, size // scale if name == "low-resolution" else size


def derived(settings: DataConfig, image: Tensor, drawn: Tensor | None = None) -> Tensor:
    """The sources of [B,C,H,W] pictures in [-1,1], on their device: float32 in [-1,1], shape as `source_shape` says.

    Not for what is `packed`. `drawn` is what `draws` or `held_out` gives for them; left out, that of held-out pictures.
    """
    make = DERIVATIONS[settings.derive].make
    assert make is not None, f"{settings.derive} is made when packing"
    drawn = held_out(settings, image.shape, range(len(image))) if drawn is None else drawn
    return make(image, settings.scale, drawn)


def draws(settings: DataConfig, shape: torch.Size, seed: int, step: int, rank: int, processes: int) -> Tensor:
    """What is random in the sources of a training batch [B,C,H,W], from (seed, step): of masked `boxes` [B,3], of noisy
    `noise` [B,C,H,W], of others nothing [0]. Several processes see together what one with twice the batch sees."""
    count = shape[0]
    if settings.derive == "masked":
        return boxes(seed, step, count * processes, shape[-1], settings.mask)[rank * count : (rank + 1) * count]
    if settings.derive == "noisy":
        seeds = [(NOISE, seed % 2**64, step, rank * count + place) for place in range(count)]
        return noise(seeds, shape, settings.sigma)
    return torch.empty(0)


def held_out(settings: DataConfig, shape: torch.Size, places: Sequence[int]) -> Tensor:
    """The same for pictures that are held out, always as it was: masked in the centre, noise by their places."""
    if settings.derive == "masked":
        return centre(shape[0], shape[-1], settings.mask)
    if settings.derive == "noisy":
        return noise([(HELD_OUT_NOISE, place) for place in places], shape, settings.sigma)
    return torch.empty(0)


def low_resolution(image: Tensor, factor: int) -> Tensor:
    """[B,C,H,W] in [-1,1] to [B,C,H/factor,W/factor] float32 on the grid of 8 bits, as a saved small picture is.

    Cubic convolution with a = -0.5 (Keys 1981), stretched by `factor` against aliasing, its weights normalized where
    the border cuts it off; along the rows first, then rounded to 8 bits, then along the columns: Pillow's BICUBIC.
    H and W must be divisible by `factor`.
    """
    with torch.autocast(image.device.type, enabled=False):
        levels = image.float().contiguous().add(1).mul_(127.5).round_()
        across = reduction(image.shape[-1], factor, image.device)
        down = reduction(image.shape[-2], factor, image.device)
        reduced = _eight_bits(down @ _eight_bits(levels @ across.T)).div_(127.5).sub_(1)
    return reduced if image.is_contiguous() else reduced.contiguous(memory_format=torch.channels_last)


def _eight_bits(levels: Tensor) -> Tensor:
    """Halves are rounded up, as Pillow does; `round` would take them to the even level."""
    return levels.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(32)
def reduction(size: int, factor: int, device: torch.device) -> Tensor:
    """[size/factor, size] float32: the weights of every old pixel in every new one; rows sum to 1."""
    centres = (np.arange(size // factor)[:, None] + 0.5) * factor
    distances = np.abs((np.arange(size) + 0.5 - centres) / factor)
    weights = np.where(distances < 2, cubic(distances), 0.0)
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(np.round(weights * 2**22) / 2**22).float().to(device)  # 22 bits, as Pillow has


def cubic(distance: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel at distances from 0 to 2 (Keys 1981, equation 15)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, far)


def grey(image: Tensor) -> Tensor:
    """[B,3,H,W] sRGB in [-1,1] to [B,1,H,W] float32 in [-1,1]: L/50 - 1, L being the lightness of CIE Lab."""
    return lightness(image) / 50 - 1


def edges(pixels: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """[H,W,1 or 3] uint8 to [H,W,1] uint8: Canny's edges (1986; scikit-image) of the luma, black (0) on white (255).

    `sigma` is the standard deviation of the blur before, in pixels; left out, √(H/64) and at least 1, which keeps the
    eyes of a face of 64 px and drops the texture of skin and wool at 256 px.
    """
    from skimage.feature import canny

    luma = pixels[..., 0] if pixels.shape[-1] == 1 else pixels @ np.array([0.299, 0.587, 0.114])
    found = canny(luma / 255, sigma or max(1.0, (len(pixels) / 64) ** 0.5))
    return np.where(found, 0, 255).astype(np.uint8)[..., None]


def masked(image: Tensor, boxes: Tensor) -> Tensor:
    """[B,C,H,W] in [-1,1] with a square of each set to 0, mid grey; `boxes` is [B,3] integers (top, left, side).

    What of a square is outside the picture is left out.
    """
    boxes = sent(boxes, image.device)
    height, width = image.shape[-2:]
    rows = _inside(height, boxes[:, 0], boxes[:, 2])[:, :, None].to(image.dtype)
    columns = _inside(width, boxes[:, 1], boxes[:, 2]).to(image.dtype)
    # Products of floats, not a choice by booleans: ten times faster on a CPU.
    if image.is_contiguous():
        return image * (1 - rows * columns[:, None, :])[:, None]
    columns = columns[:, None, :, None].expand(-1, -1, -1, image.shape[1]).flatten(2)  # as pixels lie in a row
    kept = (1 - rows * columns).view(len(image), height, width, -1)
    return (image.permute(0, 2, 3, 1) * kept).permute(0, 3, 1, 2)


def noise(seeds: Sequence[tuple[int, ...]], shape: torch.Size, sigma: float) -> Tensor:
    """What noise adds to pictures [B,C,H,W] in [-1,1], each from its own seed; float32, channels innermost.

    Normal, with standard deviation 2·`sigma`, so that `sigma` is in units in which black to white is 1.
    """
    _, channels, height, width = shape
    values = torch.empty(len(seeds), height, width, channels)
    for into, seed in zip(values, seeds, strict=True):
        np.random.default_rng(seed).standard_normal(dtype=np.float32, out=into.numpy())
    return values.mul_(2 * sigma).permute(0, 3, 1, 2)


def noisy(image: Tensor, added: Tensor) -> Tensor:
    """The sum of [B,C,H,W] in [-1,1] and noise, float32, clamped to [-1,1] and rounded to 8 bits as a saved picture."""
    levels = (image.float() + sent(added, image.device)).add_(1).mul_(127.5)
    return _eight_bits(levels).div_(127.5).sub_(1)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """On `device`; from the CPU to a GPU by pinned memory, so that nothing waits for the copy."""
    pinned = numbers.pin_memory() if device.type == "cuda" and numbers.device.type == "cpu" else numbers
    return pinned.to(device, non_blocking=True)


def _inside(size: int, first: Tensor, side: Tensor) -> Tensor:
    """[B,size] bool: which positions are in [first, first + side)."""
    offset = torch.arange(size, device=first.device) - first[:, None]
    return (offset >= 0) & (offset < side[:, None])


def hole_side(size: int, mask: float) -> int:
    """Pixels."""
    return round(mask * size)


def boxes(seed: int, step: int, count: int, size: int, mask: float) -> Tensor:
    """[count,3] int64 (top, left, side): a hole anywhere in each of `count` pictures, from (seed, step).

    With several processes, `count` is for all of them, and each takes its share.
    """
    side = hole_side(size, mask)
    corners = np.random.default_rng((HOLES, seed % 2**64, step)).integers(0, size - side + 1, (count, 2))
    return torch.from_numpy(np.column_stack([corners, np.full(count, side)]))


def centre(count: int, size: int, mask: float) -> Tensor:
    """[count,3] int64 (top, left, side): the hole in the middle, for pictures that are held out."""
    side = hole_side(size, mask)
    first = (size - side) // 2
    return torch.tensor([[first, first, side]]).expand(count, -1)


DERIVATIONS: dict[str, Derivation] = {
    "low-resolution": Derivation(
        "reduced by bicubic interpolation (Keys 1981, a = -0.5), antialiased, 8 bits",
        lambda image, scale, _: low_resolution(image, scale),
    ),
    "grey": Derivation("CIE Lab lightness", lambda image, scale, _: grey(image), channels=1, color=True),
    "edges": Derivation("Canny's edges, black on white", None, channels=1),
    "masked": Derivation("a grey square in place of a part", lambda image, scale, holes: masked(image, holes)),
    "noisy": Derivation("with Gaussian noise, 8 bits", lambda image, scale, added: noisy(image, added)),
}
