"""From pictures back to the noise that a deterministic sampler makes them of (DDIM inversion, Song et al. 2021, arXiv
2010.02502, sections 4.3 and 5.3): the probability-flow equation, followed from the last level to the first."""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from tasvir.config import SamplerName, SamplingConfig
from tasvir.diffusion.forward import Level
from tasvir.diffusion.samplers import Denoise, noise_in, slope

FIRST_ORDER = ("ddim", "euler")
"""Samplers that are inverted by Euler's method, as in the paper; all others by Heun's."""
STEADY: dict[SamplerName, SamplerName] = {"ancestral": "ddim", "stochastic-heun": "heun"}
"""What stands for samplers that draw noise anew, of which no single noise could be found."""


def deterministic(how: SamplingConfig) -> SamplingConfig:
    """The same with a sampler that makes one picture of one noise."""
    return replace(how, sampler=STEADY.get(how.sampler, how.sampler), eta=0.0)


def invert(denoise: Denoise, x: Tensor, grid: Level, how: SamplingConfig) -> Tensor:
    """What x [N,...] at the last level of `grid` was at its first, where the sampler `how.sampler` begins.

    Where the last level is without noise, the noise of the first step is that which the estimate at the cleanest level
    with noise leaves. What a sampler of as many steps makes of the result differs from x by an error that falls with
    the steps, at the order of the method.
    """
    grid = Level(grid.alpha.double().cpu(), grid.sigma.double().cpu())
    levels = [grid.at(place) for place in reversed(range(len(grid.alpha)))]
    for level, noisier in pairwise(levels):
        if not level.sigma > 0:
            there = noisier.alpha / level.alpha * x
            clean = denoise(there, noisier)
            x = x + (noisier.alpha - level.alpha) * clean + noisier.sigma * noise_in(there, clean, noisier)
            continue
        first = slope(denoise, x, level, level, noisier)
        if how.sampler in FIRST_ORDER:
            x = x + first
        else:
            x = x + (first + slope(denoise, x + first, noisier, level, noisier)) / 2
    return x
