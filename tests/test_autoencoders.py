"""The variational family: weights, bounds, priors and penalties by closed forms; and that it learns."""

import copy
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from conftest import tiny_batch, tiny_data, tiny_model
from tasvir.config import Pictures, Refused, from_plain, to_plain
from tasvir.core import Batch, Model, Noise, Turn, abilities
from tasvir.losses.divergences import Mixture, gaussian_kl, maximum_mean_discrepancy
from tasvir.models import recipe
from tasvir.models.autoencoders.iwae import IWAE, IWAEConfig
from tasvir.models.autoencoders.vae import VAE, VAEConfig
from tasvir.models.autoencoders.vae_256 import VAE256
from tasvir.nn.priors import draw

PICTURES = Pictures(1, 8)
NEW = ("beta-vae", "vae-vamp", "sigma-vae", "cs-vae", "iwae", "wae-mmd", "rae")


def made(kind: type[VAE] = VAE, **settings: object) -> VAE:
    """A tiny model; the same numbers every time."""
    torch.manual_seed(0)
    config = (IWAEConfig if kind is IWAE else VAEConfig)(latent_size=4, widths=(4, 8), norm="layer", components=3)
    return kind(replace(config, **settings), PICTURES)


def value(scalar: Tensor) -> float:
    return float(scalar.detach())


DIGITS = functools.cache(lambda: tiny_batch(8))


def turn(model: Model, step: int = 0, seed: int = 1) -> Turn:
    """The first turn on eight digits."""
    torch.manual_seed(seed)
    return next(iter(model.turns(DIGITS(), step)))


def descend(model: Model, steps: int, rate: float = 2e-3, number: int = 32) -> list[Turn]:
    """Train plainly, without the loop, on digits."""
    images = torch.from_numpy(np.array(tiny_data(8).train.images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    turns = []
    for step in range(steps):
        torch.manual_seed(step)
        turns.append(next(iter(model.turns(Batch(images[torch.randperm(len(images))[:number]]), step))))
        optimizer.zero_grad()
        sum(turns[-1].terms.values()).backward()
        optimizer.step()
    return turns


@pytest.mark.parametrize("divergence", ["kl", "cauchy-schwarz"])
def test_warmup_raises_beta_linearly(divergence: str) -> None:
    whole = value(turn(made(beta=4.0, divergence=divergence)).terms[divergence])
    model = made(beta=4.0, warmup=10, divergence=divergence)
    for step, share in [(0, 0.0), (3, 0.3), (10, 1.0), (500, 1.0)]:
        found = turn(model, step)
        assert value(found.terms[divergence]) == pytest.approx(share * whole)
        assert float(found.watch["beta"]) == pytest.approx(4 * share)
    plain = value(turn(made(divergence=divergence)).terms[divergence])
    assert whole == pytest.approx(4 * plain)


def test_free_bits_are_not_descended() -> None:
    """Σ_j max(λ, mean over the batch of KL_j); its gradient passes by the dimensions below λ."""
    model = made(free_bits=0.2, beta=2.0)
    parts = torch.tensor([[0.1, 0.5, 0.0, 0.3], [0.2, 0.1, 0.0, 0.3]], requires_grad=True)  # means .15 .3 0 .3
    pulled = model.pull(parts, 0)
    assert value(pulled) == pytest.approx(2 * (0.2 + 0.3 + 0.2 + 0.3))
    pulled.backward()
    assert parts.grad is not None
    assert torch.equal(parts.grad, torch.tensor([[0.0, 1.0, 0.0, 1.0]] * 2))  # 2 / batch
    whole = torch.tensor([[0.7], [0.5]], requires_grad=True)  # under a mixture: 4 · 0.2 for all dimensions together
    assert value(model.pull(whole, 0)) == pytest.approx(2 * 0.8)
    assert value(model.pull(whole + 1, 0)) == pytest.approx(2 * 1.6)
    with torch.no_grad():
        kl = gaussian_kl(*model.posterior(DIGITS().image), *torch.zeros(2, 1)).mean(0)
    model.config = replace(model.config, free_bits=value(kl.median()))
    expected = 2 * np.maximum(kl.numpy(), value(kl.median())).sum()
    assert value(turn(model).terms["kl"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", ["iwae", "dreg"])
def test_iwae_with_one_draw_is_a_vae(estimator: str) -> None:
    """The same draw, the same decoder's gradient; the loss differs by KL of one draw against KL, zero on average."""
    vae, iwae = made(), made(IWAE, draws=1, estimator=estimator)
    iwae.load_state_dict(vae.state_dict())
    one, other = turn(vae), turn(iwae)
    torch.manual_seed(1)
    mean, log_variance = vae.posterior(DIGITS().image)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape)
    kl = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
    found = value(other.terms["negative_bound"])
    assert found == pytest.approx(value(one.terms["reconstruction"] + kl), rel=1e-5)
    assert float(other.watch["kl_per_dimension"]) == pytest.approx(value(kl) / 4, rel=1e-3)
    assert float(other.watch["effective_draws"]) == 1
    gradients = [
        torch.autograd.grad(sum(t.terms.values()), list(m.decoder.parameters())) for t, m in ((one, vae), (other, iwae))
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_importance_weighted_loss_is_the_bound_that_is_measured() -> None:
    model = made(IWAE, draws=7).eval()
    image = DIGITS().image
    losses = [value(turn(model, seed=seed).terms["negative_bound"]) for seed in range(100)]
    weights = model.log_weights(image.repeat(100, 1, 1, 1), Noise(range(100 * len(image))), 7).double()
    expected = (torch.logsumexp(weights, 0) - math.log(7)).view(100, -1).mean(1)
    error = math.hypot(float(np.std(losses)), float(expected.std())) / math.sqrt(100)
    assert -np.mean(losses) == pytest.approx(float(expected.mean()), abs=4 * error)
    once = [value(turn(made(IWAE, draws=1), seed=seed).terms["negative_bound"]) for seed in range(50)]
    assert np.mean(once) > np.mean(losses), "more draws, a tighter bound"


def _encoder_gradients(estimator: str, exact: bool = False) -> Tensor:
    """Of the posterior's biases, [300,2], each of 100 noises; a linear-Gaussian model, its posterior right or wrong."""
    model = made(IWAE, draws=4, estimator=estimator, norm="none", reconstruction="gaussian", scale=0.1, latent_size=1)
    direction = torch.linspace(-0.02, 0.02, 64)

    class Line(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return (latent * direction + 0.5).logit().unflatten(1, (1, 8, 8))

    model.decoder, model.encoder = Line(), nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    precision = 1 + float(direction.square().sum()) / 0.1**2
    with torch.no_grad():
        model.encoder[1].weight.zero_()
        model.encoder[1].weight[0] = 0.5 * direction / 0.1**2 / precision  # pixels are half the picture
        model.encoder[1].bias.copy_(torch.tensor([0.0 if exact else 0.2, -math.log(precision) + (not exact) * 0.3]))
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = image.repeat(100, 1, 1, 1)
    found = []
    for seed in range(300):
        torch.manual_seed(seed)
        loss = sum(next(iter(model.turns(Batch(image), 0))).terms.values())
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.encoder.parameters()))]))
    return torch.stack(found)[:, -2:]


def test_the_doubly_reparameterized_gradient_is_the_same_with_less_variance() -> None:
    """Tucker et al. 2019: equal on average; and exactly zero where q is the posterior, which the other is not."""
    plain, doubly = _encoder_gradients("iwae"), _encoder_gradients("dreg")
    error = ((plain.var(0) + doubly.var(0)) / 300).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 4 * error).all()
    assert (doubly.var(0) < 0.5 * plain.var(0)).all() and (doubly.mean(0).abs() > 4 * error).any()
    assert _encoder_gradients("dreg", exact=True).abs().max() < 1e-3 < 0.05 * plain.std()


@torch.no_grad()
def test_vamp_prior_is_the_mixture_of_posteriors_at_its_pictures() -> None:
    model = made(prior="vamp").eval()
    model.encoder.dense.bias.add_(torch.randn(8))
    seen = model.prior.pseudo_inputs.tanh()
    assert seen.shape == (3, 1, 8, 8)
    mean, log_variance = (x.double().numpy() for x in model.posterior(seen))
    z = np.random.default_rng(0).standard_normal((6, 4))
    each = stats.norm(mean, np.exp(log_variance / 2)).logpdf(z[:, None]).sum(-1)
    expected = special.logsumexp(each, axis=1) - math.log(3)
    found = model.prior.components(model.posterior).log_density(torch.from_numpy(z).float())
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prior", ["standard", "mixture", "vamp"])
def test_priors_keep_no_encoder_and_can_be_copied(prior: str) -> None:
    model = made(prior=prior)
    owned = [id(p) for p in model.players()["vae"].parameters()]
    assert len(owned) == len(set(owned)) and set(owned) == {id(p) for p in model.parameters()}
    assert not [name for name in model.prior.state_dict() if "encoder" in name]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.add_(1.0)
    z = torch.randn(2, 4)
    mine, theirs = (m.prior.components(m.posterior).log_density(z) for m in (model, twin))
    assert torch.equal(mine, made(prior=prior).prior.components(model.posterior).log_density(z))
    assert torch.equal(mine, theirs) == (prior != "vamp"), "the copy's prior sees the copy's encoder"


def test_draws_from_a_prior_are_distributed_as_it_and_depend_on_their_own_seed() -> None:
    weights, means = torch.tensor([0.2, 0.7, 0.1]), torch.tensor([[-3.0, 5.0], [0.0, 0.0], [4.0, -2.0]])
    log_variances = torch.tensor([[0.0, -1.0], [-2.0, 0.5], [1.0, 0.0]])
    prior = Mixture(weights.log(), means, log_variances)
    drawn = draw(prior, Noise(range(8000))).numpy()
    for dimension in range(2):
        deviations = (0.5 * log_variances[:, dimension]).exp()

        def distribution(x: np.ndarray, dimension: int = dimension, deviations: Tensor = deviations) -> np.ndarray:
            return stats.norm(means[:, dimension], deviations).cdf(x[:, None]) @ weights.double().numpy()

        assert stats.kstest(drawn[:, dimension], distribution).pvalue > 0.001
    assert np.array_equal(draw(prior, Noise([17])).numpy()[0], drawn[17])
    flat = draw(prior, Noise(range(500), "uniform"))
    reach = 3**0.5 * (0.5 * log_variances).exp()
    assert (((flat[:, None] - means).abs() <= reach + 1e-5).all(-1)).any(1).all(), "the noise's own shape"
    standard = made()
    assert torch.equal(standard.latents(Noise([4, 5])), Noise([4, 5]).draw(4))


@pytest.mark.parametrize("name", ["vae-vamp", "cs-vae"])
def test_samples_of_learned_priors_depend_on_their_own_seed(name: str) -> None:
    model = tiny_model(name).eval()
    with torch.no_grad():
        together, alone = model.sample(Noise(range(20))), model.sample(Noise([13]))
    assert torch.allclose(together[13], alone[0], atol=1e-5)
    assert not torch.allclose(together[12], alone[0], atol=1e-4)


def test_a_learned_deviation_becomes_that_of_the_residual() -> None:
    model = made(reconstruction="gaussian", scale="learned")
    assert model.scale == pytest.approx(0.1) and made(reconstruction="gaussian", scale=0.3).scale == 0.3
    turns = descend(model, 300, rate=1e-2, number=24)
    model.eval()
    images = torch.from_numpy(np.array(tiny_data(8).train.images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean, log_variance = model.posterior(images)
        latent = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape)
        residual = float((model.decode(latent) - images).square().mean().sqrt()) / 2
        nats = -model.log_likelihood_of(latent, images).mean()
    assert model.scale == pytest.approx(residual, rel=0.05) and abs(residual - 0.1) > 0.02
    assert float(turns[-1].watch["scale"]) == pytest.approx(model.scale, rel=0.02)
    least = 64 * (math.log(residual) + 0.5 + 0.5 * math.log(2 * math.pi))  # with the best of all deviations
    assert float(nats) == pytest.approx(least, abs=0.5)


def test_the_discrepancy_falls_in_training_and_only_by_its_penalty() -> None:
    found = {}
    for penalty in (0.0, 100.0):
        model = recipe("wae-mmd").model(replace(recipe("wae-mmd").tiny, penalty=penalty, norm="none"), PICTURES)
        turns = descend(model, 100, rate=3e-3, number=48)
        with torch.no_grad():
            latent = model.encode(torch.from_numpy(np.array(tiny_data(8).train.images)).permute(0, 3, 1, 2) / 127.5 - 1)
            found[penalty] = float(maximum_mean_discrepancy(latent, torch.randn(latent.shape)))
    falling = [value(t.terms["discrepancy"]) for t in turns]
    assert np.mean(falling[-20:]) < 0.2 * np.mean(falling[:5])
    assert found[100.0] < 0.3 * found[0.0]
    assert "discrepancy" not in next(iter(model.turns(Batch(torch.zeros(1, 1, 8, 8)), 0))).terms


def test_rae_penalizes_latents_and_the_decoders_weights() -> None:
    config = replace(recipe("rae").tiny, beta=0.5, penalty=0.1)
    torch.manual_seed(0)
    model = recipe("rae").model(config, PICTURES)
    terms = turn(model).terms
    latent = model.encode(DIGITS().image).detach().numpy()
    assert value(terms["latent"]) == pytest.approx(0.25 * np.square(latent).sum(1).mean(), rel=1e-5)
    weights = [p.detach().numpy() for n, p in model.decoder.named_parameters() if p.ndim > 1 and "weight" in n]
    assert value(terms["decoder"]) == pytest.approx(0.1 * sum(np.square(w).sum() for w in weights), rel=1e-5)
    assert "sample" not in abilities(model) and {"encode", "decode", "reconstruct"} <= set(abilities(model))


@pytest.mark.parametrize("name", NEW)
def test_reconstructions_beat_the_mean_picture(name: str) -> None:
    """Digits held out, after 120 steps: under 70 % of the mean picture's error, or 50 % where that is descended."""
    torch.manual_seed(0)
    changes = {"latent_size": 12, "widths": (16, 32), "norm": "layer"}
    changes |= {"beta": 1.0, "warmup": 0} if name == "beta-vae" else {}
    model = recipe(name).model(replace(recipe(name).tiny, **changes), PICTURES)
    descend(model, 120, rate=5e-3)
    data = tiny_data(8)
    test = torch.from_numpy(np.array(data.test.images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        error = float((model.eval().reconstruct(test) - test).square().mean())
    mean_picture = torch.from_numpy(data.train.images.astype(np.float32).mean(0)).permute(2, 0, 1) / 127.5 - 1
    share = 0.5 if name in ("rae", "wae-mmd", "sigma-vae") else 0.7
    assert error < share * float((mean_picture - test).square().mean())


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(Refused, match=r"vamp.*--model\.norm layer"):
        made(prior="vamp", norm="batch")
    with pytest.raises(Refused, match=r"vamp"):
        VAE256(replace(recipe("vae-256").tiny, prior="vamp"), Pictures(3, 32))
    with pytest.raises(Refused, match=r"learned.*--model\.reconstruction gaussian"):
        made(scale="learned")


def test_a_scale_is_a_number_or_learned() -> None:
    plain = to_plain(VAEConfig())
    for value in (None, 0.3, "learned"):
        config = from_plain({**plain, "scale": value}, VAEConfig, "it")
        assert config.scale == value and from_plain(to_plain(config), VAEConfig, "it") == config
    assert from_plain({**plain, "scale": 1}, VAEConfig, "it").scale == 1.0
    for wrong in ("taught", -1.0, True, [0.1]):
        with pytest.raises(Refused):
            from_plain({**plain, "scale": wrong}, VAEConfig, "it")


def test_runs_from_before_the_new_settings_open() -> None:
    new = ("divergence", "warmup", "free_bits", "prior", "components")
    for name in ("vae", "vae-2d", "vae-256"):
        config = recipe(name).config
        old = {key: value for key, value in to_plain(config).items() if key not in new}
        assert len(old) == len(to_plain(config)) - len(new)
        assert from_plain(old, type(config), "it") == config
    before = {"encoder", "decoder"}
    assert {key.split(".")[0] for key in tiny_model("vae").state_dict()} == before
