"""Metrics beside what people use: the Fréchet distance in turns with scipy's matrix root, and peak memory.

`python bench/metrics.py [frechet] [memory] [--rounds N]`: both if neither is named. Medians over all rounds, their
ratio, and how far the two results are apart. Peak memory is that of a process of its own.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZE = 2048
"""Dimensions of Inception's features."""
PICTURES = 10_000
GIGABYTE = 1e9


def features(number: int, seed: int) -> np.ndarray:
    """float32 [N,2048], correlated and not negative, with variances that fall as Inception's do."""
    mixing = np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)
    mixing /= np.sqrt(np.arange(1, SIZE + 1, dtype=np.float32))[:, None]
    vectors = np.random.default_rng(seed).standard_normal((number, SIZE), np.float32) @ mixing
    vectors += np.float32(0.5 + 0.02 * seed)
    return np.maximum(vectors, 0, out=vectors)


# ---- seconds

Case = tuple[Callable[[], float], Callable[[], float]]


def theirs(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """The Fréchet distance by the root of a product of covariances, as most FID scripts have it."""
    from scipy.linalg import sqrtm

    root = sqrtm(first[1] @ second[1])
    apart = first[0] - second[0]
    return float(apart @ apart + np.trace(first[1]) + np.trace(second[1]) - 2 * np.trace(root).real)


def from_statistics() -> Case:
    from tasvir.metrics.frechet import frechet_distance
    from tasvir.metrics.frechet import statistics as known

    a, b = (known(features(PICTURES, seed)) for seed in (1, 2))
    return lambda: theirs((a.mean, a.covariance), (b.mean, b.covariance)), lambda: frechet_distance(a, b)


def from_few_samples() -> Case:
    from tasvir.metrics.frechet import distance_to, gaussian
    from tasvir.metrics.frechet import statistics as known

    few, b = features(1000, 1).astype(np.float64), known(features(PICTURES, 2))
    return (
        lambda: theirs((few.mean(0), np.cov(few, rowvar=False)), (b.mean, b.covariance)),
        lambda: distance_to(gaussian(b), few),
    )


SECONDS: dict[str, Callable[[], Case]] = {
    f"Fréchet distance, {SIZE} dimensions, statistics at hand": from_statistics,
    "the same of 1,000 samples, their statistics included": from_few_samples,
}


def compare(name: str, rounds: int) -> None:
    sides = SECONDS[name]()
    taken: tuple[list[float], list[float]] = [], []
    found = [0.0, 0.0]
    for turn in range(rounds + 1):
        for side, work in enumerate(sides):
            began = time.perf_counter()
            found[side] = work()
            if turn:  # the first warms up
                taken[side].append(time.perf_counter() - began)
    slow, quick = map(statistics.median, taken)
    apart = abs(found[0] - found[1]) / abs(found[0])
    print(f"{name:<58} scipy {slow:7.3f} s   tasvir {quick:6.3f} s   {slow / quick:5.1f}×   apart {apart:.1e}")


# ---- memory


def precision_recall(samples: np.ndarray, reference: np.ndarray) -> None:
    from tasvir.metrics import manifolds

    manifolds.precision_recall(samples, reference)


def density_coverage(samples: np.ndarray, reference: np.ndarray) -> None:
    from tasvir.metrics import manifolds

    manifolds.density_coverage(samples, reference)


def frechet_and_limit(samples: np.ndarray, reference: np.ndarray) -> None:
    from tasvir.metrics.frechet import frechet_infinity
    from tasvir.metrics.frechet import statistics as known

    frechet_infinity(samples, known(reference))


def kernel_distances(samples: np.ndarray, reference: np.ndarray) -> None:
    from tasvir.metrics.kernel import blocks

    blocks(samples, reference, subsets=10)


MEMORY: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "precision and recall": precision_recall,
    "density and coverage": density_coverage,
    "Fréchet distance and its limit": frechet_and_limit,
    "kernel distance, 10 blocks": kernel_distances,
}


def serve(name: str) -> None:
    """A process of its own: says its seconds and the most bytes that it held, mapped files and libraries included."""
    sides = [np.load(f"{side}.npy", mmap_mode="r") for side in ("samples", "reference")]
    began = time.perf_counter()
    MEMORY[name](*sides)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # getrusage knows the parent's, too
    assert peak
    print(time.perf_counter() - began, int(peak[1]) * 1024)


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in ((1, "samples"), (2, "reference")):
            np.save(f"{folder}/{name}.npy", features(PICTURES, seed))
        print(f"{PICTURES:,} × {SIZE:,} on either side, mapped from disk; asked: at most 2 GB for nearest neighbours")
        for name in MEMORY:
            script = [sys.executable, os.path.abspath(__file__), "--serve", name]
            said = subprocess.run(script, check=True, capture_output=True, text=True, cwd=folder).stdout.split()
            seconds, peak = map(float, said)
            print(f"{name:<58} {seconds:7.1f} s   peak {peak / GIGABYTE:.2f} GB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="frechet, memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        serve(words.serve)
    else:
        import scipy

        print(f"numpy {np.__version__}, scipy {scipy.__version__}, {os.cpu_count()} cores")
        if not words.what or "frechet" in words.what:
            for case in SECONDS:
                compare(case, words.rounds)
        if not words.what or "memory" in words.what:
            memory()
