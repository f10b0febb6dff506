"""The way from pictures to noise and the way back, to be looked at: noisy pictures, and beside each the clean picture
that the model expects of it. uint8 [N,H,W,C] comes out."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasvir.config import SamplingConfig
from tasvir.core import Batch, Noise
from tasvir.data.batches import to_uint8
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.diffusion.samplers import SAMPLERS, Denoise

if TYPE_CHECKING:
    from tasvir.drawing import Labels, Opened

BATCH = 64
FINE = 1000
"""Levels that a process without steps of its own is divided into."""


@dataclass(frozen=True)
class Moment:
    """Pictures at one level of noise."""

    level: Level
    """One of all."""
    noisy: np.ndarray
    """Brought to the brightness of clean ones: divided by √(α² + σ²)."""
    expected: np.ndarray
    """What the model makes of them: the mean of all clean pictures that they could be."""


def places(process: Process, parts: Sequence[float]) -> Level:
    """Levels at parts of a process, from 0, clean, to 1, where it ends: of its steps, of its time, or of its σ as they
    are spaced in sampling."""
    process = getattr(process, "teacher", process)
    steps = process.steps if isinstance(process, Discrete) else FINE
    grid = process.grid(steps)
    chosen = torch.tensor([round((1 - part) * steps) for part in parts])
    return Level(grid.alpha[chosen], grid.sigma[chosen])


def _step(process: Any, level: Level) -> str:
    return f"t {float(process.place(level)):.0f}" if level.sigma > 0 else "t 0"


def _sigma(process: Any, level: Level) -> str:
    return f"σ {float(level.sigma / level.alpha):.2g}"


def _time(process: Any, level: Level) -> str:
    return f"t {float(level.sigma / (level.alpha + level.sigma)):.2f}"


CAPTIONS: dict[type[Process], Callable[[Any, Level], str]] = {Discrete: _step, Karras: _sigma, Straight: _time}
"""How the levels of a process are told; those of others by their σ/α."""


def caption(process: Process, level: Level) -> str:
    """A level in the process's own terms: a step, a σ or a time."""
    process = getattr(process, "teacher", process)
    return next((tell for kind, tell in CAPTIONS.items() if isinstance(process, kind)), _sigma)(process, level)


def decibels(level: Level) -> float:
    """Ten times the common logarithm of the signal-to-noise ratio α²/σ²."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    if not alpha > 0 or not sigma > 0:
        return -math.inf if sigma > 0 else math.inf
    return 20 * math.log10(alpha / sigma)


def ratio(level: Level) -> str:
    """The signal-to-noise ratio in words, as short as they can be."""
    found = decibels(level)
    if math.isinf(found):
        return "clean" if found > 0 else "noise"
    return f"{round(found)} dB".replace("-", "−")


def guess(model: Any) -> str:
    """What the network's word on a noisy picture is."""
    return "path's end" if model.distilled else "expected"


def pictured(model: Any, x: Tensor, level: Level) -> np.ndarray:
    """x [N,*shape] at a level, as pictures."""
    length = float((level.alpha**2 + level.sigma**2).sqrt())
    return to_uint8(model.decoded(x / length))


@torch.no_grad()
def noised(
    opened: "Opened",
    real: np.ndarray,
    levels: Level,
    labels: "Labels" = None,
    seed: int = 0,
    how: SamplingConfig | None = None,
) -> list[Moment]:
    """Pictures uint8 [N,H,W,C] at each level [L]: draws from q(x|clean), each picture with one noise, of its own seed,
    at all levels. `labels` are told to the model, of which `how` says the guidance.
    """
    model, found = opened.model, []
    how = how or model.sampling()
    for start in range(0, len(real), BATCH):
        image = opened.tensor(real[start : start + BATCH])
        label = None if labels is None else torch.as_tensor(labels[start : start + BATCH], device=opened.device)
        noise = Noise(range(seed + start, seed + start + len(image))).draw(*model.shape, device=opened.device)
        clean = model.coded(Batch(image))
        with opened.precision:
            denoise = model.denoiser(label, how)
            for level in map(levels.at, range(len(levels.alpha))):
                x = float(level.alpha) * clean + float(level.sigma) * noise
                expected = denoise(x, level) if level.sigma > 0 else clean
                found.append(Moment(level, pictured(model, x, level), to_uint8(model.decoded(expected))))
    return _joined(found, len(levels.alpha))


@torch.no_grad()
def unfolded(
    opened: "Opened",
    seeds: Sequence[int],
    labels: "Labels" = None,
    how: SamplingConfig | None = None,
    wanted: Collection[int] | None = None,
) -> list[Moment]:
    """What a sampler has at the beginning of those of its steps (from 0) that are `wanted`, or of all; and at last the
    pictures, which are those that `Opened.samples` draws of these seeds."""
    model, found = opened.model, []
    how = how or model.sampling()
    wanted = range(how.steps) if wanted is None else wanted
    clean = Level(torch.ones(()), torch.zeros(()))
    for start in range(0, len(seeds), BATCH):
        label = None if labels is None else torch.as_tensor(labels[start : start + BATCH], device=opened.device)
        moments: list[Moment] = []
        with opened.precision:
            noise = Noise(seeds[start : start + BATCH])
            images = to_uint8(model.sample(noise, label, how, watch=watcher(model, how, wanted, moments)))
        found += [*moments, Moment(clean, images, images)]
    return _joined(found, len(moments) + 1)


def watcher(
    model: Any, how: SamplingConfig, wanted: Collection[int], moments: list[Moment]
) -> Callable[[Denoise], Denoise]:
    """Puts round a denoiser what notes the first x of each step that is wanted; a step's further ones are trials."""
    each, asked = SAMPLERS[how.sampler].evaluations, 0

    def watch(denoise: Denoise) -> Denoise:
        def watched(x: Tensor, level: Level) -> Tensor:
            nonlocal asked
            clean = denoise(x, level)
            step, trial = divmod(asked, each)
            if not trial and step in wanted:
                moments.append(Moment(level, pictured(model, x, level), to_uint8(model.decoded(clean))))
            asked += 1
            return clean

        return watched

    return watch


def _joined(parts: list[Moment], number: int) -> list[Moment]:
    """Moments of one batch after another as `number` moments of all."""
    return [
        replace(
            parts[place],
            noisy=np.concatenate([part.noisy for part in parts[place::number]]),
            expected=np.concatenate([part.expected for part in parts[place::number]]),
        )
        for place in range(number)
    ]


def chosen(steps: int, number: int) -> list[int]:
    """At most so many of the steps from 0, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, steps - 1, max(1, min(number, steps)))})


def strip(moments: Sequence[Moment], lines: Sequence[str]) -> np.ndarray:
    """Rows of pictures, a column for each moment: of each picture its lines, `noisy`, `expected`, one below another."""
    rows = np.stack([np.stack([getattr(moment, line) for moment in moments]) for line in lines])  # [lines,L,N,…]
    return rows.transpose(2, 0, 1, 3, 4, 5).reshape(-1, *rows.shape[3:])
