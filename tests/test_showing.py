"""Sample grids with the class above each picture, and the report that finds the pictures in them again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_run
from tasvir import pictures
from tasvir.report.panels import timeline
from tasvir.report.sheets import cut
from tasvir.report.story import Story
from tasvir.training.loop import train


def noise(number: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (number, size, size, channels), np.uint8)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (100, 3)])
def test_pictures_are_found_again_in_a_captioned_grid(size: int, channels: int, tmp_path: Path) -> None:
    images = noise(24, size, channels)
    pictures.save_captioned(images, [f"class {number // 8}" for number in range(24)], 8, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        sheet = cut(picture, size)
    assert sheet.columns == 8 and np.array_equal(sheet.images, images)


def test_pictures_are_found_again_in_a_grid_without_captions() -> None:
    images = noise(64, 8, 1)
    sheet = cut(pictures.grid(images, least=28), 8)
    assert sheet.columns == 8 and np.array_equal(sheet.images, images)


def test_a_grid_of_another_size_is_no_such_grid(tmp_path: Path) -> None:
    pictures.save_captioned(noise(4, 28, 1), ["a"] * 4, 2, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture, pytest.raises(ValueError, match="no grid"):
        cut(picture, 32)


def test_captions_stand_above_their_pictures_and_within_their_width(tmp_path: Path) -> None:
    """Black letters on white, in the strip above the picture that they name and nowhere else."""
    images = np.full((4, 32, 32, 1), 255, np.uint8)
    names = ["1", "", "aeroplane of many wings and engines", "M"]
    pictures.save_captioned(images, names, 2, tmp_path / "x.png")
    sheet = np.asarray(Image.open(tmp_path / "x.png")) < 128
    tile, strip = 64, pictures.CAPTION
    assert sheet.shape == (2 + 2 * (strip + tile + 2), 2 + 2 * (tile + 2))
    ink = []
    for position in range(4):
        top, left = 2 + position // 2 * (strip + tile + 2), 2 + position % 2 * (tile + 2)
        ink.append(int(sheet[top : top + strip, left : left + tile].sum()))
        assert not sheet[top + strip : top + strip + tile + 2, left : left + tile].any()
    assert ink[0] > 0 and ink[1] == 0 and ink[2] > 5 * ink[0]
    assert sum(ink) == sheet.sum(), "no letter reaches beyond its picture"


def test_a_conditional_run_is_shown_with_labels_and_its_report_has_no_letters_in_the_pictures(tmp_path: Path) -> None:
    run, data = tiny_run("cgan", tmp_path / "run")
    train(run, data)
    with Image.open(run.folder / "samples" / "00000006.png") as picture:
        assert picture.size == (2 + 8 * 50, 2 + 10 * (48 + pictures.CAPTION + 2))
        strips = np.asarray(picture)[2:].reshape(10, 48 + pictures.CAPTION + 2, -1)[:, : pictures.CAPTION]
    rows = [row.tobytes() for row in strips]
    assert len(set(rows)) == 10, "each class has a name of its own"
    story = Story(run.folder)
    frames = story.frames()
    assert list(frames) == [0, 3, 6] and frames[6].images.shape == (80, 8, 8, 1)
    assert timeline(story) is not None
    first = story.opened.samples(range(8), labels=[3] * 8)
    assert np.abs(frames[6].images[24:32].astype(int) - first).max() <= 1


def test_a_run_shown_before_there_were_captions_keeps_its_timeline(tmp_path: Path) -> None:
    run, data = tiny_run("cgan", tmp_path / "run", steps=3)
    train(run, data)
    old = noise(80, 8, 1)
    pictures.grid(old, 8, least=28).save(run.folder / "samples" / "00000000.png")
    frames = Story(run.folder).frames()
    assert np.array_equal(frames[0].images, old) and frames[3].images.shape == old.shape
