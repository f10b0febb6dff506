"""Likelihood against models whose likelihood is known, the real VAE against its own definitions, and bits by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from conftest import tiny_model
from tasvir.config import Pictures
from tasvir.core import Noise, Scores
from tasvir.losses.likelihoods import LIKELIHOODS, gaussian
from tasvir.metrics.evaluate import METRICS, rows_named
from tasvir.metrics.likelihood import active_units, bits_per_dimension, exact_likelihood, importance_bound, likelihood
from tasvir.metrics.values import Value

LATENT, SIDE, DEVIATION = 3, 4, 0.5
PIXELS = SIDE * SIDE


class LinearGaussian:
    """p(z) = N(0,I), p(x|z) = N(Wz + b, s²I), so that log p(x) = log N(x; b, WWᵀ + s²I).

    q(z|x) is the exact posterior, moved by `shift` and with its covariance times `wider`.
    """

    latent_size = LATENT
    config = SimpleNamespace(reconstruction="gaussian", scale=DEVIATION)
    pictures = Pictures(1, SIDE)

    def __init__(self, shift: float = 0.0, wider: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(PIXELS, LATENT, generator=generator, dtype=torch.float64)
        self.offset = torch.randn(PIXELS, generator=generator, dtype=torch.float64)
        precision = torch.eye(LATENT, dtype=torch.float64) + self.weight.T @ self.weight / DEVIATION**2
        self.covariance = precision.inverse()
        self.shift, self.wider = shift, wider

    def pixels(self, image: Tensor) -> Tensor:
        return (image.double().flatten(1) + 1) / 2

    def encode(self, image: Tensor) -> Tensor:
        return (self.pixels(image) - self.offset) @ self.weight @ self.covariance / DEVIATION**2 + self.shift

    def log_likelihood(self, image: Tensor, latent: Tensor) -> Tensor:
        return _normal(self.pixels(image) - latent @ self.weight.T - self.offset, DEVIATION**2 * torch.eye(PIXELS))

    def evidence(self, image: Tensor) -> np.ndarray:
        covariance = self.weight @ self.weight.T + DEVIATION**2 * torch.eye(PIXELS)
        return stats.multivariate_normal(self.offset.numpy(), covariance.numpy()).logpdf(self.pixels(image).numpy())

    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        mean = self.encode(image)
        reconstruction = self.log_likelihood(image, self._drawn(mean, noise)[0])
        divergence = _divergence(mean, self.wider * self.covariance, torch.zeros(LATENT), torch.eye(LATENT))
        return {"bound": reconstruction - divergence, "log_likelihood": reconstruction, "kl": divergence}

    def log_weights(self, image: Tensor, noise: Noise, draws: int) -> Tensor:
        mean, found = self.encode(image), []
        for _ in range(draws):
            latent, log_density = self._drawn(mean, noise)
            prior = _normal(latent, torch.eye(LATENT))
            found.append(self.log_likelihood(image, latent) + prior - log_density)
        return torch.stack(found)

    def gap(self) -> float:
        """KL(q(z|x) ‖ p(z|x)): what the evidence lower bound lacks; the same for every x."""
        moved = torch.full((1, LATENT), self.shift, dtype=torch.float64)
        return float(_divergence(moved, self.wider * self.covariance, torch.zeros(LATENT), self.covariance))

    def _drawn(self, mean: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        covariance = self.wider * self.covariance
        latent = mean + noise.draw(LATENT).double() @ torch.linalg.cholesky(covariance).T
        return latent, _normal(latent - mean, covariance)


def _normal(difference: Tensor, covariance: Tensor) -> Tensor:
    mean = torch.zeros(difference.shape[1], dtype=torch.float64)
    return torch.distributions.MultivariateNormal(mean, covariance.double()).log_prob(difference)


def _divergence(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    one = torch.distributions.MultivariateNormal(mean, covariance)
    other = torch.distributions.MultivariateNormal(other_mean.double(), other_covariance.double())
    return torch.distributions.kl_divergence(one, other)


def pictures(number: int) -> np.ndarray:
    """uint8 [N,H,W,1] of no particular kind."""
    return np.random.default_rng(1).integers(0, 256, (number, SIDE, SIDE, 1), dtype=np.uint8)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def measured(model: object, images: np.ndarray, draws: int = 50, seed: int = 0) -> dict[str, Value]:
    """The numbers of a model, as `evaluate` would ask for them."""
    opened = SimpleNamespace(model=model, tensor=tensor)
    subject = SimpleNamespace(opened=opened, reference=images, seed=seed, draws=draws)
    return {value.metric: value for value in likelihood(subject)}  # type: ignore[arg-type]


def test_with_the_true_posterior_every_weight_is_the_evidence() -> None:
    model, images = LinearGaussian(), pictures(150)
    assert isinstance(model, Scores)
    evidence = model.evidence(tensor(images))
    weights = model.log_weights(tensor(images), Noise(range(150)), 3)
    assert weights.numpy() == pytest.approx(np.tile(evidence, (3, 1)), abs=1e-5)
    found = measured(model, images)
    assert found["importance_bound"].value == pytest.approx(evidence.mean(), abs=1e-5)
    # the ELBO takes the divergence in closed form, so that one draw of log p(x|z) leaves Monte-Carlo error
    assert found["bound"].value == pytest.approx(evidence.mean(), abs=1.0)
    low, high = found["importance_bound"].interval or (0, 0)
    assert low < evidence.mean() < high


def test_a_wrong_posterior_costs_its_divergence_and_more_draws_win_it_back() -> None:
    model, images = LinearGaussian(shift=0.1, wider=1.5), pictures(2)
    image = tensor(images)
    evidence, gap = model.evidence(image), model.gap()
    assert gap > 0.3
    image, evidence = image.repeat_interleave(2000, 0), evidence.repeat(2000)
    noise = Noise(range(len(image)))
    lost = evidence - model.bound(image, noise)["bound"].numpy()
    assert lost.mean() == pytest.approx(gap, abs=4 * lost.std() / math.sqrt(len(lost)))
    short = [
        float((evidence - importance_bound(model.log_weights(image, noise, draws)).numpy()).mean())
        for draws in (1, 5, 30)
    ]
    assert short[0] == pytest.approx(gap, abs=0.05), "with one draw it is the evidence lower bound"
    assert short[0] > 2 * short[1] > 6 * short[2] > 0, "and it rises towards the evidence, from below"


def test_importance_bound_is_the_logarithm_of_the_mean_weight() -> None:
    weights = torch.rand(7, 5, dtype=torch.float64) * 3
    assert importance_bound(weights).numpy() == pytest.approx(np.log(weights.exp().numpy().mean(0)))
    assert importance_bound(weights - 2000).numpy() == pytest.approx(importance_bound(weights).numpy() - 2000)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_weights_of_the_vae_have_the_bound_as_their_mean(kind: str) -> None:
    """E_q[log p(x,z) - log q(z|x)] is the ELBO (Kingma and Welling, equations 2 and 3)."""
    model = tiny_model("vae", 8).eval()
    model.config = SimpleNamespace(reconstruction=kind, scale=0.3 if kind == "gaussian" else None)
    image = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        # a posterior far enough from the prior that every term counts
        model.encoder.dense.bias.add_(torch.tensor([0.5, -1, 1, 0, -1, 0.5, 0, -2]))
        image = image.repeat(1000, 1, 1, 1)
        weights = model.log_weights(image, Noise(range(3000)), 2).double().view(2, 1000, 3).flatten(0, 1)
        bounds = model.bound(image, Noise(range(3000, 6000)))["bound"].double().view(1000, 3)
    error = (weights.var(0) / 2000 + bounds.var(0) / 1000).sqrt()
    assert ((weights.mean(0) - bounds.mean(0)).abs() < 4 * error).all()
    assert (weights.std(0) > 0.1).all() and (error < 0.1).all()


def test_the_first_weight_is_of_the_draw_that_the_bound_takes() -> None:
    """log w = log p(x|z) + log p(z) - log q(z|x), each from torch's own densities."""
    model = tiny_model("vae", 8).eval()
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        weights = model.log_weights(image, Noise(range(3)), 2)
        terms = model.bound(image, Noise(range(3)))
        mean, log_variance = model.posterior(image)
    deviation = (0.5 * log_variance).exp()
    latent = mean + deviation * Noise(range(3)).draw(4)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(latent).sum(1)
    posterior = torch.distributions.Normal(mean, deviation).log_prob(latent).sum(1)
    assert weights[0].numpy() == pytest.approx((terms["log_likelihood"] + prior - posterior).numpy(), abs=1e-4)
    assert not torch.allclose(weights[0], weights[1], atol=1e-6)


def test_bits_by_hand() -> None:
    """A coin for each of 16 pixels costs one bit; a flat density over [0,1] costs the 8 bits of a level."""
    assert bits_per_dimension(np.array([-16 * math.log(2)]), 16, density=False) == pytest.approx([1.0])
    assert bits_per_dimension(np.array([0.0]), 16, density=True) == pytest.approx([8.0])


@pytest.mark.parametrize("scale", [0.05, 0.1])
def test_probabilities_of_all_levels_of_a_pixel_sum_to_one(scale: float) -> None:
    """2^-bits is the probability of a level: over the 256 of a pixel it sums to 1, up to 255/256."""
    levels = torch.arange(256).float().view(256, 1, 1, 1) / 255
    nats = -gaussian(torch.zeros(256, 1, 1, 1), levels, scale).double().numpy()  # a mean of sigmoid(0) = 1/2
    total = np.exp2(-bits_per_dimension(nats, 1, LIKELIHOODS["gaussian"].density)).sum()
    assert total == pytest.approx(255 / 256, abs=1e-4)


def test_the_bound_is_minus_rate_and_distortion() -> None:
    model, images = LinearGaussian(shift=0.1), pictures(100)
    found = measured(model, images, draws=5)
    assert found["bound"].value == pytest.approx(-found["rate"].value - found["distortion"].value)
    mean = model.encode(tensor(images))
    rate = 0.5 * (
        model.covariance.trace() + mean.square().sum(1) - LATENT - torch.logdet(model.covariance)
    )  # KL(N(mean, covariance) ‖ N(0, I))
    assert found["rate"].value == pytest.approx(float(rate.mean()))
    expected = -found["importance_bound"].value / PIXELS / math.log(2) + 8
    assert found["bits_per_dim"].value == pytest.approx(expected)
    assert found["bits_per_dim"].passport["draws"] == 5 and found["bound_bits_per_dim"].passport["draws"] == 1
    assert found["rate"].number == 100 and found["rate"].interval


def test_more_than_even_odds_is_said() -> None:
    model = LinearGaussian()
    model.offset = model.offset + 50  # far from every picture
    found = measured(model, pictures(5), draws=2)
    assert found["bits_per_dim"].value > 8 and "8 bits" in (found["bits_per_dim"].note or "")
    narrow = LinearGaussian()
    narrow.config = SimpleNamespace(reconstruction="bernoulli", scale=None)  # the same nats, now of probabilities
    assert narrow.bound(tensor(pictures(1)), Noise([0]))["bound"] < -PIXELS * math.log(2)
    assert "1 bit:" in (measured(narrow, pictures(5), draws=2)["bound_bits_per_dim"].note or "")


def test_measured_twice_it_is_the_same_and_a_picture_depends_on_its_own_seed() -> None:
    images, model = pictures(70), LinearGaussian(0.1)
    whole = measured(model, images)
    assert whole == measured(model, images)
    first, rest = measured(model, images[:64]), measured(model, images[64:], seed=64)
    for name in ("bound", "importance_bound"):
        together = (64 * first[name].value + 6 * rest[name].value) / 70
        assert whole[name].value == pytest.approx(together, rel=1e-9)
        assert measured(model, images, seed=1)[name].value != whole[name].value


def test_active_units_of_a_made_encoder() -> None:
    """Units that vary with variances of 1, 0.02 and 0.005, and one that is constant: two are active."""
    drawn = np.random.default_rng(0).standard_normal((2000, 4))
    means = drawn * np.sqrt([1, 0.02, 0.005, 0]) + [0, 100, -100, 7]
    assert active_units(means.astype(np.float32)) == (2, (2.0, 2.0))
    edge = drawn[:, :1] * math.sqrt(0.01)
    assert active_units(edge)[1] == (0.0, 1.0), "a unit at the threshold may be active or not"
    assert active_units(np.array([[0.0], [1.0]])) == (1, (0.0, 1.0)), "a picture drawn twice has no variance"


def test_active_units_are_given_where_the_model_encodes() -> None:
    model, images = LinearGaussian(), np.where(pictures(60) > 127, np.uint8(255), np.uint8(0))
    count = int((model.encode(tensor(images)).numpy().var(0) > 0.01).sum())
    found = measured(model, images, draws=1)["active_units"]
    assert found.value == count > 0 and found.passport == {"threshold": 0.01, "of": 3} and found.number == 60


def test_real_pictures_go_through_it() -> None:
    """The recipe's own model has all seven numbers."""
    model = tiny_model("vae", 8).eval()
    assert model.pictures == Pictures(1, 8)
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    found = measured(model, images, draws=3)
    names = "bound importance_bound bits_per_dim bound_bits_per_dim rate distortion active_units"
    assert list(found) == names.split()
    assert found["bits_per_dim"].value == pytest.approx(-found["importance_bound"].value / 64 / math.log(2))
    assert found["bound"].passport["scale"] == 1.0


class Levels:
    """Independent pixels whose levels have the given shares, [levels]; told a class, those of its row."""

    conditional = False
    device = "cpu"

    def __init__(self, shares: np.ndarray):
        self.log_shares = torch.from_numpy(np.log(shares))
        self.pictures = Pictures(1, SIDE, levels=shares.shape[-1])

    def log_likelihood(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        level = ((image.flatten(1) + 1) / 2 * (self.pictures.levels - 1)).round().long()
        table = self.log_shares if label is None else self.log_shares[label]
        return table.expand(len(image), -1).gather(1, level).sum(1)


def exactly(model: Levels, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Value]:
    opened = SimpleNamespace(model=model, tensor=tensor)
    subject = SimpleNamespace(opened=opened, reference=images, reference_labels=labels, seed=0, draws=1)
    return {value.metric: value for value in exact_likelihood(subject)}  # type: ignore[arg-type]


def test_an_exact_likelihood_is_counted_by_hand() -> None:
    """Black and white: log p is the number of white pixels times log 0.2 and of black ones times log 0.8."""
    images = np.where(pictures(130) > 200, np.uint8(255), np.uint8(0))
    white = (images == 255).sum((1, 2, 3))
    nats = white * math.log(0.2) + (PIXELS - white) * math.log(0.8)
    found = exactly(Levels(np.array([0.8, 0.2])), images)
    assert list(found) == ["log_likelihood", "bits_per_dim"]
    assert found["log_likelihood"].value == pytest.approx(nats.mean())
    low, high = found["log_likelihood"].interval or (0, 0)
    assert low < nats.mean() < high and high - low == pytest.approx(4 * nats.std() / 130**0.5, rel=0.15)
    assert found["bits_per_dim"].value == pytest.approx(-nats.mean() / PIXELS / math.log(2))
    assert found["log_likelihood"].passport == {"likelihood": "exact", "unit": "nats, pixels 0 or 1"}
    assert found["bits_per_dim"].note is None and found["log_likelihood"].number == 130


def test_even_odds_cost_the_bits_of_their_levels() -> None:
    found = exactly(Levels(np.full(256, 1 / 256)), pictures(10))
    assert found["bits_per_dim"].value == pytest.approx(8) and found["bits_per_dim"].note is None
    assert found["log_likelihood"].passport["unit"] == "nats, pixels of 256 levels"
    shares = np.where(np.arange(256) < 200, 1e-3, 0.8 / 56)
    wrong = exactly(Levels(shares), np.zeros((4, SIDE, SIDE, 1), np.uint8))
    assert "does worse" in (wrong["bits_per_dim"].note or "")


def test_classes_are_told_to_models_that_take_them_and_stand_in_the_passport() -> None:
    model = Levels(np.array([[0.9, 0.1], [0.1, 0.9]]))
    labels = np.arange(100) % 2
    images = np.where(labels[:, None, None, None], np.uint8(255), np.uint8(0)) * np.ones((1, SIDE, SIDE, 1), np.uint8)
    model.conditional = True
    found = exactly(model, images, labels)
    assert found["log_likelihood"].value == pytest.approx(PIXELS * math.log(0.9))
    assert found["log_likelihood"].passport["given"] == "class"


def test_binarized_pictures_stand_in_the_passport() -> None:
    model = LinearGaussian()
    model.config = SimpleNamespace(reconstruction="bernoulli", scale=None)
    grey = measured(model, pictures(5), draws=2)
    model.pictures = Pictures(1, SIDE, levels=2)
    binary = measured(model, pictures(5), draws=2)
    assert grey["bound"].passport["unit"] == "nats, pixels in [0,1]"
    assert binary["bound"].passport["unit"] == "nats, pixels 0 or 1"
    assert grey["bits_per_dim"].passport["probability"] == "Bernoulli, pixels as shares of 1"
    assert binary["bits_per_dim"].passport["probability"] == "Bernoulli, pixels 0 or 1"
    model.scale = 0.25  # type: ignore[attr-defined]
    assert measured(model, pictures(5), draws=2)["bound"].passport["scale"] == 0.25


def test_bits_are_measured_by_whichever_row_can() -> None:
    assert rows_named(["bits_per_dim"], {"bound"}) == ["bound"] and rows_named(["bits_per_dim"]) == ["bound"]
    assert rows_named(["bits_per_dim"], {"log_likelihood"}) == ["likelihood"]
    assert rows_named(["log_likelihood"]) == ["likelihood"] and METRICS["likelihood"].needs == ("log_likelihood",)
