"""The kernel distance between the features of two sets of pictures, without bias at any number of them: KID (Bińkowski
et al. 2018, arXiv 1801.01401)."""

import numpy as np

from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value

CHUNK = 2048
"""Rows of either side whose kernel is in memory at a time."""
SUBSETS, BLOCK = 100, 1000
"""Blocks, and pictures of either side in each (section 4 of the paper, and its code)."""
FEW = 200
"""Pictures below which the distance is mostly noise."""


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of MMD² between features [N,D] and [M,D], with the kernel (x·y/D + 1)³, in float64.

    Mean of k(x,x') over pairs of two x, and of k(y,y'), less twice that of k(x,y) (Gretton et al. 2012, equation 3); so
    it may be below 0. At least two rows on either side.
    """
    n, m = len(x), len(y)
    return (_among(x) / (n * (n - 1))) + (_among(y) / (m * (m - 1))) - 2 * _between(x, y) / (n * m)


def _among(x: np.ndarray) -> float:
    """The kernel's sum over ordered pairs of two rows [N,D]."""
    itself = (np.square(x, dtype=np.float64).sum(1) / x.shape[1] + 1) ** 3
    return _between(x, x) - float(itself.sum())


def _between(x: np.ndarray, y: np.ndarray) -> float:
    """The kernel's sum over pairs of rows [N,D] and [M,D]."""
    total = 0.0
    for i in range(0, len(x), CHUNK):
        some = x[i : i + CHUNK].astype(np.float64)
        for j in range(0, len(y), CHUNK):
            others = some if x is y and i == j else y[j : j + CHUNK].astype(np.float64)
            kernel = some @ others.T
            kernel /= x.shape[1]
            kernel += 1
            total += float((kernel * kernel * kernel).sum())
    return total


def blocks(x: np.ndarray, y: np.ndarray, subsets: int = SUBSETS, size: int = BLOCK, seed: int = 0) -> np.ndarray:
    """[subsets] kernel distances between random blocks of `size` rows of features [N,D] and [M,D]."""
    generator = np.random.default_rng(seed)

    def block(features: np.ndarray) -> np.ndarray:
        return features[np.sort(generator.choice(len(features), size, replace=False))].astype(np.float64)

    return np.array([kernel_distance(block(x), block(y)) for _ in range(subsets)])


def kid(subject: Subject) -> list[Value]:
    """`kid`: the mean of kernel distances between blocks of samples and of reference pictures; lower is better.

    Blocks are of 1,000, or of half the smaller side where that has fewer than 2,000: the size changes the spread and
    not the mean. The interval comes from the spread of the blocks: of b among N they vary by σ²(1/b - 1/N), and their
    mean, in which all N take part, would vary by σ²/N with other pictures. So its deviation is theirs times
    √(b / (N - b)); right far from 0, too wide near it. Nothing where either side has fewer than four.
    """
    x, y = subject.sample_features.vectors, subject.reference_features.vectors
    fewest = min(len(x), len(y))
    if fewest < 4:
        return []
    size = min(BLOCK, fewest // 2)
    found = blocks(x, y, size=size, seed=subject.seed)
    value = float(found.mean())
    margin = 1.96 * float(found.std(ddof=1)) * (size / (fewest - size)) ** 0.5
    reached = None
    if len(subject.real) >= 4:
        real = subject.real_features.vectors
        reached = float(blocks(real, y, size=min(size, len(real) // 2), seed=subject.seed).mean())
    note = None
    if fewest < FEW:
        note = f"{len(x):,} samples against {len(y):,} real pictures: without bias, but mostly noise below {FEW}."
    passport = {"subsets": SUBSETS, "block": size}
    return [Value("kid", value, (value - margin, value + margin), len(x), reached, passport, note)]
