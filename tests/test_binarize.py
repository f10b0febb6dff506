"""Binarized pictures: the same draw for the same content, the right chances, and nothing but black and white."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_run
from tasvir.config import DataConfig, Pictures, Refused
from tasvir.core import Batch
from tasvir.data import Dataset, batches, load, look
from tasvir.data.batches import Batches, pictures_of, to_uint8
from tasvir.data.binarizing import drawn, drawn_once, draws
from tasvir.runs import Run
from tasvir.training.loop import train

SIZE = 8


def digits(binarize: str = "none", **settings: object) -> Dataset:
    return load(DataConfig(source=("digits",), binarize=binarize, **settings))  # type: ignore[arg-type]


def scaled(difference: np.ndarray, variance: np.ndarray) -> float:
    """A sum of independent draws less its mean, in standard deviations."""
    return float(difference.sum() / np.sqrt(variance.sum()))


def as_levels(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image)


def test_a_picture_has_the_same_draw_wherever_it_lies() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 1), np.uint8)
    once = drawn_once(images)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(drawn_once(images[order]), once[order])
    np.testing.assert_array_equal(drawn_once(images[7:8]), once[7:8])
    np.testing.assert_array_equal(drawn_once(np.asfortranarray(images)), once)
    moved = images.copy()
    moved[:, 0, 0] ^= 1
    other = drawn_once(moved)
    assert all((a != b).any() for a, b in zip(once, other, strict=True)), "another content, another draw"


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_white_is_as_frequent_as_the_value_says(kind: str) -> None:
    """Each of the 256 values: within five standard deviations of a binomial; 0 and 255 without fail."""
    levels = np.tile(np.arange(256, dtype=np.uint8), (2000, 1))
    if kind == "static":
        numbers = np.frombuffer(np.arange(2000, dtype="<u2").tobytes(), np.uint8).reshape(2000, 2)
        found = drawn_once(np.concatenate([levels, numbers], 1).reshape(2000, 1, -1, 1))[:, 0, :256, 0]
    else:
        chances = draws((1, 256, 1), 3, 5, 2000)
        found = as_levels(drawn(torch.from_numpy(levels.reshape(2000, 1, 256, 1)), chances))[:, 0, :, 0]
    assert set(np.unique(found)) == {0, 255}
    white, chance = (found == 255).sum(0), np.arange(256) / 255
    assert white[0] == 0 and white[255] == 2000
    deviation = np.sqrt(2000 * chance * (1 - chance))[1:255]
    assert (np.abs(white[1:255] - 2000 * chance[1:255]) < 5 * deviation).all()
    assert abs((white - 2000 * chance).sum()) < 5 * np.sqrt((deviation**2).sum())


def test_neighbouring_pixels_are_drawn_apart() -> None:
    """Grey squares: the correlations of a pixel with others vanish, to five standard deviations."""
    found = as_levels(drawn(torch.full((4000, 4, 4, 1), 128, dtype=torch.uint8), draws((4, 4, 1), 0, 0, 4000)))
    correlations = np.corrcoef(found.reshape(4000, 16).T)[~np.eye(16, dtype=bool)]
    assert np.abs(correlations).max() < 5 / 4000**0.5


def test_the_static_set_is_what_is_drawn_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    grey, static = digits(limit=300), digits("static", limit=300)
    for one, other in ((grey.train, static.train), (grey.test, static.test)):
        np.testing.assert_array_equal(other.images, drawn_once(one.images))
        np.testing.assert_array_equal(other.labels, one.labels)
        assert isinstance(other.images, np.memmap) and other.hash != one.hash
    assert static.pictures == replace(grey.pictures, levels=2) and grey.pictures.levels == 256
    assert static.changed_since(grey.description) and not static.changed_since(static.description)
    assert static.description["binarize"] == "static" and static.notes[-1].startswith("Every pixel is black or white")
    capsys.readouterr()
    again = digits("static", limit=300)
    assert "Binarizing" not in capsys.readouterr().err, "kept"
    assert again.train.hash == static.train.hash
    np.testing.assert_array_equal(pictures_of(static, static.test, range(5), "cpu").image.unique(), [-1, 1])


def test_only_training_batches_are_drawn_anew() -> None:
    static, dynamic = digits("static", limit=300), digits("dynamic", limit=300)
    assert dynamic.pictures.levels == 2 and dynamic.description["binarize"] == "dynamic"
    for one, other in ((static.train, dynamic.train), (static.test, dynamic.test)):
        np.testing.assert_array_equal(one.images, other.images)
        assert one.hash == other.hash, "what is measured is the same, so features and classifiers are shared"
    still, fresh = (Batches(data, 16, 0, "cpu") for data in (static, dynamic))
    np.testing.assert_array_equal(still.indices(2), fresh.indices(2))
    np.testing.assert_array_equal(as_levels(still[2].image), static.train.images[still.indices(2)])
    assert (as_levels(fresh[2].image) != as_levels(still[2].image)).any((1, 2, 3)).mean() > 0.9


def test_a_dynamic_batch_is_a_function_of_seed_and_step() -> None:
    data = digits("dynamic", limit=200)
    one, again, other = (Batches(data, 200, seed, "cpu") for seed in (0, 0, 1))
    assert torch.equal(one[3].image, again[3].image) and set(one[3].image.unique().tolist()) == {-1, 1}
    assert torch.equal(dict(again.iterate(2, 5))[3].image, one[3].image)

    def by_picture(batch: Batch, found: Batches, step: int) -> np.ndarray:
        return as_levels(batch.image)[np.argsort(found.indices(step))]

    first, second = by_picture(one[0], one, 0), by_picture(one[1], one, 1)
    assert (first != second).any((1, 2, 3)).mean() > 0.95, "every picture is shown once in each of the two steps"
    assert (first != by_picture(other[0], other, 0)).any((1, 2, 3)).mean() > 0.95


def test_many_draws_have_the_grey_picture_as_their_mean() -> None:
    data = digits("dynamic", limit=40)
    found, grey = Batches(data, 40, 0, "cpu"), data.train.grey
    assert grey is not None
    total = np.zeros((40, SIZE, SIZE, 1))
    for step in range(200):
        total[found.indices(step)] += as_levels(found[step].image) / 255
    chance = np.asarray(grey) / 255
    assert np.abs(total - 200 * chance).max() < 6 * np.sqrt(200 * 0.25)
    assert abs(scaled(total - 200 * chance, 200 * chance * (1 - chance))) < 5


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"flip": True, "translate": 0.2}])
@pytest.mark.parametrize("resident", [True, False])
def test_two_processes_see_what_one_with_twice_the_batch_sees(
    settings: dict, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resident:
        monkeypatch.setattr(batches, "RESIDENT", 0)
    data = digits("dynamic", limit=200, **settings)
    whole = Batches(data, 14, 4, "cpu")
    shares = [Batches(data, 7, 4, "cpu", rank=rank, processes=2) for rank in (0, 1)]
    for step in (0, 3, 40):
        expected = whole[step].image
        assert torch.equal(expected, torch.cat([share[step].image for share in shares]))
        assert set(expected.unique().tolist()) == {-1, 1}


def test_an_odd_number_of_pixels_is_shared_alike() -> None:
    whole = draws((5, 5, 1), 1, 2, 6)
    assert torch.equal(whole, torch.cat([draws((5, 5, 1), 1, 2, 2, rank) for rank in range(3)]))


def test_resumed_dynamic_training_gives_the_same_bits(tmp_path: Path) -> None:
    whole, half = (tmp_path / name for name in ("whole", "half"))

    def run(folder: Path, steps: int) -> tuple[Run, Dataset]:
        made, _ = tiny_run("vae", tmp_path / f"as-{folder.name}", steps=steps)
        settings = replace(made.config.data, binarize="dynamic")
        data = load(settings)
        config = replace(made.config, data=settings)
        return Run(folder, config, data.pictures, data.description).create(), data

    train(*run(whole, 6))
    begun, data = run(half, 3)
    train(begun, data)
    opened = Run.open(half)
    assert opened.pictures == data.pictures and opened.pictures.levels == 2 and opened.config.data.binarize == "dynamic"
    assert not load(opened.config.data).changed_since(opened.dataset)
    assert "--data.binarize dynamic" in opened.command()
    train(replace(opened, config=replace(opened.config, train=replace(opened.config.train, steps=6))), data)
    for name, expected in Run.open(whole).latest().tensors("model.safetensors").items():
        assert torch.equal(expected, Run.open(half).latest().tensors("model.safetensors")[name]), name


def test_pictures_from_elsewhere_are_binarized_as_in_the_set() -> None:
    grey, _ = look("digits", 5, DataConfig(), SIZE, 1)
    found, _ = look("digits", 5, DataConfig(binarize="dynamic"), SIZE, 1)
    np.testing.assert_array_equal(found, drawn_once(grey))


def test_colour_is_drawn_only_if_grey_is_asked_for() -> None:
    with pytest.raises(Refused, match="--data.color grey"):
        load(DataConfig(source=("cartoons",), size=16, limit=40, binarize="static"))
    found = load(DataConfig(source=("cartoons",), size=16, limit=40, binarize="static", color="grey"))
    assert found.pictures == Pictures(1, 16, found.pictures.classes, levels=2)
    assert set(np.unique(found.train.images)) == {0, 255}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stream": True}, "does not go with streaming"),
        ({"cutout": 0.2}, "--data.cutout paints grey squares"),
        ({"color_jitter": 0.2}, "--data.color-jitter"),
        ({"jitter": 12}, "--data.jitter enlarges"),
        ({"derive": "masked"}, "leave --data.derive out"),
    ],
)
def test_what_would_make_grey_of_it_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(Refused, match=said):
        digits("dynamic", **settings)


def test_a_damaged_draw_is_made_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = digits("static", limit=77)
    folder = Path(first.train.images.filename).parent  # type: ignore[attr-defined]
    (folder / "binarized.json").write_text("{")
    capsys.readouterr()
    again = digits("static", limit=77)
    assert "Binarizing" in capsys.readouterr().err and again.train.hash == first.train.hash
    assert not list(folder.glob(".binarized*"))
