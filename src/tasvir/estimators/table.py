"""Estimators of d/dθ E_{p(z;θ)}[f(z)], as a table; all have one signature (Mohamed et al. 2020, arXiv 1906.10652).

An estimator takes a distribution, θ [*,D,P], f, a number of samples N and `Options`, and gives the `Estimate` of every
element of the batch `*` from N samples of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tasvir.estimators.distributions import Discrete, Distribution, Estimate, Function, Gaussian, Generator


@dataclass(frozen=True)
class Options:
    """What some estimators can be told besides."""

    temperature: float = 0.5
    """Of the relaxed samples of Gumbel-softmax and REBAR."""
    strength: float = 1.0
    """What REBAR's control variate is multiplied by; no value biases it."""
    baseline: Tensor | None = None
    """A guess at E[f], broadcast against the batch, made from samples that are independent of those to come."""
    optimal: Tensor | None = None
    """The best baseline of each parameter (`exact.optimal_baseline`), where it is known; broadcast against θ."""
    generator: Generator = None


PLAIN = Options()
Estimator = Callable[[Distribution, Tensor, Function, int, Options], Estimate]


def pathwise(distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options) -> Estimate:
    """The mean of ∂f(z(ε;θ))/∂θ, the noise ε kept."""
    assert isinstance(distribution, Gaussian)
    with torch.enable_grad():
        wide = _leaf(theta, samples)
        value = f(distribution.transform(wide, options.generator))
        return Estimate(_average(_slope(value, wide)), value.mean(0))


Baseline = Callable[[Tensor, Tensor, Options], Tensor]
"""Values [N,*] and scores [N,*,D,P] of the samples → what is subtracted from each value, broadcast to the scores."""


def no_baseline(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    return values.new_zeros(())


def mean_of_all(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    """The mean over the same samples: each value is part of its own baseline, and the gradient shrinks by 1 - 1/N."""
    return values.mean(0)[..., None, None]


def mean_of_previous(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    """The mean over the samples before, which are independent of this one; `options.baseline` (or 0) for the first."""
    first = torch.zeros_like(values[:1]) if options.baseline is None else options.baseline.expand_as(values[:1])
    counts = torch.arange(1, len(values), device=values.device, dtype=values.dtype)
    before = values[:-1].cumsum(0) / counts.view(-1, *[1] * (values.dim() - 1))
    return torch.cat([first.to(values.dtype), before])[..., None, None]


def mean_of_others(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    """The mean over the other N - 1 samples (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free")."""
    return ((values.sum(0) - values) / (len(values) - 1))[..., None, None]


def optimal(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    """E[f s²] / E[s²] for the score s of every parameter: the constant with the least variance (Greensmith et al. 2004,
    JMLR 5). It must be known, as it is where the gradient is: this is what a baseline can do at best."""
    assert options.optimal is not None
    return options.optimal


def optimal_of_others(values: Tensor, scores: Tensor, options: Options) -> Tensor:
    """What `optimal` is, estimated from the other N - 1 samples and so without bias; with few of them, noisy."""
    weights = scores.square()
    weighted = weights * values[..., None, None]
    rest = (weights.sum(0) - weights).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weighted.sum(0) - weighted) / rest


def score_function(
    distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options, baseline: Baseline
) -> Estimate:
    """The mean of (f(z) - b) ∂ log p(z;θ)/∂θ (REINFORCE; Williams 1992, doi 10.1007/BF00992696)."""
    wide = theta.detach().expand(samples, *theta.shape)
    z = distribution.sample(wide, options.generator)
    value, scores = f(z), distribution.score(wide, z)
    values = value.detach().to(scores.dtype)
    gradient = ((values[..., None, None] - baseline(values, scores, options)) * scores).mean(0)
    return Estimate(gradient, value.mean(0))


def measure_valued(distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options) -> Estimate:
    """The mean of differences of f between the two parts of ∂p/∂θ (Pflug 1996; Mohamed et al. 2020, section 6)."""
    found = distribution.weak_derivative(theta.detach().expand(samples, *theta.shape), f, options.generator)
    return Estimate(_average(found.gradient), found.value.mean(0))


def straight_through(
    distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options
) -> Estimate:
    """f'(z) as if a sample moved like its mean: ∂z/∂θ := ∂E[z]/∂θ (Bengio et al. 2013, arXiv 1308.3432)."""
    assert isinstance(distribution, Discrete)
    with torch.enable_grad():
        wide = _leaf(theta, samples)
        mean = distribution.mean(wide)
        value = f(distribution.sample(wide, options.generator) + (mean - mean.detach()))
        return Estimate(_average(_slope(value, wide)), value.mean(0))


def gumbel_softmax(
    distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options, hard: bool
) -> Estimate:
    """The pathwise gradient of relaxed samples (Jang et al. 2017, arXiv 1611.01144; Maddison et al. 2017, arXiv
    1611.00712); `hard` evaluates f at the hard ones and moves them as the relaxed ones."""
    assert isinstance(distribution, Discrete)
    with torch.enable_grad():
        wide = _leaf(theta, samples)
        perturbed = distribution.perturb(wide, options.generator)
        z = distribution.soften(perturbed, options.temperature)
        if hard:
            z = distribution.harden(perturbed.detach()) + (z - z.detach())
        value = f(z)
        return Estimate(_average(_slope(value, wide)), value.mean(0))


def rebar(distribution: Distribution, theta: Tensor, f: Function, samples: int, options: Options) -> Estimate:
    """The score function with relaxed samples as its control variate (Tucker et al. 2017, arXiv 1703.07370;
    temperature and strength are kept, not learned)."""
    assert isinstance(distribution, Discrete)
    generator, temperature = options.generator, options.temperature
    with torch.enable_grad():
        wide = _leaf(theta, samples)
        perturbed = distribution.perturb(wide, generator)
        z = distribution.harden(perturbed.detach())
        relaxed = f(distribution.soften(perturbed, temperature))
        relaxed_given_z = f(distribution.soften(distribution.perturb_given(wide, z, generator), temperature))
        slope = _slope(relaxed - relaxed_given_z, wide, keep=False)
    value = f(z)
    scores = distribution.score(wide.detach(), z)
    weight = (value - options.strength * relaxed_given_z).detach().to(scores.dtype)
    return Estimate((weight[..., None, None] * scores + options.strength * slope).mean(0), value.mean(0))


def _leaf(theta: Tensor, samples: int) -> Tensor:
    """θ once for each sample, [N,*,D,P], to be differentiated."""
    return theta.detach().expand(samples, *theta.shape).clone().requires_grad_()


def _average(values: Tensor) -> Tensor:
    """The mean over samples, by deviations from the first: of equal values it is that value, without rounding."""
    return values[0] + (values - values[0]).mean(0)


def _slope(value: Tensor, wide: Tensor, keep: bool = True) -> Tensor:
    """∂ value/∂θ of every sample; `keep` leaves the graph behind `value` as it is."""
    if not value.requires_grad:
        return torch.zeros_like(wide)
    (slope,) = torch.autograd.grad(value.sum(), wide, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(wide) if slope is None else slope


@dataclass(frozen=True)
class Row:
    """An estimator, and what is claimed for it."""

    estimate: Estimator
    distributions: tuple[str, ...]
    unbiased: bool
    differentiable: bool
    """Whether it wants the derivative of f."""
    source: str
    least: int = 1
    """Fewest samples that it can do with."""
    known: bool = False
    """Whether it wants to be told what is known only where the exact gradient is: no use for training."""


ALL = ("gaussian", "bernoulli", "categorical")
DISCRETE = ("bernoulli", "categorical")


def _score(baseline: Baseline) -> Estimator:
    return partial(score_function, baseline=baseline)


ESTIMATORS: dict[str, Row] = {
    "pathwise": Row(pathwise, ("gaussian",), True, True, "Kingma and Welling 2014; Rezende et al. 2014"),
    "score-function": Row(_score(no_baseline), ALL, True, False, "Williams 1992"),
    "mean-baseline": Row(_score(mean_of_all), ALL, False, False, "mean of the same samples", least=2),
    "previous-baseline": Row(_score(mean_of_previous), ALL, True, False, "Williams 1992; mean of earlier samples"),
    "leave-one-out": Row(_score(mean_of_others), ALL, True, False, "Kool et al. 2019", least=2),
    "optimal-baseline": Row(_score(optimal), ALL, True, False, "Greensmith et al. 2004", known=True),
    "optimal-leave-one-out": Row(_score(optimal_of_others), ALL, True, False, "Greensmith et al. 2004", least=2),
    "measure-valued": Row(measure_valued, ALL, True, False, "Pflug 1996; Mohamed et al. 2020"),
    "straight-through": Row(straight_through, DISCRETE, False, True, "Bengio et al. 2013"),
    "gumbel-softmax": Row(
        partial(gumbel_softmax, hard=False), DISCRETE, False, True, "Jang et al. 2017; Maddison et al. 2017"
    ),
    "gumbel-straight-through": Row(partial(gumbel_softmax, hard=True), DISCRETE, False, True, "Jang et al. 2017"),
    "rebar": Row(rebar, DISCRETE, True, True, "Tucker et al. 2017"),
}
