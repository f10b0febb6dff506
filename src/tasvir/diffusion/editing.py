"""People's pictures edited by a denoiser: sampling from the middle of the way (SDEdit), holes filled (RePaint), and how
much noise a picture has. Pure functions of a denoiser, with the signature of samplers and a few words more.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tasvir.config import SamplingConfig
from tasvir.diffusion.forward import Level
from tasvir.diffusion.samplers import SAMPLERS, Denoise, Draw

QUARTILE = 0.6744897501960817
"""Half of a standard normal variable's values lie within ± this."""
NEAR = 0.9
"""A way that starts so far along a step, or further, leaves the rest of it out."""


def noise_deviation(image: Tensor) -> Tensor:
    """The standard deviation of the noise in pictures [N,C,H,W], [N], in the pictures' units; H and W at least 2.

    The median absolute diagonal Haar detail divided by 0.6745 (Donoho and Johnstone 1994, Biometrika 81),
    here at all places of 2×2 pixels and in all channels together. It takes the noise for Gaussian and independent;
    fine texture is taken for noise, and where values were cut off at black or white it finds too little.
    """
    rows = image[..., :-1, :] - image[..., 1:, :]
    detail = (rows[..., :-1] - rows[..., 1:]) / 2
    return detail.abs().flatten(1).median(1).values / QUARTILE


def from_strength(grid: Level, strength: float) -> Level:
    """The end of a grid, from the level at which noise has the part `strength` of picture and noise together,
    σ/(α + σ): the same noise on every grid. The whole grid if that is noisier than all of it; a step at least.

    On the straight paths of flow matching, that level is time `strength`.
    """
    grid = Level(grid.alpha.double().cpu(), grid.sigma.double().cpu())
    noisier = (1 - strength) * grid.sigma - strength * grid.alpha
    after = int((noisier <= 0).nonzero()[0])
    if after == 0:
        return grid
    part = noisier[after - 1] / (noisier[after - 1] - noisier[after])
    start = Level(*(torch.lerp(values[after - 1], values[after], part) for values in grid))
    if part > NEAR and after < len(noisier) - 1:
        after += 1
    return Level(*(torch.cat([one[None], values[after:]]) for one, values in zip(start, grid, strict=True)))


def edited(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig, strength: float) -> Tensor:
    """Clean x [N,...] with noise added, and sampled from there (SDEdit, Meng et al. 2022, arXiv 2108.01073).

    `strength` 0 gives x back, 1 starts from noise alone, as sampling does, so that nothing of x is left.
    """
    if strength == 0:
        return x
    rest = grid if strength == 1 else from_strength(grid, strength)
    noise = draw()
    first = rest.at(0)
    start = float(first.sigma) * noise if strength == 1 else first.mixed(x, noise)
    return SAMPLERS[how.sampler].run(denoise, start, rest, draw, how)


def walk(steps: int, resamplings: int, jump: int) -> Iterator[tuple[int, int]]:
    """Places on a grid from 0, the noisiest, to `steps`, the picture: from each to the next, with steps back.

    Wherever the steps that are left are a multiple of `jump`, 0 too, but not in the first of them, `jump` steps are
    taken back and gone again, until they have been gone `resamplings` times (Lugmayr et al. 2022).
    """
    returns = {steps - left: resamplings - 1 for left in range(0, steps - jump, jump)}
    here = 0
    while here < steps:
        yield here, here + 1
        here += 1
        if returns.get(here):
            returns[here] -= 1
            yield here, here - jump
            here -= jump


def inpainted(
    denoise: Denoise,
    x: Tensor,
    grid: Level,
    draw: Draw,
    how: SamplingConfig,
    known: Tensor,
    resamplings: int,
    jump: int,
) -> Tensor:
    """x [N,...] where `known` (bool, of a shape that goes with it), elsewhere what goes with that (RePaint, Lugmayr et
    al. 2022, arXiv 2201.09865, algorithm 1).

    After each step what is known takes its place, with noise of that level. That alone is heard too late by the rest:
    so the way is gone `resamplings` times in pieces of `jump` steps, with fresh noise. The answers are draws from the
    conditional distribution as steps and resamplings grow. A sampler that looks back at earlier steps has none here.
    """
    grid = Level(grid.alpha.double().cpu(), grid.sigma.double().cpu())
    run, steps = SAMPLERS[how.sampler].run, len(grid.alpha) - 1
    each = replace(how, churn=how.churn / steps)
    now = float(grid.sigma[0]) * draw()
    for here, there in walk(steps, resamplings, jump):
        level, after = grid.at(here), grid.at(there)
        if there > here:
            now = run(denoise, now, Level(*(values[here : there + 1] for values in grid)), draw, each)
            now = torch.where(known, after.mixed(x, draw()) if after.sigma > 0 else x, now)
        else:
            ratio = after.alpha / level.alpha
            added = (after.sigma**2 - ratio**2 * level.sigma**2).clamp(min=0).sqrt()
            now = ratio * now + added * draw()
    return now
