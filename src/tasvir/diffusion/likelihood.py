"""How likely a diffusion model finds pictures: by its probability-flow equation, and by its variational bound.

Pure functions of a denoiser, as samplers are. The density is that of pictures with as little noise as the first level
has, drawn by the equation from noise alone (Song et al. 2021, arXiv 2011.13456, section 4.3).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tasvir.core import Noise
from tasvir.diffusion.forward import Level, Process, posterior
from tasvir.diffusion.samplers import Denoise, slope

MOST = 80.0
"""Greatest noise-to-signal ratio of the flow: nothing is left of a picture, and no estimate of it is worth more."""
EVALUATIONS = 4
"""Of the network and of its derivative, in a step of the flow."""
Estimate = Callable[[Tensor, Level], Tensor]
"""x [N,...] and a level for each of them [N] → the expected clean x, [N,...]."""


def spacing(shades: int = 256) -> float:
    """Between neighbouring values of a channel, pictures lying in [-1,1]."""
    return 2 / (shades - 1)


def path(process: Process, steps: int, least: float) -> Level:
    """`steps` + 1 levels with α² + σ² = 1, float64, from a noise-to-signal ratio of `least` to the process's noisiest.

    They are even in ln tan(θ/2), tan θ = σ/α: even in ln σ where there is little noise, even in the angle θ where there
    is much. The flow through a ratio σ/α is the same for every process but for the scale of x.
    """
    noisiest = process.grid(1).at(0).angle.double()
    ends = torch.stack([torch.tensor(math.atan(least), dtype=torch.float64), noisiest.clamp(max=math.atan(MOST))])
    low, high = (ends / 2).tan().log()
    angle = 2 * (low + (high - low) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)).exp().atan()
    return Level(angle.cos(), angle.sin())


def log_density(denoise: Denoise, clean: Tensor, levels: Level, probes: Tensor | None = None) -> Tensor:
    """ln p of x [N,...] with noise of the first level, read at x = `clean`; [N] nats, float64.

    x follows the probability-flow equation through the row of `levels` by the Runge-Kutta method of fourth order, and
    ln p changes by the integral of its divergence (Song et al. 2021, equation 39). At the last level p is N(0, σ²),
    where samplers begin. The divergence is estimated with `probes` [P,N,...] of zero mean and unit covariance
    (Hutchinson's estimator, equation 40), the same all the way; without them it is exact, for which the network's
    derivative is taken as often as x has numbers.
    """
    rows = [(levels.at(place), levels.at(place + 1)) for place in range(len(levels.alpha) - 1)]
    numbers = clean[0].numel()
    x = float(levels.alpha[0]) * clean
    nats = torch.full((len(x),), numbers * float(levels.alpha[0].log()), dtype=torch.float64, device=x.device)
    for level, after in rows:
        middle = Level((level.alpha + after.alpha) / 2, (level.sigma + after.sigma) / 2)
        first, grown = _moved(denoise, x, level, level, after, probes)
        second, grown_second = _moved(denoise, x + first / 2, middle, level, after, probes)
        third, grown_third = _moved(denoise, x + second / 2, middle, level, after, probes)
        last, grown_last = _moved(denoise, x + third, after, level, after, probes)
        x = x + (first + 2 * second + 2 * third + last) / 6
        nats = nats + (grown + 2 * grown_second + 2 * grown_third + grown_last) / 6
    sigma = float(levels.sigma[-1])
    squares = x.double().flatten(1).square().sum(1)
    return nats - squares / (2 * sigma**2) - numbers * (math.log(sigma) + math.log(2 * math.pi) / 2)


def _moved(
    denoise: Denoise, x: Tensor, at: Level, start: Level, end: Level, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`slope`, and its divergence in x, [N] float64."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        moved = slope(denoise, x, at, start, end)
        if probes is None:
            each = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).unflatten(1, x.shape[1:])
            found, count = [one.expand_as(x) for one in each], 1
        else:
            found, count = list(probes), len(probes)
        parts = []
        for place, probe in enumerate(found):
            (pulled,) = torch.autograd.grad(moved, x, probe, retain_graph=place < len(found) - 1)
            parts.append((pulled.double() * probe.double()).flatten(1).sum(1))
    return moved.detach(), torch.stack(parts).sum(0) / count


def rademacher(noise: Noise, number: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """[number,N,*shape] float32 of -1 and 1, each as likely: probes, of each picture's own seed."""
    return (noise.uniform(number, *shape, device=device) < 0.5).transpose(0, 1) * 2.0 - 1


def dequantized(image: Tensor, noise: Noise, shades: int = 256) -> Tensor:
    """Pictures [N,C,H,W] in [-1,1] with uniform noise as wide as a channel's values lie apart (Theis et al. 2016, arXiv
    1511.01844, section 3.1): the mean of ln p over it, plus ln of the width, is no more than ln P of the values."""
    return image + (noise.uniform(*image.shape[1:], device=image.device) - 0.5) * spacing(shades)


def bits(nats: Tensor, numbers: int, shades: int = 256) -> Tensor:
    """Densities in nats [N] of dequantized pictures of so many numbers in [-1,1] → bits that each number costs, [N]."""
    return -(nats / numbers + math.log(spacing(shades))) / math.log(2)


def variational_bound(
    estimate: Estimate,
    clean: Tensor,
    levels: Level,
    noise: Noise,
    evaluations: int,
    shades: int = 256,
    variances: Literal["posterior", "added"] = "posterior",
) -> dict[str, Tensor]:
    """What pictures [N,...] in [-1,1] cost at most, in nats [N], float64; the terms of Ho et al. 2020, equation 5.

    `levels` [T + 1] go from (1, 0) to the noisiest. `prior` is KL(q(x_T|x) ‖ N(0, σ_T²)), where sampling begins;
    `steps` the T - 1 divergences between Gaussians (equations 6 to 8); `reconstruction` the discretized Gaussian of the
    last step (section 3.3). The model's variances are one of the two choices of section 3.2: those of the `posterior`,
    β̃, right for pictures that are sure and what the sampler `ancestral` has (the last, which would be 0, is that of the
    step before), or of the noise `added`, β, right for pictures that are normal noise themselves. With fewer
    `evaluations` than T, steps are drawn at random from strata, which errs in no direction.
    """
    levels = Level(*(value.double().to(clean.device) for value in levels))
    numbers = clean[0].numel()
    after, before = Level(levels.alpha[1:], levels.sigma[1:]), Level(levels.alpha[:-1], levels.sigma[:-1])
    _, of_clean, least = posterior(after, before)
    variance = after.sigma**2 - (after.alpha / before.alpha) ** 2 * before.sigma**2
    if variances == "posterior":
        variance = torch.cat([least[1:2] if len(least) > 1 else variance, least[1:]])
    wider = (variance / least).log() + least / variance - 1
    """Twice what unlike variances cost, for each number; of the first step it has no meaning."""

    def error(place: Tensor) -> tuple[Tensor, Tensor]:
        """The estimate of the clean picture after so many steps [N], and its squared error, [N]."""
        level = Level(levels.alpha[place], levels.sigma[place])
        found = estimate(level.mixed(clean, noise.draw(*clean.shape[1:], device=clean.device)), level)
        return found, (found - clean).double().square().flatten(1).sum(1)

    steps = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
    for first, last in strata(levels, evaluations - 1):
        place = first + (noise.uniform(device=clean.device) * (last - first)).long()
        here = place - 1
        missed = of_clean[here] ** 2 / variance[here] * error(place)[1]
        steps += (last - first) / 2 * (missed + numbers * wider[here])
    mean, _ = error(torch.ones(len(clean), dtype=torch.int64, device=clean.device))
    squares = clean.double().square().flatten(1).sum(1)
    return {
        "prior": levels.snr[-1] / 2 * squares,
        "steps": steps,
        "reconstruction": -discretized(clean, mean, float(variance[0].sqrt()), shades).flatten(1).sum(1),
    }


def strata(levels: Level, number: int) -> list[tuple[int, int]]:
    """Steps 2 to T in at most `number` runs of neighbours, (first, behind the last): about even in ln tan(θ/2), as
    `path` is, so that the first steps, which cost most, are each their own."""
    steps = len(levels.alpha) - 1
    if number >= steps - 1:
        return [(place, place + 1) for place in range(2, steps + 1)]
    spots = (levels.angle[1:] / 2).tan().log()
    edges = [2]
    for left in range(max(number, 1), 1, -1):
        before = spots[edges[-1] - 2]
        reached = int(torch.searchsorted(spots, before + (spots[-1] - before) / left, right=True))
        edges.append(min(max(reached, edges[-1]) + 1, steps + 2 - left))
    return list(pairwise([*edges, steps + 1]))


def discretized(image: Tensor, mean: Tensor, deviation: float, shades: int = 256) -> Tensor:
    """ln of the share of N(mean, deviation²) that is nearest to each value of [-1,1], float64; the values at both ends
    have all that is beyond them (Ho et al. 2020, equation 13)."""
    half = spacing(shades) / 2
    image = ((image.double() + 1) / (2 * half)).round() * (2 * half) - 1
    away = image - mean.double()
    side = torch.where(away > 0, -1.0, 1.0)  # the tail is exact on its lower side
    low, high = (away - half) / deviation, (away + half) / deviation
    low = torch.where(image < -1 + half, -math.inf, low)
    high = torch.where(image > 1 - half, math.inf, high)
    lower, upper = torch.where(side > 0, low, -high), torch.where(side > 0, high, -low)
    above, below = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return above + torch.log1p(-(below - above).exp())
