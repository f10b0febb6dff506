"""Losses against closed forms and independent calculations."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from tasvir.losses.divergences import gaussian_kl
from tasvir.losses.games import GAMES, GameConfig, clip_weights, gradient_penalty, zero_centered_penalty
from tasvir.losses.likelihoods import LIKELIHOODS, bernoulli, gaussian

REAL, FAKE = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([-0.4, 0.8, -3.0])


def probability(score: torch.Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-score.numpy().astype(float)))


def expected(name: str) -> tuple[float, float]:
    """Both players' losses as the papers write them."""
    p, q, r, f = probability(REAL), probability(FAKE), REAL.numpy(), FAKE.numpy()
    value = np.log(p).mean() + np.log(1 - q).mean()
    wasserstein = (f.mean() - r.mean(), -f.mean())
    return {
        "minimax": (-value, np.log(1 - q).mean()),
        "non-saturating": (-value, -np.log(q).mean()),
        "least-squares": (0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(), 0.5 * ((f - 1) ** 2).mean()),
        "wasserstein-clipping": wasserstein,
        "wasserstein-penalty": wasserstein,
        "hinge": (np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(), -f.mean()),
        "relativistic": (-np.log(1 / (1 + np.exp(f - r))).mean(), -np.log(1 / (1 + np.exp(r - f))).mean()),
        "relativistic-average": (_relativistic_average(r, f), _relativistic_average(f, r)),
    }[name]


def _relativistic_average(first: np.ndarray, second: np.ndarray) -> float:
    """-E log D(a) - E log(1 - D(b)), D(a) being sigmoid(a - E b) and D(b) sigmoid(b - E a)."""
    a, b = 1 / (1 + np.exp(second.mean() - first)), 1 / (1 + np.exp(first.mean() - second))
    return float(-np.log(a).mean() - np.log(1 - b).mean())


@pytest.mark.parametrize("name", GAMES)
def test_games_are_as_published(name: str) -> None:
    game = GAMES[name]
    discriminator, generator = expected(name)
    assert float(game.discriminator(REAL, FAKE)) == pytest.approx(discriminator, rel=1e-5)
    assert float(game.generator(FAKE, REAL)) == pytest.approx(generator, rel=1e-5)


@pytest.mark.parametrize("name", GAMES)
def test_each_player_wants_what_the_game_says(name: str) -> None:
    """The discriminator wants real scores up and fake ones down; the generator wants fake ones up."""
    real, fake = torch.tensor([-0.5, 0.2, 0.7]).requires_grad_(), torch.tensor([0.5, 0.1, 0.9]).requires_grad_()
    GAMES[name].discriminator(real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake = fake.detach().requires_grad_()
    GAMES[name].generator(fake, real).backward()
    assert (fake.grad < 0).all()


def test_cross_entropy_games_do_not_overflow() -> None:
    far = torch.tensor([1e4])
    for name in ("minimax", "non-saturating"):
        assert torch.isfinite(GAMES[name].discriminator(-far, far)) and torch.isfinite(GAMES[name].generator(-far, far))


def test_a_game_keeps_its_published_settings_unless_told() -> None:
    played = GameConfig("wasserstein-clipping").played()
    assert (played.discriminator_steps, played.weight_clip, played.gradient_penalty) == (5, 0.01, 0.0)
    played = GameConfig("wasserstein-penalty", discriminator_steps=2).played()
    assert (played.discriminator_steps, played.weight_clip, played.gradient_penalty) == (2, 0.0, 10.0)
    assert GameConfig("wasserstein-penalty", gradient_penalty=0.0).played().gradient_penalty == 0


def test_gradient_penalties_of_a_linear_discriminator() -> None:
    """D(x) = w·x has gradient w everywhere: the penalties are (‖w‖ - 1)² and ‖w‖²/2."""
    weight = torch.randn(3, 4, 4)
    real, fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)

    def score(image: torch.Tensor) -> torch.Tensor:
        return (image * weight).flatten(1).sum(1)

    assert float(gradient_penalty(score, real, fake)) == pytest.approx(float((weight.norm() - 1) ** 2), rel=1e-4)
    assert float(zero_centered_penalty(score, real)) == pytest.approx(float(weight.norm() ** 2 / 2), rel=1e-4)


def test_gradient_penalty_is_float32_under_autocast_and_reaches_the_weights() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = gradient_penalty(network, torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4))
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert network[1].weight.grad.abs().sum() > 0


def test_clipped_weights() -> None:
    network = torch.nn.Linear(4, 4)
    torch.nn.init.constant_(network.weight, 3.0)
    torch.nn.init.constant_(network.bias, -3.0)
    clip_weights(network, 0.01)
    assert torch.equal(network.weight, torch.full((4, 4), 0.01)) and torch.equal(network.bias, torch.full((4,), -0.01))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.5, 0.3), (-0.7, 2.0), (0.0, 0.01)])
def test_kl_against_numerical_integration(mean: float, deviation: float) -> None:
    q, p = stats.norm(mean, deviation), stats.norm(0, 1)
    low, high = mean - 10 * deviation, mean + 10 * deviation
    integral, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), low, high, points=[mean])
    kl = gaussian_kl(torch.tensor(mean), torch.tensor(2 * math.log(deviation)), *torch.zeros(2))
    assert float(kl) == pytest.approx(integral, rel=1e-5, abs=1e-7)


def test_likelihoods_against_scipy() -> None:
    logits, pixels = torch.randn(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    mean = logits.sigmoid().numpy()
    nats = -stats.norm(mean, 0.2).logpdf(pixels.numpy()).reshape(2, -1).sum(1)
    assert gaussian(logits, pixels, 0.2).numpy() == pytest.approx(nats, rel=1e-4)
    binary = (pixels > 0.5).float()
    nats = -stats.bernoulli(mean).logpmf(binary.numpy()).reshape(2, -1).sum(1)
    assert bernoulli(logits, binary).numpy() == pytest.approx(nats, rel=1e-4)


def test_mse_is_a_gaussian_up_to_a_constant() -> None:
    pixels = torch.rand(1, 3, 4, 4)
    one, other = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    row = LIKELIHOODS["mse"]
    by_loss = row.loss(one, pixels, 1000.0) - row.loss(other, pixels, 1000.0)
    by_nats = row.nats(one, pixels, 1000.0) - row.nats(other, pixels, 1000.0)
    assert by_loss.numpy() == pytest.approx(by_nats.numpy(), rel=1e-4)
    mean = float((one.sigmoid() - pixels).square().mean())
    assert float(row.loss(one, pixels, 1000.0)) == pytest.approx(1000 * mean, rel=1e-5)
