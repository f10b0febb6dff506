"""Diffusion shown: inversion against closed forms, walks in noise, the two ways as pictures and films, their panels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import tiny_run
from tasvir import pictures, walks
from tasvir.cli import main
from tasvir.config import SamplerName, SamplingConfig
from tasvir.core import Noise
from tasvir.diffusion import showing
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.diffusion.inversion import deterministic, invert
from tasvir.diffusion.samplers import SAMPLERS
from tasvir.drawing import Opened
from tasvir.report.panels import PANELS, make
from tasvir.report.story import Story
from tasvir.runs import Run
from tasvir.training.loop import train

PROCESSES: dict[str, Process] = {"ddpm": Discrete(1000, "cosine"), "edm": Karras(), "flow": Straight()}
MEAN, DEVIATION = 0.3, 0.5


def gaussian(x: Tensor, level: Level) -> Tensor:
    """The expected clean x where that is N(0.3, 0.5²): what an optimal network would say."""
    gain = level.alpha * DEVIATION**2 / (level.alpha**2 * DEVIATION**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def known(clean: Tensor, level: Level) -> Tensor:
    """Where the probability-flow equation leads from clean pictures: it keeps the quantile of a Gaussian."""
    spread = (level.alpha**2 * DEVIATION**2 + level.sigma**2).sqrt()
    return level.alpha * MEAN + spread / DEVIATION * (clean - MEAN)


def clean_of() -> Tensor:
    return torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 2, 2)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(("sampler", "error", "falls"), [("ddim", 0.1, 2.5), ("heun", 0.006, 8)])
def test_a_gaussians_inversion_is_the_known_linear_map(
    name: str, sampler: SamplerName, error: float, falls: float
) -> None:
    """Errors as a part of the noise, with 20 and 80 steps; to order 1 and 2 they would fall 4 and 16 times."""
    errors = []
    for steps in (20, 80):
        grid = PROCESSES[name].grid(steps)
        found = invert(gaussian, clean_of(), grid, SamplingConfig(sampler=sampler))
        errors.append(float((found - known(clean_of(), grid.at(0))).abs().max() / grid.sigma[0]))
    assert errors[1] < error and errors[0] / errors[1] > falls


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("sampler", "error", "falls"),
    [("ddim", 0.13, 3), ("heun", 5e-4, 30), ("rk4", 6e-3, 10), ("dpm-solver++", 5e-3, 1.6)],
)
def test_a_picture_comes_back_from_its_noise(name: str, sampler: SamplerName, error: float, falls: float) -> None:
    """With 15 and 60 steps; pictures are of values from -1 to 1."""
    how, errors = SamplingConfig(sampler=sampler), []
    for steps in (15, 60):
        grid = PROCESSES[name].grid(steps)
        noise = invert(gaussian, clean_of(), grid, how)
        back = SAMPLERS[sampler].run(gaussian, noise, grid, lambda: torch.zeros(()), how)
        errors.append(float((back - clean_of()).abs().max()))
    assert errors[1] < error and errors[0] / errors[1] > falls


def test_random_samplers_give_way_to_their_steady_relatives() -> None:
    assert deterministic(SamplingConfig(sampler="ancestral")).sampler == "ddim"
    assert deterministic(SamplingConfig(sampler="stochastic-heun")).sampler == "heun"
    assert deterministic(SamplingConfig(sampler="ddim", eta=0.5)).eta == 0


def test_places_and_their_names() -> None:
    levels = showing.places(PROCESSES["flow"], [0, 0.25, 0.5, 1])
    assert levels.sigma.tolist() == pytest.approx([0, 0.25, 0.5, 1])
    told = [(showing.caption(PROCESSES["flow"], levels.at(i)), showing.ratio(levels.at(i))) for i in range(4)]
    assert told == [("t 0.00", "clean"), ("t 0.25", "10 dB"), ("t 0.50", "0 dB"), ("t 1.00", "noise")]
    ddpm = showing.places(PROCESSES["ddpm"], [0, 0.4, 1])
    assert [showing.caption(PROCESSES["ddpm"], ddpm.at(i)) for i in range(3)] == ["t 0", "t 400", "t 1000"]
    assert float(ddpm.sigma[1]) == pytest.approx(float(PROCESSES["ddpm"].levels.sigma[400]))  # type: ignore[attr-defined]
    edm = showing.places(PROCESSES["edm"], [0, 1])
    assert showing.caption(PROCESSES["edm"], edm.at(1)) == "σ 80"
    assert showing.decibels(Level(torch.tensor(1.0), torch.tensor(10.0))) == pytest.approx(-20)
    assert showing.ratio(edm.at(1)) == "−38 dB"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny runs, hardly trained; `edm` knows no classes."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("flow", "ldm", "consistency", "vae"):
        train(*tiny_run(name, folder / name, steps=1, sample_every=0))
    run, data = tiny_run("edm", folder / "edm", steps=1, sample_every=0)
    config = replace(run.config, model=replace(run.config.model, conditional=False))
    train(Run(folder / "plain", config, run.pictures, data.description).create(), data)
    return {name: folder / name for name in ("flow", "ldm", "consistency", "vae", "plain")}


STEPWISE = pytest.mark.parametrize("name", ["flow", "ldm", "consistency", "plain"])


def tasvir(*words: object) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 0


@STEPWISE
def test_what_unfolds_is_what_is_sampled(trained: dict[str, Path], name: str) -> None:
    opened = Opened(trained[name], tells=False)
    how = opened.model.sampling()
    labels = [3, 1] if opened.conditional else None
    moments = showing.unfolded(opened, [5, 6], labels, how)
    assert len(moments) == how.steps + 1
    assert (moments[-1].noisy == opened.samples([5, 6], labels=labels, how=how)).all()
    grid = opened.model.process.grid(how.steps)
    assert [float(one.level.sigma) for one in moments] == pytest.approx(grid.sigma.tolist())
    start = showing.pictured(opened.model, float(grid.sigma[0]) * Noise([5, 6]).draw(*opened.model.shape), grid.at(0))
    assert (moments[0].noisy == start).all()


@STEPWISE
def test_noise_grows_as_it_should(trained: dict[str, Path], name: str) -> None:
    opened = Opened(trained[name], tells=False)
    real = opened.real(None, 3)
    moments = showing.noised(opened, real, showing.places(opened.model.process, [0, 0.3, 1]), None, seed=1)
    assert (moments[0].noisy == moments[0].expected).all()
    if name != "ldm":  # its latents lose a little
        assert (moments[0].noisy == real).all()
        error = [float(((one.noisy.astype(float) - real) ** 2).mean()) for one in moments]
        assert error[0] < error[1] < error[2]
    alone = showing.noised(opened, real[1:2], showing.places(opened.model.process, [1]), None, seed=2)
    assert np.abs(alone[0].noisy[0].astype(int) - moments[2].noisy[1]).max() <= 1


@pytest.mark.parametrize("name", ["flow", "plain"])
def test_walks_between_pictures_begin_and_end_at_them(trained: dict[str, Path], name: str) -> None:
    opened = Opened(trained[name], tells=False)
    how = deterministic(opened.model.sampling(steps=40, sampler="heun"))
    at = walks.stops(opened, walks.Route(walks.HELD_OUT, 2, 2, how=how))
    images = walks.rows(opened, at, 3).reshape(2, 3, 8, 8, 1)
    labels = np.asarray(opened.dataset.test.labels)
    for walk in range(2):
        found = [np.abs(opened.held_out.astype(int) - images[walk, end]).reshape(len(labels), -1) for end in (0, 2)]
        nearest = [int(one.mean(1).argmin()) for one in found]
        assert all(one.mean(1).min() < 8 for one in found) and nearest[0] != nearest[1]
        if opened.conditional:
            assert at.classes is not None and {int(labels[one]) for one in nearest} == {at.classes[walk]}


def test_walks_between_given_pictures_and_between_seeds(trained: dict[str, Path], tmp_path: Path) -> None:
    opened = Opened(trained["flow"], tells=False)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, image in zip(files, opened.real(None, 2), strict=True):
        pictures.to_pil(image).save(file)
    tasvir("interpolate", trained["flow"], *files, "--sampling-steps", 40, "--steps", 3, "--out", tmp_path / "x.npz")
    walked = np.load(tmp_path / "x.npz")["images"]
    assert np.abs(walked[[0, 2]].astype(int) - opened.real(None, 2)).mean() < 8
    route = walks.Route(None, 2, 2, "4", seed=7, how=deterministic(opened.model.sampling()))
    ends = walks.rows(opened, walks.stops(opened, route), 2)
    own = opened.samples(range(7, 11), labels=[4] * 4, how=route.how)
    assert np.abs(ends.astype(int) - own).max() <= 1
    for name in ("ldm", "consistency"):
        tasvir("interpolate", trained[name], "-n", 1, "--steps", 2, "--out", tmp_path / f"{name}.png")


@pytest.mark.parametrize("name", ["flow", "ldm"])
def test_commands_write_strips_films_and_arrays(trained: dict[str, Path], name: str, tmp_path: Path) -> None:
    run = trained[name]
    tasvir("noising", run, "-n", 2, "--at", 0, 0.5, 1, "--denoised", "--out", tmp_path / "noising.png")
    tasvir("noising", run, "-n", 2, "--columns", 5, "--out", tmp_path / "noising.npz")
    held = np.load(tmp_path / "noising.npz")
    assert held["noisy"].shape == (5, 2, 8, 8, 1) == held["expected"].shape and held["sigma"][0] == 0
    tasvir("unfold", run, "-n", 2, "--out", tmp_path / "unfolding.png")
    tasvir("unfold", run, "-n", 3, "--show", "noisy", "--out", tmp_path / "unfolding.gif")
    wide = Image.open(tmp_path / "noising.png")
    assert wide.height > 4 * pictures.NAMED and wide.width > 3 * pictures.NAMED
    with Image.open(tmp_path / "unfolding.gif") as film:
        assert getattr(film, "n_frames", 1) > 1


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("vae", ["noising"], "draws a picture at once"),
        ("vae", ["unfold"], "draws a picture at once"),
        ("vae", ["interpolate", "--sampling-steps", "3"], "is for diffusion models"),
        ("flow", ["noising", "--at", "1.5"], "1.5 is no part of the way"),
        ("flow", ["noising", "--at", "0.5", "--columns", "3"], "leave one out"),
        ("consistency", ["unfold", "--steps", "4"], "3 levels"),
        ("plain", ["unfold", "--label", "3"], "does not know classes"),
        ("consistency", ["interpolate", "held-out"], "cannot encode pictures"),
        ("flow", ["interpolate", "--space", "w"], "has no w"),
    ],
)
def test_what_cannot_be_is_refused(
    trained: dict[str, Path], name: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main([words[0], str(trained[name]), *words[1:]])
    assert done.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flow", "consistency"])
def test_panels_of_the_report(trained: dict[str, Path], name: str) -> None:
    made = {one.title: one.content for one in make(Story(trained[name]), PANELS)}
    own = {"From picture to noise", "From noise to picture", "Samples by number of steps", "Error by level of noise"}
    assert own <= set(made)
    assert ("Guidance" in made) == (name == "flow")
    assert not {"Latent space", "Interpolations", "Manifold", "Traversals"} & set(made)
    assert not [title for title in own if made[title].kind == "words"]
    chart = made["Error by level of noise"].charts[0]
    assert (np.diff(chart.lines[0].steps) > 0).all() and np.isfinite(chart.lines[0].values).all()
