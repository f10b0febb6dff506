"""From noise to pictures along a row of levels: pure functions of a denoiser, with one signature.

`denoise(x, level)` is the expected clean picture of x at a level; `grid` is the row of levels, from that of `x` to the
last; `draw()` gives fresh noise of x's shape. All are of one form, because between two levels every process may go
straight: x moves by dα·clean + dσ·noise, where noise = (x - α·clean) / σ. Then Euler's method is DDIM's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasvir.config import SamplingConfig
from tasvir.diffusion.forward import Level, posterior, reverse_variance

Denoise = Callable[[Tensor, Level], Tensor]
"""x [N,...] and a single level of all of them → the expected clean x, [N,...]."""
Draw = Callable[[], Tensor]


def noise_in(x: Tensor, clean: Tensor, level: Level) -> Tensor:
    """The noise that x has beside the clean picture."""
    return (x - level.alpha * clean) / level.sigma


def _rows(grid: Level) -> list[tuple[Level, Level]]:
    """Each level with the next, in float64 on the CPU: a number less a number."""
    grid = Level(grid.alpha.double().cpu(), grid.sigma.double().cpu())
    return [(grid.at(place), grid.at(place + 1)) for place in range(len(grid.alpha) - 1)]


def ancestral(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """A draw from q(next|x, clean) at each step (Ho et al. 2020, arXiv 2006.11239, algorithm 2); 1 evaluation a step.

    `how.variance` is one of the paper's two, small (β̃) or large (β); the last step draws nothing.
    """
    for level, after in _rows(grid):
        of_x, of_clean, variance = posterior(level, after)
        x = of_x * x + of_clean * denoise(x, level)
        if after.sigma > 0:
            variance = reverse_variance(level, after) if how.variance == "large" else variance
            x = x + variance.clamp(min=0).sqrt() * draw()
    return x


def ddim(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """Song et al. 2021 (arXiv 2010.02502, equation 12); `how.eta` 0 is deterministic, 1 as random as `ancestral`."""
    for level, after in _rows(grid):
        clean = denoise(x, level)
        noise = noise_in(x, clean, level)
        deviation = how.eta * posterior(level, after)[2].sqrt() if how.eta else torch.zeros(())
        x = after.alpha * clean + (after.sigma**2 - deviation**2).clamp(min=0).sqrt() * noise
        if deviation > 0:
            x = x + deviation * draw()
    return x


def euler(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """The probability-flow equation, first order; 1 evaluation a step."""
    for level, after in _rows(grid):
        x = x + slope(denoise, x, level, level, after)
    return x


def heun(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """Second order (Karras et al. 2022, arXiv 2206.00364, algorithm 1); 2 evaluations a step, 1 to a clean picture."""
    for level, after in _rows(grid):
        x = _heun_step(denoise, x, level, after)
    return x


def stochastic_heun(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """Heun's method after adding noise at each step (Karras et al. 2022, algorithm 2), by `how.churn`, for noise of σ/α
    from 0.05 to 50, its deviation 1.003."""
    rows = _rows(grid)
    for level, after in rows:
        ratio = float(level.sigma / level.alpha)
        gamma = min(how.churn / len(rows), 2**0.5 - 1) if CHURNED[0] <= ratio <= CHURNED[1] else 0.0
        if gamma:
            noisier = level.sigma * (1 + gamma)
            x = x + (noisier**2 - level.sigma**2).sqrt() * INFLATED * draw()
            level = Level(level.alpha, noisier)
        x = _heun_step(denoise, x, level, after)
    return x


CHURNED, INFLATED = (0.05, 50.0), 1.003


def rk4(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """The classical Runge-Kutta method of fourth order; 4 evaluations a step, 1 to a clean picture."""
    for level, after in _rows(grid):
        first = slope(denoise, x, level, level, after)
        if not after.sigma > 0:
            x = x + first
            continue
        middle = Level((level.alpha + after.alpha) / 2, (level.sigma + after.sigma) / 2)
        second = slope(denoise, x + first / 2, middle, level, after)
        third = slope(denoise, x + second / 2, middle, level, after)
        last = slope(denoise, x + third, after, level, after)
        x = x + (first + 2 * second + 2 * third + last) / 6
    return x


def dpm_solver(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2); 1 evaluation a step.

    The first step and the one to a clean picture are of first order.
    """
    before: tuple[Tensor, Level] | None = None
    for level, after in _rows(grid):
        clean = estimate = denoise(x, level)
        if before is not None and after.sigma > 0:
            earlier, past = before
            ratio = (_log_snr(level) - _log_snr(past)) / (_log_snr(after) - _log_snr(level))
            estimate = clean + (clean - earlier) / (2 * ratio)
        shrunk = after.sigma / level.sigma
        x = shrunk * x + (after.alpha - level.alpha * shrunk) * estimate
        before = clean, level
    return x


def consistency(denoise: Denoise, x: Tensor, grid: Level, draw: Draw, how: SamplingConfig) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1): where the path ends, with fresh
    noise of the next level; 1 evaluation a step."""
    for level, after in _rows(grid):
        x = after.alpha * denoise(x, level)
        if after.sigma > 0:
            x = x + after.sigma * draw()
    return x


def slope(denoise: Denoise, x: Tensor, at: Level, start: Level, end: Level) -> Tensor:
    """How far x moves from `start` to `end` at the speed it has at a level between them."""
    clean = denoise(x, at)
    return (end.alpha - start.alpha) * clean + (end.sigma - start.sigma) * noise_in(x, clean, at)


def _heun_step(denoise: Denoise, x: Tensor, level: Level, after: Level) -> Tensor:
    first = slope(denoise, x, level, level, after)
    if not after.sigma > 0:
        return x + first
    return x + (first + slope(denoise, x + first, after, level, after)) / 2


def _log_snr(level: Level) -> Tensor:
    """ln(α/σ)."""
    return (level.alpha / level.sigma).log()


@dataclass(frozen=True)
class Sampler:
    """A row of the table."""

    run: Callable[[Denoise, Tensor, Level, Draw, SamplingConfig], Tensor]
    evaluations: int
    """Of the network, in a step."""
    takes: tuple[str, ...] = ()
    """Settings of `SamplingConfig` that mean something to it."""
    distilled: bool = False
    """Whether `denoise` must say where the path through x ends, and not what is expected."""


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(ancestral, 1, ("variance",)),
    "ddim": Sampler(ddim, 1, ("eta",)),
    "dpm-solver++": Sampler(dpm_solver, 1),
    "euler": Sampler(euler, 1),
    "heun": Sampler(heun, 2),
    "stochastic-heun": Sampler(stochastic_heun, 2, ("churn",)),
    "rk4": Sampler(rk4, 4),
    "consistency": Sampler(consistency, 1, distilled=True),
}
