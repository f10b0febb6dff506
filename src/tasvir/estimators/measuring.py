"""Estimators against the exact gradient: bias, variance, time, and evaluations of f, each with its standard error."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.estimators.distributions import DISTRIBUTIONS, names
from tasvir.estimators.exact import exact_gradient, optimal_baseline
from tasvir.estimators.functions import TestFunction, function
from tasvir.estimators.table import ESTIMATORS, Options, Row

CHUNK = 2**18
"""Samples drawn at once: bounds memory."""
TIMED = 2**14
"""Samples drawn at once when it is timed, whatever the number in an estimate."""
TIMINGS = 5
"""Calls of which the fastest counts."""


@dataclass(frozen=True)
class Problem:
    """The gradient that is estimated."""

    distribution: str
    function: str
    """linear, square, or an expression."""
    m: float = 1.0
    parameters: tuple[float, ...] = ()
    """θ; empty for the distribution's default."""

    @property
    def theta(self) -> Tensor:
        """[P] float64. Raises `Refused` if it does not fit the distribution."""
        kind = DISTRIBUTIONS[self.distribution]
        values = self.parameters or kind.default
        if self.distribution == "categorical":
            if len(values) < 2:
                raise Refused("--parameters of a categorical variable are its logits: two or more numbers.")
        elif len(values) != len(kind.parameters):
            raise Refused(
                f"--parameters of a {self.distribution} variable are {' and '.join(kind.parameters)}: "
                f"{len(kind.parameters)} number{'s' * (len(kind.parameters) > 1)}, not {len(values)}."
            )
        if not all(math.isfinite(value) and abs(value) <= 1e3 for value in values):
            raise Refused("--parameters must be finite numbers, from -1000 to 1000.")
        return torch.tensor(values, dtype=torch.float64)

    @property
    def f(self) -> TestFunction:
        return function(self.function, self.m)

    @property
    def exact(self) -> Tensor:
        """[P]"""
        return exact_gradient(self.distribution, self.theta, self.f, self.function, self.m)

    @property
    def estimators(self) -> dict[str, Row]:
        """Those for this distribution."""
        return {name: row for name, row in ESTIMATORS.items() if self.distribution in row.distributions}


@dataclass(frozen=True)
class Measured:
    """One estimator of one parameter, with N samples an estimate."""

    estimator: str
    parameter: str
    samples: int
    repetitions: int
    unbiased: bool
    """Whether it is said to be."""
    mean: float
    exact: float
    bias: float
    bias_error: float
    """Standard error of the bias."""
    variance: float
    variance_error: float
    seconds: float
    """For one estimate of all parameters, as a share of many made at once; of several such calls, the fastest."""
    evaluations: float
    """Of f, for one estimate of all parameters."""
    variance_time: float
    """Variance times seconds: less is better whatever the number of samples."""


class Counted:
    """f, counting the samples that it was asked for."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        self.f, self.count = f, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.count += z[..., 0].numel()
        return self.f(z)


def estimates(
    problem: Problem, estimator: str, samples: int, repetitions: int, options: Options
) -> tuple[Tensor, float, float]:
    """Independent estimates [R,P], with the seconds and the evaluations of f that one took."""
    theta, f, row = problem.theta, Counted(problem.f), ESTIMATORS[estimator]
    kind, found, seconds = DISTRIBUTIONS[problem.distribution], [], []
    chunk, timed = (max(1, most // samples) for most in (CHUNK, TIMED))
    for _ in range(TIMINGS):
        began = perf_counter()
        row.estimate(kind, theta.expand(timed, 1, -1), problem.f, samples, options)
        seconds.append((perf_counter() - began) / timed)
    for start in range(0, repetitions, chunk):
        wide = theta.expand(min(chunk, repetitions - start), 1, -1)
        found.append(row.estimate(kind, wide, f, samples, options).gradient[:, 0])
    return torch.cat(found), min(seconds), f.count / repetitions


def moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of R values [R,P]: their mean, its standard error, their variance, its standard error; [P] each.

    Deviations are taken from the first value, so that values that are all the same have no variance at all.
    """
    shifted = values - values[0]
    offset = shifted.mean(0)
    square = (shifted - offset).square()
    variance = square.sum(0) / (len(values) - 1)
    fourth = (square.square().mean(0) - variance.square()).clamp_min(0)
    count = math.sqrt(len(values))
    return values[0] + offset, variance.sqrt() / count, variance, fourth.sqrt() / count


def measure(
    problem: Problem, samples: tuple[int, ...], repetitions: int, seed: int, temperature: float = 0.5
) -> Iterator[list[Measured]]:
    """What every fitting estimator does with each number of samples: a row for every parameter.

    Raises `Refused` if the exact gradient or an estimate is not finite.
    """
    exact, labels = problem.exact, names(problem.distribution, len(problem.theta))
    for position, (name, row) in enumerate(problem.estimators.items()):
        for count in samples:
            if count < row.least:
                continue
            generator = torch.Generator().manual_seed(seed + 1_000_003 * position + count)
            best = optimal_baseline(problem.distribution, problem.theta, problem.f) if row.known else None
            options = Options(temperature=temperature, optimal=best, generator=generator)
            values, seconds, evaluations = estimates(problem, name, count, repetitions, options)
            if not bool(torch.isfinite(values).all()):
                raise Refused(
                    f"The estimator {name} gives values of {problem.f.text} that are not finite: take another function."
                )
            mean, mean_error, variance, variance_error = (part.tolist() for part in moments(values))
            yield [
                Measured(
                    estimator=name,
                    parameter=label,
                    samples=count,
                    repetitions=repetitions,
                    unbiased=row.unbiased and not (problem.f.steps and row.differentiable),
                    mean=mean[p],
                    exact=float(exact[p]),
                    bias=mean[p] - float(exact[p]),
                    bias_error=mean_error[p],
                    variance=variance[p],
                    variance_error=variance_error[p],
                    seconds=seconds,
                    evaluations=evaluations,
                    variance_time=variance[p] * seconds,
                )
                for p, label in enumerate(labels)
            ]
