"""Walking through latent spaces: what is moved, in which order, what a mixture draws; and each command that does so."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_data, tiny_run
from tasvir import cli, density, latent_space, pictures
from tasvir.config import Refused
from tasvir.core import Grid, Noise, abilities
from tasvir.drawing import Opened, class_number
from tasvir.encoded import read_encoded
from tasvir.models import RECIPES, recipe
from tasvir.report import figures, panels
from tasvir.report.story import Story
from tasvir.training.loop import train


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from the name of a recipe to its tiny trained run, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name
            train(*tiny_run(name, folder))
            made[name] = folder
        return made[name]

    return folder_of


class Pixels(nn.Module):
    """A linear model: latents are pixels. One that knows classes adds a hundredth of theirs."""

    latent_size = 64
    stepwise = False

    def __init__(self, conditional: bool = False):
        super().__init__()
        self.conditional = conditional

    def shift(self, label: Tensor | None) -> Any:
        assert self.conditional or label is None
        return 0 if label is None else 0.02 * label[:, None]

    def encode(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return image.flatten(1) - self.shift(label)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return (latent + self.shift(label)).view(-1, 1, 8, 8).clamp(-1, 1)

    def reconstruct(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(image, label), label)

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(0.1 * noise.draw(64), label)


@pytest.fixture
def linear(folders: Any) -> Opened:
    opened = Opened(folders("ae"))
    opened.model = Pixels()
    return opened


@pytest.fixture
def classy(folders: Any) -> Opened:
    opened = Opened(folders("ae"))
    opened.model = Pixels(conditional=True)
    return opened


# --- arithmetic ---


def test_arithmetic_is_exact_where_latents_are_pixels(linear: Opened) -> None:
    data = linear.dataset
    images, labels = np.asarray(data.train.images, float), np.asarray(data.train.labels)
    direction = images[labels == 8].mean(0) - images[labels == 3].mean(0)
    real, walked = latent_space.arithmetic(linear, None, 5, "3", "8", (-2, 0, 0.5))
    np.testing.assert_array_equal(real, data.test.images[:5])
    rows = walked.images.reshape(5, 3, 8, 8, 1)
    assert walked.columns == ["−2", "0", "0.5"]
    for place, strength in enumerate((-2, 0, 0.5)):
        expected = np.clip(real + strength * direction, 0, 255)
        assert np.abs(rows[:, place] - expected).max() <= 0.51 + 1e-3


def test_arithmetic_takes_classes_by_name_or_number_and_refuses_others(linear: Opened) -> None:
    by_number = latent_space.attribute_vector(linear, 3, 8)
    np.testing.assert_array_equal(by_number, latent_space.attribute_vector(linear, "3", "8"))
    np.testing.assert_allclose(by_number, -latent_space.attribute_vector(linear, "8", "3"), atol=1e-6)
    with pytest.raises(Refused, match="both 3"):
        latent_space.attribute_vector(linear, "3", "3")
    with pytest.raises(Refused, match="no label 12; classes are numbered from 0 to 9"):
        latent_space.attribute_vector(linear, "3", "12")
    with pytest.raises(Refused, match="no attributes"):
        latent_space.attribute_vector(linear, "3", "8", attribute="glasses")


def test_unknown_classes_are_answered_with_the_nearest() -> None:
    assert class_number("dog", ("cat", "dog")) == 1 == class_number("1", ("cat", "dog"))
    with pytest.raises(Refused, match="Perhaps you meant dog"):
        class_number("dogg", ("cat", "dog"))
    with pytest.raises(Refused, match="no label -1; classes are numbered from 0 to 1"):
        class_number("-1", ("cat", "dog"))


# --- single dimensions ---


def test_traversals_go_by_kl_and_change_one_dimension(linear: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    deviation = torch.ones(64)
    deviation[5], deviation[40] = 0.01, 0.1  # narrow posteriors, far from the prior

    def posterior(image: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(image), 64), (2 * deviation.log()).expand(len(image), -1)

    monkeypatch.setattr(Pixels, "posterior", lambda self, image: posterior(image), raising=False)
    known = latent_space.dimensions(linear)
    assert known.normal and known.order[:2].tolist() == [5, 40]
    for dimension in (5, 40, 0):
        prior = torch.distributions.Normal(0.0, 1.0)
        expected = torch.distributions.kl_divergence(torch.distributions.Normal(0.0, deviation[dimension]), prior)
        assert known.nats is not None and known.nats[dimension] == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    walked = latent_space.traversals(linear, None, 2, 7)
    assert [name.split(",")[0] for name in walked.rows] == ["dimension 5", "dimension 40"] and "nats" in walked.rows[0]
    assert walked.columns == ["−3", "−2", "−1", "0", "1", "2", "3"]
    changed = walked.images.reshape(2, 7, 64) != np.asarray(linear.held_out[0]).reshape(64)
    assert not np.delete(changed[0], 5, axis=1).any() and not np.delete(changed[1], 40, axis=1).any()
    assert walked.images.reshape(2, 7, 64)[0, :, 5].tolist() == [0, 0, 0, 128, 255, 255, 255]  # clipped to [-1,1]


def test_without_a_posterior_traversals_go_by_variance(linear: Opened) -> None:
    spread = np.asarray(linear.held_out[:1000], float).reshape(-1, 64).var(0)
    walked = latent_space.traversals(linear, None, 3, 5, along="quantiles")
    found = [int(name.split(",")[0].split()[1]) for name in walked.rows]
    np.testing.assert_allclose(spread[found], np.sort(spread)[::-1][:3], rtol=1e-5)
    assert "deviation" in walked.rows[0] and walked.columns[2] == "50 %"
    column = walked.images.reshape(3, 5, 64)[0, 2, found[0]]
    assert abs(int(column) - np.median(np.asarray(linear.held_out)[..., 0].reshape(-1, 64)[:, found[0]])) <= 1


# --- a mixture in the prior's place ---


def test_a_mixture_s_samples_have_its_moments() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.multivariate_normal([3, 0], [[1, 0.8], [0.8, 1]], 300), rng.normal([-3, 0], [0.3, 2], (700, 2))]
    latents = np.concatenate(parts)
    mixture = density.fit(latents.astype(np.float32))
    drawn = mixture.draw(Noise(range(20_000)))[0].numpy()
    # expectation-maximization keeps the mean and covariance of the data (up to its floor)
    np.testing.assert_allclose(drawn.mean(0), latents.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(latents.T), atol=0.15)
    left = drawn[:, 0] < 0
    assert left.mean() == pytest.approx(0.7, abs=0.02)
    np.testing.assert_allclose(np.cov(drawn[~left].T), np.cov(parts[0].T), atol=0.1)


def test_a_mixture_has_no_more_components_than_its_pictures_bear() -> None:
    latents = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    assert density.fit(latents).weights.shape == (1, 3)
    assert density.fit(latents[:3]).weights.shape == (1, 1)
    assert torch.isfinite(density.fit(latents[:3]).draw(Noise(range(9)))[0]).all()
    for bad, words in (
        (latents[:1], "at least two"),
        (latents * np.nan, "not finite"),
        (np.zeros((4, 999)), "999 latent"),
    ):
        with pytest.raises(Refused, match=words):
            density.fit(bad)


def test_each_class_has_a_mixture_of_its_own_and_seeds_stand_alone() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 100, 1])
    latents = (rng.normal(size=(401, 3)) + 20 * labels[:, None]).astype(np.float32)
    mixture = density.fit(latents, labels, 4)
    drawn, group = mixture.draw(Noise(range(2000)))
    assert np.bincount(group.numpy(), minlength=4)[:2] / 2000 == pytest.approx([300 / 401, 100 / 401], abs=0.03)
    assert not (group == 3).any(), "no training picture was of it"
    np.testing.assert_allclose(drawn[group == 1].mean(0), 20, atol=0.5)
    asked, same = mixture.draw(Noise(range(50)), torch.ones(50, dtype=torch.int64))
    assert (same == 1).all() and (asked - 20).abs().max() < 8
    alone = mixture.draw(Noise([7]), torch.tensor([1]))[0]
    torch.testing.assert_close(asked[7:8], alone)
    assert not torch.equal(asked[7], asked[8])


def test_a_mixture_is_fitted_once_for_each_checkpoint(folders: Any, tmp_path: Path, capsys: Any) -> None:
    run = shutil.copytree(folders("ae"), tmp_path / "ae")
    first = Opened(run).samples(range(4), prior="mixture")
    assert "Fitting a mixture" in capsys.readouterr().err and first.shape == (4, 8, 8, 1)
    again = Opened(run).samples(range(2, 6), prior="mixture")
    assert "Fitting" not in capsys.readouterr().err
    assert np.abs(again[:2].astype(int) - first[2:]).max() <= 1, "a seed is a picture"
    kept = run / "priors" / "mixture-00000006.safetensors"
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]
    kept.write_bytes(b"cut short")
    np.testing.assert_array_equal(Opened(run).samples(range(4), prior="mixture"), first)
    assert "Fitting" in capsys.readouterr().err
    other = Opened(run)
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)  # as if step 6 had been trained anew
    other.samples(range(4), prior="mixture")
    assert "Fitting" in capsys.readouterr().err
    code, _, said = tasvir(capsys, "resume", run, "--train.steps", 9)
    assert code == 0, said
    code, _, said = tasvir(capsys, "sample", run, "--prior", "mixture", "-n", 2, "--out", tmp_path / "x.npz")
    assert code == 0 and "Fitting" in said and (run / "priors" / "mixture-00000009.safetensors").exists()
    code, _, said = tasvir(capsys, "sample", run, "--out", tmp_path / "y.npz")
    assert code == 2 and "ae cannot sample" in said and "--prior mixture" in said and len(said.splitlines()) == 1


# --- classes ---


def test_held_out_pictures_come_with_their_classes(classy: Opened) -> None:
    assert classy.labels_beside(None, 5) == classy.dataset.test.labels[:5].tolist()
    assert classy.labels_beside("digits", 5) is None and classy.labels_beside(None, 2, "7") == [7, 7]
    real, labels = classy.real(None, 5), np.asarray(classy.dataset.test.labels[:5])
    expected = real.reshape(5, 64) / 127.5 - 1 - 0.02 * labels[:, None]
    np.testing.assert_allclose(classy.latents(None, 5), expected, atol=1e-5)
    assert np.abs(classy.reconstructions(real, labels.tolist()).astype(int) - real).max() <= 1
    walks = classy.walks(None, 3, 4, "linear", 0).reshape(3, 4, 8, 8, 1)
    known = np.asarray(classy.dataset.test.labels)
    for number, walk in enumerate(walks):
        pair = np.flatnonzero(known == number)[:2]
        assert np.abs(walk[[0, -1]].astype(int) - np.asarray(classy.held_out)[pair]).max() <= 1, "ends are pictures"
    with pytest.raises(Refused, match="say which with --label"):
        classy.walks("digits", 3, 4, "linear", 0)
    assert classy.walks("digits", 3, 4, "linear", 0, "7").shape[0] == 12


@pytest.fixture
def classy_commands(folders: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model knows classes, to be opened by commands."""
    usual = Opened.__init__

    def opens(self: Opened, folder: Any, ability: str | None = None, step: Any = None) -> None:
        usual(self, folder, None, step)
        self.model = Pixels(conditional=True)

    monkeypatch.setattr(Opened, "__init__", opens)
    return folders("ae")


def test_each_class_is_a_row(classy_commands: Path, tmp_path: Path, capsys: Any) -> None:
    words = ("sample", classy_commands, "--label", "each", "-n", 8, "--out")
    code, said, _ = tasvir(capsys, *words, tmp_path / "x.npz")
    found = np.load(tmp_path / "x.npz")
    assert code == 0 and "80 pictures" in said and found["labels"].tolist() == np.repeat(np.arange(10), 8).tolist()
    rows = found["images"].reshape(10, 8, 64).astype(int)
    assert ((rows[5] - rows[0] >= 11) & (rows[5] - rows[0] <= 14)).all(), "the same seeds, of another class"
    assert tasvir(capsys, *words, tmp_path / "x.png")[0] == 0
    sheet = Image.open(tmp_path / "x.png")
    plain = pictures.grid(found["images"], 8, least=pictures.NAMED)
    assert sheet.height == plain.height and sheet.width > plain.width, "names stand beside the rows"
    np.testing.assert_array_equal(np.asarray(sheet)[:, -plain.width :], np.asarray(plain))
    assert (np.asarray(sheet)[:, : sheet.width - plain.width] < 100).any()
    assert tasvir(capsys, *words, tmp_path / "folder")[0] == 0
    assert (tmp_path / "folder" / "index.csv").read_text().splitlines()[9] == "000008.png,1,0"
    code, _, said = tasvir(capsys, "sample", classy_commands, "--label", "12", "--out", tmp_path / "y.png")
    assert code == 2 and "no label 12; classes are numbered from 0 to 9" in said
    code, _, said = tasvir(capsys, "sample", classy_commands, "--label", "each", "--prior", "mixture", "-n", 2,
                           "--out", tmp_path / "m.npz")  # fmt: skip
    assert code == 0 and len(np.load(tmp_path / "m.npz")["images"]) == 20


def test_encoding_and_decoding_keep_classes(classy_commands: Path, tmp_path: Path, capsys: Any) -> None:
    latents = tmp_path / "l.npz"
    assert tasvir(capsys, "encode", classy_commands, "-n", 6, "--out", latents)[0] == 0
    assert tasvir(capsys, "decode", classy_commands, latents, "--out", tmp_path / "d.npz")[0] == 0
    assert tasvir(capsys, "decode", classy_commands, latents, "--label", 9, "--out", tmp_path / "n.npz")[0] == 0
    made, nines = (np.load(tmp_path / name)["images"].astype(int) for name in ("d.npz", "n.npz"))
    real = np.asarray(tiny_data(8).test.images[:6]).astype(int)
    assert np.abs(made - real).max() <= 1
    shift = 255 / 2 * 0.02 * (9 - np.load(latents)["labels"])[:, None, None, None]
    assert np.abs(nines - np.clip(real + shift, 0, 255)).max() <= 1
    np.savez(tmp_path / "bare.npz", latents=np.load(latents)["latents"])
    code, _, said = tasvir(capsys, "decode", classy_commands, tmp_path / "bare.npz", "--out", tmp_path / "e.npz")
    assert code == 2 and "--label" in said
    np.savez(tmp_path / "far.npz", latents=np.load(latents)["latents"], labels=np.full(6, 10))
    code, _, said = tasvir(capsys, "decode", classy_commands, tmp_path / "far.npz", "--out", tmp_path / "e.npz")
    assert code == 2 and "labels outside 0 to 9" in said


# --- codes ---


def test_codes_are_checked_when_they_are_read(tmp_path: Path) -> None:
    grids = (Grid(1, 4), Grid(2, 8))
    good = np.array([[3, 7, 0, 1, 2]])
    np.savez(tmp_path / "x.npz", codes=good)
    np.testing.assert_array_equal(read_encoded(tmp_path / "x.npz", None, grids, 0).codes, good)
    for codes, words in (
        (np.array([[4, 0, 0, 0, 0]]), "1×1 grid has 0 to 3"),
        (np.array([[0, 0, -1, 0, 0]]), "2×2 grid has 0 to 7"),
        (good[:, :4], r"\(N, 5\)"),
        (good / 2, "whole numbers"),
    ):
        np.savez(tmp_path / "x.npz", codes=codes)
        with pytest.raises(Refused, match=words):
            read_encoded(tmp_path / "x.npz", None, grids, 0)
    with pytest.raises(Refused, match="has no `latents`"):
        read_encoded(tmp_path / "x.npz", 4, (), 0)


# --- in the plane, and the prior ---


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_groups_stay_apart_in_the_plane(method: str) -> None:
    rng = np.random.default_rng(0)
    latents = (rng.normal(size=(60, 6)) + 12 * np.repeat([0, 1], 30)[:, None]).astype(np.float32)
    plane, axes = latent_space.in_plane(latents, method)
    assert plane.shape == (60, 2) and {"pca": "principal component", "tsne": "t-SNE"}[method] in axes[0]
    centres = plane[:30].mean(0), plane[30:].mean(0)
    for row, point in enumerate(plane):
        assert np.linalg.norm(point - centres[row // 30]) < np.linalg.norm(point - centres[1 - row // 30])


def test_what_the_plane_cannot_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="at least 5 pictures"):
        latent_space.in_plane(np.zeros((4, 3), np.float32), "tsne")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(Refused, match="pip install umap-learn"):
        latent_space.in_plane(np.zeros((40, 3), np.float32), "umap")


def test_a_kernel_density_is_a_density() -> None:
    at = np.linspace(-6, 6, 400)
    found = latent_space.density(np.random.default_rng(0).normal(size=5000), at)
    np.testing.assert_allclose(found, np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi), atol=0.03)
    assert found.sum() * (at[1] - at[0]) == pytest.approx(1, abs=0.01)
    assert np.isfinite(latent_space.density(np.zeros(50), at)).all(), "a dimension that never changes"


def test_the_aggregate_posterior_is_the_prior_where_encodings_say_nothing(
    linear: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def posterior(self: Pixels, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(len(image), 64)
        mean[:, 9] = 5
        return mean, torch.zeros(len(image), 64)

    monkeypatch.setattr(Pixels, "posterior", posterior, raising=False)
    found = latent_space.aggregate(linear, 1000, 2)
    shifted, same = found.marginals
    assert shifted.name.startswith("dimension 9, KL 12 nats")
    assert shifted.at[shifted.posterior.argmax()] == pytest.approx(5, abs=0.8)
    assert shifted.at[shifted.prior.argmax()] == pytest.approx(0, abs=0.8)
    assert np.abs(same.prior - same.posterior).max() < 0.15


def test_the_same_number_of_pictures_by_default_gives_the_same_numbers(
    folders: Any, tmp_path: Path, capsys: Any
) -> None:
    run = folders("vae")
    opened = Opened(run)
    walked, found = latent_space.traversals(opened, None, 4), latent_space.aggregate(opened, most=4)
    assert walked.rows == [marginal.name for marginal in found.marginals]
    assert walked.pictures == found.pictures == len(opened.held_out)
    number = f"{found.pictures} held-out pictures"
    for command in ("traverse", "aggregate"):
        assert number in tasvir(capsys, command, run, "--out", tmp_path / "x.png")[1]
    figure = figures.aggregate(found)
    assert any(number in text.get_text() for text in figure.legends[0].get_texts())
    clouds = [one for one in figure.axes[-1].collections if len(one.get_offsets())]
    assert len(clouds) == 1 and len(np.unique(clouds[0].get_facecolors()[:50], axis=0)) == 2, "neither hides the other"


# --- every recipe ---

COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "traverse": (("encode", "decode"), ("-n", "3", "--steps", "3")),
    "arithmetic": (("encode", "decode"), ("-n", "3", "--minus", "1", "--plus", "7", "--strengths", "-1", "0", "1")),
    "aggregate": (("encode", "sample"), ("--number", "60", "--dimensions", "2")),
    "scatter": (("encode",), ("-n", "30", "--method", "tsne")),
    "reconstruct": (("sample", "reconstruct"), ("--samples", "-n", "3")),
    "sample": (("encode", "decode"), ("--prior", "mixture", "-n", "3")),
}
"""Command → the abilities it wants, and its words."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_walks_where_it_can_and_says_where_it_cannot(
    name: str, folders: Any, tmp_path: Path, capsys: Any
) -> None:
    run = folders(name)
    can = set(abilities(Opened(run).model))
    capsys.readouterr()  # what training said
    codes = getattr(Opened(run).model, "latent_codes", ())
    for command, (wants, words) in COMMANDS.items():
        out = tmp_path / f"{command}.png"
        code, _, said = tasvir(capsys, command, run, *words, "--out", out)
        if set(wants) <= can or (command == "traverse" and codes):
            assert code == 0 and min(Image.open(out).size) > 10, (command, said)
        else:
            assert (
                code == 2
                and re.search(f"{name} (cannot|has codes|does not encode)", said)
                and len(said.strip().splitlines()) <= 2
            ), (command, said)


@pytest.mark.parametrize("name", [name for name in RECIPES if "tokenize" in abilities(recipe(name).model)])
def test_codes_go_out_and_come_back(name: str, folders: Any, tmp_path: Path, capsys: Any) -> None:
    assert tasvir(capsys, "encode", folders(name), "-n", 5, "--out", tmp_path / "c.npz")[0] == 0
    assert np.load(tmp_path / "c.npz")["codes"].dtype == np.int64
    codes = {key: value for key, value in np.load(tmp_path / "c.npz").items() if key != "latents"}
    np.savez(tmp_path / "c.npz", **codes)
    assert tasvir(capsys, "decode", folders(name), tmp_path / "c.npz", "--out", tmp_path / "d.npz")[0] == 0
    code, _, said = tasvir(
        capsys, "decode", folders(name), tmp_path / "c.npz", "--label", 3, "--out", tmp_path / "x.npz"
    )
    assert code == 2 and "leave --label out" in said and not (tmp_path / "x.npz").exists()
    assert tasvir(capsys, "reconstruct", folders(name), "-n", 5, "--out", tmp_path / "r.npz")[0] == 0
    made, expected = (np.load(tmp_path / file)["images"].astype(int) for file in ("d.npz", "r.npz"))
    assert np.abs(made - expected).max() <= 1
    content = {panel.title: panel.make(Story(folders(name))) for panel in panels.PANELS if "tokenize" in panel.needs}
    assert len(content["Codebook usage"].values["charts"]) == len(Opened(folders(name)).model.grids)


def test_a_sheet_with_names_is_the_grid_with_names_around_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 60, 60, 1), np.uint8)
    sheet = np.asarray(pictures.named_grid(images, ["first", "a very long name " * 9], ["a", "b", "c"]))
    plain = np.asarray(pictures.grid(images, 3))
    np.testing.assert_array_equal(sheet[-plain.shape[0] :, -plain.shape[1] :], plain)
    assert sheet.shape[1] < 600 and (sheet[: -plain.shape[0]] < 128).any()


def test_another_attribute_of_the_set_can_be_moved(tmp_path: Path, capsys: Any) -> None:
    words = ("--data.size", 8, "--data.limit", 60, "--train.steps", 2, "--model.widths", 4, 8, "--model.latent-size", 4)
    code, _, said = tasvir(capsys, "train", "ae", "--data", "cartoons", *words, "--out", tmp_path / "run")
    assert code == 0, said
    opened = Opened(tmp_path / "run")
    labelled = latent_space.labelled(opened, "glasses")
    known = np.asarray(labelled.train.labels)
    both = [opened.encoded(np.asarray(labelled.train.images)[known == one]).mean(0) for one in np.unique(known)[:2]]
    names = [labelled.pictures.classes[one] for one in np.unique(known)[:2]]
    found = latent_space.attribute_vector(opened, *names, attribute="glasses")
    np.testing.assert_allclose(found, both[1] - both[0], atol=1e-5)
    words = ("--attribute", "glases", "--minus", "0", "--plus", "1", "--out", tmp_path / "x.png")
    code, _, said = tasvir(capsys, "arithmetic", tmp_path / "run", *words)
    assert code == 2 and "Perhaps you meant glasses" in said
