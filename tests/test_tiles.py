"""Pictures cut into tiles at their own resolution, and pairs made of pictures by adding noise."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from tasvir.config import DataConfig, Refused
from tasvir.data import load
from tasvir.data.batches import Batches, pictures_of, to_uint8
from tasvir.data.check import check
from tasvir.data.contact import plain
from tasvir.data.decoding import Frame
from tasvir.data.sources import find
from tasvir.data.suits import suiting
from tasvir.data.tiling import starts, tiled

SIZE = 16
SHAPES = [(40, 24), (33, 17), (16, 16), (50, 31), (20, 64), (15, 40)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))


def pixels(number: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def folder(root, count: int = 12, classes: bool = False):
    for number in range(count):
        place = root / f"class{number % 2}" if classes else root
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number, *SHAPES[number % 6])).save(place / f"{number:02d}.png")
    return root


def configured(root, **settings) -> DataConfig:
    return DataConfig(source=(str(root),), **{"fit": "tiles", "size": SIZE, "overlap": 0.5, **settings})


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("length", [16, 17, 31, 32, 33, 100])
def test_tiles_cover_all_and_none_hangs_over(length, overlap):
    found = starts(length, SIZE, overlap)
    covered = {place for start in found for place in range(start, start + SIZE)}
    assert covered == set(range(length)) and found == sorted(set(found))
    assert {b - a for a, b in pairwise(found[:-1])} <= {round(SIZE * (1 - overlap))}
    assert starts(15, SIZE, overlap) == []


def test_tiles_are_cut_as_they_are_and_a_files_stay_on_one_side(tmp_path):
    root = folder(tmp_path / "set", classes=True)
    dataset = load(configured(root))
    wanted = {}
    for number in range(12):
        whole = pixels(number, *SHAPES[number % 6])
        for top in starts(whole.shape[0], SIZE, 0.5):
            for left in starts(whole.shape[1], SIZE, 0.5):
                wanted[whole[top : top + SIZE, left : left + SIZE].tobytes()] = number
    sides = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        files = [wanted.pop(image.tobytes()) for image in split.images]
        assert split.labels.tolist() == [file % 2 for file in files]
        sides[name] = set(files)
        if name == "train":
            assert sum(a == b for a, b in pairwise(files)) < 0.5 * len(files), "not spread"
    assert not wanted and sides["test"] and not sides["train"] & sides["test"]
    said = " ".join(dataset.notes)
    assert f"10 pictures gave {len(dataset.train) + len(dataset.test)} tiles of 16×16." in said
    reasons = [reason for _, reason in dataset.skipped]
    assert reasons == ["15x40 px, smaller than a tile of 16 px"] * 2
    packed = configured(root, limit=9)
    assert len(load(packed).train) == 9
    (root / "class0" / "20.png").write_bytes((root / "class0" / "00.png").read_bytes())
    again = load(configured(root))  # the old rows are taken over; the copy is named as one, whatever its tiles
    assert len(again.train) + len(again.test) == len(dataset.train) + len(dataset.test) + 8
    assert "1 picture is an exact copy" in " ".join(again.notes)


def test_a_file_is_decoded_once_and_named_by_place(tmp_path, monkeypatch):
    source = find(configured(folder(tmp_path / "set")))
    items, lost = tiled(source.read(), "set", SIZE, 0.5)
    assert items.names[:3] == ["00.png@0,0", "00.png@8,0", "00.png@16,0"] and len(lost) == 2
    decoded = []
    base = source.read()

    def picture(number, frame):
        decoded.append(number)
        return base.picture(number, frame)

    items, _ = tiled(replace(base, picture=picture), "set", SIZE, 0.5)
    for number in range(len(items)):
        items.picture(number, Frame(SIZE, "tiles"))
    assert decoded == sorted(set(decoded))
    assert items.picture(0, Frame(8, "squash")).image.shape == (8, 8, 3)


def test_both_of_a_pair_are_cut_alike(tmp_path):
    root = tmp_path / "set"
    for side in "AB":
        (root / side).mkdir(parents=True)
    for number in range(12):
        whole = pixels(number, *SHAPES[number % 5])
        Image.fromarray(whole).save(root / "B" / f"{number}.png")
        Image.fromarray(255 - whole[: 16 if number == 4 else None]).save(root / "A" / f"{number}.png")
    dataset = load(configured(root))
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.sources, 255 - np.asarray(split.images))
    assert dataset.skipped == (("B/4.png", "20x64 px, and its partner 20x16: tiles need pairs of one size"),)
    sheet = tmp_path / "beside"
    sheet.mkdir()
    for number in range(12):
        right = pixels(number, 40, 24)
        Image.fromarray(np.concatenate([255 - right, right], 1)).save(sheet / f"{number}.png")
    dataset = load(configured(sheet, layout="side-by-side", direction="b-to-a"))
    assert np.array_equal(dataset.train.sources, 255 - np.asarray(dataset.train.images))
    assert len(dataset.train) + len(dataset.test) == 12 * 8


def test_what_has_no_tiles_is_refused(tmp_path):
    root = folder(tmp_path / "set")
    np.save(tmp_path / "array.npy", np.zeros((20, 32, 32, 3), np.uint8))
    array = configured(tmp_path / "array.npy")
    for look in (load, lambda config: check(find(config), config)):
        with pytest.raises(Refused, match="array has none"):
            look(array)
    with pytest.raises(Refused, match=r"tile of 128 px.*\n.*smaller --data\.size"):
        load(configured(root, size=128))
    with pytest.raises(Refused, match="streaming"):
        load(DataConfig(source=("cartoons",), fit="tiles", stream=True))
    one = tmp_path / "one"
    one.mkdir()
    Image.fromarray(pixels(0, 80, 80)).save(one / "a.png")
    with pytest.raises(Refused, match="of one picture: give at least two"):
        load(configured(one))


def test_check_counts_tiles(tmp_path):
    config = configured(folder(tmp_path / "set"), overlap=0.25)
    dataset, found = load(config), check(find(config), config)
    told = plain(found, suiting(found))
    assert told["tiles"] == {"size": SIZE, "train": len(dataset.train), "test": len(dataset.test)}
    assert any(remark["key"] == "small" and remark["count"] == 2 for remark in told["remarks"])


def test_noise_is_normal_as_strong_as_asked_and_always_the_same(tmp_path):
    config = DataConfig(source=("cartoons",), size=32, limit=64, derive="noisy", sigma=0.05)
    dataset = load(config)
    batches = Batches(dataset, 32, 7, "cpu")
    batch, again = batches[5], Batches(dataset, 32, 7, "cpu")[5]
    assert torch.equal(batch.source, again.source) and not torch.equal(batch.source, batches[6].source)
    levels = (batch.source + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    inside = (batch.image.abs() < 0.6).expand_as(batch.image)
    added = (batch.source - batch.image)[inside] / 2  # black to white is 1
    assert abs(added.std() / 0.05 - 1) < 0.03 and abs(added.mean()) < 0.002
    kurtosis = ((added - added.mean()) ** 4).mean() / added.var() ** 2
    assert abs(kurtosis - 3) < 0.15
    half = Batches(dataset, 16, 7, "cpu", rank=1, processes=2)[
        5
    ]  # two processes see what one sees with twice the batch
    assert torch.equal(half.source, batch.source[16:])
    first = pictures_of(dataset, dataset.test, [0, 1], "cpu").source
    assert torch.equal(pictures_of(dataset, dataset.test, [1], "cpu").source[0], first[1])
    assert (to_uint8(first) != to_uint8(pictures_of(dataset, dataset.test, [0, 1], "cpu").image)).mean() > 0.5
