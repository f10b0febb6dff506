"""Samplers driven by the best denoiser there is for Gaussian pictures, held against exact answers and diffusers."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasvir.config import Pictures, Refused, SamplingConfig
from tasvir.core import Noise
from tasvir.diffusion import samplers
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.diffusion.samplers import SAMPLERS, Denoise
from tasvir.models import recipe

D = 3
MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
TURN, _ = torch.linalg.qr(torch.tensor([[1.0, 2, 0], [0, 1, 3], [1, 0, 1]], dtype=torch.float64))
COVARIANCE = TURN @ torch.diag(torch.tensor([0.05, 0.3, 1.0], dtype=torch.float64)) @ TURN.T
UNIT = torch.eye(D, dtype=torch.float64)


def spread(level: Level, covariance: Tensor) -> Tensor:
    """Covariance of x at a level."""
    return level.alpha**2 * covariance + level.sigma**2 * UNIT


def optimal(covariance: Tensor = COVARIANCE) -> Denoise:
    """The expected clean x where clean x are N(MEAN, covariance)."""

    def denoise(x: Tensor, level: Level) -> Tensor:
        gain = level.alpha * covariance @ torch.linalg.inv(spread(level, covariance))
        return MEAN + (x - level.alpha * MEAN) @ gain.T

    return denoise


def ways(name: str, grid: Level, covariance: Tensor = COVARIANCE, **how: Any) -> tuple[Tensor, Tensor, int]:
    """Where a sampler led by the optimal denoiser ends without any noise [D], and how far each number of the noise, of
    the start and then of every draw, takes it from there [M,D]; and how often it drew.

    All is linear, so that these tell exactly what is drawn: the mean, and `ways.T @ ways`, the covariance.
    """
    rows = 1 + D * (len(grid.alpha) + 1)
    x = torch.zeros(rows, D, dtype=torch.float64)
    x[1 : 1 + D] = grid.sigma[0] * UNIT
    drawn = 0

    def draw() -> Tensor:
        nonlocal drawn
        drawn += 1
        noise = torch.zeros_like(x)
        noise[1 + D * drawn : 1 + D * (drawn + 1)] = UNIT
        return noise

    made = SAMPLERS[name].run(optimal(covariance), x, grid, draw, SamplingConfig(**how))
    return made[0], made[1:] - made[0], drawn


def curved(steps: int) -> Level:
    """Levels with α² + σ² = 1, their angles evenly spaced."""
    angle = torch.linspace(1.5, 0.05, steps + 1, dtype=torch.float64)
    return Level(angle.cos(), angle.sin())


def straight(steps: int) -> Level:
    time = torch.linspace(0.98, 0.04, steps + 1, dtype=torch.float64)
    return Level(1 - time, time)


def karras(steps: int) -> Level:
    return Level(*(value[:-1] for value in Karras(least=0.05, most=10.0).grid(steps + 1)))


ORDERS = {"euler": 1, "ddim": 1, "heun": 2, "dpm-solver++": 2, "rk4": 4}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("path", [curved, straight, karras])
def test_the_error_falls_at_the_order_of_the_solver(name: str, path: Callable[[int], Level]) -> None:
    """Against the exact solution: (x - α·mean) keeps its place within the spread of x, along each axis."""
    values, axes = torch.linalg.eigh(COVARIANCE)
    start = torch.tensor([[1.0, -0.4, 0.7]], dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        grid = path(steps)
        first, last = grid.at(0), grid.at(-1)
        x = first.alpha * MEAN + first.sigma * start
        wider = ((last.alpha**2 * values + last.sigma**2) / (first.alpha**2 * values + first.sigma**2)).sqrt()
        exact = last.alpha * MEAN + ((x - first.alpha * MEAN) @ axes * wider) @ axes.T
        found = SAMPLERS[name].run(optimal(), x, grid, forbidden, SamplingConfig())
        errors.append(float((found - exact).norm()))
    order = float(torch.tensor(errors[0] / errors[1]).log2())
    assert order == pytest.approx(ORDERS[name], abs=0.15) and errors[1] < 0.01


def forbidden() -> Tensor:
    raise AssertionError("nothing is to be drawn")


LONG = {"karras": Karras().grid(160), "straight": Straight().grid(160), "discrete": Discrete(1000, "cosine").grid(160)}
ERRORS = {"euler": 0.04, "ddim": 0.04, "ancestral": 0.07, "heun": 1e-3, "dpm-solver++": 1e-3, "rk4": 1e-3}


@pytest.mark.parametrize("process", LONG)
@pytest.mark.parametrize("name", ERRORS)
def test_mean_and_covariance(name: str, process: str) -> None:
    """After 160 steps from noise alone, which at σ = 80 forgets the mean that x has there."""
    mean, led, drawn = ways(name, LONG[process])
    assert drawn == (159 if name == "ancestral" else 0)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.006 if process == "karras" else 1e-4)
    assert relative(led.T @ led, COVARIANCE) < ERRORS[name]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("process", [Karras(), Straight()])
def test_stochastic_heun_keeps_the_marginals(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the paper's inflated noise, which makes pictures vary a little more."""
    inflated = ways("stochastic-heun", process.grid(160), churn=10.0)[1]
    monkeypatch.setattr(samplers, "INFLATED", 1.0)
    errors = []
    for steps in (80, 160):
        mean, led, drawn = ways("stochastic-heun", process.grid(steps), churn=10.0)
        assert 0.7 * steps < drawn < steps and led[:D].norm() < 0.1, "little of the first noise is left"
        torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-3)
        errors.append(relative(led.T @ led, COVARIANCE))
    assert errors[1] < 4e-3 and errors[0] / errors[1] > 3, errors
    assert 0.002 < float((inflated.T @ inflated).trace() / (led.T @ led).trace()) - 1 < 0.02
    none = ways("stochastic-heun", process.grid(20), churn=0.0)
    assert none[2] == 0 and torch.equal(none[1], ways("heun", process.grid(20))[1])


@pytest.mark.parametrize("grid", [Discrete(60).grid(60), Discrete(60, "cosine").grid(60), Karras().grid(9)])
def test_ddim_with_all_its_noise_is_ancestral(grid: Level) -> None:
    """In every coefficient; half of eta draws as often, and less."""
    for one, other in zip(ways("ddim", grid, eta=1.0)[:2], ways("ancestral", grid)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    rows = slice(-2 * D, -D)  # the last draw
    half, whole = (ways("ddim", grid, eta=eta) for eta in (0.5, 1.0))
    assert half[2] == whole[2] == len(grid.alpha) - 2
    torch.testing.assert_close(half[1][rows], whole[1][rows] / 2)


@pytest.mark.parametrize("variance, covariance", [("small", 0 * UNIT), ("large", UNIT)])
def test_both_variances_are_exact_where_they_claim(variance: str, covariance: Tensor) -> None:
    """Small for one known picture, large for pictures N(mean, 1), in however few steps."""
    time = torch.linspace(1, 0.2, 4, dtype=torch.float64)
    for grid in (Level(1 - time, time), Level((1 - time**2).sqrt(), time)):
        mean, led, drawn = ways("ancestral", grid, covariance, variance=variance)
        torch.testing.assert_close(mean, grid.alpha[-1] * MEAN)
        torch.testing.assert_close(led.T @ led, spread(grid.at(-1), covariance))
        assert drawn == 3


# --- against diffusers ---

STEPS = 10
PROCESS = Discrete(1000, "linear")


def predicted(x: Tensor, place: int) -> Tensor:
    """Noise, by a model that knows the step and thinks of some picture."""
    level = PROCESS.levels.at(place)
    return (x - level.alpha * torch.tanh(1.5 * x + place / 500 - 1)) / level.sigma


def toy(x: Tensor, level: Level) -> Tensor:
    """The clean picture that the model's noise leaves, at any level."""
    own = PROCESS.own(level)
    scale = own.sigma / level.sigma
    place = int(PROCESS.place(own).round())
    return (scale * x - own.sigma * predicted(scale * x, place)) / own.alpha


@pytest.fixture(scope="module")
def theirs() -> Callable[..., Any]:
    """A scheduler of diffusers over our own levels, set to `STEPS` steps."""

    def made(module: str, name: str, **settings: Any) -> Any:
        kind = getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), name)
        kept = PROCESS.levels.alpha**2
        betas = (1 - kept[1:] / kept[:-1]).tolist()
        scheduler = kind(trained_betas=betas, timestep_spacing="trailing", **settings)
        scheduler.alphas_cumprod = kept[1:]
        scheduler.set_timesteps(STEPS)
        return scheduler

    return made


def start() -> Tensor:
    return torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def stream(seed: int = 2) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_is_that_of_diffusers(theirs: Any, variance: str) -> None:
    scheduler = theirs("ddpm", "DDPMScheduler", variance_type=f"fixed_{variance}", clip_sample=False)
    x, generator = start(), torch.Generator().manual_seed(2)
    for step in scheduler.timesteps[:-1]:
        x = scheduler.step(predicted(x, int(step) + 1), int(step), x, generator=generator).prev_sample
    step = int(scheduler.timesteps[-1])  # there they draw noise for the last picture too, the first paper does not
    x = scheduler.step(predicted(x, step + 1), step, x, generator=generator).pred_original_sample
    how = SamplingConfig(variance=variance)  # type: ignore[arg-type]
    close(SAMPLERS["ancestral"].run(toy, start(), PROCESS.grid(STEPS), stream(), how), x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_that_of_diffusers(theirs: Any, eta: float) -> None:
    scheduler = theirs("ddim", "DDIMScheduler", clip_sample=False)
    x, draw = start(), stream()
    for step in scheduler.timesteps:
        x = scheduler.step(predicted(x, int(step) + 1), int(step), x, eta=eta, variance_noise=draw()).prev_sample
    close(SAMPLERS["ddim"].run(toy, start(), PROCESS.grid(STEPS), stream(), SamplingConfig(eta=eta)), x)


def test_dpm_solver_is_that_of_diffusers(theirs: Any) -> None:
    scheduler = theirs("dpmsolver_multistep", "DPMSolverMultistepScheduler", algorithm_type="dpmsolver++")
    assert (scheduler.config.solver_order, scheduler.config.solver_type) == (2, "midpoint")
    x = start()
    for step in scheduler.timesteps:
        x = scheduler.step(predicted(x, int(step) + 1), step, x).prev_sample
    close(SAMPLERS["dpm-solver++"].run(toy, start(), PROCESS.grid(STEPS), forbidden, SamplingConfig()), x)


def test_heun_is_that_of_diffusers(theirs: Any) -> None:
    """Theirs goes along σ/α, with x/α."""
    scheduler = theirs("heun_discrete", "HeunDiscreteScheduler")
    grid = PROCESS.grid(STEPS)
    grid = Level(torch.ones_like(grid.alpha), grid.sigma / grid.alpha)
    x = first = start() * grid.sigma[0]
    for step in scheduler.timesteps:
        x = scheduler.step(predicted(scheduler.scale_model_input(x, step), int(step) + 1), step, x).prev_sample
    close(SAMPLERS["heun"].run(toy, first, grid, forbidden, SamplingConfig()), x)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected.double(), rtol=1e-5, atol=1e-5)


# --- with networks ---

NO_SIGNAL = {"zero_terminal_snr": True, "prediction": "v"}


def random_model(name: str, **settings: Any) -> Any:
    """A tiny model of three classes whose weights are all random, none of them zero."""
    torch.manual_seed(0)
    model = recipe(name).model(replace(recipe(name).tiny, **settings), Pictures(1, 8, ("a", "b", "c")))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow"])
@torch.no_grad()
def test_guidance_and_scale(name: str) -> None:
    model, x, label = random_model(name), torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 1])
    level = Level(torch.tensor(0.8), torch.tensor(0.6))
    told, untold = model.estimate(x, level, label), model.estimate(x, level)
    assert not torch.allclose(told, untold, atol=0.01)
    for guidance in (0.0, 0.3, 1.0, 4.0):
        found = model.estimate(x, level, label, guidance)
        torch.testing.assert_close(found, guidance * told + (1 - guidance) * untold, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.estimate(3 * x, Level(*(3 * value for value in level))), untold)


@pytest.mark.parametrize("name, settings", [("ddpm", {}), ("ddpm", NO_SIGNAL), ("edm", {}), ("flow", {"shift": 0.1})])
def test_samples_are_finite_in_however_few_steps(name: str, settings: dict[str, Any]) -> None:
    model = random_model(name, **settings)
    for sampler in SAMPLERS:
        if SAMPLERS[sampler].distilled:
            continue
        for steps in (1, 2):
            how = model.sampling(sampler=sampler, steps=steps, clip=False, guidance=2.0)
            found = model.sample(Noise([0]), torch.tensor([2]), how)
            assert torch.isfinite(found).all(), (sampler, steps)
    with pytest.raises(Refused, match="--steps is 0"):
        model.sampling(steps=0)
    with pytest.raises(Refused, match="--variance is for the sampler ancestral"):
        model.sampling(sampler="heun", variance="large")


def test_more_steps_than_levels_are_refused() -> None:
    with pytest.raises(Refused, match="--steps is 21; the model was trained on 20"):
        random_model("ddpm").sampling(steps=21)
