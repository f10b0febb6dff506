"""Divergences against numerical integration, plain loops, and the bound of models whose evidence is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import roots_hermitenorm
from torch import Tensor, nn

from tasvir.config import Pictures
from tasvir.core import Batch, Noise
from tasvir.losses.divergences import (
    DIVERGENCES,
    SCALES,
    Mixture,
    cauchy_schwarz,
    gaussian_cauchy_schwarz,
    gaussian_kl,
    maximum_mean_discrepancy,
)
from tasvir.metrics.likelihood import importance_bound
from tasvir.models.autoencoders.iwae import IWAE, IWAEConfig
from tasvir.models.autoencoders.vae import VAE, VAEConfig
from tasvir.nn.priors import PRIORS

GAUSSIANS = [((0.0, 1.0), (0.0, 1.0)), ((1.0, 0.5), (-0.5, 0.5)), ((0.3, 0.2), (-1.0, 2.0)), ((2.0, 3.0), (0.0, 0.4))]
"""Pairs of (mean, deviation)."""
MIXTURES = [
    ([(1.0, 0.0, 1.0)], [(0.5, -1.0, 0.5), (0.5, 1.0, 0.5)]),
    ([(0.2, -2.0, 0.3), (0.8, 1.0, 0.7)], [(0.3, 0.0, 1.0), (0.6, 2.0, 0.5), (0.1, -1.0, 2.0)]),
    ([(0.5, 0.0, 1.0), (0.5, 1.0, 1.0)], [(0.5, 0.0, 1.0), (0.5, 1.0, 1.0)]),
]
"""Pairs of lists of (weight, mean, deviation)."""


def tensors(*values: tuple[float, float]) -> list[Tensor]:
    """Means and log-variances, one after another, of (mean, deviation)."""
    return [torch.tensor(x, dtype=torch.float64) for mean, s in values for x in (mean, 2 * math.log(s))]


def mixture(parts: list[tuple[float, float, float]]) -> Mixture:
    weights, means, deviations = torch.tensor(parts, dtype=torch.float64).T
    return Mixture(weights.log(), means[:, None], 2 * deviations.log()[:, None])


def density(parts: list[tuple[float, float, float]]):  # type: ignore[no-untyped-def]
    return lambda z: sum(w / s / math.sqrt(2 * math.pi) * np.exp(-0.5 * ((z - m) / s) ** 2) for w, m, s in parts)


def integral(function) -> float:  # type: ignore[no-untyped-def]
    return integrate.quad(function, -40, 40, points=np.linspace(-4, 4, 17), limit=400)[0]


def integrated_cauchy_schwarz(p, q) -> float:  # type: ignore[no-untyped-def]
    squares = integral(lambda z: p(z) ** 2) * integral(lambda z: q(z) ** 2)
    return -math.log(integral(lambda z: p(z) * q(z)) / math.sqrt(squares))


@pytest.mark.parametrize(("one", "other"), GAUSSIANS)
def test_divergences_of_gaussians_against_numerical_integration(one, other) -> None:  # type: ignore[no-untyped-def]
    p, q = stats.norm(*one), stats.norm(*other)
    kl = integral(lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)))
    assert float(gaussian_kl(*tensors(one, other))) == pytest.approx(kl, abs=1e-7)
    expected = integrated_cauchy_schwarz(p.pdf, q.pdf)
    assert float(gaussian_cauchy_schwarz(*tensors(one, other))) == pytest.approx(expected, abs=1e-7)
    as_mixtures = cauchy_schwarz(mixture([(1.0, *one)]), mixture([(1.0, *other)]))
    assert float(as_mixtures) == pytest.approx(expected, abs=1e-7)
    if other == (0.0, 1.0):
        mean, log_variance = (x.view(1, 1) for x in tensors(one))
        from_prior = mean, log_variance, mean, Mixture(torch.zeros(1).double(), *torch.zeros(2, 1, 1).double())
        assert float(DIVERGENCES["kl"](*from_prior).sum()) == pytest.approx(kl, abs=1e-7)


@pytest.mark.parametrize(("one", "other"), MIXTURES)
def test_divergences_of_mixtures_against_numerical_integration(one, other) -> None:  # type: ignore[no-untyped-def]
    p, q = density(one), density(other)
    found = float(cauchy_schwarz(mixture(one), mixture(other)))
    assert found == pytest.approx(integrated_cauchy_schwarz(p, q), abs=1e-7)
    assert found == pytest.approx(float(cauchy_schwarz(mixture(other), mixture(one))), abs=1e-12)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert mixture(other).log_density(z[:, None]).numpy() == pytest.approx(np.log(q(z.numpy())))


@pytest.mark.parametrize("deviation", [0.1, 1.0, 3.0])
def test_with_equal_variances_cauchy_schwarz_is_half_of_kl(deviation: float) -> None:
    pair = tensors((0.7, deviation), (-0.9, deviation))
    assert float(gaussian_cauchy_schwarz(*pair)) == pytest.approx(1.6**2 / (4 * deviation**2))
    assert float(gaussian_cauchy_schwarz(*pair)) == pytest.approx(float(gaussian_kl(*pair)) / 2)


PART = st.tuples(st.floats(0.01, 1), st.floats(-5, 5), st.floats(0.05, 5))
PARTS = st.lists(PART, min_size=1, max_size=4).map(lambda p: [(w / sum(x[0] for x in p), m, s) for w, m, s in p])


@settings(max_examples=100, deadline=None)
@given(PARTS, PARTS)
def test_cauchy_schwarz_is_symmetric_and_never_negative(one, other) -> None:  # type: ignore[no-untyped-def]
    p, q = mixture(one), mixture(other)
    assert float(cauchy_schwarz(p, q)) >= -1e-12
    assert float(cauchy_schwarz(p, q)) == pytest.approx(float(cauchy_schwarz(q, p)), abs=1e-10)
    assert float(cauchy_schwarz(p, p)) == pytest.approx(0, abs=1e-12)
    single = [x.float() for x in tensors(one[0][1:], other[0][1:])]
    assert float(gaussian_cauchy_schwarz(*single)) >= 0, "not even by rounding"
    assert float(gaussian_kl(*single)) >= -1e-6


@pytest.mark.parametrize("pair", [(100.0, -100.0), (-100.0, 100.0), (60.0, 0.0), (0.3, 0.1), (25.0, 0.0)])
def test_cauchy_schwarz_of_any_deviations_is_finite_and_so_are_its_gradients(pair: tuple[float, float]) -> None:
    """Against float64, where exp(200) still fits."""
    leaves = [torch.tensor(x, requires_grad=True) for x in (0.5, pair[0], -0.25, pair[1])]
    found = gaussian_cauchy_schwarz(*leaves)
    gradients = torch.autograd.grad(found, leaves)
    assert torch.isfinite(torch.stack([found, *gradients])).all()
    s, t = (math.exp(x) for x in pair)
    expected = 0.75**2 / (2 * (s + t)) + 0.5 * math.log((s + t) / (2 * math.sqrt(s) * math.sqrt(t)))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    slope = (s - t) / (4 * (s + t)) - 0.75**2 * s / (2 * (s + t) ** 2)
    assert float(gradients[1]) == pytest.approx(slope, rel=1e-4)


def test_divergences_of_a_batch_are_those_of_its_pictures() -> None:
    """[B] posteriors in three dimensions against a mixture: each as if alone, dimensions independent where K = 1."""
    torch.manual_seed(0)
    mean, log_variance, z = torch.randn(3, 5, 3, dtype=torch.float64).unbind()
    prior = Mixture(torch.randn(4).double().log_softmax(0), *torch.randn(2, 4, 3, dtype=torch.float64).unbind())
    found = DIVERGENCES["cauchy-schwarz"](mean, log_variance, z, prior)
    assert found.shape == (5, 1)
    for row in range(5):
        alone = Mixture(torch.zeros(1).double(), mean[row : row + 1], log_variance[row : row + 1])
        assert float(found[row]) == pytest.approx(float(cauchy_schwarz(alone, prior)))
    single = Mixture(torch.zeros(1).double(), prior.means[:1], prior.log_variances[:1])
    parts = DIVERGENCES["cauchy-schwarz"](mean, log_variance, z, single)
    assert parts.shape == (5, 3)
    posterior = Mixture(torch.zeros(5, 1).double(), mean[:, None], log_variance[:, None])
    assert parts.sum(1).numpy() == pytest.approx(cauchy_schwarz(posterior, single).numpy())


def test_one_draw_of_kl_from_a_mixture_is_right_on_average() -> None:
    prior, (mean, log_variance) = mixture(MIXTURES[1][1]), tensors((0.4, 0.6))
    torch.manual_seed(0)
    z = mean + 0.6 * torch.randn(100_000, 1, dtype=torch.float64)
    found = DIVERGENCES["kl"](mean.expand_as(z), log_variance.expand_as(z), z, prior)
    q, p = stats.norm(0.4, 0.6), density(MIXTURES[1][1])
    expected = integral(lambda x: q.pdf(x) * (q.logpdf(x) - math.log(p(x))))
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / math.sqrt(len(z)))


def test_discrepancy_is_the_double_loop() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(7, 3), torch.randn(5, 3) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return sum(2 * 3 * scale / (2 * 3 * scale + float((x - y).square().sum())) for scale in SCALES)

    def among(points: Tensor) -> float:
        return float(np.mean([kernel(x, y) for x, y in itertools.permutations(points, 2)]))

    across = float(np.mean([kernel(x, y) for x in one for y in other]))
    expected = among(one) + among(other) - 2 * across
    assert float(maximum_mean_discrepancy(one, other)) == pytest.approx(expected, abs=1e-5)


def test_discrepancy_is_unbiased_and_sees_means_and_variances() -> None:
    torch.manual_seed(0)
    same = torch.stack([maximum_mean_discrepancy(*torch.randn(2, 50, 2).unbind()) for _ in range(300)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / math.sqrt(300) and float(same.min()) < 0
    one, other = torch.randn(2, 500, 2).unbind()
    noise = float(same.std())
    assert float(maximum_mean_discrepancy(one + 1, other)) > 5 * noise
    assert float(maximum_mean_discrepancy(one / 3, other)) > 5 * noise
    with pytest.raises(ValueError, match="two"):
        maximum_mean_discrepancy(one[:1], other)


LATENT, SIDE, DEVIATION = 2, 8, 0.1


class LinearDecoder(nn.Module):
    """The mean of p(x|z) is Wz + ½, so small that it stays a pixel."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.02 * torch.randn(SIDE**2, LATENT, generator=generator))

    def forward(self, latent: Tensor) -> Tensor:
        return (latent @ self.weight.T + 0.5).logit().unflatten(1, (1, SIDE, SIDE))


def linear(kind: type[VAE] = VAE, **settings: object) -> VAE:
    """A model of the real class whose decoder is linear-Gaussian; its posterior is wrong, but not by much."""
    config = (IWAEConfig if kind is IWAE else VAEConfig)(
        latent_size=LATENT, reconstruction="gaussian", scale=DEVIATION, norm="none", components=3, **settings
    )
    torch.manual_seed(0)
    model = kind(config, Pictures(1, SIDE))
    model.decoder = LinearDecoder()
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 2 * LATENT))
    precision = torch.eye(LATENT) + model.decoder.weight.T @ model.decoder.weight / DEVIATION**2
    with torch.no_grad():
        model.encoder[1].weight.zero_()
        model.encoder[1].weight[:LATENT] = 0.5 * torch.linalg.solve(precision, model.decoder.weight.T) / DEVIATION**2
        model.encoder[1].bias[:LATENT] = 0.1
        model.encoder[1].bias[LATENT:] = -precision.diagonal().log() + 0.3
    return model.eval()


def some_pictures(number: int) -> Tensor:
    torch.manual_seed(5)
    drawn = LinearDecoder()(torch.randn(number, LATENT)).sigmoid() + DEVIATION * torch.randn(number, 1, SIDE, SIDE)
    return drawn.detach() * 2 - 1


def evidence(model: VAE, image: Tensor) -> np.ndarray:
    """log p(x): a Gaussian for each component of the prior, whatever it is."""
    prior = model.prior.components(model.posterior)
    weight, pixels = model.decoder.weight.detach().double().numpy(), (image.double().flatten(1) + 1).numpy() / 2
    found = []
    for log_weight, mean, log_variance in zip(prior.log_weights, prior.means, prior.log_variances, strict=True):
        variance = log_variance.detach().double().exp().numpy()
        covariance = weight * variance @ weight.T + DEVIATION**2 * np.eye(SIDE**2)
        normal = stats.multivariate_normal(weight @ mean.detach().double().numpy() + 0.5, covariance)
        found.append(float(log_weight) + normal.logpdf(pixels))
    return np.logaddexp.reduce(found)


@pytest.mark.parametrize("prior", PRIORS)
@torch.no_grad()
def test_bounds_reach_the_evidence_from_below_under_every_prior(prior: str) -> None:
    model, image = linear(prior=prior), some_pictures(2)
    expected = evidence(model, image)
    noise = Noise(range(4000))
    many = image.repeat(2000, 1, 1, 1)
    weights = model.log_weights(many, noise, 20).double()
    mean_weight = np.exp(weights.numpy().reshape(-1, 2) - expected).mean(0)
    assert mean_weight == pytest.approx([1, 1], abs=0.03), "the weights' mean is the evidence"
    terms = model.bound(many, Noise(range(4000)))
    found = {name: value.double().view(2000, 2).mean(0).numpy() for name, value in terms.items()}
    assert found["bound"] == pytest.approx(found["log_likelihood"] - found["kl"])
    assert found["bound"] == pytest.approx(weights[0].view(2000, 2).mean(0).numpy(), abs=0.1), "of one draw"
    weighted = importance_bound(weights).view(2000, 2).mean(0).numpy()
    assert (found["bound"] + 0.05 < weighted).all() and (weighted < expected + 0.01).all()
    assert weighted == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
@torch.no_grad()
def test_the_identity_of_the_cauchy_schwarz_bound(weight: float) -> None:
    """E_q log p(x|z) - λ CS = log p(x) - KL(q ‖ p(z|x)) + KL(q ‖ p(z)) - λ CS (Tran et al. 2022), term by term."""
    model, image = linear(divergence="cauchy-schwarz", beta=weight), some_pictures(1)
    mean, log_variance = model.posterior(image)
    points, weights = (torch.from_numpy(x).float() for x in roots_hermitenorm(5))  # exact: log p(x|z) is quadratic
    grid = mean + torch.cartesian_prod(points, points) * (0.5 * log_variance).exp()
    expected_likelihood = float(
        torch.cartesian_prod(weights, weights).prod(1)
        @ model.log_likelihood_of(grid, image.repeat(len(grid), 1, 1, 1))
        / (2 * math.pi)
    )
    q = [stats.norm(float(m), math.exp(float(v) / 2)) for m, v in zip(mean[0], log_variance[0], strict=True)]
    pulled = sum(integrated_cauchy_schwarz(each.pdf, stats.norm(0, 1).pdf) for each in q)
    terms = next(iter(model.turns(Batch(image), 0))).terms
    assert float(terms["cauchy-schwarz"]) == pytest.approx(weight * pulled, rel=1e-4)
    w = model.decoder.weight.double()
    precision = torch.eye(LATENT).double() + w.T @ w / DEVIATION**2
    center = torch.linalg.solve(precision, w.T @ ((image.double().flatten() + 1) / 2 - 0.5)) / DEVIATION**2
    gaussian = torch.distributions.MultivariateNormal
    posterior = gaussian(mean[0].double(), torch.diag(log_variance[0].double().exp()))
    kl = torch.distributions.kl_divergence
    from_true = float(kl(posterior, gaussian(center, precision_matrix=precision)))
    from_prior = float(kl(posterior, gaussian(torch.zeros(LATENT).double(), torch.eye(LATENT).double())))
    assert from_true > 0.05 and from_prior > 0.3
    left = expected_likelihood - float(terms["cauchy-schwarz"])
    right = float(evidence(model, image)) - from_true + from_prior - weight * pulled
    assert left == pytest.approx(right, abs=2e-3)
    torch.manual_seed(0)
    descended = [float(sum(next(iter(model.turns(Batch(image), 0))).terms.values())) for _ in range(500)]
    assert np.mean(descended) == pytest.approx(-right, abs=4 * np.std(descended) / math.sqrt(500))
