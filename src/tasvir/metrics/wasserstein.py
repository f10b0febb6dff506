"""Sliced Wasserstein distance between the patches of two sets, on each level of a Laplacian pyramid. Needs no weights.

Karras et al. 2018, arXiv 1710.10196, section 5. Pyramid: Burt and Adelson 1983.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasvir.metrics.subject import Subject, chosen, rows
from tasvir.metrics.values import Value

SMALLEST = 16
"""Pixels of the coarsest level."""
PATCH = 7
SMALL_PATCH = 3
"""Patch of pictures that are smaller than the smallest level."""
PATCHES = 128
"""Per picture and level."""
DIRECTIONS = 2048
"""4 repeats of 512 in the paper."""
LARGEST = 4096
"""Most pictures of either set: 300 MB of patches each, in colour."""
SCALE = 1e3
"""Distances are told in thousandths."""
HALVES = 32
"""Random halves of the samples, for the interval."""
HALF_DIRECTIONS = 24
"""Directions that the interval is found with."""
STUDENT = 2.040
"""97.5 % quantile of Student's t with `HALVES` - 1 degrees of freedom."""
FEWEST = 8
"""Pictures below which there is no interval."""
CELLS = 8
"""Parts of the height, and of the width, that places are told apart by for the interval."""
STEPS = 1 << 16
"""Steps of their range that projections are told apart on: 16 bits are sorted ten times faster."""
RANKS = 2048
"""Quantiles that the interval is found with."""
BATCH = 256
"""Pictures decomposed at one time."""
PROJECTED = 1 << 24
"""Projections of either set that are there at one time: 64 MB."""
CONSTANT = 1e-3
"""Deviation of grey values up to which a channel of a level is constant but for rounding, and left as it is."""
FEW = 500
"""Pictures below which the distance is mostly chance."""


def level_sizes(size: int) -> list[int]:
    """Sizes of the levels of a picture of `size` pixels: halved for as long as 16 or more are left."""
    sizes = [size]
    while (sizes[-1] + 1) // 2 >= SMALLEST:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def patch_size(size: int) -> int:
    """Pixels of the side of a patch, for pictures of `size` pixels."""
    return PATCH if size >= SMALLEST else SMALL_PATCH


def pyramid(pictures: Tensor) -> list[Tensor]:
    """Laplacian pyramid of float [N,C,H,W], finest first: what each level has beyond the next one; the last is all."""
    levels = [pictures]
    for _ in level_sizes(min(pictures.shape[2:]))[1:]:
        fine = levels[-1]
        coarse = _smooth(fine)[:, :, ::2, ::2]
        spread = torch.zeros_like(fine)
        spread[:, :, ::2, ::2] = coarse
        levels[-1] = fine - 4 * _smooth(spread)
        levels.append(coarse)
    return levels


def _smooth(pictures: Tensor) -> Tensor:
    """Convolved with (1, 4, 6, 4, 1)/16 both ways, mirrored at the borders."""
    channels = pictures.shape[1]
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(weights, weights).expand(channels, 1, 5, 5).to(pictures.dtype)
    return F.conv2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


@dataclass(frozen=True)
class Patches:
    """n = N * `PATCHES` patches of one level of N pictures, picture by picture."""

    pixels: np.ndarray
    """[patch * patch * C, n] float32, channels last."""
    cells: np.ndarray
    """[n] in which of `CELLS`² parts of the level each has its place."""
    moments: np.ndarray
    """[2,C,n] float32: the means of a channel over a patch, and of its square."""

    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [C] of each channel over all patches."""
        return _normalisation(self.moments.mean(2, np.float64))


def _normalisation(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [C] of channels from [2,C]; 1 for a constant channel, which is left as it is."""
    mean, square = moments
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.where(deviation > CONSTANT, deviation, 1)


def patches(images: np.ndarray, level: int, seed: int) -> Patches:
    """`PATCHES` patches at random places of a level of each of uint8 [N,H,W,C].

    The places depend on the seed, the level and how many pictures there are, not on the pictures.
    """
    generator = np.random.default_rng((seed, level))
    number, channels, patch = len(images), images.shape[3], patch_size(min(images.shape[1:3]))
    pixels = np.empty((patch, patch, channels, number * PATCHES), np.float32)
    cells = np.empty((number, PATCHES), np.uint8)
    moments = np.empty((2, channels, number * PATCHES), np.float32)
    for start in range(0, number, BATCH):
        pictures = torch.from_numpy(images[start : start + BATCH].astype(np.float32)).permute(0, 3, 1, 2)
        windows = np.lib.stride_tricks.sliding_window_view(pyramid(pictures)[level].numpy(), (patch, patch), (2, 3))
        rows, columns = (generator.integers(0, count, (len(pictures), PATCHES)) for count in windows.shape[2:4])
        height, width = windows.shape[2:4]
        cells[start : start + len(pictures)] = rows * CELLS // height * CELLS + columns * CELLS // width
        # windows [N,C,y,x,patch,patch] at [N,PATCHES] places -> [N,PATCHES,C,patch,patch]
        cut = windows[np.arange(len(pictures))[:, None], :, rows, columns]
        place = slice(start * PATCHES, (start + len(pictures)) * PATCHES)
        pixels[..., place] = cut.reshape(-1, channels, patch, patch).transpose(2, 3, 1, 0)
        moments[..., place] = pixels[..., place].mean((0, 1)), np.square(pixels[..., place]).mean((0, 1))
    return Patches(pixels.reshape(-1, number * PATCHES), cells.reshape(-1), moments)


def projections(patches: Patches, directions: np.ndarray) -> np.ndarray:
    """[K,n] float32: patches on directions [K, patch²C], each channel brought to mean 0 and deviation 1 before."""
    mean, deviation = patches.normalisation()
    weights = directions.reshape(len(directions), -1, len(mean)) / deviation
    found = weights.reshape(directions.shape).astype(np.float32) @ patches.pixels
    found -= (weights * mean).sum((1, 2)).astype(np.float32)[:, None]
    return found


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance between n and n numbers, float32 [n] each: the mean difference of the sorted ones.

    They are told apart on `STEPS` steps of their range. That changes the mean over directions by less than 0.1 %.
    """
    low = min(first.min(), second.min())
    step = max(max(first.max(), second.max()) - low, np.finfo(np.float32).tiny) / np.float32(STEPS - 1)
    steps = [((part - low) / step + np.float32(0.5)).astype(np.uint16) for part in (first, second)]
    for part in steps:
        part.sort(kind="stable")
    return float(np.abs(np.subtract(*steps, dtype=np.int32)).mean() * step)


def quantiles(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[RANKS] quantiles, evenly spaced in rank, of float32 [n], which have weights or all the same."""
    low = values.min()
    step = max(values.max() - low, np.finfo(np.float32).tiny) / np.float32(STEPS - 1)
    shares = np.bincount(((values - low) / step + np.float32(0.5)).astype(np.uint16), weights, STEPS).cumsum()
    return low + step * np.searchsorted(shares, (np.arange(RANKS) + 0.5) / RANKS * shares[-1]).astype(np.float64)


def spread_distances(replicates: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[R] Wasserstein-1 distances of quantiles [R,RANKS] of replicates of the samples from those of the reference.

    The mean difference of a quantile has the chance of the samples in it, which the replicates bring a second time.
    Near 0, where the distance bends, that would make it vary more than it does. So the difference is shrunk until its
    square is what it would be without that chance (after James and Stein 1961).
    """
    mean = replicates.mean(0)
    deviations, difference = replicates - mean, mean - reference
    chance = deviations.var(0, ddof=1)
    shrunk = np.sign(difference) * np.sqrt(np.maximum(difference**2 - chance, 0))
    return np.abs(deviations + shrunk).mean(1)


def random_directions(number: int, size: int, seed: int) -> np.ndarray:
    """[number,size] unit vectors."""
    drawn = np.random.default_rng(seed).standard_normal((number, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def distance(first: Patches, second: Patches, directions: np.ndarray) -> float:
    """The mean Wasserstein-1 distance between two sets of patches over directions [K, patch²C], in thousandths."""
    slices = -(-first.pixels.shape[1] * len(directions) // PROJECTED)
    found: list[float] = []
    with ThreadPoolExecutor() as pool:
        for some in np.array_split(directions, slices):
            found += pool.map(wasserstein, projections(first, some), projections(second, some))
    return SCALE * float(np.mean(found))


@dataclass(frozen=True)
class Half:
    """Half of the pictures of a set, and the weights of their patches."""

    pictures: np.ndarray
    """[N/2], rising."""
    weights: np.ndarray
    """[N/2 * PATCHES], 1 in all; those of each cell together as much as the cell has of the patches of all N."""
    mean: np.ndarray
    """[C], weighted."""
    deviation: np.ndarray
    """[C], weighted."""


def random_half(patches: Patches, generator: np.random.Generator) -> Half:
    """A random half of the pictures."""
    number = len(patches.cells) // PATCHES
    pictures = np.sort(generator.permutation(number)[: number // 2])
    cells = patches.cells.reshape(number, PATCHES)[pictures].reshape(-1)
    wanted, there = (np.bincount(some, minlength=CELLS**2) for some in (patches.cells, cells))
    weights = (wanted / np.maximum(there, 1))[cells]
    weights /= weights.sum()
    moments = patches.moments.reshape(2, -1, number, PATCHES)[:, :, pictures].reshape(2, -1, len(cells))
    return Half(pictures, weights, *_normalisation(moments @ weights))


def halved(first: Patches, second: Patches, directions: np.ndarray, seed: int) -> np.ndarray:
    """[HALVES] distances of random halves of the first set, each normalised by itself, from all of the second."""
    channels, number = first.moments.shape[1], len(first.cells) // PATCHES
    generator = np.random.default_rng(seed)
    halves = [random_half(first, generator) for _ in range(HALVES)]

    def of_direction(direction: np.ndarray, values: np.ndarray, against: np.ndarray) -> np.ndarray:
        # direction [patch²,C], values [C,N,PATCHES] of each channel by itself, against [n] -> [HALVES]
        kept = []
        for half in halves:
            scale = (1 / half.deviation).astype(np.float32)
            projected = np.einsum("c,cnp->np", scale, values[:, half.pictures]).reshape(-1)
            shift = (direction * (half.mean / half.deviation)).sum()
            kept.append(quantiles(projected, half.weights) - shift)
        return spread_distances(np.stack(kept), quantiles(against))

    found: list[np.ndarray] = []
    slices = -(-first.pixels.shape[1] * channels * len(directions) // PROJECTED)
    with ThreadPoolExecutor() as pool:
        for some in np.array_split(directions, slices):
            weights = some.reshape(len(some), -1, channels)
            # each channel by itself: [K,patch²,C] -> [K,C,patch²,C]
            alone = (weights[:, None] * np.eye(channels)[:, None]).reshape(-1, some.shape[1])
            values = (alone.astype(np.float32) @ first.pixels).reshape(len(some), channels, number, PATCHES)
            found += pool.map(of_direction, weights, values, projections(second, some))
    return SCALE * np.mean(found, 0)


@dataclass(frozen=True)
class Level:
    """The distance on one level, and what it is for random halves of the samples."""

    distance: float
    halves: np.ndarray
    """[HALVES]; found with fewer directions, so only their spread means something."""


def compared(samples: np.ndarray, reference: np.ndarray, seed: int, spread: bool = True) -> dict[int, Level]:
    """By size of the level; `spread` finds the halves. Both sets are uint8 [N,H,W,C] of one shape; of the larger, as
    many are taken."""
    number = min(len(samples), len(reference), LARGEST)
    first, second = (rows(images, chosen(len(images), number)) for images in (samples, reference))
    found = {}
    for level, size in enumerate(level_sizes(min(first.shape[1:3]))):
        made, real = patches(first, level, seed), patches(second, level, seed)
        directions = random_directions(DIRECTIONS, len(made.pixels), seed)
        halves = np.empty(0)
        if spread and number >= FEWEST:
            halves = halved(made, real, directions[:HALF_DIRECTIONS], seed)
        found[size] = Level(distance(made, real, directions), halves)
    return found


def sliced_wasserstein_distances(samples: np.ndarray, reference: np.ndarray, seed: int = 0) -> dict[int, float]:
    """Distances in thousandths by the size of the level, finest first, between uint8 [N,H,W,C] and [M,H,W,C]."""
    return {size: level.distance for size, level in compared(samples, reference, seed, spread=False).items()}


def _interval(distance: float, halves: np.ndarray) -> tuple[float, float] | None:
    """Where values of other samples of the same kind lie, the reference as it is.

    Halves without replacement are spread around all as all are around the truth (McCarthy 1969; Shao and Wu 1989,
    "A general theory for jackknife variance estimation": half deleted, so the factor is 1). Unlike leaving out little,
    this also holds near 0, where the distance is no linear function of the samples.
    """
    if not len(halves):
        return None
    half = STUDENT * float(halves.std(ddof=1))
    return max(distance - half, 0.0), distance + half


def sliced_wasserstein(subject: Subject) -> list[Value]:
    """How far the patches of samples are from real ones: the mean over levels, and each level. Fine levels see
    sharpness and noise, coarse ones shapes; none sees the mean colour or contrast of a set, which are normalised."""
    levels = compared(subject.samples, subject.reference, subject.seed)
    truth = sliced_wasserstein_distances(subject.real, subject.reference, subject.seed) if len(subject.real) else None
    number, size = min(len(subject.samples), len(subject.reference), LARGEST), min(subject.samples.shape[1:3])
    passport = {"patch": patch_size(size), "patches": PATCHES, "directions": DIRECTIONS}
    note = None
    if number < FEW:
        note = f"{number} pictures on either side: mostly chance below {FEW}; hold it against what real ones reach."

    def value(metric: str, sizes: list[int]) -> Value:
        halves = np.mean([levels[size].halves for size in sizes], axis=0)
        mean = float(np.mean([levels[size].distance for size in sizes]))
        real = None if truth is None else float(np.mean([truth[size] for size in sizes]))
        return Value(metric, mean, _interval(mean, halves), number, real, {**passport, "levels": sizes}, note=note)

    each = [value(f"sliced_wasserstein_{size}", [size]) for size in levels] if len(levels) > 1 else []
    return [value("sliced_wasserstein", list(levels)), *each]
