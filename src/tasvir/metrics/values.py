"""One measured number: what it is, how sure it is, and what else must be known of it before it is compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

REPLICATES = 1000
"""Resamples behind the interval of a mean or a share."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Value:
    """One number with its 95 % interval."""

    metric: str
    value: float
    interval: tuple[float, float] | None
    """Low and high: where the number would lie with other pictures of the same kind. None where it has no spread."""
    number: int
    """Pictures it was measured on."""
    real: float | None = None
    """What real pictures reach by the same protocol."""
    passport: dict[str, Any] = field(default_factory=dict)
    """What else must agree before two such numbers may be compared: the protocol's own settings."""
    note: str | None = None
    """In a sentence, what the number is worth, where it is worth little."""
    curve: dict[str, list[float]] | None = None
    """Points to draw, as lists of equal length by axis (`recall`, `precision`)."""


def of_each(metric: str, values: np.ndarray, **facts: Any) -> Value:
    """The mean of a value per picture [N], with its bootstrap interval; `facts` are further fields of `Value`."""
    values = np.asarray(values, np.float64)
    interval = None
    if len(values) > 1:
        interval = bootstrap(lambda chosen: float(values[chosen].mean()), len(values), REPLICATES)
    return Value(metric, float(values.mean()), interval, len(values), **facts)


def of_share(metric: str, hits: np.ndarray, **facts: Any) -> Value:
    """The share of pictures [N] for which something holds, in [0,1], with its bootstrap interval."""
    return of_each(metric, np.asarray(hits, bool), **facts)


def bootstrap(
    statistic: Callable[[np.ndarray], float], number: int, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic over resamples with replacement (Efron 1979).

    `statistic` is given the indices [number] of each resample.
    """
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(0, number, number)) for _ in range(replicates)]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
