"""Likelihood and denoising of diffusion models: against closed forms of Gaussians, and as `evaluate` asks for them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Trained, tiny_data
from tasvir.config import Refused
from tasvir.core import Noise
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.diffusion.likelihood import (
    bits,
    dequantized,
    discretized,
    log_density,
    path,
    rademacher,
    spacing,
    strata,
    variational_bound,
)
from tasvir.drawing import Opened
from tasvir.metrics import diffusion
from tasvir.metrics.denoising import LinearFilter, errors_by_level
from tasvir.metrics.directions import better, group
from tasvir.metrics.evaluate import Protocol, check, of_run
from tasvir.models import recipe

PROCESSES = (
    Discrete(1000, "linear"),
    Discrete(100, "cosine", "v", zero_terminal_snr=True),
    Karras(),
    Straight(shift=3.0),
)
LEAST = 0.002
MEAN = torch.tensor([0.3, -0.5, 0.0, 0.9]).reshape(1, 2, 2)
MIXED = torch.tensor([[0.3, 0, 0, 0], [0.2, 0.1, 0, 0], [-0.3, 0.2, 0.4, 0], [0.5, 0, 0, 0.05]])
"""Root of a covariance that is far from a multiple of the identity."""


def gaussian(x: Tensor, level: Level) -> Tensor:
    """The best estimate of pictures from N(MEAN, MIXED MIXEDᵀ) at a level of all."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    covariance = (MIXED @ MIXED.T).double()
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(4))
    return MEAN + ((x - alpha * MEAN).flatten(1) @ gain.T.float()).reshape(x.shape)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_likelihood_of_a_known_gaussian(process: Process) -> None:
    """Exact to 1 %, and to the error of the solver's order; with probes right on the average."""
    noise = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    x = MEAN + (noise @ MIXED.T).reshape(12, 1, 2, 2)
    known = torch.distributions.MultivariateNormal(
        MEAN.flatten().double(), (MIXED @ MIXED.T + LEAST**2 * torch.eye(4)).double()
    )
    true = known.log_prob(x.flatten(1).double())
    found = log_density(gaussian, x, path(process, 32, LEAST))
    assert found.dtype == torch.float64 and abs(found.mean() / true.mean() - 1) < 0.01
    assert (found - true).abs().max() < 0.05, "what the noisiest level, taken for noise alone, has of the mean"
    estimated = log_density(gaussian, x, path(process, 32, LEAST), rademacher(Noise(range(12)), 4, (1, 2, 2), x.device))
    assert not torch.equal(estimated, found) and (estimated - found).mean().abs() < 0.5
    assert (estimated - true).abs().max() < 3, "off the diagonal only"


def test_the_flow_starts_and_ends_where_the_process_does() -> None:
    for process in PROCESSES:
        levels = path(process, 16, LEAST)
        ratio = levels.sigma / levels.alpha
        assert torch.allclose(levels.alpha**2 + levels.sigma**2, torch.ones(17, dtype=torch.float64))
        assert float(ratio[0]) == pytest.approx(LEAST) and 20 < float(ratio[-1]) < 80.1 and (ratio.diff() > 0).all()
    assert float((path(Karras(most=5), 4, LEAST).angle[-1]).tan()) == pytest.approx(5)


def test_dequantized_values_lie_side_by_side_and_even_odds_cost_their_number_of_bits() -> None:
    values = torch.arange(256) / 127.5 - 1
    spread = dequantized(values.reshape(1, 1, 16, 16), Noise([3]))
    assert torch.equal(spread, dequantized(values.reshape(1, 1, 16, 16), Noise([3])))
    assert ((spread.flatten() - values).abs() <= spacing() / 2 + 1e-7).all() and spread.unique().numel() == 256
    width = 2 + spacing()
    assert bits(torch.tensor([-7 * math.log(width)]), 7) == pytest.approx(8)
    assert bits(torch.tensor([-7 * math.log(2 + spacing(2))]), 7, shades=2) == pytest.approx(1)


def test_the_discretized_gaussian_is_a_distribution() -> None:
    values = (torch.arange(256) / 127.5 - 1)[:, None]
    mean = torch.tensor([[-1.3, -0.999, 0.0, 0.51, 1.0, 4.0]])
    for deviation in (0.001, 0.1, 3.0):
        found = discretized(values.expand(256, 6), mean.expand(256, 6), deviation)
        assert torch.allclose(found.exp().sum(0), torch.ones(6, dtype=torch.float64), atol=1e-9)
        assert (found > -math.inf).all(), "also far in the tails"
    one = discretized(torch.tensor(51 / 127.5 - 1), torch.tensor(0.2), 0.5)
    normal = torch.distributions.Normal(0.2, 0.5)
    assert float(one.exp()) == pytest.approx(float(normal.cdf(torch.tensor(51.5 / 127.5 - 1)) - normal.cdf(
        torch.tensor(50.5 / 127.5 - 1)
    )), rel=1e-3)  # fmt: skip


def test_strata_are_neighbours_and_leave_no_step_out() -> None:
    for steps in (1, 2, 20, 1000):
        for number in (0, 1, 7, 99, 5000):
            found = [place for first, last in strata(Discrete(steps).levels, number) for place in range(first, last)]
            assert found == list(range(2, steps + 1))
            assert len(strata(Discrete(steps).levels, number)) == min(max(number, min(steps - 1, 1)), steps - 1)


def test_the_variational_bound_of_a_known_gaussian() -> None:
    """No less than the exact cost, within 2 % of it with the right variances, and each term what it should be."""
    spread, number, size = 0.3, 40, 12
    levels = Discrete(200, "linear").levels

    def best(x: Tensor, level: Level) -> Tensor:
        level = level.for_each(x)
        return level.alpha * spread**2 / (level.alpha**2 * spread**2 + level.sigma**2) * x

    def worse(x: Tensor, level: Level) -> Tensor:
        return 0.9 * best(x, level)

    drawn = torch.randn(number, 1, size, size, generator=torch.Generator().manual_seed(0)) * spread
    x = ((drawn.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    exact = -discretized(x, torch.zeros(()), spread).flatten(1).sum(1).mean()

    def cost(estimate: object, evaluations: int, **settings: object) -> dict[str, float]:
        terms = variational_bound(estimate, x, levels, Noise(range(number)), evaluations, **settings)  # type: ignore[arg-type]
        return {name: float(values.mean()) for name, values in terms.items()}

    near, usual, all_steps = cost(best, 30, variances="added"), cost(best, 30), cost(best, 200)
    assert exact < sum(near.values()) < 1.02 * exact < sum(usual.values())
    assert sum(cost(worse, 30).values()) > sum(usual.values()) + 1
    known = spread**2 * levels.sigma**2 / (levels.alpha**2 * spread**2 + levels.sigma**2)
    expected = size**2 / 2 * float(((levels.snr[1:-1] - levels.snr[2:]) * known[2:]).sum())
    assert usual["steps"] == pytest.approx(expected, rel=0.03)
    assert all_steps["steps"] == pytest.approx(expected, rel=0.01)
    assert usual["prior"] == pytest.approx(size**2 / 2 * spread**2 * float(levels.snr[-1]), rel=0.1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Trained(tmp_path_factory.mktemp("runs"), steps=1, sample_every=0)


def test_runs_are_measured_when_asked(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "LOOKS", 10)
    for name in ("ddpm", "flow"):
        lines = of_run(trained[name], Protocol(("flow_bits_per_dim",), number=6))
        passport = lines[0]["passport"]
        assert len(lines) == 1 and lines[0]["n"] == 6 and 0 < lines[0]["value"] < 20
        assert "dequantized" in passport["likelihood"] and passport["given"] == "class" and "rk4" in passport["solver"]
    again = of_run(trained["flow"], Protocol(("flow-likelihood",), number=6))
    assert again == lines, "the same pictures and seeds"
    found = {line["metric"]: line["value"] for line in of_run(trained["ddpm"], Protocol(("vlb",), number=6))}
    parts = found["vlb_prior"] + found["vlb_reconstruction"]
    assert found["vlb_bits_per_dim"] > parts > 0
    with pytest.raises(Refused, match="cannot be measured by vlb: it has no fixed steps"):
        of_run(trained["flow"], Protocol(("vlb",), number=6))
    for row in ("denoising", "flow-likelihood"):
        with pytest.raises(Refused, match=f"cannot be measured by {row}: it has no way to take noise"):
            check(recipe("vae").model, tiny_data(8), Protocol((row,)), ready=False)


def test_denoising_is_measured_beside_what_it_should_beat(trained: dict[str, Path]) -> None:
    found = {line["metric"]: line for line in of_run(trained["flow"], Protocol(("denoising",), number=40))}
    for strength in (0.05, 0.1, 0.2, 0.5):
        denoised, noisy, gain, linear = (
            found[f"{name}_{strength}"]["value"]
            for name in ("denoising_psnr", "noisy_psnr", "denoising_gain", "linear_psnr")
        )
        assert gain == pytest.approx(denoised - noisy) and linear > noisy - 0.1
        assert -20 * math.log10(strength) < noisy < -20 * math.log10(strength) + 5, "clipping helps a little"
    assert linear > noisy + 3, "where there is much noise"
    assert found["denoising_psnr_0.1"]["passport"]["told"] == "strength of the noise, no class"
    assert better("denoising_psnr_0.1") == "higher" and group("linear_psnr_0.5") == "pairs"
    assert better("flow_bits_per_dim") == "lower" and better("reconstruction_psnr") == "higher"


def test_the_linear_filter_is_the_best_one_where_frequencies_are_independent() -> None:
    from scipy.fft import idctn

    generator = np.random.default_rng(0)
    scale = np.linspace(60, 2, 64).reshape(1, 8, 8, 1)
    waves = generator.normal(size=(1500, 8, 8, 1)) * scale
    images = (idctn(waves, axes=(1, 2), norm="ortho") + 128).round().clip(0, 255).astype(np.uint8)
    clean = images.transpose(0, 3, 1, 2) / 127.5 - 1
    noisy = clean + 0.3 * generator.normal(size=clean.shape)
    error = np.square(LinearFilter(images)(noisy, 0.3) - clean).mean()
    variance = np.square(scale / 127.5)
    assert error == pytest.approx((variance * 0.09 / (variance + 0.09)).mean(), rel=0.03)


def test_errors_by_level_are_those_of_the_estimate(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(trained["flow"])
    levels = Level(*(value[1:] for value in opened.model.process.grid(4)))
    found = errors_by_level(opened, opened.held_out[:70], levels)
    assert found.shape == (4,) and found[-1] == pytest.approx(0, abs=1e-8) and (np.diff(found) < 0).all()
    monkeypatch.setattr(opened.model, "estimate", lambda x, level, label=None: x / level.alpha)
    pure = errors_by_level(opened, opened.held_out[:70], levels)
    assert pure[:3] == pytest.approx(((levels.sigma / levels.alpha) ** 2)[:3].numpy(), rel=0.05), "that of the noise"
