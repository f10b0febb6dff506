"""Exact gradients of expectations, and the best baselines: closed forms, enumeration, or quadrature."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.estimators.distributions import DISTRIBUTIONS, Discrete, Distribution
from tasvir.estimators.functions import TestFunction

NODES = (96, 128)
"""Gauss–Hermite nodes; where the two numbers of them disagree, the function is not smooth."""
TOLERANCE = 1e-8
REACH = 12.0
"""Deviations from the mean beyond which a Gaussian is taken to be nothing (it is 1e-32)."""
BREAKS = np.linspace(-REACH, REACH, 25)[1:-1]
"""Where the interval is cut for adaptive quadrature, in deviations from the mean."""


def exact_gradient(distribution: str, theta: Tensor, f: TestFunction, name: str = "", m: float = 1.0) -> Tensor:
    """d/dθ E[f(z)] for one variable, θ [P] float64 → [P].

    By closed form for `name` linear and square of a Gaussian, by enumeration of a Bernoulli or categorical variable,
    else by quadrature. Raises `Refused` if it is not finite.
    """
    if distribution == "gaussian" and name in CLOSED_FORMS:
        return theta.new_tensor(CLOSED_FORMS[name](m, *theta.tolist()))
    return _expected(DISTRIBUTIONS[distribution], theta, f, lambda score: score)


CLOSED_FORMS: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "linear": lambda m, mean, log_scale: (m, 0.0),
    "square": lambda m, mean, log_scale: (2 * m**2 * mean, 2 * m**2 * float(np.exp(2 * log_scale))),
}
"""Of a Gaussian: d/dmean and d/dlog scale of E[mz] = m·mean and of E[(mz)²] = m²(mean² + scale²)."""


def optimal_baseline(distribution: str, theta: Tensor, f: TestFunction) -> Tensor:
    """E[f s²] / E[s²] of the score s of each parameter, θ [P] float64 → [P] (Greensmith et al. 2004, JMLR 5)."""
    kind, one = DISTRIBUTIONS[distribution], TestFunction("1", torch.ones_like)
    weighted, weight = (_expected(kind, theta, each, torch.square) for each in (f, one))
    return weighted / weight


Weigh = Callable[[Tensor], Tensor]


def _expected(kind: Distribution, theta: Tensor, f: TestFunction, weigh: Weigh) -> Tensor:
    """E[f(z) · weigh(∂ log p(z)/∂θ)], [P]. Raises `Refused` if it is not finite."""
    found = _enumerated(kind, theta, f, weigh) if isinstance(kind, Discrete) else _integrated(kind, theta, f, weigh)
    if not bool(torch.isfinite(found).all()):
        raise Refused(f"The gradient of the expectation of {f.text} is not finite: take another function.")
    return found


def _enumerated(kind: Discrete, theta: Tensor, f: TestFunction, weigh: Weigh) -> Tensor:
    values = kind.values(theta)[:, None]
    every = theta.expand(len(values), 1, len(theta))
    probabilities = kind.probabilities(theta)
    return ((f(values) * probabilities)[:, None] * weigh(kind.score(every, values))[:, 0]).sum(0)


def _integrated(kind: Distribution, theta: Tensor, f: TestFunction, weigh: Weigh) -> Tensor:
    """By Gauss–Hermite quadrature; where that has not converged (f has kinks, steps or waves), by adaptive quadrature
    over ±`REACH` deviations. Raises `Refused` if neither settles."""

    def integrand(unit: Tensor) -> Tensor:
        z = (theta[0] + theta[1].exp() * unit)[:, None]
        return f(z)[:, None] * weigh(kind.score(theta.expand(len(unit), 1, 2), z))[:, 0]

    looked_at = torch.cat([theta.new_tensor(BREAKS), -theta[:1] / theta[1].exp()])  # the last is z = 0
    if not bool(torch.isfinite(integrand(looked_at)).all()):
        raise Refused(f"{f.text} is not finite everywhere: take another function.")
    found = []
    for count in NODES:
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        values = integrand(theta.new_tensor(nodes))
        found.append((theta.new_tensor(weights / weights.sum())[:, None] * values).sum(0))
    coarse, fine = found
    if float((coarse - fine).abs().max()) <= TOLERANCE * (1 + float(fine.abs().max())):
        return fine
    return theta.new_tensor([_adaptive(integrand, column, theta, f) for column in range(2)])


def _adaptive(integrand: Callable[[Tensor], Tensor], column: int, theta: Tensor, f: TestFunction) -> float:
    import warnings

    from scipy.integrate import quad

    def weighted(unit: float) -> float:
        density = float(np.exp(-(unit**2) / 2) / np.sqrt(2 * np.pi))
        return density * float(integrand(theta.new_tensor([unit]))[0, column])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the warning says is in the error estimate
        value, error = quad(weighted, -REACH, REACH, points=BREAKS, limit=400, epsabs=1e-9, epsrel=1e-9)
    if not np.isfinite(value) or not error <= 1e-5 * (1 + abs(value)):
        raise Refused(
            f"The gradient of the expectation of {f.text} cannot be computed to five digits: "
            "it is infinite, or the function changes too fast. Take another function."
        )
    return float(value)
