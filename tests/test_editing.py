"""Denoising, editing and filling holes with a diffusion run: Gaussians have closed forms, and bad input is refused."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import tiny_run
from tasvir import cli
from tasvir.config import SamplingConfig
from tasvir.core import Noise
from tasvir.diffusion.editing import edited, from_strength, inpainted, noise_deviation, walk
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight
from tasvir.drawing import Opened
from tasvir.editing import MASKS, Denoiser, named_hole
from tasvir.models import build, recipe
from tasvir.training.loop import train
from tasvir.training.state import State

PROCESSES = {"ddpm": Discrete(1000, "cosine"), "edm": Karras(), "flow": Straight()}
SIX = torch.arange(6.0, dtype=torch.float64)
COVARIANCE = 0.25 * torch.exp(-((SIX[:, None] - SIX) ** 2) / 8) + 0.01 * torch.eye(6, dtype=torch.float64)
MEAN = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)


def wiener(x: Tensor, level: Level) -> Tensor:
    """The expected clean x of the Gaussian."""
    alpha, sigma = level
    gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(6, dtype=torch.float64))
    return MEAN + (x - alpha * MEAN) @ gain.T


def apart(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """The greatest difference of mean and of covariance, in standard deviations."""
    deviation = covariance.diagonal().sqrt()
    of_mean = (x.mean(0) - mean) / deviation
    of_covariance = (torch.cov(x.T) - covariance) / torch.outer(deviation, deviation)
    return float(of_mean.abs().max()), float(of_covariance.abs().max())


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 1.0, 3.0])
def test_the_noise_of_smooth_pictures_is_told(sigma: float) -> None:
    torch.manual_seed(0)
    down, across = torch.meshgrid(torch.linspace(0, 3, 32), torch.linspace(0, 2, 32), indexing="ij")
    smooth = torch.stack([torch.sin(down + across), torch.cos(down * across / 2), down / 3])
    found = noise_deviation(smooth + sigma * torch.randn(40, 3, 32, 32))
    assert abs(float(found.mean()) / sigma - 1) < 0.03 and float((found / sigma - 1).abs().max()) < 0.1


@pytest.mark.parametrize("name", PROCESSES)
def test_strength_is_the_same_noise_on_every_grid(name: str) -> None:
    grid = PROCESSES[name].grid(10)
    for strength in (0.01, 0.3, 0.6, 0.95):
        rest = from_strength(grid, strength)
        ratio = rest.sigma / rest.alpha
        assert float(ratio[0]) == pytest.approx(strength / (1 - strength), rel=1e-9)
        assert (ratio.diff() < 0).all() and float(ratio[-1]) == 0 and 2 <= len(ratio) <= 11


@pytest.mark.parametrize("name", PROCESSES)
def test_editing_keeps_the_distribution(name: str) -> None:
    torch.manual_seed(0)
    clean = MEAN + torch.randn(8000, 6, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    draw = lambda: torch.randn_like(clean)  # noqa: E731
    grid, how, moved = PROCESSES[name].grid(20), SamplingConfig(sampler="heun", clip=False), []
    assert edited(wiener, clean, grid, draw, how, 0.0) is clean
    for strength in (0.2, 0.6, 1.0):
        made = edited(wiener, clean, grid, draw, how, strength)
        of_mean, of_covariance = apart(made, MEAN, COVARIANCE)
        assert of_mean < 0.06 and of_covariance < 0.1
        moved.append(float(torch.corrcoef(torch.stack([made[:, 0], clean[:, 0]]))[0, 1]))
    assert moved[0] > moved[1] > moved[2]


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_holes_are_filled_from_the_conditional_distribution(name: str) -> None:
    """Replacing what is known is not enough; resampling brings the answers to mean and covariance."""
    torch.manual_seed(0)
    known = torch.tensor([True, False, False, True, False, True])
    clean = torch.tensor([0.3, 0, 0, -0.2, 0, 0.4], dtype=torch.float64).expand(1000, 6)
    gain = COVARIANCE[~known][:, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    mean = MEAN[~known] + gain @ (clean[0, known] - MEAN[known])
    covariance = COVARIANCE[~known][:, ~known] - gain @ COVARIANCE[known][:, ~known]
    how, grid = SamplingConfig(sampler="ancestral", clip=False), PROCESSES[name].grid(50)

    def filled(resamplings: int) -> Tensor:
        draw = lambda: torch.randn_like(clean)  # noqa: E731
        return inpainted(wiener, clean, grid, draw, how, known, resamplings, 5)

    once, often = filled(1), filled(10)
    assert torch.equal(often[:, known], clean[:, known])
    assert apart(once[:, ~known], mean, covariance)[0] > 0.4
    of_mean, of_covariance = apart(often[:, ~known], mean, covariance)
    assert of_mean < 0.15 and of_covariance < 0.3


def test_the_way_goes_back_and_arrives() -> None:
    places = list(walk(12, 3, 4))
    assert all(there - here in (1, -4) for here, there in places) and places[-1] == (11, 12)
    assert [here for here, there in places if there < here] == [8, 8, 12, 12]
    assert all(after[0] == before[1] for before, after in pairwise(places))
    assert list(walk(3, 1, 4)) == [(0, 1), (1, 2), (2, 3)]


# --- runs ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny runs, trained for a step at most."""
    folder, found = tmp_path_factory.mktemp("editing"), {}
    for name in ("ddpm", "edm", "flow", "ldm", "vae", "denoise"):
        run, data = tiny_run(name, folder / name, steps=1)
        if recipe(name).foundation:
            train(run, data)
        else:
            torch.manual_seed(0)
            State(build(name, recipe(name).tiny, run.pictures), run, torch.device("cpu")).save()
        found[name] = run.folder
    return found


def picture(place: Path, width: int = 8, height: int = 8) -> Path:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width), dtype=np.uint8)
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place)
    return place


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow"])
def test_denoising_is_the_posterior_mean(name: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pixels that are N(0, 0.3²), in units of which 2 are from black to white, whatever the size."""
    opened = Opened(runs[name])
    process: Process = opened.model.process

    def predict(noisy: Tensor, level: Level, label: Tensor | None) -> Tensor:
        alpha, sigma = level.for_each(noisy)
        clean = alpha * 0.3**2 / (alpha**2 * 0.3**2 + sigma**2) * noisy
        _, skip, out = process.scalings(level.for_each(noisy))
        return (clean - skip * noisy) / out

    monkeypatch.setattr(opened.model, "predict", predict)
    for height, width in ((8, 8), (13, 29), (3, 5)):
        noisy = np.random.default_rng(0).normal(0, 0.5, (height, width, 1)).astype(np.float32)
        made = Denoiser(opened).clean(noisy, sigma=0.2)
        expected = noisy * 0.3**2 / (0.3**2 + (2 * 0.2) ** 2)
        assert made.shape == noisy.shape and np.abs(made / 127.5 - 1 - expected).max() < 1.5 / 127.5


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow", "ldm"])
def test_strength_0_is_the_picture_and_1_is_a_sample(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    given = picture(tmp_path / "in" / "a.png")
    for strength, file in enumerate(("nothing", "half", "all")):
        words = ("--strength", strength / 2, "--seed", 5, "--label", "3", "-n", 2)
        assert called("edit", runs[name], tmp_path / "in", "--out", tmp_path / file, *words) == 0
    whole = [np.asarray(Image.open(tmp_path / file / "a-1.png")) for file in ("nothing", "half", "all")]
    assert np.array_equal(whole[0], np.asarray(Image.open(given))) and not np.array_equal(*whole[1:])
    drawn = Opened(runs[name]).samples([5], labels=[3])
    assert np.abs(whole[2].astype(int) - drawn[0, ..., 0]).max() <= 1
    assert (tmp_path / "all" / "index.csv").read_text().splitlines()[1] == "a-1.png,a.png,5"


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow", "ldm"])
def test_what_is_known_stays_and_an_answer_is_its_seeds(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    given = [picture(tmp_path / "in" / f"{side}.png", side, 8) for side in (8,)]
    hole = np.zeros((8, 8), np.uint8)
    hole[2:5, 3:] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    words = ["--mask", tmp_path / "hole.png", "--steps", 6, "--jump", 2, "--resamplings", 2]
    assert called("inpaint", runs[name], given[0], "--out", tmp_path / "two", *words, "-n", 2) == 0
    assert called("inpaint", runs[name], given[0], "--out", tmp_path / "one", *words, "--seed", 1) == 0
    real = np.asarray(Image.open(given[0]))
    first, second, alone = (
        np.asarray(Image.open(tmp_path / file)) for file in ("two/8-1.png", "two/8-2.png", "one/8.png")
    )
    assert np.array_equal(first[hole == 0], real[hole == 0]) and (name == "ldm" or not np.array_equal(first, second))
    assert np.abs(second.astype(int) - alone).max() <= 1


def test_held_out_pictures_side_by_side(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("denoise", runs["flow"], "--out", tmp_path / "a.png", "--number", 2, "--add", 0.1) == 0
    assert "noise estimated as" in (said := capsys.readouterr().out) and " dB noisy, " in said
    short = ["--number", 2, "--steps", 4, "--jump", 2, "--resamplings", 2]
    assert called("inpaint", runs["flow"], "--mask", "random", "--out", tmp_path / "b.png", *short) == 0
    assert Image.open(tmp_path / "b.png").width > 3 * 96 and Image.open(tmp_path / "a.png").width > 3 * 96
    large = picture(tmp_path / "noisy" / "holiday.png", 21, 13)
    assert called("denoise", runs["flow"], large.parent, "--out", tmp_path / "clean", "--sigma", 0.1) == 0
    assert Image.open(tmp_path / "clean" / "holiday.png").size == (21, 13)


def test_named_holes() -> None:
    for name in MASKS:
        assert named_hole(name, 8).mean() == (0.25 if name in ("centre", "random") else 0.5)
    assert named_hole("centre", 8)[2:6, 2:6].all() and named_hole("bottom", 8)[4:].all()
    assert not np.array_equal(named_hole("random", 28, (0, 1)), named_hole("random", 28, (0, 2)))


BAD = [
    ("denoise ldm", "ldm cannot denoise"),
    ("denoise denoise", "tasvir translate"),
    ("denoise flow --sigma 0", "sigma"),
    ("denoise flow --label eleven", "no label 'eleven'"),
    ("edit vae", "vae cannot edit: that takes a diffusion run"),
    ("edit denoise", "tasvir translate"),
    ("edit flow --strength 1.5", "strength"),
    ("edit flow --guidance 2", "name one with --label"),
    ("edit flow {a} --steps 0", "steps"),
    ("edit ddpm --steps 21", "trained on 20 levels"),
    ("edit flow {a} --out {a}", "name another place"),
    ("edit flow {a}/missing.png", "There is no file or folder"),
    ("inpaint flow --mask nothing", "Or name one of centre"),
    ("inpaint flow --mask left --steps 5", "--jump 5 goes back 5 steps, and there are 5"),
    ("inpaint flow {a} --mask {b}", "9×7 px, and the picture a.png of 8×8 px"),
    ("inpaint flow {a} --mask {black}", "nothing white"),
    ("inpaint flow", "mask"),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_what_cannot_be_done_is_said(
    line: str, said: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"a": picture(tmp_path / "a.png"), "b": picture(tmp_path / "b.png", 9, 7), "black": tmp_path / "black.png"}
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(places["black"])
    command, name, *words = line.format(**places).split()
    out = [] if "--out" in words else ["--out", tmp_path / "out.png"]
    assert called(command, runs[name], *words, *out) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_noise_is_each_pictures_own() -> None:
    """The noise that is added to a picture is that of its seed."""
    assert torch.equal(Noise([4, 5]).draw(1, 8, 8)[1], Noise([5]).draw(1, 8, 8)[0])
