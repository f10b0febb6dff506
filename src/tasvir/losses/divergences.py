"""What pulls a posterior to the prior, as a table; and the divergences by themselves: KL, Cauchy-Schwarz, MMD.

Gaussians are diagonal and given by their means and the logarithms of their variances.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

DivergenceName = Literal["kl", "cauchy-schwarz"]


@dataclass(frozen=True)
class Mixture:
    """A mixture of K diagonal Gaussians in D dimensions; leading dimensions, where there are any, are a batch."""

    log_weights: Tensor
    """[...,K]; their exponentials sum to 1."""
    means: Tensor
    """[...,K,D]."""
    log_variances: Tensor
    """[...,K,D]."""

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) of points [B,D] under an unbatched mixture, [B] nats."""
        each = gaussian_log_density(z.unsqueeze(1), self.means, self.log_variances)
        return torch.logsumexp(self.log_weights + each, dim=1)


def gaussian_log_density(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, exp(log_variance)) summed over the last dimension, nats; the arguments are broadcast."""
    distance = (z - mean).square() * (-log_variance).exp()
    return -0.5 * (distance + log_variance + math.log(2 * math.pi)).sum(-1)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(other_mean, exp(other_log_variance))) of each dimension, nats.

    From N(0,1) it is that of Kingma and Welling 2014, appendix B.
    """
    ratio = log_variance - other_log_variance
    return 0.5 * ((mean - other_mean).square() * (-other_log_variance).exp() + torch.expm1(ratio) - ratio)


def gaussian_cauchy_schwarz(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """The Cauchy-Schwarz divergence of two Gaussians in each dimension, nats; symmetric and never negative.

    With deviations s and t it is (mean - other_mean)² / (2(s² + t²)) + ½ log((s² + t²) / 2st), whose last part is
    ½ log cosh of half the difference of the log-variances. Equal variances give half of KL.
    """
    half = 0.5 * (log_variance - other_log_variance)
    shrink = (-0.5 * torch.logaddexp(log_variance, other_log_variance)).exp()
    moved = 0.5 * ((mean - other_mean) * shrink).square()
    near = half.clamp(-10, 10)  # log cosh goes on as a straight line, to 2e-9
    return moved + 0.25 * torch.log1p(torch.sinh(near).square()) + 0.5 * (half - near).abs()  # cosh² = 1 + sinh²


def log_overlap(one: Mixture, other: Mixture) -> Tensor:
    """log ∫ one(z) other(z) dz, [...]: every two Gaussians' product integrates to N(m - n; 0, S + T)."""
    mean, log_variance = one.means.unsqueeze(-2), one.log_variances.unsqueeze(-2)
    together = torch.logaddexp(log_variance, other.log_variances.unsqueeze(-3))
    pairs = gaussian_log_density(mean, other.means.unsqueeze(-3), together)
    weights = one.log_weights.unsqueeze(-1) + other.log_weights.unsqueeze(-2)
    return torch.logsumexp((weights + pairs).flatten(-2), dim=-1)


def cauchy_schwarz(one: Mixture, other: Mixture) -> Tensor:
    """-log(∫pq / √(∫p² ∫q²)) of two mixtures in closed form, [...] nats; symmetric, zero where they are equal.

    Jenssen et al. 2006 (doi 10.1016/j.jfranklin.2006.03.018); for mixtures, Kampa et al. 2011
    (doi 10.1109/IJCNN.2011.6033555).
    """
    return 0.5 * (log_overlap(one, one) + log_overlap(other, other)) - log_overlap(one, other)


Parts = Callable[[Tensor, Tensor, Tensor, Mixture], Tensor]
"""(mean [B,D], log-variance [B,D] of q(z|x), a draw z [B,D] from it, the prior) → parts that sum to the divergence:
[B,D], one of each dimension, where the prior is one Gaussian, else [B,1]."""


def _kl(mean: Tensor, log_variance: Tensor, z: Tensor, prior: Mixture) -> Tensor:
    if len(prior.means) == 1:
        return gaussian_kl(mean, log_variance, prior.means[0], prior.log_variances[0])
    return (gaussian_log_density(z, mean, log_variance) - prior.log_density(z)).unsqueeze(1)


def _cauchy_schwarz(mean: Tensor, log_variance: Tensor, z: Tensor, prior: Mixture) -> Tensor:
    if len(prior.means) == 1:
        return gaussian_cauchy_schwarz(mean, log_variance, prior.means[0], prior.log_variances[0])
    posterior = Mixture(mean.new_zeros(len(mean), 1), mean.unsqueeze(1), log_variance.unsqueeze(1))
    return cauchy_schwarz(posterior, prior).unsqueeze(1)


DIVERGENCES: dict[str, Parts] = {
    # closed form from one Gaussian; from a mixture, log q(z|x) - log p(z) of the one draw
    "kl": _kl,
    # Tran et al. 2022, "Cauchy-Schwarz Regularized Autoencoder", JMLR 23, article 115; always closed form
    "cauchy-schwarz": _cauchy_schwarz,
}

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the kernel in `maximum_mean_discrepancy`, as in the experiments of Tolstikhin et al."""


def maximum_mean_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """The squared maximum mean discrepancy between draws [N,D] and [M,D], an unbiased estimate, scalar.

    Tolstikhin et al. 2018, arXiv 1711.01558, algorithm 2 and section 4: the kernels C / (C + |x - y|²) with C = 2D
    (for a standard normal prior) times each of `SCALES`, summed. It can be negative. Raises `ValueError` where there
    are fewer than two draws of either.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("the discrepancy needs two draws of either kind")

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        squares = (left[:, None] - right).square().sum(-1)
        widths = [2 * left.shape[1] * scale for scale in SCALES]
        return torch.stack([width / (width + squares) for width in widths]).sum(0)

    def among(points: Tensor) -> Tensor:
        count = len(points)
        return (kernel(points, points).sum() - len(SCALES) * count) / (count * (count - 1))  # without each with itself

    return among(one) + among(other) - 2 * kernel(one, other).mean()
