"""The way from pictures to noise: x = α·clean + σ·noise, with clean pictures at (α, σ) = (1, 0).

What is known of a noisy picture is its noise-to-signal ratio σ/α alone: a level may be multiplied by any number, and x
with it. So every process can be asked for every level, and a sampler may walk along the levels of another.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused

Schedule = Literal["linear", "cosine", "sigmoid"]
Prediction = Literal["noise", "picture", "v"]
Weighting = Literal["simple", "min-snr", "vlb"]


class Level(NamedTuple):
    """How much of a picture and how much noise there is; one for each picture [B], or a row of them [S]."""

    alpha: Tensor
    sigma: Tensor

    def at(self, place: int) -> "Level":
        """One level of a row."""
        return Level(self.alpha[place], self.sigma[place])

    def for_each(self, x: Tensor) -> "Level":
        """The same as float32, with axes to be multiplied with x, [B,1,1,1] or [1,1,1,1]."""
        shape = (-1, *[1] * (x.ndim - 1))
        return Level(*(value.to(x.device, torch.float32).reshape(shape) for value in self))

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio α²/σ²; infinite where there is no noise."""
        return (self.alpha / self.sigma) ** 2

    @property
    def angle(self) -> Tensor:
        """atan(σ/α), from 0 for a clean picture to π/2 for noise alone."""
        return torch.atan2(self.sigma, self.alpha)

    def mixed(self, clean: Tensor, noise: Tensor) -> Tensor:
        """α·clean + σ·noise: a draw from q(x|clean)."""
        each = self.for_each(clean)
        return each.alpha * clean + each.sigma * noise


class Scalings(NamedTuple):
    """What stands around a network F: the estimate of the clean picture is skip·x + out·F(inner·x, told)."""

    inner: Tensor
    skip: Tensor
    out: Tensor


class Process:
    """Levels to learn from and to walk along, and what a network is given and asked for at each."""

    def draw(self, number: int, device: torch.device) -> Level:
        """Random levels [number] to learn from, by torch's own generator."""
        raise NotImplementedError

    def grid(self, steps: int) -> Level:
        """`steps` + 1 levels in float64 from the noisiest to (1, 0), to sample along."""
        raise NotImplementedError

    def check_steps(self, steps: int) -> None:
        """Raise `Refused` if it cannot be sampled in so many steps."""

    def own(self, level: Level) -> Level:
        """The process's own level of that noise-to-signal ratio, within those it was trained on."""
        raise NotImplementedError

    def told(self, level: Level) -> Tensor:
        """What the network is told of one of the process's own levels, some number of up to a thousand or so."""
        raise NotImplementedError

    def scalings(self, level: Level) -> Scalings:
        """For one of the process's own levels."""
        raise NotImplementedError

    def weight(self, level: Level) -> Tensor:
        """Of the squared error of what the network predicts."""
        return torch.ones_like(level.sigma)

    def target(self, clean: Tensor, noisy: Tensor, noise: Tensor, level: Level) -> Tensor:
        """What the network should predict, (clean - skip·noisy) / out."""
        _, skip, out = (value for value in self.scalings(level.for_each(noisy)))
        return (clean - skip * noisy) / out


class Discrete(Process):
    """`steps` levels with α² + σ² = 1 (Ho et al. 2020, arXiv 2006.11239): α² is the ᾱ of the paper."""

    def __init__(
        self,
        steps: int = 1000,
        schedule: Schedule = "linear",
        prediction: Prediction = "noise",
        weighting: Weighting = "simple",
        gamma: float = 5.0,
        zero_terminal_snr: bool = False,
    ):
        self.steps, self.prediction, self.weighting, self.gamma = steps, prediction, weighting, gamma
        kept = np.concatenate([[1.0], cumulative(schedule, steps)])
        if zero_terminal_snr:
            kept = without_signal(kept)
        self.levels = Level(torch.from_numpy(np.sqrt(kept)), torch.from_numpy(np.sqrt(1 - kept)))
        """[steps + 1] float64; place 0 is the clean picture, place t is after t steps."""
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def tables(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """α, σ, angle and α²/σ² of all levels, [4, steps + 1], copied to a device once, so that no step waits."""
        key = torch.device(device), dtype
        if key not in self._copies:
            rows = torch.stack([*self.levels, self.levels.angle, self.levels.snr])
            self._copies[key] = rows.to(dtype).to(device)
        return self._copies[key]

    def check_steps(self, steps: int) -> None:
        if steps > self.steps:
            raise Refused(
                f"--steps is {steps}; the model was trained on {self.steps} levels of noise: ask for no more."
            )

    def places(self, steps: int) -> Tensor:
        """[steps + 1] whole numbers from `self.steps` down to 0, evenly spaced ("trailing", Lin et al. 2024)."""
        return torch.round(torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64)).long()

    def draw(self, number: int, device: torch.device) -> Level:
        place = torch.randint(1, self.steps + 1, (number,), device=device)
        alpha, sigma, *_ = self.tables(device)
        return Level(alpha[place], sigma[place])

    def grid(self, steps: int) -> Level:
        places = self.places(steps)
        return Level(*(value[places] for value in self.levels))

    def own(self, level: Level) -> Level:
        both = torch.hypot(level.alpha, level.sigma)
        alpha, sigma = ([float(value) for value in row[[1, -1]]] for row in self.levels)
        return Level((level.alpha / both).clamp(*reversed(alpha)), (level.sigma / both).clamp(*sigma))

    def place(self, level: Level) -> Tensor:
        """Which step has that level, 1 to `steps`; between two of them, so much of the way."""
        _, _, table, _ = self.tables(level.sigma.device, level.sigma.dtype)
        angle = level.angle.contiguous()
        above = torch.searchsorted(table, angle).clamp(1, self.steps)
        part = (angle - table[above - 1]) / (table[above] - table[above - 1])
        return (above - 1 + part).clamp(0, self.steps)

    def told(self, level: Level) -> Tensor:
        return (self.place(level) - 1).clamp(min=0) * (1000 / self.steps)

    def scalings(self, level: Level) -> Scalings:
        alpha, sigma = level
        one = torch.ones_like(alpha)
        if self.prediction == "noise":
            return Scalings(one, 1 / alpha, -sigma / alpha)
        return Scalings(one, alpha, -sigma) if self.prediction == "v" else Scalings(one, 0 * one, one)

    def target(self, clean: Tensor, noisy: Tensor, noise: Tensor, level: Level) -> Tensor:
        if self.prediction == "v":  # Salimans and Ho 2022, arXiv 2202.00512, appendix D
            each = level.for_each(clean)
            return each.alpha * noise - each.sigma * clean
        return noise if self.prediction == "noise" else clean

    def weight(self, level: Level) -> Tensor:
        """Simple: 1 (Ho et al., equation 14). Min-SNR: min(SNR, γ) of the picture's error (Hang et al. 2023, arXiv
        2303.09556, section 3.4). VLB: the bound in bits per dimension, ½·T·(SNR of the step before - SNR) of the
        picture's error (Kingma et al. 2021, arXiv 2107.00630, equation 14).
        """
        if self.weighting == "simple":
            return torch.ones_like(level.sigma)
        of_picture = self.scalings(level).out ** 2
        if self.weighting == "min-snr":
            return level.snr.clamp(max=self.gamma) * of_picture
        place = self.place(level).round().long()
        *_, snr = self.tables(level.sigma.device, level.sigma.dtype)
        # the last step to the picture: a Gaussian with the variance of the step before it
        variance = float(posterior(self.levels.at(2), self.levels.at(1))[2]) if self.steps > 1 else 1.0
        gained = torch.where(place > 1, snr[(place - 1).clamp(min=1)] - snr[place], 1 / variance)
        return gained * of_picture * self.steps / (2 * math.log(2))


def cumulative(schedule: Schedule, steps: int) -> np.ndarray:
    """[steps] ᾱ after each step, falling, float64.

    Linear: β from 1e-4 to 0.02 for 1,000 steps (Ho et al. 2020, section 4), as much noise in fewer. Cosine: ᾱ as
    cos² (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17), β at most 0.999. Sigmoid: ᾱ as a sigmoid from -3 to
    3 (Jabri et al. 2022, arXiv 2212.11972, algorithm in its appendix).
    """
    if schedule == "linear":
        scale = 1000 / steps
        return np.cumprod(1 - np.minimum(np.linspace(scale * 1e-4, scale * 0.02, steps), 0.999))
    time = np.arange(steps + 1) / steps
    if schedule == "cosine":
        values = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    else:
        falling = 1 / (1 + np.exp(-(3 - 6 * time)))
        values = (falling - falling[-1]) / (falling[0] - falling[-1])
    return np.cumprod(1 - np.minimum(1 - values[1:] / values[:-1], 0.999))


def without_signal(kept: np.ndarray) -> np.ndarray:
    """ᾱ shifted and scaled in its root so that nothing of the picture is left at the last step (Lin et al. 2024, arXiv
    2305.08891, algorithm 1); the clean level, at place 0, and the first step stay."""
    root = np.sqrt(kept[1:])
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return np.concatenate([kept[:1], root**2])


class Karras(Process):
    """α = 1 and σ over orders of magnitude, preconditioned (Karras et al. 2022, arXiv 2206.00364, table 1)."""

    def __init__(
        self,
        mean: float = -1.2,
        deviation: float = 1.2,
        least: float = 0.002,
        most: float = 80.0,
        rho: float = 7.0,
        data: float = 0.5,
    ):
        self.mean, self.deviation, self.least, self.most, self.rho, self.data = mean, deviation, least, most, rho, data

    def draw(self, number: int, device: torch.device) -> Level:
        sigma = (self.mean + self.deviation * torch.randn(number, device=device)).exp()
        return Level(torch.ones_like(sigma), sigma)

    def grid(self, steps: int) -> Level:
        """Evenly spaced in the ρ-th root of σ (equation 5), then 0."""
        part = torch.linspace(0, 1, steps, dtype=torch.float64)
        ends = self.most ** (1 / self.rho), self.least ** (1 / self.rho)
        sigma = torch.cat([(ends[0] + part * (ends[1] - ends[0])) ** self.rho, torch.zeros(1, dtype=torch.float64)])
        return Level(torch.ones_like(sigma), sigma)

    def own(self, level: Level) -> Level:
        sigma = (level.sigma / level.alpha).clamp(self.least, self.most)
        return Level(torch.ones_like(sigma), sigma)

    def told(self, level: Level) -> Tensor:
        return 250 * level.sigma.log()  # 1,000 times the paper's ln(σ)/4, for waves as long as those for steps

    def scalings(self, level: Level) -> Scalings:
        total = level.sigma**2 + self.data**2
        return Scalings(total**-0.5, self.data**2 / total, level.sigma * self.data * total**-0.5)


class Straight(Process):
    """α = 1 - t, σ = t: straight paths from pictures to noise, whose velocity noise - clean is predicted.

    Rectified flow (Liu et al. 2022, arXiv 2209.03003) and conditional flow matching (Lipman et al. 2022, arXiv
    2210.02747) with σ_min = 0; there time runs the other way.
    """

    def __init__(self, times: Literal["uniform", "logit-normal"] = "uniform", shift: float = 1.0):
        self.times, self.shift = times, shift

    def shifted(self, time: Tensor) -> Tensor:
        """Times with more of them near noise, for large pictures (Esser et al. 2024, arXiv 2403.03206, equation 23)."""
        return time / (time + (1 - time) / self.shift)  # exactly 1 at 1

    def draw(self, number: int, device: torch.device) -> Level:
        normal = self.times == "logit-normal"
        time = torch.randn(number, device=device).sigmoid() if normal else torch.rand(number, device=device)
        time = self.shifted(time)
        return Level(1 - time, time)

    def grid(self, steps: int) -> Level:
        time = self.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        return Level(1 - time, time)

    def own(self, level: Level) -> Level:
        time = level.sigma / (level.alpha + level.sigma)
        return Level(1 - time, time)

    def told(self, level: Level) -> Tensor:
        return 1000 * level.sigma

    def scalings(self, level: Level) -> Scalings:
        one = torch.ones_like(level.sigma)
        return Scalings(one, one, -level.sigma)

    def target(self, clean: Tensor, noisy: Tensor, noise: Tensor, level: Level) -> Tensor:
        return noise - clean


def posterior(level: Level, cleaner: Level) -> tuple[Tensor, Tensor, Tensor]:
    """q(x at the cleaner level | x, clean): weights of x and of the clean picture in its mean, and its variance.

    Ho et al. 2020, equations 6 and 7, for any α and σ (Kingma et al. 2021, arXiv 2107.00630, appendix A.2).
    """
    ratio = level.alpha / cleaner.alpha
    added = level.sigma**2 - ratio**2 * cleaner.sigma**2
    """Variance of the noise between the two levels."""
    of_x = ratio * cleaner.sigma**2 / level.sigma**2
    of_clean = cleaner.alpha * added / level.sigma**2
    return of_x, of_clean, added * cleaner.sigma**2 / level.sigma**2


def reverse_variance(level: Level, cleaner: Level) -> Tensor:
    """Variance of x at the cleaner level given x alone, for clean pictures that are N(0, 1): the most it can be.

    Where α² + σ² = 1 it is the β of Ho et al. 2020, section 3.2; `posterior` has the least, β̃, for one known picture.
    """
    added = level.sigma**2 - (level.alpha / cleaner.alpha) ** 2 * cleaner.sigma**2
    return added * (cleaner.alpha**2 + cleaner.sigma**2) / (level.alpha**2 + level.sigma**2)
