"""The Fréchet distance between the features of two sets of pictures, each taken for a Gaussian: FID (Heusel et al.
2017, arXiv 1706.08500), and its limit for endlessly many samples (Chong & Forsyth 2020, arXiv 1911.07023)."""

import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasvir.metrics.subject import Subject, spool
from tasvir.metrics.values import Value

if TYPE_CHECKING:
    from tasvir.metrics.features import Features

CHUNK = 2048
"""Rows of features that are taken to float64 at a time."""
ROUNDING = float(np.finfo(np.float64).eps)
POINTS = 15
"""Numbers of samples that the line to infinitely many is drawn through (section 4 of the paper)."""
GROUPS = 20
"""Groups of samples that are left out in turn to see the spread."""
ENOUGH = 10
"""Pictures for each dimension from which on the bias is small beside the distance."""
STRAIGHT = 5
"""Samples for each dimension from which on the bias falls as 1/N."""
FEWEST = 20
"""Samples from which on a line is drawn."""


@dataclass(frozen=True)
class Statistics:
    """What the Fréchet distance knows of a set of features."""

    mean: np.ndarray
    """float64 [D]"""
    covariance: np.ndarray
    """float64 [D,D], unbiased: divided by N - 1"""
    number: int
    """N"""


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian made ready for many sets to be measured against it."""

    mean: np.ndarray
    """float64 [D]"""
    root: np.ndarray
    """float64 [D,r] with root·rootᵀ = covariance"""


# ---- moments


def statistics(features: np.ndarray, chunk: int = CHUNK, places: np.ndarray | None = None) -> Statistics:
    """Mean and covariance of features [N,D], or of the rows at `places`, in float64, in two passes, by `chunk` rows.

    The covariance of a single row is 0.
    """
    mean, number = _mean(features, chunk, places)
    scatter = np.zeros((features.shape[1],) * 2)
    for rows in _chunks(features, chunk, places):
        rows -= mean
        scatter += rows.T @ rows
    return Statistics(mean, scatter / max(number - 1, 1), number)


def _chunks(features: np.ndarray, chunk: int, places: np.ndarray | None) -> Iterator[np.ndarray]:
    for start in range(0, len(features) if places is None else len(places), chunk):
        part = slice(start, start + chunk)
        yield features[part if places is None else places[part]].astype(np.float64)


def _mean(features: np.ndarray, chunk: int, places: np.ndarray | None) -> tuple[np.ndarray, int]:
    number = len(features) if places is None else len(places)
    sums = (rows.sum(0) for rows in _chunks(features, chunk, places))
    return sum(sums, np.zeros(features.shape[1])) / number, number


def _centred(features: np.ndarray, places: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] and rows X [n,D] with XᵀX = covariance."""
    mean, number = _mean(features, CHUNK, places)
    rows = np.concatenate(list(_chunks(features, CHUNK, places)))
    rows -= mean
    rows /= np.sqrt(number - 1)
    return mean, rows


def _without(whole: Statistics, part: Statistics) -> Statistics:
    """Of the rows of `whole` that are not in `part` (Chan, Golub & LeVeque 1979, solved for the other part)."""
    number = whole.number - part.number
    mean = (whole.number * whole.mean - part.number * part.mean) / number
    apart = mean - part.mean
    scatter = (whole.number - 1) * whole.covariance - (part.number - 1) * part.covariance
    scatter -= np.outer(apart, apart) * (number * part.number / whole.number)
    return Statistics(mean, scatter / (number - 1), number)


# ---- distances


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), at least 0 (Dowson & Landau 1982; Heusel et al., equation 6)."""
    few, many = sorted((a, b), key=lambda side: side.number)  # a singular covariance has the smaller root
    return _to(gaussian(few), many)


def gaussian(known: Statistics) -> Gaussian:
    """With Cholesky's root of the covariance; where that is singular, with the smaller root by eigenvectors."""
    least = len(known.mean) * ROUNDING  # of the largest: less is rounding
    try:
        root = np.linalg.cholesky(known.covariance)
        if np.diag(root).min() ** 2 > least * np.diag(known.covariance).max():
            return Gaussian(known.mean, root)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(known.covariance)
    kept = values > least * values.max()
    return Gaussian(known.mean, vectors[:, kept] * np.sqrt(values[kept]))


def gaussian_of_few(features: np.ndarray) -> Gaussian:
    """Of features [N,D] with N ≤ D: their centred rows are a root, so no [D,D] is made."""
    mean, rows = _centred(features, None)
    return Gaussian(mean, rows.T)


def distance_to(target: Gaussian, features: np.ndarray, places: np.ndarray | None = None) -> float:
    """The Fréchet distance to a Gaussian of features [N,D], or of the rows at `places`; at least two rows.

    Of few rows no [D,D] is decomposed: with Σ₁ = XᵀX and Σ₂ = RRᵀ, the trace of (Σ₁Σ₂)^½ is the nuclear norm of
    XR [n,r].
    """
    number = len(features) if places is None else len(places)
    if number >= target.root.shape[1]:
        return _to(target, statistics(features, places=places))
    mean, rows = _centred(features, places)
    crossed = rows @ target.root
    return _distance(target, mean, float(np.square(rows).sum()), crossed @ crossed.T)


def distances_to(target: Gaussian, features: np.ndarray, parts: Iterable[np.ndarray]) -> list[float]:
    """The Fréchet distance to a Gaussian of parts of features [N,D], each given by its rows' ascending places.

    What is left out of a large part is read instead of the part.
    """
    whole: Statistics | None = None
    found = []
    for places in parts:
        if len(places) < target.root.shape[1] or 2 * len(places) <= len(features):
            found.append(distance_to(target, features, places))
            continue
        whole = whole or statistics(features)
        rest = np.delete(np.arange(len(features)), places)
        found.append(_to(target, _without(whole, statistics(features, places=rest)) if len(rest) else whole))
    return found


def _to(target: Gaussian, known: Statistics) -> float:
    product = target.root.T @ known.covariance @ target.root
    return _distance(target, known.mean, float(np.trace(known.covariance)), product)


def _distance(target: Gaussian, mean: np.ndarray, trace: float, product: np.ndarray) -> float:
    """`trace` is that of Σ₁; the symmetric `product` has the eigenvalues of Σ₁Σ₂, some of those that are 0 apart."""
    overlap = np.sqrt(np.linalg.eigvalsh(product).clip(0)).sum()
    return max(0.0, float(np.square(mean - target.mean).sum() + trace + np.square(target.root).sum() - 2 * overlap))


# ---- what other samples would give


def frechet_spread(target: Gaussian, samples: np.ndarray, seed: int) -> float:
    """The standard deviation of the distance over other samples [N,D] of the same kind, N ≥ 3.

    By a jackknife over random groups (Efron 1982): a bootstrap takes samples twice, so sees fewer of them than there
    are, and where bias is large its spread comes out at two or three times what other samples give. This one is up to
    half too large there (N ≤ 2 D), and where the two sets are alike.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    groups = np.array_split(order, min(GROUPS, len(samples)))
    found = distances_to(target, samples, (np.delete(np.arange(len(samples)), group) for group in groups))
    return float(np.std(found) * np.sqrt(len(groups) - 1))


def frechet_infinity(
    samples: np.ndarray, reference: Statistics | Gaussian, points: int = POINTS, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The Fréchet distance that endlessly many samples would have, and the line's 95 % interval of it.

    The distance of N samples is the limit and a bias that falls as 1/N (Chong & Forsyth 2020): it is measured on random
    subsets of samples [N,D], N ≥ `FEWEST`, and the least-squares line in 1/N is followed to 0. The numbers in them are
    evenly spaced up to N, from N/10, or from 5 D where that is more, but not from more than N/2: with fewer the bias is
    no line. The interval knows how well the line fits, and not that all subsets are of the same samples.
    """
    from scipy import stats

    target = gaussian(reference) if isinstance(reference, Statistics) else reference
    number, size = samples.shape
    generator = np.random.default_rng(seed)
    smallest = max(number // 10, min(number // 2, STRAIGHT * size))
    numbers = np.linspace(smallest, number, points).astype(int)
    subsets = (np.sort(generator.permutation(number)[:taken]) for taken in numbers)
    line = stats.linregress(1 / numbers, distances_to(target, samples, subsets))
    margin = stats.t.ppf(0.975, points - 2) * np.nan_to_num(line.intercept_stderr)  # nan if all are the same
    return float(line.intercept), (float(line.intercept - margin), float(line.intercept + margin))


# ---- measured


def frechet(subject: Subject) -> list[Value]:
    """`fid` and `fid_infinity` by the Inception features, `frechet` and `frechet_infinity` by others; lower is better.

    Nothing where either side has fewer than two pictures; no limit where there are fewer than `FEWEST` samples.
    """
    reference = subject.reference_features
    if min(len(subject.samples), len(reference.vectors)) < 2:
        return []
    real = subject.real_features.vectors if len(subject.real) >= 2 else None
    return _measured(subject, subject.sample_features.vectors, ready(reference), len(reference.vectors), real)


def frechet_of_pairs(subject: Subject) -> list[Value]:
    """The same of reconstructions, against the pictures that they reconstruct: what stands beside the distance of
    samples. Both sides are of the same pictures, so chance takes less part in it than in that of samples."""
    from tasvir.metrics.features import extract

    made, original = subject.pairs[0]
    if len(made) < 2:
        return []
    vectors = extract(subject.extractor, made, spool).vectors
    values = _measured(subject, vectors, ready(subject.reference_features), len(original), None)
    return [replace(value, metric=subject.prefix + value.metric) for value in values]


def _measured(
    subject: Subject, samples: np.ndarray, target: Gaussian, references: int, real: np.ndarray | None
) -> list[Value]:
    name = "fid" if subject.extractor.name == "inception" else "frechet"
    number, size = samples.shape
    value = distance_to(target, samples)
    margin = 1.96 * frechet_spread(target, samples, subject.seed) if number > 2 else None
    found = Value(
        name,
        value,
        None if margin is None else (max(0.0, value - margin), value + margin),
        number,
        None if real is None else distance_to(target, real),
        note=_note(number, references, size),
    )
    if margin is None or number < FEWEST:
        return [found]
    limit, (low, high) = frechet_infinity(samples, target, seed=subject.seed)
    margin = float(np.hypot(margin, (high - low) / 2))  # other samples, and how well the line fits
    reached = None
    if real is not None and len(real) >= FEWEST:
        reached, _ = frechet_infinity(real, target, seed=subject.seed)
    note = None
    if number < STRAIGHT * size:
        note = f"{number:,} samples in {size:,} dimensions: a guess; the line in 1/N holds from {STRAIGHT * size:,} on."
    return [
        replace(found, note=_note(number, references, size, value - limit)),
        Value(f"{name}_infinity", limit, (limit - margin, limit + margin), number, reached, {"points": POINTS}, note),
    ]


def _note(number: int, references: int, size: int, bias: float = 0.0) -> str | None:
    """What the distance is worth; `bias` as far as it is known from the limit for endlessly many samples."""
    few = f"{number:,} samples in {size:,} dimensions"
    if number <= size:
        return f"{few}: a singular covariance, far too large a distance; compare only with the same number, or use kid."
    if number < ENOUGH * size:
        share = f"about {bias:.2g} of it is bias" if bias > 0 else "too few to be free of bias"
        return f"{few}: {share}; compare only with the same number, or use kid."
    if references < ENOUGH * size:
        return f"{references:,} reference pictures in {size:,} dimensions: a bias that more samples do not take away."
    return None


def ready(features: "Features") -> Gaussian:
    """Real features as a Gaussian. Their statistics are kept beside features that are kept."""
    number, size = features.vectors.shape
    if number <= size:
        return gaussian_of_few(features.vectors)
    if features.folder is None:
        return gaussian(statistics(features.vectors))
    path = features.folder / "statistics.npz"
    known = _read(path)
    if known is None or known.number != number or known.covariance.shape != (size, size):
        known = statistics(features.vectors)
        _write(path, known)
    return gaussian(known)


def _read(path: Path) -> Statistics | None:
    """None if there are none, or none that can be read: then they are made again."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as file:
        return Statistics(file["mean"], file["covariance"], int(file["number"]))
    return None


def _write(path: Path, known: Statistics) -> None:
    with suppress(OSError):  # no room in the cache: they are made again next time
        place, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(place, "wb") as file:
                np.savez(file, mean=known.mean, covariance=known.covariance, number=known.number)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
