"""A model's latent spaces: z, where its noise lives, and w, to which style-based generators map it; paths in them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tasvir.config import Refused, SamplingConfig
from tasvir.core import Batch, Encodes, Noise
from tasvir.diffusion.inversion import deterministic, invert
from tasvir.diffusion.samplers import SAMPLERS

SpaceName = Literal["z", "w"]
PathName = Literal["linear", "spherical"]


def random_latents(model: Any, noise: Noise) -> Tensor:
    """Latents [N,D] as a model draws them for its own samples, on the CPU: from its prior, or standard normal."""
    own = getattr(model, "latents", None)
    return noise.draw(model.latent_size) if own is None else own(noise).detach().cpu()


@dataclass(frozen=True)
class Space:
    """Where latents lie, and how pictures are made of them. `label` is [N] int64, for models that know classes."""

    name: SpaceName
    path: PathName
    """How one goes from latent to latent in it."""
    enter: Callable[[Tensor, Tensor | None], Tensor]
    """Latents z [N,D] of classes to this space's own [N,W]."""
    decode: Callable[[Tensor, Tensor | None], Tensor]
    """Those to pictures [N,C,S,S] float in [-1,1]."""
    draw: Callable[[Noise], Tensor]
    """Random latents z [N,D], on the CPU."""
    encode: Callable[[Tensor, Tensor | None], Tensor] | None = None
    """Pictures [N,C,S,S] to z; None where the model cannot."""


def has_styles(model: Any) -> bool:
    """Whether a model has w: `map(z)` → w [N,W], and `synthesize(w)` → pictures."""
    return callable(getattr(model, "map", None)) and callable(getattr(model, "synthesize", None))


def space_of(
    model: Any,
    recipe: str,
    name: SpaceName | None = None,
    truncation: float | None = None,
    how: SamplingConfig | None = None,
) -> Space:
    """The space of that name; left out, w where the model has it (Karras et al. 2019, arXiv 1812.04948), else z.

    Of models that draw in steps, z is the noise they begin with, and `how` says how they go on (see `noise_space`).
    `truncation` is as in `sample`: of what enters, or where z is mapped to w, of this w. Raises `Refused` for w where
    there is none, and for a truncation that the model does not know.
    """
    if truncation is not None and not model.truncates:
        raise Refused(f"{recipe} draws nothing that could be truncated; leave --truncation out.")
    if truncation is not None and not has_styles(model) and model.config.noise != "normal":
        raise Refused("Truncation is of normal noise: leave --truncation out.")

    def kept(latent: Tensor) -> Tensor:
        return latent if truncation is None else model.truncate(latent, truncation)

    def told(label: Tensor | None) -> dict[str, Tensor]:
        return {} if label is None else {"label": label}

    if name == "w" and not has_styles(model):
        raise Refused(f"{recipe} has no w, only z: leave --space out. Style-based generators have both.")
    if model.stepwise:
        return noise_space(model, how)

    def draw(noise: Noise) -> Tensor:
        return random_latents(model, noise)

    def encode(image: Tensor, label: Tensor | None) -> Tensor:
        return model.encode(image, **told(label))

    ends = draw, encode if isinstance(model, Encodes) else None
    if not has_styles(model):
        return Space("z", "spherical", lambda z, label: kept(z), lambda z, label: model.decode(z, **told(label)), *ends)

    def enter(z: Tensor, label: Tensor | None) -> Tensor:
        return kept(model.map(z, **told(label)))

    def made(w: Tensor, label: Tensor | None) -> Tensor:
        return shown(model.synthesize(w))

    if name == "z":
        return Space("z", "spherical", lambda z, label: z, lambda z, label: made(enter(z, label), label), *ends)
    return Space("w", "linear", enter, made, *ends)


def noise_space(model: Any, how: SamplingConfig | None = None) -> Space:
    """The noise that a diffusion model draws a picture of, [N,D] of unit variance.

    A picture's own is found by going the deterministic way of sampling back (see diffusion/inversion.py). Where a
    sampler draws noise on the way, as distilled models must in more than one step, it is the same for all pictures.
    """
    how = deterministic(how or model.sampling())
    grid, size = model.process.grid(how.steps), math.prod(model.shape)
    length = float(grid.sigma[0])

    def encode(image: Tensor, label: Tensor | None) -> Tensor:
        return invert(model.denoiser(label, how), model.coded(Batch(image)), grid, how).flatten(1) / length

    def decode(latent: Tensor, label: Tensor | None) -> Tensor:
        further = Noise([0])

        def draw() -> Tensor:
            return further.draw(*model.shape, device=latent.device).expand(len(latent), *model.shape)

        start = length * latent.view(-1, *model.shape)
        return model.decoded(SAMPLERS[how.sampler].run(model.denoiser(label, how), start, grid, draw, how))

    def enter(latent: Tensor, label: Tensor | None) -> Tensor:
        return latent

    return Space("z", "spherical", enter, decode, lambda noise: noise.draw(size), None if model.distilled else encode)


def shown(image: Tensor) -> Tensor:
    """Pictures [N,C,S,S] as they are shown, with values clamped to [-1,1], whose gradients are as without."""
    return image + (image.clamp(-1, 1) - image).detach()


def linear(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Points [N,D] on the straight lines between latents [N,D] at `part` [N,1], from 0 to 1; any N may be 1."""
    return start + (end - start) * part


def spherical(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Points [N,D] between latents [N,D] at `part` [N,1] of the angle between them (Shoemake 1985; White 2016, arXiv
    1609.04468); any N may be 1.

    Straight where the two point the same or opposite ways and the angle leaves the plane of turning open.
    """
    lengths = (start.norm(dim=1, keepdim=True) * end.norm(dim=1, keepdim=True)).clamp_min(1e-12)
    angle = ((start * end).sum(1, keepdim=True) / lengths).clamp(-1, 1).arccos()
    sine = angle.sin()
    turned = (((1 - part) * angle).sin() * start + (part * angle).sin() * end) / sine
    return torch.where(sine < 1e-4, linear(start, end, part), turned)


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}


def smooth(part: Tensor) -> Tensor:
    """Parts of a way, from 0 to 1, as one goes that sets out slowly and arrives slowly: 3p² - 2p³."""
    return part * part * (3 - 2 * part)


def loop(stops: Tensor, frames: int, path: PathName, eased: bool = True) -> Tensor:
    """`frames` points [F,D] of a way through latents [K,D], in turn and back to the first, so that its film goes on for
    ever: the point after the last would be the first. As long from each latent to the next; `eased`, it slows there.
    """
    along = torch.arange(frames, dtype=torch.float64) * len(stops) / frames
    here = along.long().clamp(max=len(stops) - 1)
    part = (along - here)[:, None]
    points = PATHS[path](stops[here].double(), stops[(here + 1) % len(stops)].double(), smooth(part) if eased else part)
    return points.float()
