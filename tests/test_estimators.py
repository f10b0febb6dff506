"""Gradient estimators against exact gradients, closed forms of their variance, and the discrete VAE they train."""

import csv
import itertools
import json
import math
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import ks_2samp, norm

from conftest import tiny_batch, tiny_run, tiny_state
from tasvir import cli
from tasvir.config import Pictures, Refused
from tasvir.core import Noise
from tasvir.estimators.distributions import DISTRIBUTIONS
from tasvir.estimators.exact import exact_gradient, optimal_baseline
from tasvir.estimators.functions import CALLS, function
from tasvir.estimators.measuring import Problem, estimates, measure, moments
from tasvir.estimators.table import ESTIMATORS, Options
from tasvir.models.autoencoders.discrete_vae import DiscreteVAE, DiscreteVAEConfig, EstimatorName, kl_from_fair_coins
from tasvir.runs import Run
from tasvir.training.loop import train

THETAS = {
    "gaussian": [(1.0, 0.0), (-0.7, 0.4), (0.0, -1.0)],
    "bernoulli": [(0.5,), (-1.5,), (2.0,)],
    "categorical": [(0.5, 0.0, -0.5), (1.0, -1.0), (0.0, 1.0, -0.5, 0.3)],
}
TEXTS = ("linear", "square", "sin(3*z) + z", "1.5 - exp(-z*z)")
CLAIMS = [
    (name, distribution, theta, text)
    for name, row in ESTIMATORS.items()
    for distribution in row.distributions
    for theta in THETAS[distribution]
    for text in TEXTS
    if row.unbiased
]
FAMILY_WISE = 1e-6
"""Chance that any of the tests of unbiasedness fails though all estimators are unbiased."""
SIGMAS = float(norm.isf(FAMILY_WISE / 2 / sum(len(theta) for _, _, theta, _ in CLAIMS)))
"""Bonferroni's bound for a single one: about 6."""
REPETITIONS = 6_000


def run(problem: Problem, estimator: str, samples: int, repetitions: int = REPETITIONS, **options: object):
    generator = torch.Generator().manual_seed(11)
    best = optimal_baseline(problem.distribution, problem.theta, problem.f)
    found = estimates(problem, estimator, samples, repetitions, Options(optimal=best, generator=generator, **options))
    return [part.numpy() for part in moments(found[0])]


@pytest.mark.parametrize("name", [name for name, row in ESTIMATORS.items() if row.unbiased])
def test_estimators_said_to_be_unbiased_are(name: str) -> None:
    """A z-test of the mean of 6,000 estimates for every distribution, three θ, four functions, each parameter."""
    for claim in CLAIMS:
        if claim[0] != name:
            continue
        problem = Problem(claim[1], claim[3], 1.3, claim[2])
        mean, error, _, _ = run(problem, name, 3)
        assert (np.abs(mean - problem.exact.numpy()) <= SIGMAS * error + 1e-9).all(), claim


def test_estimators_said_to_be_biased_are() -> None:
    """Straight-through: E[2m²z] p(1-p) and not m² p(1-p). The mean of the same samples: 1 - 1/N of the gradient."""
    problem = Problem("bernoulli", "square", 1.0, (0.5,))
    p = 1 / (1 + math.exp(-0.5))
    mean, error, _, _ = run(problem, "straight-through", 4)
    assert abs(mean[0] - 2 * p * p * (1 - p)) < 6 * error[0]
    assert abs(mean[0] - p * (1 - p)) > 20 * error[0]
    for name in ("gumbel-softmax", "straight-through", "gumbel-straight-through"):
        for distribution in ("bernoulli", "categorical"):
            other = Problem(distribution, "sin(3*z)")
            mean, error, _, _ = run(other, name, 4)
            assert np.abs((mean - other.exact.numpy()) / error).max() > 10, (name, distribution)
    for samples in (2, 5):
        mean, error, _, _ = run(problem, "mean-baseline", samples)
        assert abs(mean[0] - (1 - 1 / samples) * float(problem.exact)) < 6 * error[0]
        assert abs(mean[0] - float(problem.exact)) > 20 * error[0]


def test_gumbel_softmax_loses_its_bias_and_gains_variance_as_the_temperature_falls() -> None:
    problem = Problem("bernoulli", "sin(3*z)", 1.0, (0.3,))
    biases, variances = [], []
    for temperature in (1.0, 0.4, 0.1):
        mean, _, variance, _ = run(problem, "gumbel-softmax", 16, temperature=temperature)
        biases.append(abs(mean[0] - float(problem.exact)))
        variances.append(variance[0])
    assert biases[0] > 2 * biases[2] and variances[2] > variances[1] > variances[0]


@pytest.mark.parametrize("m", [0.1, 1.0, -3.0])
def test_pathwise_variance_is_known(m: float) -> None:
    """None at all for f = mz; for (mz)², d/dmean is 2m²z: 4m⁴σ²/N."""
    for samples in (1, 7, 32):
        _, _, variance, _ = run(Problem("gaussian", "linear", m, (0.7, 0.3)), "pathwise", samples, 500)
        assert variance[0] == 0
        _, _, variance, error = run(Problem("gaussian", "square", m, (0.7, 0.3)), "pathwise", samples)
        assert abs(variance[0] - 4 * m**4 * math.exp(0.6) / samples) < 5 * error[0]
    _, _, variance, error = run(Problem("gaussian", "square", m), "pathwise", 8)
    assert abs(variance[0] - 4 * m**4 / 8) < 5 * error[0]


def test_score_function_variance_is_known() -> None:
    """From Gaussian moments E[ε⁴] = 3, E[ε⁶] = 15, and by summing over the two values of a bit."""
    m, mean, samples = 1.2, 0.8, 4
    scale = math.exp(0.2)
    _, _, variance, error = run(Problem("gaussian", "linear", m, (mean, 0.2)), "score-function", samples, 40_000)
    assert abs(variance[0] - m**2 * ((mean / scale) ** 2 + 2) / samples) < 5 * error[0]
    _, _, variance, error = run(Problem("gaussian", "square", m, (mean, 0.2)), "score-function", samples, 40_000)
    second = m**4 * (mean**4 / scale**2 + 18 * mean**2 + 15 * scale**2)
    assert abs(variance[0] - (second - (2 * m**2 * mean) ** 2) / samples) < 5 * error[0]
    p = 1 / (1 + math.exp(-0.5))
    _, _, variance, error = run(Problem("bernoulli", "linear", m, (0.5,)), "score-function", samples, 40_000)
    assert abs(variance[0] - m**2 * p * (1 - p) ** 3 / samples) < 5 * error[0]


def test_leave_one_out_variance_of_a_bit_is_known() -> None:
    """Two samples: (f(z₁) - f(z₂))(z₁ - z₂)/2, for f = mz m/2 when they differ, which has probability 2p(1-p)."""
    m, p = 2.0, 1 / (1 + math.exp(-0.5))
    _, _, variance, error = run(Problem("bernoulli", "linear", m, (0.5,)), "leave-one-out", 2, 40_000)
    differ = 2 * p * (1 - p)
    assert abs(variance[0] - (m / 2) ** 2 * differ * (1 - differ)) < 5 * error[0]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_optimal_baseline_has_no_more_variance_than_any(distribution: str) -> None:
    for theta, text in itertools.product(THETAS[distribution], TEXTS):
        problem = Problem(distribution, text, 1.0, theta)
        _, _, best, best_error = run(problem, "optimal-baseline", 2)
        for name in ("score-function", "leave-one-out"):
            _, _, other, other_error = run(problem, name, 2)
            assert (best <= other + 5 * np.hypot(best_error, other_error) + 1e-9).all(), (theta, text, name)
    problem = Problem(distribution, "square")
    plain, estimated = (run(problem, name, 256, 1000)[2] for name in ("score-function", "optimal-leave-one-out"))
    assert (estimated < plain).all(), "with many samples the estimated one does as well"


def test_measure_valued_gradient_of_one_bit_is_exact() -> None:
    for text in TEXTS:
        problem = Problem("bernoulli", text, 1.0, (0.7,))
        mean, _, variance, _ = run(problem, "measure-valued", 1, 200)
        assert variance[0] == 0 and mean[0] == pytest.approx(float(problem.exact), abs=1e-12)


@pytest.mark.parametrize("name", [n for n, row in ESTIMATORS.items() if row.unbiased and not row.known])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_variables_that_meet_in_f_are_unbiased_too(name: str, distribution: str) -> None:
    """f = (z₀ + 2z₁ - z₂)², with a batch of two θ; exact by the mean and the variance of each variable."""
    if distribution not in ESTIMATORS[name].distributions:
        pytest.skip("not for it")
    kind, generator = DISTRIBUTIONS[distribution], torch.Generator().manual_seed(3)
    base = torch.tensor(THETAS[distribution][0], dtype=torch.float64)
    theta = torch.stack([base, -0.5 * base, base + 0.3]).expand(2, 3, -1).clone()
    theta[1] += 0.4
    weights = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    leaf = theta.clone().requires_grad_()
    if distribution == "gaussian":
        mean, variance = leaf[..., 0], (2 * leaf[..., 1]).exp()
    else:
        values, probabilities = kind.values(leaf), kind.probabilities(leaf)
        mean = probabilities @ values
        variance = probabilities @ values.square() - mean.square()
    ((weights * mean).sum(-1).square() + (weights.square() * variance).sum(-1)).sum().backward()
    wide = theta.expand(20_000, 2, 3, -1)
    found = ESTIMATORS[name].estimate(
        kind, wide, lambda z: (z * weights).sum(-1).square(), 2, Options(generator=generator)
    )
    assert found.gradient.shape == wide.shape and found.value.shape == wide.shape[:2]
    error = found.gradient.std(0) / len(wide) ** 0.5
    assert bool(((found.gradient.mean(0) - leaf.grad).abs() <= 5.5 * error).all())


def test_gumbel_softmax_is_the_derivative_of_its_relaxed_samples() -> None:
    """Against central differences with the same noise, f of two variables."""
    for distribution in ("bernoulli", "categorical"):
        kind = DISTRIBUTIONS[distribution]
        theta = torch.tensor(THETAS[distribution][0], dtype=torch.float64).repeat(5, 2, 1)
        theta[:, 1] -= 0.4

        def f(z: torch.Tensor) -> torch.Tensor:
            return torch.sin(z[..., 0]) * z[..., 1] + z[..., 1].square()

        def relaxed(shifted: torch.Tensor, kind=kind, theta=theta) -> torch.Tensor:  # type: ignore[no-untyped-def]
            wide = shifted.expand(3, *theta.shape)
            noisy = kind.perturb(wide, torch.Generator().manual_seed(5))
            return f(kind.soften(noisy, 0.7)).mean(0)

        options = Options(temperature=0.7, generator=torch.Generator().manual_seed(5))
        found = ESTIMATORS["gumbel-softmax"].estimate(kind, theta, f, 3, options)
        for d, p in itertools.product(range(2), range(theta.shape[-1])):
            step = torch.zeros_like(theta)
            step[:, d, p] = 1e-5
            difference = (relaxed(theta + step) - relaxed(theta - step)) / 2e-5
            assert torch.allclose(found.gradient[:, d, p], difference, atol=1e-8)


def test_conditional_noise_hardens_to_its_sample_and_is_distributed_as_the_unconditional() -> None:
    generator = torch.Generator().manual_seed(0)
    for distribution in ("bernoulli", "categorical"):
        kind = DISTRIBUTIONS[distribution]
        theta = torch.tensor(THETAS[distribution][0], dtype=torch.float64).expand(100_000, 1, -1)
        z = kind.sample(theta, generator)
        again, plain = kind.perturb_given(theta, z, generator), kind.perturb(theta, generator)
        assert torch.equal(kind.harden(again), z)
        for column in range(theta.shape[-1]):
            assert ks_2samp(again[:, 0, column], plain[:, 0, column]).pvalue > 1e-4
        chances = torch.bincount(z[:, 0].long()) / len(z)
        assert torch.allclose(chances.double(), kind.probabilities(theta)[0, 0], atol=0.008)


def test_evaluations_are_counted() -> None:
    counts = {"pathwise": 5, "score-function": 5, "leave-one-out": 5, "measure-valued": 20}
    for name, count in counts.items():
        assert estimates(Problem("gaussian", "square"), name, 5, 10, Options())[2] == count
    counts = {"measure-valued": 10, "straight-through": 5, "gumbel-softmax": 5, "rebar": 15}
    for name, count in counts.items():
        assert estimates(Problem("bernoulli", "square"), name, 5, 10, Options())[2] == count


# exact gradients


@pytest.mark.parametrize("text", ["linear", "square", "sin(3*z)", "abs(z - 0.3)", "step(z - 0.3)", "cos(40*z)"])
def test_exact_gaussian_gradients_are_those_of_the_integral(text: str) -> None:
    """Against differences of the expectation itself, integrated by scipy; kinks and steps included."""
    theta, f = (0.4, -0.2), function(text, 1.5)
    found = exact_gradient("gaussian", torch.tensor(theta, dtype=torch.float64), f, text, 1.5)

    def expectation(mean: float, log_scale: float) -> float:
        scale = math.exp(log_scale)

        def weighted(z: float) -> float:
            density = norm.pdf(z, mean, scale)
            return float(f(torch.tensor([z], dtype=torch.float64))) * density

        return quad(weighted, -8, 0.3, limit=400)[0] + quad(weighted, 0.3, 8, limit=400)[0]

    for position in range(2):
        up, down = (
            expectation(*(value + sign * 1e-3 * (i == position) for i, value in enumerate(theta))) for sign in (1, -1)
        )
        assert float(found[position]) == pytest.approx((up - down) / 2e-3, abs=2e-5)


def test_exact_discrete_gradients_are_autograds() -> None:
    for distribution in ("bernoulli", "categorical"):
        for values in THETAS[distribution]:
            theta = torch.tensor(values, dtype=torch.float64, requires_grad=True)
            probabilities = torch.stack([1 - theta.sigmoid()[0], theta.sigmoid()[0]])
            if distribution == "categorical":
                probabilities = theta.softmax(0)
            outcomes = torch.arange(len(probabilities), dtype=torch.float64)
            (probabilities * (torch.sin(3 * outcomes) + outcomes)).sum().backward()
            assert torch.allclose(exact_gradient(distribution, theta.detach(), function("sin(3*z) + z")), theta.grad)


@pytest.mark.parametrize("text", ["exp(z*z)", "1/z", "log(z)", "sin(exp(z**4))"])
def test_expectations_that_are_infinite_or_out_of_reach_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="take another function|Take another function"):
        exact_gradient("gaussian", torch.tensor([0.0, 0.0], dtype=torch.float64), function(text))


# expressions


def test_expressions_mean_what_they_say() -> None:
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x = z[:, 0].numpy()
    assert np.allclose(function("-z**2 + m*sin(pi*z)/2", 3.0)(z), -(x**2) + 3 * np.sin(np.pi * x) / 2)
    assert np.allclose(function("maximum(z, 0.5) - abs(z) + 2**z")(z), np.maximum(x, 0.5) - abs(x) + 2**x)
    assert np.allclose(function("square", -2.0)(z), 4 * x**2)
    for name, (number, _) in CALLS.items():
        f = function(f"{name}({', '.join(['z + 3'] * number)})")
        assert f(z).shape == (9,) and bool(torch.isfinite(f(z)).all())
    assert function("floor(z)").steps and not function("sin(z)").steps


@pytest.mark.parametrize(
    "text",
    [
        "z.real",
        "z.__class__",
        "().__class__.__bases__",
        "__import__('os').system('true')",
        "eval('z')",
        "open('z')",
        "torch.sin(z)",
        "sin.__globals__",
        "(lambda: z)()",
        "[z for z in (1,)]",
        "z if z else z",
        "z[0]",
        "z; z",
        "x := z",
        "(x := z)",
        "z and z",
        "z < 1",
        "z @ z",
        "z // 2",
        "z % 2",
        "'z' + z",
        "f'{z}'",
        "z + True",
        "z + 1j",
        "z + None",
        "sin(z, z)",
        "sin()",
        "sin(x=z)",
        "sin(*z)",
        "sin(**z)",
        "sin(sin)",
        "y + z",
        "3.0",
        "",
        "z +",
        "z\0",
        "1e999 * z",
        "(" * 90 + "z" + ")" * 90 + "(" * 20,
        "z" + "+z" * 500,
        "-" * 199 + "y",
        "9" * 190 + "**z",
        "sinn(z)",
    ],
)
def test_expressions_beyond_the_whitelist_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="is no function of z"):
        function(text)


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(Refused, match="Perhaps you meant"):
        function("sinn(z)")


# the command


def test_the_command_measures_tells_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimators", "--samples", "1", "4", "--repetitions", "300", "--out", str(tmp_path / "made")]
    with pytest.raises(SystemExit) as done:
        cli.main([*words, "--distribution", "bernoulli", "--function", "sin(3*z)"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and "rebar" in said and "logit" in said and "exactly" in said
    assert (tmp_path / "made" / "estimators.png").stat().st_size > 10_000
    rows = list(csv.DictReader((tmp_path / "made" / "estimators.csv").open()))
    measured = json.loads((tmp_path / "made" / "estimators.json").read_text())["measured"]
    assert len(rows) == len(measured) > 15
    fitting = {name for name, row in ESTIMATORS.items() if "bernoulli" in row.distributions}
    assert {row["estimator"] for row in rows} == fitting
    with pytest.raises(SystemExit):
        cli.main([*words[:-2], "--json"])
    assert json.loads(capsys.readouterr().out)["distribution"] == "gaussian"


@pytest.mark.parametrize(
    "words",
    [
        ("--function", "z.real"),
        ("--parameters", "1"),
        ("--parameters", "1", "nan"),
        ("--distribution", "categorical", "--parameters", "1"),
        ("--m", "inf"),
        ("--samples", "0"),
        ("--repetitions", "1"),
        ("--samples", "100000000"),
        ("--out", "x.csv"),
        ("--distribution", "poisson"),
        ("--temperature", "0"),
        ("--function", "1/z"),
        ("nothing-there", "--out", "x.png"),
        ("nothing-there",),
    ],
)
def test_bad_words_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["estimators", *words])
    said = capsys.readouterr().err
    assert done.value.code == 2 and said.startswith("tasvir: ") and len(said.splitlines()) <= 2


def test_the_same_seed_measures_the_same() -> None:
    one, other, third = (
        [row.mean for rows in measure(Problem("bernoulli", "square"), (2,), 50, seed) for row in rows]
        for seed in (1, 1, 2)
    )
    assert one == other != third


def test_derivatives_of_a_function_with_steps_are_not_said_to_be_unbiased() -> None:
    found = {
        row.estimator: row
        for rows in measure(Problem("gaussian", "step(z)", 1.0, (0.5, 0.0)), (4,), 2000, 0)
        for row in rows
        if row.parameter == "mean"
    }
    assert not found["pathwise"].unbiased and found["pathwise"].mean == 0
    assert found["score-function"].unbiased and found["score-function"].exact == pytest.approx(norm.pdf(0.5))


# the discrete VAE


ESTIMATOR_NAMES = typing.get_args(EstimatorName)
EVERY = pytest.mark.parametrize("name", ESTIMATOR_NAMES)


def small(name: str, latents: int = 3, **settings: object) -> DiscreteVAE:
    torch.manual_seed(1)
    config = DiscreteVAEConfig(latent_size=latents, widths=(4, 8), estimator=name, **settings)  # type: ignore[arg-type]
    return DiscreteVAE(config, Pictures(1, 8))


def every_code(latents: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=latents)))


def test_the_recipe_knows_every_estimator_for_bits() -> None:
    fitting = {name for name, row in ESTIMATORS.items() if "bernoulli" in row.distributions and not row.known}
    assert set(ESTIMATOR_NAMES) == fitting


@EVERY
def test_the_encoder_gradient_is_that_of_the_expected_loss(name: str) -> None:
    """Means of 2,000 estimates against the sum over all eight codes, for the unbiased; decoders are sharp enough for
    the biased ones to show it."""
    model = small(name)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter *= 2
    image = tiny_batch(8, 2).image
    leaf = model.logits(image).detach().requires_grad_()
    codes = every_code(3)
    nats = torch.stack([kl_free_loss(model, image, code) for code in codes])
    chances = torch.stack([(leaf.sigmoid() * code + (1 - leaf.sigmoid()) * (1 - code)).prod(1) for code in codes])
    (chances * nats).sum().backward()
    with torch.no_grad():
        torch.manual_seed(0)
        found = model.estimate(image, leaf.detach().expand(2000, 2, 3), 0)
    error = found.gradient[..., 0].std(0) / 2000**0.5
    z = ((found.gradient[..., 0].mean(0) - leaf.grad).abs() / error).max()
    assert (z < 5.5) if ESTIMATORS[name].unbiased else (z > 8)


def kl_free_loss(model: DiscreteVAE, image: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    with torch.no_grad():
        logits = model.decoder(code.expand(len(image), -1))
        return cross_entropy(logits, (image + 1) / 2, reduction="none").flatten(1).sum(1)


def test_the_bound_and_its_weights_are_those_of_the_model() -> None:
    """log p(x) by summing over all codes; E[weights] is p(x); log p(x) less the mean bound is KL(q ‖ posterior)."""
    model = small("leave-one-out", 5).eval()
    image = tiny_batch(8, 3).image
    codes = every_code(5)
    with torch.no_grad():
        joint = torch.stack([-kl_free_loss(model, image, code) for code in codes]).double() - 5 * math.log(2)
        evidence = joint.logsumexp(0)
        p = model.logits(image).double().sigmoid()
        q = torch.stack([(p * code + (1 - p) * (1 - code)).prod(1) for code in codes])
        weights = model.log_weights(image, Noise(range(3)), 4000)
        bounds = [model.bound(image, Noise(range(3 * i, 3 * i + 3))) for i in range(300)]
        mean = torch.stack([one["bound"] for one in bounds]).double()
    exact = (q * (joint - q.log())).sum(0)
    assert (exact < evidence).all()
    assert torch.allclose(weights.double().logsumexp(0) - math.log(4000), evidence, atol=0.1)
    assert bool(((mean.mean(0) - exact).abs() < 5 * mean.std(0) / 300**0.5 + 1e-4).all())
    one = bounds[0]
    assert torch.allclose(one["bound"], one["log_likelihood"] - one["kl"], atol=1e-4)
    logits = model.logits(image).detach()
    direct = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=logits), torch.distributions.Bernoulli(torch.tensor(0.5))
    )
    assert torch.allclose(kl_from_fair_coins(logits), direct, atol=1e-5)


def test_latents_outside_are_what_decode_takes() -> None:
    """Fair coins under a standard normal, and what `encode` gives decodes to the most likely bits."""
    model = small("rebar").eval()
    image = tiny_batch(8, 3).image
    with torch.no_grad():
        bits = (model.logits(image) > 0).float()
        assert torch.equal(model.reconstruct(image), model.decoder(bits).sigmoid() * 2 - 1)
        assert torch.equal(model.decode(bits - 0.5), model.decode(3 * bits - 1e-3))
        assert model.encode(image).abs().max() <= 1
        drawn = model.sample(Noise(range(400)))
    kinds = {tuple(picture.flatten().tolist()) for picture in drawn}
    assert len(kinds) == 8


def test_watching_the_variance_changes_nothing_and_is_repeatable(tmp_path: Path) -> None:
    weights, watched = [], []
    for every in (0, 1, 1):
        state = tiny_state("discrete-vae", tmp_path / f"{len(weights)}")
        state.model.config = replace(state.model.config, variance_every=every)
        values = [state.advance(tiny_batch(8)) for _ in range(3)]
        weights.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
        watched.append([float(value["vae/gradient_variance"]) for value in values if "vae/gradient_variance" in value])
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    assert watched[0] == [] and len(watched[1]) == 3 and watched[1] == watched[2]
    assert len(set(watched[1])) == 3 and min(watched[1]) > 0


def test_variance_falls_as_the_number_of_draws_grows() -> None:
    image = tiny_batch(8, 4).image
    found = []
    for draws in (2, 32):
        model = small("leave-one-out", 4, draws=draws)
        torch.manual_seed(0)
        found.append(float(model.gradient_variance(image, model.logits(image).detach(), 0)))
    assert 6 < found[0] / found[1] < 100, "about 16 times, or more: the baselines are better too"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "leave-one-out", "draws": 1}, "--model.draws 2"),
        ({"name": "mean-baseline", "draws": 1}, "--model.draws 2"),
        ({"name": "measure-valued", "latents": 65}, "--model.latent-size 64"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        small(**settings)


@EVERY
def test_every_estimator_trains(name: str) -> None:
    """120 steps on eight digits against the best that knows no latent, every pixel's mean: three bits would tell them
    apart."""
    torch.manual_seed(0)
    draws = 1 if ESTIMATORS[name].differentiable else 8
    config = DiscreteVAEConfig(6, name, draws, widths=(16, 32), variance_every=0)  # type: ignore[arg-type]
    model = DiscreteVAE(config, Pictures(1, 8))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    batch = tiny_batch(8, 8)
    pixels = (batch.image + 1) / 2
    mean = pixels.mean(0).clamp(1e-3, 1 - 1e-3)
    trivial = float((pixels * mean.log() + (1 - pixels) * (1 - mean).log()).flatten(1).sum(1).mean())
    for step in range(120):
        optimizer.zero_grad()
        for turn in model.turns(batch, step):
            sum(turn.terms.values()).backward()
        optimizer.step()
    with torch.no_grad():
        bounds = [model.bound(batch.image, Noise(range(8 * i, 8 * i + 8)))["bound"].mean() for i in range(20)]
    assert torch.stack(bounds).mean() > trivial + 1


def test_the_variance_comes_out_of_the_run(tmp_path: Path) -> None:
    run, data = tiny_run("discrete-vae", tmp_path / "usual")
    config = replace(run.config, model=replace(run.config.model, variance_every=2))
    run = Run(tmp_path / "run", config, data.pictures, data.description).create()
    train(run, data)
    logged = [line["vae/gradient_variance"] for line in run.lines() if "vae/gradient_variance" in line]
    assert len(logged) == 3
    with pytest.raises(SystemExit) as done:
        cli.main(["estimators", str(run.folder), "--out", str(tmp_path / "variance.png")])
    assert done.value.code == 0 and (tmp_path / "variance.png").stat().st_size > 5000
