"""Translating people's own pictures: tiles without seams, alpha and orientation, several answers, bad input."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_run
from tasvir import cli
from tasvir.blending import axis, blended
from tasvir.config import DataConfig, Pictures, Refused
from tasvir.core import Noise
from tasvir.data.batches import to_float, to_uint8
from tasvir.data.colors import lightness
from tasvir.data.decoding import Unreadable, still
from tasvir.drawing import Opened
from tasvir.training.loop import train
from tasvir.translating import Names, Translator, spread

AXES = [(137, 32, 8, 1, 3), (130, 32, 16, 4, 1), (33, 32, 8, 8, 2), (100, 40, 16, 20, 1), (7, 32, 8, 4, 2)]


def noise_picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("length", "tile", "overlap", "stride", "scale"), AXES)
def test_weights_of_tiles_sum_to_one(length: int, tile: int, overlap: int, stride: int, scale: int) -> None:
    cut = axis(length, tile, overlap, stride)
    assert cut.tile % stride == 0 and cut.padded - length < stride and cut.starts[-1] + cut.tile == cut.padded
    sums = torch.zeros(scale * cut.padded, dtype=torch.float64)
    for start, weights in zip(cut.starts, cut.weights(scale), strict=True):
        assert (weights >= 0).all()
        sums[scale * start : scale * (start + cut.tile)] += weights
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-6)
    if len(cut.starts) > 1:  # neighbours share enough, and what a tile's edge says is not heard
        assert min(a + cut.tile - b for a, b in zip(cut.starts, cut.starts[1:], strict=False)) >= overlap
        assert not cut.weights(scale)[0][-scale * overlap // 4 :].any()


def test_enlarging_pixels_in_tiles_is_exact() -> None:
    def squares(tiles: np.ndarray, numbers: list[int]) -> Tensor:
        return to_float(torch.from_numpy(tiles)).repeat_interleave(3, 2).repeat_interleave(3, 3)

    picture, told = noise_picture(101, 67), []
    down, across = axis(101, 32, 8, 4), axis(67, 24, 8, 4)
    made = blended(picture, squares, down, across, channels=3, scale=3, batch=2, done=told.append)
    assert np.array_equal(made, picture.repeat(3, 0).repeat(3, 1))
    assert sum(told) == len(down.starts) * len(across.starts) and max(told) == 2


def test_only_a_band_of_rows_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, usual = [], torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, **more: largest.append(shape) or usual(*shape, **more))
    identity = lambda tiles, numbers: to_float(torch.from_numpy(tiles))  # noqa: E731
    blended(noise_picture(400, 20, 1), identity, axis(400, 32, 8), axis(20, 32, 8), channels=1)
    assert largest == [(1, 32, 20)]


class Blurring(nn.Module):
    """Three convolutions that see 3 px to each side: a model in all that translating asks of one."""

    stride, scale = 1, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)), nn.Tanh())
        self.pictures = Pictures(3, 32, source=Pictures(3, 32))

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        answer = self.layers(source)
        return answer if noise is None else answer + 0.2 * noise.draw(1, 1, 1)

    def opened(self, **settings: object) -> SimpleNamespace:
        run = SimpleNamespace(
            pictures=self.pictures, name="blurring", config=SimpleNamespace(data=DataConfig(**settings))
        )
        return SimpleNamespace(
            model=self, run=run, require=lambda name: None, tensor=lambda x: to_float(torch.from_numpy(np.array(x)))
        )


def test_no_seams_where_the_overlap_is_wider_than_what_a_pixel_sees() -> None:
    model, picture = Blurring(), noise_picture(90, 131)
    whole = Translator(model.opened(), tile=0)
    tiled = Translator(model.opened(), tile=40)
    assert whole.tiles(picture) == 1 and tiled.tiles(picture) == 4 * 5
    difference = np.abs(whole.answer(picture).astype(int) - tiled.answer(picture))
    assert difference.max() <= 1  # rounding


def test_several_answers_and_their_spread() -> None:
    model, picture = Blurring(), noise_picture(20, 30)
    translator = Translator(model.opened())
    first, second = (translator.answer(picture, seed) for seed in (5, 6))
    assert np.array_equal(first, translator.answer(picture, 5)) and not np.array_equal(first, second)
    found = spread([first, second])
    expected = np.abs(first.astype(float) - second).mean(2) / np.sqrt(2)  # of two values
    assert np.allclose(found, expected, atol=1e-4)
    tiled = Translator(model.opened(), tile=16).answer(picture, 5)
    assert len(np.unique((tiled.astype(int) - Translator(model.opened(), tile=16).answer(picture))[10, :, 0])) > 2


def test_sources_are_made_as_in_training() -> None:
    color = noise_picture(9, 13)
    model = Blurring()
    model.pictures = Pictures(3, 32, source=Pictures(1, 32))
    made = Translator(model.opened(derive="grey")).source(color)
    wanted = to_uint8(lightness(to_float(torch.from_numpy(color[None]))) / 50 - 1)[0]
    assert np.array_equal(made, wanted)
    edges = Translator(model.opened(derive="edges"))
    assert set(np.unique(edges.source(color, derived=True))) <= {0, 255} and edges.source(color).shape == (9, 13, 1)
    model.pictures = Pictures(3, 32, source=Pictures(3, 8))
    reduced = Translator(model.opened(derive="low-resolution", scale=4)).source(color, derived=True)
    pillow = Image.fromarray(color[:8, :12]).resize((3, 2), Image.Resampling.BICUBIC)
    assert np.array_equal(reduced, np.asarray(pillow))
    masked = Translator(model.opened(derive="masked")).source(color[:8, :12], derived=True)
    assert (masked[2:6, 4:8] == 128).all() and np.array_equal(masked[:2], color[:2, :12])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name in ("pix2pix", "srresnet"):
        found[name] = tmp_path_factory.mktemp("runs") / name
        run, data = tiny_run(name, found[name], steps=1, checkpoint_every=1, sample_every=0, log_every=1)
        train(run, data)
    return found


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


def test_a_picture_of_training_size_is_translated_as_ever(runs: dict[str, Path]) -> None:
    opened = Opened(runs["pix2pix"])
    picture = noise_picture(opened.run.pictures.size, opened.run.pictures.size, 1)
    translator = Translator(opened)
    assert np.array_equal(translator.answer(picture), opened.translations(picture[None])[0])
    assert np.array_equal(translator.answer(picture, 7), opened.translations(picture[None], [7])[0])


def test_alpha_and_orientation_are_kept(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha = noise_picture(11, 17, 1)[..., 0]
    rgba = np.dstack([noise_picture(11, 17), alpha])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=turned)
    assert tasvir(capsys, "translate", runs["pix2pix"], tmp_path / "a.png", "--out", tmp_path / "b.png")[0] == 0
    answer = Image.open(tmp_path / "b.png")
    assert answer.size == (11, 17) and answer.mode == "LA" and not answer.getexif()
    assert np.array_equal(np.asarray(answer)[..., -1], np.rot90(alpha, -1))
    assert tasvir(capsys, "upscale", runs["srresnet"], tmp_path / "a.png", "--out", tmp_path / "c.webp")[0] == 0
    assert Image.open(tmp_path / "c.webp").size == (44, 68) and Image.open(tmp_path / "c.webp").mode == "RGBA"


def test_a_folder_with_pictures_of_any_kind(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    (given / "in side").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "in side/b.png"):
        Image.fromarray(noise_picture(9, 14)).save(given / name)
    frames = [Image.fromarray(noise_picture(8, 8)), Image.new("RGB", (8, 8))]
    frames[0].save(given / "film.gif", save_all=True, append_images=frames[1:])
    (given / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (1, 30)).save(given / "thin.png")
    code, said, told = tasvir(capsys, "translate", runs["pix2pix"], given, "--out", out, "-n", 2)
    assert code == 0 and "3 pictures" in said and "levels of 255" in said
    assert all(f"{name} is left out" in told for name in ("film.gif", "broken.png", "thin.png"))
    stems = ("a", "a-2", "in side_b")
    assert {file.name for file in out.glob("*.png")} == {f"{s}-{e}.png" for s in stems for e in ("1", "2", "spread")}
    assert (out / "index.csv").read_text().count("\n") == 7
    assert Image.open(out / "a-1.png").size == (14, 9)
    code, _, _ = tasvir(capsys, "translate", runs["pix2pix"], given / "a.png", "--out", out / "row.png", "-n", 3)
    assert code == 0 and Image.open(out / "row.png").width > 5 * 14


def test_held_out_pictures_and_what_is_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picture, folder = runs["srresnet"], tmp_path / "p.png", tmp_path / "several"
    Image.fromarray(noise_picture(8, 8)).save(picture)
    folder.mkdir()
    for name in "ab":
        Image.fromarray(noise_picture(8, 8)).save(folder / f"{name}.png")
    (tmp_path / "clip.mp4").write_bytes(b"film")
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    for words in (("translate", runs["pix2pix"], "-n", 2), ("upscale", run)):
        assert tasvir(capsys, *words, "--number", 2, "--out", tmp_path / "grid.png")[0] == 0
        assert Image.open(tmp_path / "grid.png").text["tasvir captioned"]
    refused = {
        "trained for ×": ("upscale", run, picture, "--out", tmp_path / "o.png", "--scale", 7),
        "cannot upscale": ("upscale", runs["pix2pix"], picture, "--out", tmp_path / "o.png"),
        "cannot translate_back": ("translate", run, picture, "--out", tmp_path / "o.png", "--back"),
        "is a film": ("translate", run, tmp_path / "clip.mp4", "--out", tmp_path / "o.png"),
        "not a picture of a known format": ("translate", run, tmp_path / "no.png", "--out", tmp_path / "o.png"),
        "There are no pictures": ("translate", run, tmp_path / "empty", "--out", tmp_path / "o"),
        "There is no file": ("translate", run, tmp_path / "nothing.png", "--out", tmp_path / "o"),
        "name another place": ("translate", run, picture, "--out", picture),
        "name a folder": ("translate", run, folder, "--out", tmp_path / "o.jpg"),
        "ends in .tga": ("translate", run, picture, "--out", tmp_path / "o.tga"),
    }
    for sentence, words in refused.items():
        code, _, told = tasvir(capsys, *words)
        assert code == 2 and sentence in told, (sentence, told)


def test_still_pictures_only() -> None:
    data = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(Unreadable, match="a file of 2 pictures"):
        still(data.getvalue())
    data = io.BytesIO()
    Image.fromarray(noise_picture(3, 5, 1)[..., 0]).save(data, "PNG", transparency=int(noise_picture(3, 5, 1)[0, 0, 0]))
    pixels, opacity = still(data.getvalue())
    assert opacity is not None and opacity[0, 0] == 0 and pixels[0, 0] == 255  # on white


def test_names_in_a_folder_are_safe_and_single() -> None:
    name_for = Names(["taken.png"])
    assert [name_for(name) for name in ("x/y.png", "x/y.jpg", "TAKEN.jpg", "../..png", "é ü.webp")] == [
        *("x_y", "x_y-2", "TAKEN-2"),
        *("_", "é ü"),
    ]


def test_what_was_not_derived_cannot_be(runs: dict[str, Path]) -> None:
    with pytest.raises(Refused, match="leave --derive out"):
        Translator(Blurring().opened()).check_derived()


def test_large_pictures_are_told_to_be_seen_in_parts(runs: dict[str, Path], tmp_path: Path, capsys) -> None:
    """Where each tile is normalized by itself."""
    picture = tmp_path / "large.png"
    Image.fromarray(noise_picture(40, 40)[..., 0]).save(picture)
    for tile, told in (("0", False), ("8", True)):
        words = ("translate", runs["pix2pix"], picture, "--out", tmp_path / "out.png", "--tile", tile)
        code, _, said = tasvir(capsys, *words)
        assert code == 0 and ("sees each by itself" in said) == told
