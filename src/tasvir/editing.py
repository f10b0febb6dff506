"""People's pictures through a trained diffusion run: denoised in tiles, edited, their holes filled, and written."""

import csv
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from tasvir import pictures, translating
from tasvir.blending import axis, blended
from tasvir.config import Refused, SamplingConfig, nearest
from tasvir.core import Batch, Noise
from tasvir.data.batches import to_float, to_uint8
from tasvir.data.decoding import Frame, fit, parse_color, squaring, with_channels
from tasvir.data.workers import progress
from tasvir.diffusion.editing import edited, inpainted, noise_deviation, walk
from tasvir.diffusion.samplers import SAMPLERS, Denoise
from tasvir.drawing import Opened
from tasvir.metrics.similarity import psnr, unit
from tasvir.translating import Given

TILES = 64
"""Pictures, or tiles of one, that go through the network together."""
SHOWN = 96
"""Pictures beside one another are enlarged to at least so many px."""
GREY = np.uint8(128)
"""What a hole is shown as."""
MASKS = ("centre", "left", "right", "top", "bottom", "random")
"""Holes by name."""


@dataclass(frozen=True)
class Row:
    """A picture, and what becomes of it."""

    given: Given
    shown: dict[str, np.ndarray]
    """What stands before the answers, by what it is: uint8 [H,W,C]."""
    answers: list[np.ndarray] = field(default_factory=list)
    facts: list[dict[str, object]] = field(default_factory=list)
    """Of each answer, for index.csv."""
    after: dict[str, np.ndarray] = field(default_factory=dict)
    said: str = ""
    """Beside its row."""


def squared(pixels: np.ndarray, opened: Opened, background: tuple[int, int, int] | None = None) -> np.ndarray:
    """A picture uint8 [H,W,1 or 3] as training has it: a square of the run's size, in as many channels as before."""
    settings = opened.run.config.data
    frame = Frame(opened.run.pictures.size, squaring(settings.fit), background or parse_color(settings.background))
    return with_channels(fit(pixels, frame), pixels.shape[2])


# --- noise taken away ---


@dataclass
class Denoiser:
    """Noisy pictures of any size to what the run expects without noise, and what was found of them."""

    opened: Opened
    sigma: float | None = None
    """Standard deviation of the noise, where 1 is from black to white; None estimates each picture's own."""
    added: float | None = None
    """The same of noise that is added first."""
    label: int | None = None
    sigmas: list[float] = field(default_factory=list)
    decibels: list[tuple[float, float]] = field(default_factory=list)
    """Before and after."""

    def row(self, given: Given, seed: int) -> Row:
        """The seed is that of the noise that is added."""
        noisy = to_float(torch.from_numpy(given.source[None].copy()))
        if self.added is not None:
            noisy = noisy + 2 * self.added * Noise([seed]).draw(*noisy.shape[1:])
        sigma = float(noise_deviation(noisy)) / 2 if self.sigma is None else self.sigma
        self.sigmas.append(sigma)
        made = self.clean(noisy[0].permute(1, 2, 0).numpy(), sigma)
        facts: dict[str, object] = {"sigma": f"{sigma:.4f}"}
        first, after, said = "picture", {}, f"σ {sigma:.3f}"
        if self.added is not None:
            real = unit(given.source[None])
            decibels = float(psnr((noisy.double() + 1) / 2, real)), float(psnr(unit(made[None]), real))
            self.decibels.append(decibels)
            first, after, said = (
                "noisy",
                {"original": given.source},
                f"{said}: {decibels[0]:.1f} to {decibels[1]:.1f} dB",
            )
            facts |= {"added": self.added, "noise_seed": seed, "psnr_noisy": decibels[0], "psnr": decibels[1]}
        return Row(given, {first: to_uint8(noisy)[0]}, [made], [facts], after, said)

    def clean(self, noisy: np.ndarray, sigma: float) -> np.ndarray:
        """A picture float32 [H,W,C], black -1 and white 1, with noise of deviation 2·`sigma`: uint8 [H,W,C] without.

        It goes in overlapping tiles of the size of the run's pictures, to which smaller ones are padded.
        """
        size, opened = self.opened.run.pictures.size, self.opened
        down, across = (axis(length, size, size // 2, least=size) for length in noisy.shape[:2])

        @torch.no_grad()
        def make(tiles: np.ndarray, numbers: list[int]) -> Tensor:
            x = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous().to(opened.device)
            label = None if self.label is None else torch.full((len(x),), self.label, device=opened.device)
            with opened.precision:
                return opened.model.denoise(x, torch.full((len(x),), 2 * sigma, device=opened.device), label)

        return blended(noisy, make, down, across, channels=noisy.shape[2], batch=TILES)

    def told(self) -> str:
        """What was found, as the end of a sentence."""
        low, high = (f"{value:.3f}" for value in (min(self.sigmas), max(self.sigmas)))
        how = "estimated" if self.sigma is None else "told"
        sentence = f"; noise {how} as {low if low == high else f'{low} to {high}'} (1 is from black to white)"
        if self.decibels:
            before, after = (statistics.fmean(values) for values in zip(*self.decibels, strict=True))
            sentence += f"; mean PSNR {before:.1f} dB noisy, {after:.1f} dB denoised"
        return sentence


# --- pictures drawn anew, in part ---


class Work(Protocol):
    """Squares of the run's size → answers."""

    opened: Opened
    how: SamplingConfig

    @property
    def evaluations(self) -> int:
        """Of the network, for a picture."""
        ...

    def shown(self, place: int, given: Given) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What stands before the answers, with the square as `picture`; and its hole, bool [size,size]."""
        ...

    def make(self, images: np.ndarray, holes: np.ndarray, noise: Noise, denoise: Denoise) -> np.ndarray:
        """Pictures uint8 [N,size,size,C] with their holes: an answer to each."""
        ...


@dataclass
class Editing:
    """By `edited`."""

    opened: Opened
    how: SamplingConfig
    strength: float

    @property
    def evaluations(self) -> int:
        return math.ceil(self.strength * self.how.steps) * SAMPLERS[self.how.sampler].evaluations

    def shown(self, place: int, given: Given) -> tuple[dict[str, np.ndarray], np.ndarray]:
        square = squared(given.source, self.opened)
        return {"picture": square}, np.ones(square.shape[:2], bool)

    def make(self, images: np.ndarray, holes: np.ndarray, noise: Noise, denoise: Denoise) -> np.ndarray:
        if self.strength == 0:
            return images
        model = self.opened.model
        x, grid = model.coded(Batch(self.opened.tensor(images))), model.process.grid(self.how.steps)
        made = edited(denoise, x, grid, _drawing(model, noise), self.how, self.strength)
        return to_uint8(model.decoded(made))


@dataclass
class Filling:
    """By `inpainted`; a place of a latent is open where any of its pixels is."""

    opened: Opened
    how: SamplingConfig
    resamplings: int
    jump: int
    holes: "Holes"

    @property
    def evaluations(self) -> int:
        ways = sum(there > here for here, there in walk(self.how.steps, self.resamplings, self.jump))
        return ways * SAMPLERS[self.how.sampler].evaluations

    def shown(self, place: int, given: Given) -> tuple[dict[str, np.ndarray], np.ndarray]:
        hole, square = self.holes.hole(place, given), squared(given.source, self.opened)
        return {"picture": square, "masked": np.where(hole[..., None], GREY, square)}, hole

    def make(self, images: np.ndarray, holes: np.ndarray, noise: Noise, denoise: Denoise) -> np.ndarray:
        model, image = self.opened.model, self.opened.tensor(images)
        hole = torch.from_numpy(holes)[:, None].to(image.device)
        mean = torch.where(hole, torch.nan, image).nanmean((2, 3), keepdim=True).nan_to_num()
        x = model.coded(Batch(torch.where(hole, mean, image)))  # nothing of what is to be filled is seen
        known = adaptive_max_pool2d(hole.float(), tuple(model.shape[1:])) == 0
        grid, draw = model.process.grid(self.how.steps), _drawing(model, noise)
        made = inpainted(denoise, x, grid, draw, self.how, known, self.resamplings, self.jump)
        return np.where(holes[..., None], to_uint8(model.decoded(made)), images)


def _drawing(model: Any, noise: Noise) -> Callable[[], Tensor]:
    return lambda: noise.draw(*model.shape, device=model.device)


def answered(
    work: Work, given: Iterator[Given], count: int, seeds: Sequence[int], label: int | None, say: Callable[[str], None]
) -> Iterator[Row]:
    """Each of `count` pictures with an answer of each seed, several pictures at once."""
    opened, together = work.opened, max(1, TILES // len(seeds))
    size, told, waiting = opened.run.pictures.size, False, []
    parts = math.ceil(count / together) * math.ceil(min(together, count) * len(seeds) / TILES)
    with progress(parts * work.evaluations, "steps") as advance:
        for place, one in enumerate(given):
            if one.source.shape[:2] != (size, size) and not told:
                told = True
                say(f"Pictures are made square as in training, of {size} px, which is what the run draws.")
            shown, hole = work.shown(place, one)
            waiting.append((Row(replace(one, opacity=None), shown), hole))
            if len(waiting) == together:
                yield from _answers(work, waiting, seeds, label, advance)
                waiting = []
        if waiting:
            yield from _answers(work, waiting, seeds, label, advance)


@torch.no_grad()
def _answers(
    work: Work,
    waiting: list[tuple[Row, np.ndarray]],
    seeds: Sequence[int],
    label: int | None,
    advance: Callable[[int], None],
) -> list[Row]:
    model, made = work.opened.model, []
    pairs = [(row.shown["picture"], hole, seed) for row, hole in waiting for seed in seeds]
    for first in range(0, len(pairs), TILES):
        squares, holes, some = zip(*pairs[first : first + TILES], strict=True)
        classes = None if label is None else torch.full((len(some),), label, device=model.device)
        estimated = model.denoiser(classes, work.how)

        def denoise(x: Tensor, level: Any, estimated: Denoise = estimated) -> Tensor:
            advance(1)
            return estimated(x, level)

        with work.opened.precision:
            made += list(work.make(np.stack(squares), np.stack(holes), Noise(some), denoise))
    facts: list[dict[str, object]] = [{"seed": seed} for seed in seeds]
    count = len(seeds)
    return [
        replace(row, answers=made[place * count : (place + 1) * count], facts=facts)
        for place, (row, _) in enumerate(waiting)
    ]


class Holes:
    """What is to be filled in each picture: one of `MASKS`, or white in a picture, or in a folder's picture of the same
    name. Raises `Refused` if there is no such mask."""

    def __init__(self, mask: str, opened: Opened, seed: int, say: Callable[[str], None]):
        self.opened, self.seed, self.name = opened, seed, mask
        self.masks: dict[str, np.ndarray] = {}
        if mask in MASKS:
            return
        try:
            album = translating.album(mask)
        except Refused as error:
            raise Refused(f"--mask: {error}{nearest(mask, MASKS)}\nOr name one of {', '.join(MASKS)}.") from None
        for one in album.pictures("black", lambda pixels: pixels, say):
            self.masks[_stem(one.name)] = one.source.max(axis=2, keepdims=True)

    def hole(self, place: int, given: Given) -> np.ndarray:
        """bool [size,size]. Raises `Refused` for a mask of another size than the picture."""
        if not self.masks:
            return named_hole(self.name, self.opened.run.pictures.size, (self.seed, place))
        key = next(iter(self.masks)) if len(self.masks) == 1 else _stem(given.name)
        if key not in self.masks:
            raise Refused(f"--mask {self.name} has no mask of the name {key}, for {given.name}.")
        mask, (height, width) = self.masks[key], given.source.shape[:2]
        if mask.shape[:2] != (height, width):
            raise Refused(
                f"The mask {key} is of {mask.shape[1]}×{mask.shape[0]} px, and the picture {given.name} of "
                f"{width}×{height} px: make them of one size."
            )
        white = np.where(mask > 127, np.uint8(255), np.uint8(0))
        found: np.ndarray = squared(white, self.opened, (0, 0, 0))[..., 0] > 25  # a tenth, where it was made smaller
        if not found.any():
            raise Refused(f"The mask {key} has nothing white in it that the run sees: there is nothing to fill.")
        return found


def named_hole(name: str, size: int, seed: tuple[int, ...] = (0,)) -> np.ndarray:
    """bool [size,size]: one of `MASKS`, the half of that side or a square of half the height and width."""
    half = size // 2
    top = left = (size - half) // 2
    if name == "random":
        top, left = (int(value) for value in np.random.default_rng(seed).integers(0, size - half + 1, 2))
    whole, near, far = slice(None), slice(half), slice(size - half, None)
    square = slice(top, top + half), slice(left, left + half)
    sides = {"left": (whole, near), "right": (whole, far), "top": (near, whole), "bottom": (far, whole)}
    hole = np.zeros((size, size), bool)
    hole[sides.get(name, square)] = True
    return hole


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


# --- what goes out ---


class Rows:
    """Answers written as `out` says: into a folder as they are made, into one file when all are there."""

    def __init__(self, out: Path, word: str = "answer"):
        self.out, self.word, self.names = out, word, translating.Names()
        self.kept: list[Row] = []
        self.table: list[dict[str, object]] = []
        self.count = 0

    def take(self, row: Row) -> None:
        """Raises `Refused` for pictures of several sizes that are to go into one file."""
        self.count += 1
        if self.out.suffix:
            if self.kept and self.kept[0].answers[0].shape != row.answers[0].shape:
                raise Refused(f"{row.given.name} has another size than those before it: name a folder with --out.")
            self.kept.append(row)
            return
        translating.make_place(self.out)
        stem = self.names(row.given.name)
        for number, (answer, facts) in enumerate(zip(row.answers, row.facts, strict=True), start=1):
            file = f"{stem}-{number}.png" if len(row.answers) > 1 else f"{stem}.png"
            translating.save(answer, self.out / file, row.given.opacity)
            self.table.append({"file": file, "picture": row.given.name, **facts})

    def finish(self) -> str:
        """Write what was kept; what was written, in words."""
        if not self.out.suffix:
            with (self.out / "index.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, self.table[0])
                table.writeheader()
                table.writerows(self.table)
        elif self.out.suffix.lower() == ".png":
            self._sheet()
        else:
            pictures.write(np.stack([answer for row in self.kept for answer in row.answers]), self.out)
        return f"{self.count} {'picture' if self.count == 1 else 'pictures'} in {self.out}"

    def _sheet(self) -> None:
        """Each picture beside what becomes of it, named."""
        first, several = self.kept[0], len(self.kept[0].answers) > 1
        names = [f"{self.word} {n + 1}" if several else self.word for n in range(len(first.answers))]
        sets = [[*row.shown.values(), *row.answers, *row.after.values()] for row in self.kept]
        images = np.stack([image for images in sets for image in images])
        factor = max(1, math.ceil(SHOWN / images.shape[1]))
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        rows = [" ".join(filter(None, [_stem(row.given.name)[-15:], row.said])) for row in self.kept]
        pictures.write(images, self.out, row_names=rows, column_names=[*first.shown, *names, *first.after])
