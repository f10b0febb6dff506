"""The distributions whose parameters are learned through samples: Gaussian, Bernoulli, categorical, as a table.

Parameters θ are [*,D,P]: D independent variables of P parameters each. Samples z are [*,D], one number a variable.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, softplus

Function = Callable[[Tensor], Tensor]
"""f: samples [*,D] → values [*], each of its own sample alone."""
Generator = torch.Generator | None
"""Where random numbers come from; None is torch's global generator."""


@dataclass
class Estimate:
    """What an estimator makes of some samples."""

    gradient: Tensor
    """[*,D,P]: an estimate of the gradient of E[f(z)] with respect to θ, of each element of the batch."""
    value: Tensor
    """[*]: the mean of f over the samples, differentiable in whatever parameters f has of its own."""


def uniform(like: Tensor, generator: Generator = None) -> Tensor:
    """Uniform numbers in (0,1), both ends excluded, of the same shape, kind and device."""
    drawn = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    least = torch.finfo(like.dtype).eps / 2
    return drawn.clamp(least, 1 - torch.finfo(like.dtype).eps)


def normal(like: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal numbers of the same shape, kind and device."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def with_variable(z: Tensor, position: int, value: Tensor) -> Tensor:
    """A copy of samples [*,D] in which the variable at `position` has other values, [*]."""
    changed = z.clone()
    changed[..., position] = value
    return changed


class Distribution:
    """Independent variables of one kind; all methods take θ [*,D,P] and are vectorized over what stands before it."""

    parameters: tuple[str, ...] = ()
    """What θ holds for a variable; `logit` alone stands for as many as there are categories."""
    default: tuple[float, ...] = ()
    """θ of one variable, where none is given."""

    def sample(self, theta: Tensor, generator: Generator = None) -> Tensor:
        """z [*,D] from p(z;θ), not differentiable."""
        raise NotImplementedError

    def score(self, theta: Tensor, z: Tensor) -> Tensor:
        """∂ log p(z;θ)/∂θ, [*,D,P]."""
        raise NotImplementedError

    def weak_derivative(self, theta: Tensor, f: Function, generator: Generator = None) -> Estimate:
        """The measure-valued estimate of each element from one pair of samples for every parameter: ∂p/∂θ is a constant
        times the difference of two distributions (Mohamed et al. 2020, section 6 and table 1)."""
        raise NotImplementedError


class Gaussian(Distribution):
    """N(mean, scale²), with the logarithm of the scale as a parameter."""

    parameters = ("mean", "log scale")
    default = (1.0, 0.0)

    def sample(self, theta: Tensor, generator: Generator = None) -> Tensor:
        return self.transform(theta.detach(), generator)

    def transform(self, theta: Tensor, generator: Generator = None) -> Tensor:
        """z = mean + scale · ε with ε from N(0,1), differentiable in θ (Kingma and Welling 2014, arXiv 1312.6114)."""
        mean, log_scale = theta.unbind(-1)
        return mean + log_scale.exp() * normal(mean, generator)

    def score(self, theta: Tensor, z: Tensor) -> Tensor:
        mean, log_scale = theta.unbind(-1)
        unit = (z - mean) * torch.exp(-log_scale)
        return torch.stack([unit * torch.exp(-log_scale), unit.square() - 1], -1)

    def weak_derivative(self, theta: Tensor, f: Function, generator: Generator = None) -> Estimate:
        """Of the mean: the same Rayleigh variable (a Weibull with shape 2 and scale √2) on either side of it. Of the
        scale: a double-sided Maxwell variable against a normal one, coupled as normal = uniform · Maxwell."""
        mean, log_scale = theta.unbind(-1)
        scale, z = log_scale.exp(), self.sample(theta, generator)
        columns = []
        for position in range(z.shape[-1]):
            centre, width = mean[..., position], scale[..., position]
            rayleigh = (-2 * uniform(centre, generator).log()).sqrt()
            above, below = (f(with_variable(z, position, centre + sign * width * rayleigh)) for sign in (1, -1))
            length = normal(centre[..., None].expand(*centre.shape, 3), generator).norm(dim=-1)
            maxwell = torch.where(uniform(centre, generator) < 0.5, length, -length)
            outer = f(with_variable(z, position, centre + width * maxwell))
            inner = f(with_variable(z, position, centre + width * maxwell * uniform(centre, generator)))
            of_mean = (above - below) / (width * math.sqrt(2 * math.pi))
            columns.append(torch.stack([of_mean, outer - inner], -1))  # of log scale: scale · (outer - inner) / scale
        return Estimate(torch.stack(columns, -2).detach(), inner)


class Discrete(Distribution):
    """A variable that is what some perturbed logits say when they are hardened, and has a relaxed form when they are
    softened instead (Maddison et al. 2017, arXiv 1611.00712; Jang et al. 2017, arXiv 1611.01144).

    Perturbed logits are [*,D,P].
    """

    def sample(self, theta: Tensor, generator: Generator = None) -> Tensor:
        return self.harden(self.perturb(theta.detach(), generator))

    def perturb(self, theta: Tensor, generator: Generator = None) -> Tensor:
        """Logits with noise on them, differentiable in θ: `harden` makes exact samples of them."""
        raise NotImplementedError

    def perturb_given(self, theta: Tensor, z: Tensor, generator: Generator = None) -> Tensor:
        """Perturbed logits from their distribution given that they harden to z, differentiable in θ."""
        raise NotImplementedError

    def harden(self, perturbed: Tensor) -> Tensor:
        """z [*,D]"""
        raise NotImplementedError

    def soften(self, perturbed: Tensor, temperature: float) -> Tensor:
        """A relaxed z [*,D], between the values of z; as the temperature falls, it goes to the hard one."""
        raise NotImplementedError

    def mean(self, theta: Tensor) -> Tensor:
        """E[z], [*,D], differentiable in θ."""
        raise NotImplementedError

    def values(self, theta: Tensor) -> Tensor:
        """All values that a variable can have, [K]."""
        raise NotImplementedError

    def probabilities(self, theta: Tensor) -> Tensor:
        """Those of `values`, [*,D,K]."""
        raise NotImplementedError


class Bernoulli(Discrete):
    """z = 1 with probability sigmoid(logit), else 0."""

    parameters = ("logit",)
    default = (0.5,)

    def perturb(self, theta: Tensor, generator: Generator = None) -> Tensor:
        return theta + uniform(theta, generator).logit()

    def perturb_given(self, theta: Tensor, z: Tensor, generator: Generator = None) -> Tensor:
        """Tucker et al. 2017 (arXiv 1703.07370), appendix "Conditional reparameterization", for logits:
        log(v / ((1 - v)(1 - p)) + 1) where z is 1, and the same with p for 1 - p and the other sign where it is 0."""
        side = 2 * z[..., None] - 1
        return side * softplus(uniform(theta, generator).logit() + softplus(side * theta))

    def harden(self, perturbed: Tensor) -> Tensor:
        return (perturbed[..., 0] > 0).to(perturbed.dtype)

    def soften(self, perturbed: Tensor, temperature: float) -> Tensor:
        return (perturbed[..., 0] / temperature).sigmoid()

    def mean(self, theta: Tensor) -> Tensor:
        return theta[..., 0].sigmoid()

    def values(self, theta: Tensor) -> Tensor:
        return torch.arange(2, device=theta.device, dtype=theta.dtype)

    def probabilities(self, theta: Tensor) -> Tensor:
        return torch.cat([-theta, theta], -1).sigmoid()

    def score(self, theta: Tensor, z: Tensor) -> Tensor:
        return z[..., None] - theta.sigmoid()

    def weak_derivative(self, theta: Tensor, f: Function, generator: Generator = None) -> Estimate:
        """p(1 - p) times f with the bit set less f with it cleared, all other bits the same: one of the two is the
        sample itself, so that D variables take D + 1 evaluations."""
        z = self.sample(theta, generator)
        value = f(z)
        with torch.no_grad():
            others = [f(with_variable(z, position, 1 - z[..., position])) for position in range(z.shape[-1])]
        difference = (2 * z - 1) * (value.detach()[..., None] - torch.stack(others, -1))
        slope = logsigmoid(theta).exp() * logsigmoid(-theta).exp()
        return Estimate(slope * difference[..., None], value)


class Categorical(Discrete):
    """z = k with probability softmax(logits)_k, k = 0 … P - 1, taken as a number."""

    parameters = ("logit",)
    default = (0.5, 0.0, -0.5)

    def perturb(self, theta: Tensor, generator: Generator = None) -> Tensor:
        return theta.log_softmax(-1) - (-uniform(theta, generator).log()).log()

    def perturb_given(self, theta: Tensor, z: Tensor, generator: Generator = None) -> Tensor:
        """Tucker et al. 2017 (arXiv 1703.07370), appendix "Conditional reparameterization": the greatest is a Gumbel
        variable whatever z is, and the others lie below it."""
        exponential = -uniform(theta, generator).log()
        chosen = one_hot(z.long(), theta.shape[-1]).bool()
        least = (exponential * chosen).sum(-1, keepdim=True)
        others = (exponential * torch.exp(-theta.log_softmax(-1)) + least).log()
        return -torch.where(chosen, exponential.log(), others)

    def harden(self, perturbed: Tensor) -> Tensor:
        return perturbed.argmax(-1).to(perturbed.dtype)

    def soften(self, perturbed: Tensor, temperature: float) -> Tensor:
        return (perturbed / temperature).softmax(-1) @ self.values(perturbed)

    def mean(self, theta: Tensor) -> Tensor:
        return theta.softmax(-1) @ self.values(theta)

    def values(self, theta: Tensor) -> Tensor:
        return torch.arange(theta.shape[-1], device=theta.device, dtype=theta.dtype)

    def probabilities(self, theta: Tensor) -> Tensor:
        return theta.softmax(-1)

    def score(self, theta: Tensor, z: Tensor) -> Tensor:
        return one_hot(z.long(), theta.shape[-1]).to(theta.dtype) - theta.softmax(-1)

    def weak_derivative(self, theta: Tensor, f: Function, generator: Generator = None) -> Estimate:
        """Of logit k: p_k(1 - p_k) times f at k less f at another category, drawn from the others' probabilities. One
        of the two is the sample itself: P logits of D variables take D·P + 1 evaluations."""
        z, size = self.sample(theta, generator), theta.shape[-1]
        value = f(z)
        columns = []
        with torch.no_grad():
            for position in range(z.shape[-1]):
                drawn, slopes = z[..., position], []
                for category in range(size):
                    others = theta[..., position, :].clone()
                    others[..., category] = -torch.inf
                    another = self.harden(others - (-uniform(others, generator).log()).log())
                    here = drawn == category
                    there = f(with_variable(z, position, torch.where(here, another, float(category))))
                    slopes.append(torch.where(here, value - there, there - value))
                columns.append(torch.stack(slopes, -1))
        probability = theta.softmax(-1)
        return Estimate(probability * (1 - probability) * torch.stack(columns, -2), value)


DISTRIBUTIONS: dict[str, Distribution] = {
    "gaussian": Gaussian(),
    "bernoulli": Bernoulli(),
    "categorical": Categorical(),
}


def names(distribution: str, count: int) -> list[str]:
    """What the `count` parameters of one variable are called."""
    found = DISTRIBUTIONS[distribution].parameters
    return list(found) if len(found) == count else [f"{found[0]} {position}" for position in range(count)]
