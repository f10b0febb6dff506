"""Pictures found again in latent spaces, walks and films through these, truncation, noise, and nearest pictures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageSequence
from scipy import stats
from torch import Tensor, nn

from conftest import tiny_run
from tasvir import cli, pictures, projection, walks
from tasvir.config import Refused
from tasvir.core import Noise, truncated
from tasvir.drawing import Opened
from tasvir.metrics import neighbours, perceptual
from tasvir.projection import Search, descend, project
from tasvir.report import story as stories
from tasvir.spaces import loop, shown, smooth, space_of, spherical
from tasvir.training.loop import train


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / name
            train(*tiny_run(name, made[name]))
        return made[name]

    return folder_of


class Waves(nn.Module):
    """A smooth generator of 8 px pictures from five numbers; classes, where it knows them, turn it upside down."""

    latent_size = 5
    truncates = False
    stepwise = False

    def __init__(self, conditional: bool = False):
        super().__init__()
        self.conditional = conditional
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(5, 64, generator=generator), requires_grad=False)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        sign = 1 if label is None else 1 - 2 * (label % 2)[:, None]
        return torch.tanh(sign * (latent @ self.weight) * 0.6 + 0.3 * latent[:, :1]).view(-1, 1, 8, 8)

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.draw(5), label)


class Styled(Waves):
    """The same from w, which is z turned and shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w_mean", torch.full((5,), 2.0))

    def map(self, z: Tensor) -> Tensor:
        return z.flip(1) * 0.5 + 2

    def synthesize(self, w: Tensor) -> Tensor:
        return super().decode((w - 2) * 2)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.synthesize(self.map(latent))


@pytest.fixture
def opened(folders: Any) -> Opened:
    found = Opened(folders("gan"))
    found.model = Waves()
    return found


def with_model(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    """Every run that is opened has this model."""
    usual = Opened.__init__

    def opens(self: Opened, folder: Any, ability: str | None = None, step: Any = None) -> None:
        usual(self, folder, None, step)
        self.model = model
        self.require(*filter(None, [ability]))

    monkeypatch.setattr(Opened, "__init__", opens)


# --- projection ---


@pytest.mark.parametrize("model", [Waves(), Styled()], ids=["z", "w"])
def test_own_pictures_are_found_again_far_better_than_among_samples(opened: Opened, model: nn.Module) -> None:
    opened.model = model
    real = opened.samples(range(7000, 7006))
    others = opened.samples(range(256)).reshape(1, 256, -1) / 255
    baseline = np.square(others - real.reshape(6, 1, -1) / 255).mean(2).min(1)
    found = project(opened, real, Search(distance="pixels", steps=200))
    assert found.space == ("w" if isinstance(model, Styled) else "z")
    assert (found.distances < 0.05 * baseline).all() and found.distances.mean() < 0.01 * baseline.mean()
    assert (found.psnr > 30).all()
    if found.space == "z":
        np.testing.assert_allclose(found.start_distances, baseline, atol=1e-4, err_msg="it starts at the nearest")
    mse = np.square(found.images / 255.0 - real / 255.0).reshape(6, -1).mean(1)
    np.testing.assert_allclose(found.psnr, np.minimum(100, -10 * np.log10(mse + 1e-30)), rtol=1e-6)
    np.testing.assert_allclose(found.distances, mse, atol=1e-4)
    space = space_of(model, "x")
    np.testing.assert_array_equal(opened.pictured(space, torch.from_numpy(found.latents)), found.images)


def test_a_picture_is_found_the_same_alone_and_among_others(opened: Opened) -> None:
    real = opened.samples(range(7000, 7003))
    together = project(opened, real, Search(steps=20))
    again = project(opened, real, Search(steps=20))
    np.testing.assert_array_equal(together.latents, again.latents)
    alone = project(opened, real[:1], Search(steps=20))
    np.testing.assert_allclose(alone.latents, together.latents[:1], atol=1e-4)


def test_a_descent_never_ends_further_away_than_it_began() -> None:
    """A learning rate that throws everything about cannot lose the start."""
    model = Waves()
    start, target = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), model.decode(torch.ones(4, 5))
    wild = Search(steps=15, learning_rate=50.0, noise=3.0)
    distance = projection.DISTANCES["pixels"](torch.device("cpu"))
    best, least, before = descend(model.decode, start, target, distance, wild, deviation=1.0)
    assert (least <= before).all()
    torch.testing.assert_close(distance(model.decode(best), target), least)
    exact = descend(model.decode, torch.ones(4, 5), target, distance, wild)
    assert float(exact[1].max()) == 0 and torch.equal(exact[0], torch.ones(4, 5))


def test_the_schedules_are_those_of_the_paper() -> None:
    """Appendix D with its 1000 steps: up over 50, down over 250, noise for 750."""
    assert projection.rate_at(0) == 0 and projection.rate_at(0.025) == pytest.approx(0.5)
    assert projection.rate_at(0.05) == projection.rate_at(0.75) == pytest.approx(1)
    assert projection.rate_at(0.875) == pytest.approx(0.5) and projection.rate_at(1) == pytest.approx(0)
    assert projection.noise_at(0) == 1 and projection.noise_at(0.375) == pytest.approx(0.25)
    assert projection.noise_at(0.75) == 0 == projection.noise_at(0.9)


@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential"])
def test_latents_stay_where_the_models_own_lie(kind: Any) -> None:
    known = Noise(range(1000), kind).draw(64)
    within = projection.plausible(known)
    torch.testing.assert_close(within(known), known)
    far = within(50 * torch.randn(200, 64, generator=torch.Generator().manual_seed(0)))
    lengths = known.norm(dim=1)
    assert far.norm(dim=1).max() <= lengths.max() * (1 + 1e-5)
    assert (far >= known.amin(0)).all() and (far <= known.amax(0)).all()
    near = within(1e-3 * known)
    assert near.norm(dim=1).min() >= (0.99 if kind == "normal" else 0.8) * lengths.min()
    if kind == "normal":
        assert lengths.min() > 0.6 * 8 and lengths.max() < 1.45 * 8, "a shell about radius √64"


def test_w_begins_at_the_mean_with_the_deviation_of_all_of_w(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.model = Styled()
    monkeypatch.setattr(projection, "MAPPED", 4000)
    begun = projection._begin(opened, space_of(opened.model, "x", "w"), opened.samples(range(3)), None, Search())
    assert torch.equal(begun.latents, torch.full((3, 5), 2.0)) and begun.within is None
    assert begun.deviation == pytest.approx(math.sqrt(5 * 0.25), rel=0.05)


def test_unknown_classes_are_tried_and_known_ones_kept(opened: Opened) -> None:
    opened.model = Waves(conditional=True)
    real = opened.samples(range(7000, 7006), labels=[0, 1, 0, 1, 1, 0])
    found = project(opened, real, Search(steps=120))
    assert found.distances.max() < 2e-3 and found.labels is not None
    told = project(opened, real, Search(steps=5), labels=[3] * 6)
    assert told.labels is not None and (told.labels == 3).all()
    with pytest.raises(Refused, match="There is no label 12"):
        opened.labels("12", 3)


def test_a_model_that_encodes_begins_there(folders: Any) -> None:
    vae = Opened(folders("vae"))
    real = vae.real(None, 4)
    found = project(vae, real, Search(steps=40))
    reconstructed = np.square(vae.reconstructions(real) / 255.0 - real / 255.0).reshape(4, -1).mean(1)
    np.testing.assert_allclose(found.start_distances, reconstructed, atol=2e-4)
    assert (found.distances < found.start_distances).all() and found.began == "their encodings"


def test_lpips_is_descended_and_wanted_only_where_it_is(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    squeeze = perceptual.lpips("squeeze", pretrained=False)
    monkeypatch.setattr(perceptual, "lpips", lambda network, device: squeeze)
    real = opened.samples(range(7000, 7002))
    found = project(opened, real, Search(distance="lpips", steps=6, starts=1))
    assert found.distance == "lpips" and (found.distances < found.start_distances).all()
    color = [perceptual.color(opened.tensor(images)) for images in (found.images, real)]
    np.testing.assert_allclose(squeeze(*color).numpy(), found.distances, atol=5e-3)
    for there, size, expected in ((True, 64, "lpips"), (True, 28, "pixels"), (False, 64, "pixels")):
        monkeypatch.setattr(perceptual, "at_hand", lambda network, there=there: there)
        assert projection._usual(size) == expected


def test_project_writes_what_the_ending_says(
    folders: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_model(monkeypatch, Waves())
    run = folders("gan")
    words = ("project", run, "-n", 3, "--steps", 6, "--out")
    code, said, _ = tasvir(capsys, *words, tmp_path / "x.png")
    assert code == 0 and "PSNR" in said and "the nearest of 256 samples" in said
    assert Image.open(tmp_path / "x.png").height > 3 * 48
    code, said, _ = tasvir(capsys, *words, tmp_path / "x.npz", "--json")
    told, arrays = json.loads(said), np.load(tmp_path / "x.npz")
    assert code == 0 and told["pictures"] == 3 == len(told["each"]) and told["distance"] == "pixels"
    np.testing.assert_allclose([one["distance"] for one in told["each"]], arrays["distances"])
    assert tasvir(capsys, "decode", run, tmp_path / "x.npz", "--out", tmp_path / "d.npz")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "d.npz")["images"], arrays["images"])
    for ending in ("gif", "webp"):
        assert tasvir(capsys, *words, tmp_path / f"x.{ending}")[0] == 0
        assert Image.open(tmp_path / f"x.{ending}").n_frames in (6, 7), "the first step is of length zero"
    assert tasvir(capsys, *words, tmp_path / "folder")[0] == 0
    assert len(list((tmp_path / "folder").glob("*.png"))) == 3 and (tmp_path / "folder" / "projection.npz").exists()
    with_model(monkeypatch, Styled())
    assert tasvir(capsys, *words, tmp_path / "w.npz")[0] == 0 and "latents" not in np.load(tmp_path / "w.npz")
    assert tasvir(capsys, "decode", run, tmp_path / "w.npz", "--out", tmp_path / "d.npz")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "d.npz")["images"], np.load(tmp_path / "w.npz")["images"])


def test_pictures_of_other_colours_and_sizes_are_projected(folders: Any, tmp_path: Path, capsys: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    words = ("project", folders("gan"), tmp_path / "one.png", "--steps", 2, "--out", tmp_path / "x.npz")
    assert tasvir(capsys, *words)[0] == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("project", "gan", "--space", "w"), "has no w, only z"),
        (("interpolate", "gan", "--space", "w"), "has no w, only z"),
        (("project", "gan", "--label", "3"), "does not know classes"),
        (("interpolate", "gan", "--label", "each"), "does not know classes"),
        (("project", "gan", "--steps", "0"), "must be at least 1"),
        (("project", "gan", "/no/such.png"), "/no/such.png"),
        (("project", "gan", "--out", "x.jpg"), ".png"),
        (("interpolate", "gan", "--through", "1", "--out", "x.gif"), "at least 2 latents"),
        (("interpolate", "gan", "--frames", "3", "--out", "x.gif"), "fewer than the 4 latents"),
        (("neighbours", "ae"), "ae cannot sample"),
        (("sample", "vae", "--truncation", "1", "--out", "x.png"), "nothing that could be truncated"),
        (("sample", "gan", "--truncation", "1", "--noise", "uniform", "--out", "x.png"), "of normal noise"),
        (("sample", "gan", "--truncation", "0", "--out", "x.png"), "must be"),
        (("sample", "gan", "--truncation", "1", "--prior", "mixture", "--out", "x.png"), "leave --truncation out"),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(words: Any, said: str, folders: Any, capsys: Any) -> None:
    code, _, error = tasvir(capsys, words[0], folders(words[1]), *words[2:])
    assert code == 2 and said in error and "Traceback" not in error


# --- walks and films ---


def test_a_loop_goes_through_its_latents_and_joins_its_ends() -> None:
    stops = Noise(range(4)).draw(16)
    for path in ("linear", "spherical"):
        for eased in (True, False):
            points = loop(stops, 40, path, eased)  # type: ignore[arg-type]
            torch.testing.assert_close(points[::10], stops)
            steps = (points - points.roll(1, 0)).norm(dim=1)
            assert steps.min() > 0 and steps[0] < 1.5 * steps[10:12].max(), "the join is like any other stop"
    even = loop(stops, 40, "linear", False)
    parts = (even[1:10] - even[:9]).norm(dim=1)
    torch.testing.assert_close(parts, parts[:1].expand(9), rtol=1e-3, atol=1e-4)
    turned = loop(stops / stops.norm(dim=1, keepdim=True), 40, "spherical")
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(40), rtol=1e-5, atol=1e-5)
    assert float(smooth(torch.tensor(0.5))) == 0.5 and float(smooth(torch.tensor(0.1))) == pytest.approx(0.028)


def test_walks_in_w_are_straight_there_and_z_stays_on_its_sphere(opened: Opened) -> None:
    opened.model = Styled()
    at = walks.stops(opened, walks.Route(number=2, stops=3))
    assert (at.space.name, at.path, tuple(at.latents.shape)) == ("w", "linear", (2, 3, 5))
    expected = opened.model.map(Noise(range(6)).draw(5)).view(2, 3, 5)
    torch.testing.assert_close(at.latents, expected)
    rows = walks.rows(opened, at, 3).reshape(2, 3, 8, 8, 1)
    middle = opened.pictured(at.space, (expected[:, 0] + expected[:, 1]) / 2)
    assert np.abs(rows[:, 1].astype(int) - middle).max() <= 1
    in_z = walks.stops(opened, walks.Route(number=2, space="z"))
    assert (in_z.space.name, in_z.path) == ("z", "spherical")
    z = Noise(range(4)).draw(5)
    half = opened.decoded(spherical(z[:1], z[1:2], torch.tensor([[0.5]])).numpy())
    assert np.abs(walks.rows(opened, in_z, 3)[1].astype(int) - half[0]).max() <= 1


def test_films_show_all_walks_at_once(folders: Any, tmp_path: Path, capsys: Any) -> None:
    for ending in ("gif", "webp"):
        out = tmp_path / f"film.{ending}"
        code, said, _ = tasvir(capsys, "interpolate", folders("gan"), "-n", 6, "--frames", 12, "--out", out)
        assert code == 0 and "12 pictures" in said
        film = Image.open(out)
        assert film.n_frames == 12 and film.info.get("loop") == 0
        assert film.size == (3 * 50 + 2, 2 * 50 + 2)
        frames = [np.asarray(frame.convert("L"), float) for frame in ImageSequence.Iterator(film)]
        steps = [np.abs(one - other).mean() for one, other in zip(frames, [*frames[1:], frames[0]], strict=True)]
        assert steps[-1] <= max(steps[:-1]) + 1e-9 and min(steps) > 0
    assert Image.open(tmp_path / "film.gif").info["duration"] == 50
    code, said, _ = tasvir(capsys, "interpolate", folders("vae"), "-n", 2, "--frames", 8, "--out", tmp_path / "v.gif")
    assert code == 0 and Image.open(tmp_path / "v.gif").n_frames == 8


def test_each_class_walks_along_the_same_latents(
    opened: Opened, folders: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.model = Waves(conditional=True)
    at = walks.stops(opened, walks.Route(number=2, label="each"))
    assert at.names == [name for name in opened.run.pictures.classes for _ in range(2)]
    assert all(torch.equal(at.latents[place], at.latents[place % 2]) for place in range(20))
    assert at.classes == [one for one in range(10) for _ in range(2)]
    one = walks.stops(opened, walks.Route(number=2, label="7"))
    assert one.classes == [7, 7] and one.names == []
    assert walks.stops(opened, walks.Route(number=3)).classes == [0, 1, 2]
    with_model(monkeypatch, Waves(conditional=True))
    words = ("interpolate", folders("gan"), "--label", "each", "--frames", 4)
    assert tasvir(capsys, *words, "--out", tmp_path / "x.png")[0] == 0
    assert Image.open(tmp_path / "x.png").size[0] > 10 * 50
    assert tasvir(capsys, *words, "--out", tmp_path / "x.gif")[0] == 0
    assert Image.open(tmp_path / "x.gif").size[1] == 10 * 50 + 2


class TruncatedStyled(Styled):
    truncates = True

    def truncate(self, w: Tensor, truncation: float) -> Tensor:
        return torch.lerp(self.w_mean, w, truncation)


def test_walks_are_truncated_in_z_and_w(folders: Any, tmp_path: Path, capsys: Any) -> None:
    opened = Opened(folders("gan"))
    plain, kept = (walks.stops(opened, walks.Route(number=3, truncation=by)) for by in (None, 0.5))
    assert torch.allclose(kept.latents, truncated(plain.latents, 0.5)) and plain.latents.abs().max() > 1
    code, said, _ = tasvir(
        capsys, "interpolate", folders("gan"), "--truncation", 0.5, "-n", 3, "--steps", 3, "--out", tmp_path / "x.npz"
    )
    assert code == 0 and np.array_equal(np.load(tmp_path / "x.npz")["images"], walks.rows(opened, kept, 3))
    opened.model = TruncatedStyled()
    for space in ("w", "z"):
        at = walks.stops(opened, walks.Route(number=2, space=space, truncation=0.3))  # type: ignore[arg-type]
        w = torch.lerp(opened.model.w_mean, opened.model.map(Noise(range(4)).draw(5)), 0.3)
        ends = walks.rows(opened, at, 2)
        assert np.abs(ends.astype(int) - opened.pictured(space_of(opened.model, "x", "w"), w)).max() <= 1
    code, _, said = tasvir(capsys, "interpolate", folders("vae"), "--truncation", 0.5, "--out", tmp_path / "x.png")
    assert code == 2 and "vae draws nothing that could be truncated" in said


def test_pictures_of_w_are_judged_as_they_are_shown() -> None:
    """Values beyond the border count as the border, and are still drawn back into it."""
    image = torch.tensor([-3.0, 0.5, 1.5], requires_grad=True)
    found = shown(image)
    assert torch.equal(found, torch.tensor([-1.0, 0.5, 1.0]))
    (gradient,) = torch.autograd.grad((found - 0.9).square().sum(), image)
    assert torch.allclose(gradient, 2 * (found - 0.9).detach()) and gradient[2] > 0


# --- truncation, noise ---


@pytest.mark.parametrize("bound", [0.3, 1.0, 2.5])
def test_truncated_values_are_those_of_the_truncated_normal(bound: float) -> None:
    values = torch.linspace(-6, 6, 1001)
    expected = stats.truncnorm.ppf(stats.norm.cdf(values.double().numpy()), -bound, bound)
    np.testing.assert_allclose(truncated(values, bound).numpy(), expected, atol=2e-6)
    drawn = truncated(Noise(range(2000)).draw(4), bound).flatten().numpy()
    assert np.abs(drawn).max() <= bound
    assert stats.kstest(drawn, stats.truncnorm(-bound, bound).cdf).pvalue > 1e-3


def test_a_smaller_bound_means_less_variety_and_a_large_one_changes_nothing(folders: Any) -> None:
    opened = Opened(folders("dcgan"))
    with torch.no_grad():
        drawn = [opened.model.sample(Noise(range(64)), truncation=bound) for bound in (0.05, 0.5, 9.0)]
    spreads = [float(images.std(0).mean()) for images in drawn]
    assert spreads[0] < 0.5 * spreads[1] and spreads[1] < 0.9 * spreads[2]
    whole, wide = opened.samples(range(8)), opened.samples(range(8), truncation=9.0)
    assert np.abs(whole.astype(int) - wide).max() <= 1


def test_pictures_are_drawn_of_the_noise_that_was_trained_with(tmp_path: Path, capsys: Any) -> None:
    run, data = tiny_run("dcgan", tmp_path / "run")
    uniform = replace(run.config, model=replace(run.config.model, noise="uniform"))
    run = replace(run, config=uniform)
    run.write_config()
    train(run, data)
    opened = Opened(run.folder)
    expected = opened.decoded(Noise(range(64), "uniform").draw(4).numpy())
    usual = opened.decoded(Noise(range(64), "normal").draw(4).numpy())
    assert not np.array_equal(expected, usual)
    np.testing.assert_array_equal(opened.samples(range(64)), expected)
    shown = np.asarray(pictures.grid(expected, least=28))
    np.testing.assert_array_equal(np.asarray(Image.open(run.folder / "samples" / "00000006.png")), shown)
    assert tasvir(capsys, "sample", run.folder, "-n", 64, "--out", tmp_path / "s.npz")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "s.npz")["images"], expected)
    np.testing.assert_array_equal(stories.Story(run.folder).opened.samples(range(64)), expected)
    ends = walks.stops(opened, walks.Route(number=50)).latents
    own = projection.random_latents(opened.model, Noise(range(50)))
    assert max(ends.abs().max(), own.abs().max()) <= 3**0.5
    assert np.abs(project(opened, expected[:2], Search(steps=30)).latents).max() <= 3**0.5 + 1e-6
    code, _, said = tasvir(capsys, "sample", run.folder, "--truncation", 1, "--out", tmp_path / "t.npz")
    assert code == 2 and "of normal noise" in said


def test_a_run_written_before_a_setting_existed_still_opens(folders: Any, tmp_path: Path) -> None:
    run, data = tiny_run("dcgan", tmp_path / "run")
    train(run, data)
    file = run.folder / "config.yaml"
    plain = yaml.safe_load(file.read_text())
    del plain["model"]["augment"], plain["model"]["game"]["r2"], plain["train"]["evaluate_every"]
    plain["data"] = {"source": "digits", "size": 8, "limit": 200}
    expected = Opened(run.folder).samples(range(4))
    file.write_text(yaml.safe_dump(plain))
    np.testing.assert_array_equal(Opened(run.folder).samples(range(4)), expected)


# --- nearest training pictures ---


def test_nearest_pictures_are_those_of_all_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    known, images = (random.integers(0, 256, (count, 6, 6, 3), np.uint8) for count in (50, 7))
    images[3] = known[41]
    full = np.sqrt(np.square(images[:, None] / 255.0 - known[None] / 255.0).mean((2, 3, 4)))
    monkeypatch.setattr(neighbours, "PIECE", 900)
    distances, places = neighbours.nearest_pictures(images, known, 4)
    np.testing.assert_array_equal(places, np.argsort(full, 1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(full, 1)[:, :4], atol=1e-6)
    assert distances[3, 0] == 0 and places[3, 0] == 41
    assert neighbours.nearest_pictures(images, known[:2], 5)[0].shape == (7, 2)


def test_neighbours_stand_beside_samples(folders: Any, tmp_path: Path, capsys: Any) -> None:
    words = ("neighbours", folders("gan"), "-n", 3, "--nearest", 2, "--out")
    code, said, _ = tasvir(capsys, *words, tmp_path / "x.png")
    assert code == 0 and "Mean distance to the nearest of" in said and Image.open(tmp_path / "x.png").height > 150
    assert tasvir(capsys, *words, tmp_path / "x.npz")[0] == 0
    opened = Opened(folders("gan"))
    rows = np.load(tmp_path / "x.npz")["images"].reshape(3, 3, 8, 8, 1)
    np.testing.assert_array_equal(rows[:, 0], opened.samples(range(3)))
    known = np.asarray(opened.dataset.train.images, float).reshape(len(opened.dataset.train.images), -1)
    for row in rows:
        best = np.square(known - row[0].reshape(-1)).mean(1).min()
        assert np.square(row[1].astype(float) - row[0]).mean() == pytest.approx(best)
    assert tasvir(capsys, *words, tmp_path / "w.npz", "--worst")[0] == 0
