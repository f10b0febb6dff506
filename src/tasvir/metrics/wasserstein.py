"""Sliced Wasserstein distance between the patches of two sets, on each level of a Laplacian pyramid. Needs no weights.

Karras et al. 2018, arXiv 1710.10196, section 5. Pyramid: Burt and Adelson 1983.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

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
GROUPS = 8
"""Parts of the pictures that are left out in turn, for the interval."""
GROUP_DIRECTIONS = 32
"""Directions that the interval is found with."""
STUDENT = 2.365
"""97.5 % quantile of Student's t with `GROUPS` - 1 degrees of freedom."""
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
    """Patches of one level of a set of pictures, in groups of pictures."""

    pixels: np.ndarray
    """[patch * patch * C, n] float32, channels last."""
    ends: np.ndarray
    """[GROUPS+1] where groups begin and end among the n."""
    sums: np.ndarray
    """[GROUPS,2,C] over the patches of a group: their means of a channel, and of its square, added up."""

    def normalisation(self, without: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [C] of each channel, over all groups or all but one."""
        counts = np.diff(self.ends)
        if without is not None:
            counts[without] = 0
        mean, square = self.sums[counts > 0].sum(0) / counts.sum()
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        return mean, np.where(deviation > CONSTANT, deviation, 1)


def patches(images: np.ndarray, level: int, seed: int) -> Patches:
    """`PATCHES` patches at random places of a level of each of uint8 [N,H,W,C].

    The places depend on the seed, the level and how many pictures there are, not on the pictures.
    """
    generator = np.random.default_rng((seed, level))
    number, channels, patch = len(images), images.shape[3], patch_size(min(images.shape[1:3]))
    pixels = np.empty((patch, patch, channels, number * PATCHES), np.float32)
    ends = PATCHES * np.linspace(0, number, min(GROUPS, number) + 1).astype(int)
    for start in range(0, number, BATCH):
        pictures = torch.from_numpy(images[start : start + BATCH].astype(np.float32)).permute(0, 3, 1, 2)
        windows = np.lib.stride_tricks.sliding_window_view(pyramid(pictures)[level].numpy(), (patch, patch), (2, 3))
        rows, columns = (generator.integers(0, count, (len(pictures), PATCHES)) for count in windows.shape[2:4])
        # windows [N,C,y,x,patch,patch] at [N,PATCHES] places -> [N,PATCHES,C,patch,patch]
        cut = windows[np.arange(len(pictures))[:, None], :, rows, columns]
        place = slice(start * PATCHES, (start + len(pictures)) * PATCHES)
        pixels[..., place] = cut.reshape(-1, channels, patch, patch).transpose(2, 3, 1, 0)
    sums = np.empty((len(ends) - 1, 2, channels))
    for group, (first, last) in enumerate(pairwise(ends)):
        part = pixels[..., first:last]
        sums[group] = (part.sum((0, 1, 3), np.float64), np.square(part, dtype=np.float64).sum((0, 1, 3)))
    return Patches(pixels.reshape(-1, number * PATCHES), ends, sums / patch**2)


def projections(patches: Patches, directions: np.ndarray, without: int | None = None) -> np.ndarray:
    """[K,n] float32: patches on directions [K, patch²C], each channel brought to mean 0 and deviation 1 before.

    `without` names a group to leave out.
    """
    mean, deviation = patches.normalisation(without)
    weights = directions.reshape(len(directions), -1, len(mean)) / deviation
    found = weights.reshape(directions.shape).astype(np.float32) @ patches.pixels
    found -= (weights * mean).sum((1, 2)).astype(np.float32)[:, None]
    if without is None:
        return found
    return np.delete(found, slice(patches.ends[without], patches.ends[without + 1]), 1)


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


def distance(first: Patches, second: Patches, directions: np.ndarray, without: int | None = None) -> float:
    """The mean Wasserstein-1 distance between two sets of patches over directions [K, patch²C], in thousandths."""
    slices = -(-first.pixels.shape[1] * len(directions) // PROJECTED)
    found: list[float] = []
    with ThreadPoolExecutor() as pool:
        for some in np.array_split(directions, slices):
            found += pool.map(wasserstein, projections(first, some, without), projections(second, some, without))
    return SCALE * float(np.mean(found))


@dataclass(frozen=True)
class Level:
    """The distance on one level, and what it is without each group of pictures in turn."""

    distance: float
    without: np.ndarray
    """[GROUPS]; found with fewer directions, so only their spread means something."""


def compared(samples: np.ndarray, reference: np.ndarray, seed: int) -> dict[int, Level]:
    """By size of the level. Both sets are uint8 [N,H,W,C] of one shape; of the larger, as many are taken."""
    number = min(len(samples), len(reference), LARGEST)
    first, second = (rows(images, chosen(len(images), number)) for images in (samples, reference))
    found = {}
    for level, size in enumerate(level_sizes(min(first.shape[1:3]))):
        made, real = patches(first, level, seed), patches(second, level, seed)
        directions = random_directions(DIRECTIONS, len(made.pixels), seed)
        groups = range(len(made.sums) if len(made.sums) > 1 else 0)
        without = [distance(made, real, directions[:GROUP_DIRECTIONS], group) for group in groups]
        found[size] = Level(distance(made, real, directions), np.array(without))
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
