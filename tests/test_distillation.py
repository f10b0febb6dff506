"""Consistency distillation against closed forms for Gaussian pictures, and against what its teacher can do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_batch, tiny_run
from tasvir.commands.training import Train
from tasvir.config import Foundation, Pictures, Refused, SamplingConfig
from tasvir.core import Batch, Noise, abilities
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.diffusion.samplers import SAMPLERS
from tasvir.models import build, recipe
from tasvir.models.diffusion.consistency import STEEPEST, Consistency, Few, stepped
from tasvir.models.diffusion.diffusion import Diffusion
from tasvir.training.foundation import check
from tasvir.training.loop import train

MEAN, VARIANCE = torch.tensor([0.4, -0.6]), torch.tensor([0.05, 0.3])
"""Of pictures of one row, whose pixels lie in turn around one and the other."""
CLASSES = ("a", "b", "c")
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "edm": ("edm", {}),
    "flow": ("flow", {}),
    "noise": ("ddpm", {"prediction": "noise"}),
    "v": ("ddpm", {"prediction": "v", "zero_terminal_snr": True}),
    "picture": ("ddpm", {"prediction": "picture"}),
    "unconditional": ("edm", {"conditional": False}),
}


def expected(x: Tensor, level: Level, *_: Any) -> Tensor:
    """The best estimate of the clean Gaussian x: the exact teacher."""
    alpha, sigma = level.for_each(x)
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def ended(x: Tensor, level: Level, *_: Any) -> Tensor:
    """Where the probability-flow path through x ends: the quantile of x stays the same."""
    alpha, sigma = level.for_each(x)
    return MEAN + (VARIANCE / (alpha**2 * VARIANCE + sigma**2)).sqrt() * (x - alpha * MEAN)


def student(name: str = "edm", size: int = 8, **config: Any) -> Consistency:
    torch.manual_seed(0)
    below, settings = TEACHERS[name]
    foundation = Foundation(below, replace(recipe(below).tiny, **settings), "foundation")
    pictures = Pictures(1, size, CLASSES)
    model = build("consistency", replace(recipe("consistency").tiny, **config), pictures, foundation)
    assert isinstance(model, Consistency)
    with torch.no_grad():  # a teacher that says something
        for parameter in model.teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.begin()
    return model


@pytest.mark.parametrize("process", [Karras(), Straight(), Discrete(prediction="v")])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_exact_function_draws_the_right_mean_and_variance(process: Process, steps: int) -> None:
    """Exact to what is left of the picture in the first level: all is linear, so each noise is followed by itself."""
    grid = Few(process, 18).grid(steps)

    def drawn(which: int | None) -> Tensor:
        noises = iter(torch.eye(steps + 1)[which].tolist() if which is not None else [0.0] * (steps + 1))
        x = torch.full((1, 1, 1, 2), next(noises)) * float(grid.sigma[0])
        row = SAMPLERS["consistency"].run(ended, x, grid, lambda: torch.full_like(x, next(noises)), SamplingConfig())
        assert len(list(noises)) == 1, "one noise for each step"
        return row.flatten()

    mean = drawn(None)
    ways = torch.stack([drawn(which) - mean for which in range(steps)])
    assert torch.allclose(mean, MEAN, atol=5e-3)
    assert torch.allclose(ways.square().sum(0), VARIANCE, rtol=5e-3)


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("euler", 1)])
def test_at_the_exact_function_the_loss_is_the_solvers_error(solver: Any, order: int) -> None:
    """What is left of the loss falls as a step's error does, by 2 to the order + 1 where there are twice the levels."""
    left = []
    for levels in (64, 128):
        model = student(levels=levels, solver=solver, sampling=SamplingConfig("consistency", 2, clip=False))
        model.teacher.estimate, model.estimate = expected, ended  # type: ignore[method-assign,assignment]
        torch.manual_seed(1)
        clean = MEAN + VARIANCE.sqrt() * torch.randn(20_000, 1, 1, 2)
        turn = next(model.turns(Batch(clean, torch.zeros(20_000, dtype=torch.int64)), 0))
        left.append(float(turn.watch["mse"].sqrt()))
    assert left[0] < 0.01
    assert left[0] / left[1] == pytest.approx(2 ** (order + 1), rel=0.2)
    model.estimate = expected  # type: ignore[method-assign]
    blurred = next(model.turns(Batch(clean, torch.zeros(20_000, dtype=torch.int64)), 0)).watch["mse"].sqrt()
    assert blurred > 10 * left[1], "the teacher's own estimates are not consistent"


@pytest.mark.parametrize("name", TEACHERS)
def test_any_teacher_is_distilled(name: str) -> None:
    """The student starts as its teacher, is asked for what it knows, and a step to a clean picture is the teacher's."""
    model = student(name, levels=4)
    assert model.conditional == (name != "unconditional") and abilities(model) == ["sample"]
    weights = model.teacher.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.network.state_dict().items())
    label = torch.tensor([0, 2]) if model.conditional else None
    batch = replace(tiny_batch(8, 2), label=torch.tensor([0, 2]))
    turn = next(model.turns(batch, 0))
    turn.terms["loss"].backward()
    gradients = [parameter.grad for parameter in model.network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())

    model.eval()
    with torch.no_grad():
        row = Level(*(value.float() for value in model.process.row))
        level, after = (Level(*(value[[place]].expand(2) for value in row)) for place in (3, 4))
        x = level.mixed(batch.image, torch.randn_like(batch.image))
        target = model.target(x, level, after, label)
        assert torch.allclose(target, model.teacher.estimate(x, level, label).clamp(-1, 1), atol=1e-5)
        for steps in (1, 2, 4):
            drawn = model.sample(Noise([5, 6]), label, model.sampling(steps=steps))
            assert torch.isfinite(drawn).all() and drawn.abs().max() <= 1
            alone = model.sample(Noise([6]), None if label is None else label[1:], model.sampling(steps=steps))
            assert torch.allclose(alone, drawn[1:], atol=1e-5)


def test_the_teachers_steps_are_heuns() -> None:
    """All steps, each picture's with levels of its own, are what the sampler does with one level for all."""
    teacher = student("flow").teacher.eval()
    label, x = torch.tensor([0, 1]), torch.randn(2, 1, 8, 8)
    row = Straight().grid(5)
    with torch.no_grad():
        denoise = teacher.denoiser(label, SamplingConfig("heun", 5))
        whole = SAMPLERS["heun"].run(denoise, x, row, lambda: x, SamplingConfig())
        for place in range(5):
            here, there = (Level(*(v[[at]].expand(2) for v in row)).for_each(x) for at in (place, place + 1))
            x = stepped(lambda x, at: denoise(x, Level(at.alpha.flatten(), at.sigma.flatten())), x, here, there)
    assert torch.allclose(x, whole, atol=1e-5)


def test_guidance_is_learned_from_the_teacher() -> None:
    model = student(guidance=3.0).eval()
    level, clean = (Level(torch.ones(2), torch.full((2,), sigma)) for sigma in (0.5, 0.0))
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        told, untold = model.teacher.estimate(x, level, label), model.teacher.estimate(x, level, None)
        target = model.target(x, level, clean, label)
    assert torch.allclose(target, (untold + 3 * (told - untold)).clamp(-1, 1), atol=1e-5)
    assert not torch.allclose(target, told.clamp(-1, 1), atol=1e-4)


def test_noise_is_predicted_only_where_something_of_the_picture_is_left() -> None:
    row = Few(Discrete(prediction="noise"), 18).row
    assert float((row.sigma / row.alpha).max()) == pytest.approx(STEEPEST)
    assert torch.allclose(row.alpha**2 + row.sigma**2, torch.ones_like(row.alpha))
    many = Few(Discrete(schedule="linear", prediction="noise"), 100)
    assert (many.row.angle.diff() < 0).all() and many.levels == len(many.row.alpha) - 1 < 100
    assert float(Few(Straight(), 18).row.alpha[0]) == 0
    assert [round(float(sigma), 3) for sigma in Few(Karras(), 18).grid(2).sigma] == [80.0, 1.923, 0.0]


def test_what_it_cannot_do_is_said() -> None:
    model = student()
    for sampler in set(SAMPLERS) - {"consistency"}:
        with pytest.raises(Refused, match="which is distilled: it says where a path ends; ask for consistency"):
            model.sampling(sampler=sampler)
    with pytest.raises(Refused, match="which is not distilled.*ask for ancestral, ddim"):
        model.teacher.sampling(sampler="consistency")
    with pytest.raises(Refused, match="distilled with guidance 1, which cannot be changed after"):
        model.sampling(guidance=2.0)
    with pytest.raises(Refused, match="--steps is 4; the model was distilled at 3 levels of noise"):
        model.sampling(steps=4)
    with pytest.raises(Refused, match="--eta is for the sampler ddim, not consistency"):
        model.sampling(eta=0.5)
    with pytest.raises(Refused, match="--model.guidance is between classes, and what is distilled knows none"):
        student("unconditional", guidance=2.0)
    with pytest.raises(Refused, match="--model.levels is 21, and what is distilled was trained on fewer"):
        student("noise", levels=21)
    with pytest.raises(Refused, match="distilled: it says where"):
        student(sampling=SamplingConfig("ddim"))


class Gain(nn.Module):
    """A network of one number for each level; where all are 0 it is the best denoiser of N(0, 0.25), EDM's unit."""

    def __init__(self, told: Tensor):
        super().__init__()
        self.register_buffer("told", told)
        self.gain = nn.Parameter(torch.zeros(len(told)))

    def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None) -> Tensor:
        place = (told[:, None] - self.told).abs().argmin(1)
        return self.gain[place][:, None, None, None] * x


def test_a_student_draws_at_once_what_its_teacher_draws_in_all_steps() -> None:
    """From the same noise, to 5 % of it; the teacher itself gives the mean in one step, which is 100 % away."""
    model = student("unconditional", levels=6, sampling=SamplingConfig("consistency", 1, clip=False))
    row, x = model.process.row, 80 * torch.randn(500, 1, 1, 2)
    known = model.process.told(Level(row.alpha[:-1].float(), row.sigma[:-1].float()))
    model.network, model.teacher.network = Gain(known), Gain(known).requires_grad_(False)  # type: ignore[assignment]
    how = SamplingConfig("heun", 6, clip=False)
    wanted = SAMPLERS["heun"].run(model.teacher.denoiser(None, how), x, row, lambda: x, how)

    def apart(by: Diffusion) -> float:
        with torch.no_grad():
            made = by.estimate(x, Level(*(value.float() for value in row.at(0))))
        return float((made - wanted).norm() / wanted.norm())

    assert apart(model.teacher) == pytest.approx(1, abs=0.02) and apart(model) == apart(model.teacher)
    optimizer = torch.optim.Adam(model.network.parameters(), 0.03)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / 300)
        turn = next(model.turns(Batch(0.5 * torch.randn(64, 1, 1, 2)), step))
        optimizer.zero_grad()
        turn.terms["loss"].backward()
        optimizer.step()
    assert apart(model) < 0.05


def test_what_it_stands_on_is_checked(tmp_path: Path) -> None:
    run, data = tiny_run("edm", tmp_path / "edm", steps=1)
    train(run, data)
    check("consistency", run)
    other, _ = tiny_run("consistency", tmp_path / "other", steps=1)
    with pytest.raises(Refused, match="stands on another run itself: it was trained as consistency"):
        check("consistency", other)
    vae, _ = tiny_run("vae-2d", tmp_path / "vae", steps=1)
    with pytest.raises(Refused, match="cannot denoise: it was trained as vae-2d"):
        check("consistency", vae)
    words = ["consistency", "--data", "digits", "--data.labels", "none", "--on", str(run.folder)]
    with pytest.raises(Refused, match="knows other classes than these pictures have"):
        Train.from_words([*words, "--out", str(tmp_path / "new")])()
    assert not (tmp_path / "new").exists()
