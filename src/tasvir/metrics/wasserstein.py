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
HALVES = 24
"""Random halves of the samples, for the interval."""
HALF_DIRECTIONS = 64
"""Directions that the interval is found with."""
STUDENT = 2.069
"""97.5 % quantile of Student's t with `HALVES` - 1 degrees of freedom."""
FEWEST = 8
"""Pictures below which there is no interval."""
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
    """Patches of one level of a set of pictures."""

    pixels: np.ndarray
    """[patch * patch * C, N * PATCHES] float32, channels last; picture by picture."""
    moments: np.ndarray
    """[N,2,C] over the patches of a picture: the means of a channel, and of its square."""

    def normalisation(self, kept: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [C] of each channel, over all pictures or those kept."""
        mean, square = self.moments[kept].mean(0)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        return mean, np.where(deviation > CONSTANT, deviation, 1)


def patches(images: np.ndarray, level: int, seed: int) -> Patches:
    """`PATCHES` patches at random places of a level of each of uint8 [N,H,W,C].

    The places depend on the seed, the level and how many pictures there are, not on the pictures.
    """
    generator = np.random.default_rng((seed, level))
    number, channels, patch = len(images), images.shape[3], patch_size(min(images.shape[1:3]))
    pixels = np.empty((patch, patch, channels, number * PATCHES), np.float32)
    moments = np.empty((number, 2, channels))
    for start in range(0, number, BATCH):
        pictures = torch.from_numpy(images[start : start + BATCH].astype(np.float32)).permute(0, 3, 1, 2)
        windows = np.lib.stride_tricks.sliding_window_view(pyramid(pictures)[level].numpy(), (patch, patch), (2, 3))
        rows, columns = (generator.integers(0, count, (len(pictures), PATCHES)) for count in windows.shape[2:4])
        # windows [N,C,y,x,patch,patch] at [N,PATCHES] places -> [N,PATCHES,C,patch,patch]
        cut = windows[np.arange(len(pictures))[:, None], :, rows, columns]
        place = slice(start * PATCHES, (start + len(pictures)) * PATCHES)
        pixels[..., place] = cut.reshape(-1, channels, patch, patch).transpose(2, 3, 1, 0)
        moments[start : start + len(pictures), 0] = cut.mean((1, 3, 4), np.float64)
        moments[start : start + len(pictures), 1] = np.square(cut, dtype=np.float64).mean((1, 3, 4))
    return Patches(pixels.reshape(-1, number * PATCHES), moments)


def projections(patches: Patches, directions: np.ndarray) -> np.ndarray:
    """[K,n] float32: patches on directions [K, patch²C], each channel brought to mean 0 and deviation 1 before."""
    mean, deviation = patches.normalisation()
    weights = directions.reshape(len(directions), -1, len(mean)) / deviation
    found = weights.reshape(directions.shape).astype(np.float32) @ patches.pixels
    found -= (weights * mean).sum((1, 2)).astype(np.float32)[:, None]
    return found


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance between n and n numbers, float32 [n] each: the mean difference of the sorted ones.

    They are told apart on 65,536 steps of their range, since 16 bits are sorted ten times faster. That changes the mean
    over directions by less than 0.1 %.
    """
    low = min(first.min(), second.min())
    step = max(max(first.max(), second.max()) - low, np.finfo(np.float32).tiny) / np.float32(65535)
    steps = [((part - low) / step + np.float32(0.5)).astype(np.uint16) for part in (first, second)]
    for part in steps:
        part.sort(kind="stable")
    return float(np.abs(np.subtract(*steps, dtype=np.int32)).mean() * step)


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


def halved(first: Patches, second: Patches, directions: np.ndarray, seed: int) -> np.ndarray:
    """[HALVES] distances of random halves of the first set, each normalised by itself, from all of the second.

    Of the sorted projections of the second set every other one is taken, so that there are as many.
    """
    number, _, channels = first.moments.shape
    generator = np.random.default_rng(seed)
    halves = [np.sort(generator.permutation(number)[: number // 2]) for _ in range(HALVES)]
    normalisations = [first.normalisation(half) for half in halves]
    count = number // 2 * PATCHES
    ranks = np.arange(count) * 2 + 1

    def of_direction(direction: np.ndarray, values: np.ndarray, against: np.ndarray) -> list[float]:
        # direction [patch²,C], values [C,N,PATCHES], against [n]
        against = np.sort(against)[ranks]
        found = []
        for half, (mean, deviation) in zip(halves, normalisations, strict=True):
            projected = np.tensordot((1 / deviation).astype(np.float32), values[:, half], 1)
            projected -= np.float32((direction.sum(0) * mean / deviation).sum())
            found.append(wasserstein(projected.reshape(-1), against))
        return found

    found = []
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


def compared(samples: np.ndarray, reference: np.ndarray, seed: int) -> dict[int, Level]:
    """By size of the level. Both sets are uint8 [N,H,W,C] of one shape; of the larger, as many are taken."""
    number = min(len(samples), len(reference), LARGEST)
    first, second = (rows(images, chosen(len(images), number)) for images in (samples, reference))
    found = {}
    for level, size in enumerate(level_sizes(min(first.shape[1:3]))):
        made, real = patches(first, level, seed), patches(second, level, seed)
        directions = random_directions(DIRECTIONS, len(made.pixels), seed)
        halves = halved(made, real, directions[:HALF_DIRECTIONS], seed)
        found[size] = Level(distance(made, real, directions), halves)
    return found


def sliced_wasserstein_distances(samples: np.ndarray, reference: np.ndarray, seed: int = 0) -> dict[int, float]:
    """Distances in thousandths by the size of the level, finest first, between uint8 [N,H,W,C] and [M,H,W,C]."""
    return {size: level.distance for size, level in compared(samples, reference, seed).items()}


def _interval(distance: float, without: np.ndarray) -> tuple[float, float] | None:
    """By the jackknife over groups of pictures of both sets (Quenouille 1949, Tukey 1958)."""
    if len(without) < GROUPS:
        return None
    half = STUDENT * float(np.sqrt((GROUPS - 1) * without.var()))
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
        without = np.mean([levels[size].without for size in sizes], axis=0)
        mean = float(np.mean([levels[size].distance for size in sizes]))
        real = None if truth is None else float(np.mean([truth[size] for size in sizes]))
        return Value(metric, mean, _interval(mean, without), number, real, {**passport, "levels": sizes}, note=note)

    each = [value(f"sliced_wasserstein_{size}", [size]) for size in levels] if len(levels) > 1 else []
    return [value("sliced_wasserstein", list(levels)), *each]
