"""Sources and packing: what is recognized, refused, skipped, and packed once."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import types
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasvir.config import DataConfig, Refused
from tasvir.data import DATASETS, decoding, load, packing, sources

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TASVIR_DATA", raising=False)
    return tmp_path / "cache"


def noise(seed: int, height: int = 24, width: int = 24, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def write(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def folder(root: Path, count: int = 20, first: int = 0, channels: int = 3) -> Path:
    for number in range(first, first + count):
        write(root / f"{number:03d}.png", noise(number, channels=channels))
    return root


def zipped(root: Path, path: Path, rename=lambda name: name) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.writestr(rename(file.relative_to(root).as_posix()), file.read_bytes())
    return path


def data(source: Path | str, **settings):
    return load(DataConfig(source=(str(source),), **{"size": 24, **settings}))


def everything(dataset) -> set[bytes]:
    return {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}


def as_bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


# Layouts


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_flat_set_has_no_classes_and_every_picture_once(tmp_path, kind):
    root = folder(tmp_path / "flat", 30)
    dataset = data(root if kind == "folder" else zipped(root, tmp_path / "flat.zip"))
    assert dataset.name == "flat" and dataset.pictures.classes == () and dataset.train.labels is None
    assert dataset.pictures.channels == 3 and dataset.pictures.size == 24
    assert len(dataset.train) + len(dataset.test) == 30 and len(dataset.test) >= 1
    assert everything(dataset) == {noise(number).tobytes() for number in range(30)}
    assert dataset.train.images.dtype == np.uint8 and isinstance(dataset.train.images, np.memmap)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("wrapping", ["", "outer/inner/"])
def test_sub_folders_are_classes(tmp_path, kind, wrapping):
    folder(tmp_path / "set" / wrapping / "cats", 12)
    folder(tmp_path / "set" / wrapping / "dogs" / "deep", 12, first=12)
    source = tmp_path / "set" if kind == "folder" else zipped(tmp_path / "set", tmp_path / "set.zip")
    dataset = data(source)
    assert dataset.pictures.classes == ("cats", "dogs")
    dogs = {noise(number).tobytes() for number in range(12, 24)}
    for split in (dataset.train, dataset.test):
        assert split.labels.dtype == np.int64
        assert [image.tobytes() in dogs for image in split.images] == (split.labels == 1).tolist()
    bare = data(source, labels="none")
    assert bare.train.labels is None and bare.pictures.classes == ()
    assert bare.train.hash != dataset.train.hash


def test_pictures_beside_class_folders_mean_no_classes(tmp_path):
    folder(tmp_path / "set" / "cats", 12)
    folder(tmp_path / "set" / "dogs", 12, first=12)
    folder(tmp_path / "set", 1, first=24)
    assert data(tmp_path / "set").pictures.classes == ()


def test_train_and_test_folders_are_the_split(tmp_path):
    for split, first in (("train", 0), ("val", 24)):
        for place, name in enumerate(("cats", "dogs")):
            folder(tmp_path / "set" / split / name, 12, first=first + 12 * place)
    dataset = data(tmp_path / "set")
    assert {image.tobytes() for image in dataset.test.images} == {noise(number).tobytes() for number in range(24, 48)}
    assert dataset.pictures.classes == ("cats", "dogs") and sorted(dataset.test.labels) == [0] * 12 + [1] * 12


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_hidden_and_other_files_are_left_aside(tmp_path, kind):
    root = folder(tmp_path / "set", 20)
    for name in (".hidden.png", "__MACOSX/x.png", ".git/y.png"):
        write(root / name, noise(99))
    (root / "notes.txt").write_text("hello")
    (root / "list.csv").write_text("a,b")
    dataset = data(root if kind == "folder" else zipped(root, tmp_path / "set.zip"))
    assert len(dataset.train) + len(dataset.test) == 20 and not dataset.skipped
    assert any("1 .csv, 1 .txt (list.csv, notes.txt)" in note for note in dataset.notes)


def test_a_zip_is_never_extracted(tmp_path):
    root = folder(tmp_path / "in" / "set", 20)
    archive = zipped(root, tmp_path / "in" / "set.zip", lambda name: f"{'../../outside/' * (name < '004')}{name}")
    before = set((tmp_path / "in").rglob("*"))
    dataset = data(archive)
    assert len(everything(dataset)) == 16
    assert dataset.skipped == tuple(
        (f"../../outside/{number:03d}.png", "its name leads outside the archive") for number in range(4)
    )
    assert set((tmp_path / "in").rglob("*")) == before and not list(tmp_path.rglob("outside"))


def test_a_link_back_does_not_count_twice(tmp_path):
    root = folder(tmp_path / "set", 20)
    (root / "again").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    dataset = data(root)
    assert len(dataset.train) + len(dataset.test) == 20
    assert [file for file, _ in dataset.skipped] == ["gone.png"]


# Refusals


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(source=("cifar1",)), ["no data set or path 'cifar1'", "cifar10"]),
        (dict(source=("no/such/place",)), ["no data set or path", "folder or zip"]),
        (dict(source=("cartoons",), labels="hair"), ["no attribute 'hair'", "hair_style", "hair_color", "skin"]),
        (dict(source=("digits",), labels="hair"), ["digits has no attributes", "none"]),
    ],
)
def test_what_is_not_there_is_refused_and_the_nearest_named(settings, words):
    with pytest.raises(Refused) as refusal:
        load(DataConfig(**settings))
    assert all(word in str(refusal.value) for word in words)


def test_too_few_pictures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="no pictures"):
        data(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(Refused, match="1 .txt"):
        data(tmp_path / "empty")
    with pytest.raises(Refused, match="15 readable pictures; at least 16"):
        data(folder(tmp_path / "few", packing.MINIMUM - 1))
    with pytest.raises(Refused, match="15 readable"):
        data(tmp_path / "few", limit=4)
    (tmp_path / "few" / "zz.png").write_bytes(b"")
    with pytest.raises(Refused, match=r"zz.png \(empty file\)"):
        data(tmp_path / "few")
    assert not list((tmp_path / "cache" / "packs").glob("few*"))
    assert len(everything(data(folder(tmp_path / "enough", packing.MINIMUM)))) == packing.MINIMUM


def test_a_zip_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(Refused, match="neither a folder, an archive nor an array file"):
        data(tmp_path / "a.zip")


def test_only_copies_of_one_picture_are_refused(tmp_path):
    for number in range(20):
        write(tmp_path / "same" / f"{number}.png", noise(0))
    with pytest.raises(Refused, match="copies of one"):
        data(tmp_path / "same")


def test_a_full_disk_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(total=10**9, used=10**9, free=10_000)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(sources, "decode", None)
    with pytest.raises(Refused, match="MB free"):
        data(folder(tmp_path / "set"))


# Files of every kind


def test_bad_files_are_named_counted_and_skipped(tmp_path):
    root = folder(tmp_path / "set", 20)
    whole = as_bytes(Image.fromarray(noise(1, 200, 200)), "JPEG")
    bad = {
        "bomb.png": (bomb(), "bomb"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "empty.png": (b"", "empty file"),
        "large.png": (bomb(9_500, 9_500), "9500x9500"),
        "words.png": (b"just words", "not a picture"),
    }
    for name, (content, _) in bad.items():
        (root / name).write_bytes(content)
    for dataset in (data(root), data(zipped(root, tmp_path / "set.zip"))):
        skipped = dict(dataset.skipped)
        assert sorted(skipped) == sorted(bad)
        assert all(reason in skipped[name] for name, (_, reason) in bad.items())
        assert len(dataset.train) + len(dataset.test) == 20
        assert any("bomb.png" in note and "5 in all" in note for note in dataset.notes)


def test_a_damaged_or_locked_zip_entry_is_skipped(tmp_path):
    archive = zipped(folder(tmp_path / "set", 20), tmp_path / "set.zip")
    content = bytearray(archive.read_bytes())
    start = content.find(b"IDAT", content.find(b"005.png"))
    content[start + 20] ^= 0xFF
    archive.write_bytes(content)
    dataset = data(archive)
    assert [file for file, _ in dataset.skipped] == ["005.png"] and "CRC" in dataset.skipped[0][1]


def test_an_unreadable_test_picture_leaves_no_empty_split(tmp_path):
    """The one file whose content would make it the test split cannot be decoded: another takes its place."""
    root = tmp_path / "set"
    for number in range(200):  # only pictures that are for training
        content = as_bytes(Image.fromarray(noise(number)), "PNG")
        if packing.hashlib.blake2b(content, digest_size=16).digest()[0] >= 26 and len(list(root.glob("*"))) < 20:
            write(root / "x", Image.fromarray(noise(number)), format="PNG").rename(root / f"{number}.png")
    dataset = data(root)
    assert (len(dataset.train), len(dataset.test)) == (19, 1)
    bad = next(b"%d" % n for n in range(500) if packing.hashlib.blake2b(b"%d" % n, digest_size=16).digest()[0] < 20)
    (root / "bad.png").write_bytes(bad)
    dataset = data(root)
    assert (len(dataset.train), len(dataset.test)) == (19, 1) and len(dataset.skipped) == 1


@pytest.mark.parametrize("ending", sorted(sources.ENDINGS))
def test_every_ending_is_read(tmp_path, ending):
    for number in range(packing.MINIMUM):
        exact = {"lossless": True} if ending == "webp" else {"quality": 95} if ending in ("jpg", "jpeg") else {}
        smooth = np.full((24, 24, 3), 10 * number, np.uint8)
        write(tmp_path / "set" / f"{number}.{ending}", smooth[..., 0] if ending == "pgm" else smooth, **exact)
    dataset = data(tmp_path / "set")
    values = sorted(int(image.mean().round()) for split in (dataset.train, dataset.test) for image in split.images)
    assert not dataset.skipped and np.abs(np.array(values) - 10 * np.arange(packing.MINIMUM)).max() <= 1


def test_all_grey_is_one_channel_and_grey_among_colour_is_three(tmp_path):
    root = folder(tmp_path / "grey", 19, channels=1)
    write(root / "rgb.png", np.repeat(noise(50, channels=1)[..., None], 3, -1))  # grey, stored as colour
    grey = data(root)
    assert grey.pictures.channels == 1 and grey.train.images.shape[1:] == (24, 24, 1)
    assert {image.tobytes() for s in (grey.train, grey.test) for image in s.images} == {
        noise(number, channels=1).tobytes() for number in (*range(19), 50)
    }
    assert data(root, color="rgb").pictures.channels == 3
    write(root / "colour.png", noise(51))
    mixed = data(root)
    assert mixed.pictures.channels == 3
    assert np.repeat(noise(0, channels=1)[..., None], 3, -1).tobytes() in everything(mixed)
    forced = data(root, color="grey")
    assert np.asarray(Image.fromarray(noise(51)).convert("L")).tobytes() in everything(forced)


# The pack


def test_the_second_load_decodes_nothing_and_a_change_packs_anew(tmp_path, monkeypatch):
    root = folder(tmp_path / "set")
    first = data(root)
    with monkeypatch.context() as broken:
        broken.setattr(packing, "_make", None)
        broken.setattr(sources, "decode", None)
        second = data(root)
        for name in ("train", "test"):
            np.testing.assert_array_equal(getattr(first, name).images, getattr(second, name).images)
            assert getattr(first, name).hash == getattr(second, name).hash
        for settings in (dict(size=16), dict(color="grey"), dict(limit=5), dict(labels="none")):
            with pytest.raises(TypeError):
                data(root, **settings)
        write(root / "000.png", noise(1000))
        with pytest.raises(TypeError):
            data(root)
    third = data(root)
    assert noise(1000).tobytes() in everything(third) and noise(0).tobytes() not in everything(third)
    (root / "001.png").rename(root / "moved.png")
    (root / "002.png").unlink()
    assert len(everything(data(root))) == 19
    assert third.description["hash"]["train"] == third.train.hash


@pytest.mark.parametrize("kind", ["folder", "zip", "pairs"])
def test_a_pack_is_updated_without_decoding_again_what_is_the_same(tmp_path, monkeypatch, cache, kind):
    root = tmp_path / "set"
    folders = ("A", "B") if kind == "pairs" else ("",)
    for place, inside in enumerate(folders):
        folder(root / inside, 40, first=1000 * place)
        if place:
            for number in range(40):
                (root / inside / f"{1000 + number}.png").rename(root / inside / f"{number:03d}.png")

    def again(**settings):
        return data(zipped(root, tmp_path / "set.zip") if kind == "zip" else root, **settings)

    first = split_of(again())
    for inside in folders:
        write(root / inside / "new.png", noise(77))
        write(root / inside / "003.png", noise(78))
        (root / inside / "005.png").unlink()
    decode, kept = sources.decode, {(root / inside / name).read_bytes() for name in ("new.png", "003.png")}

    def only_new(content, frame):
        if content not in kept:
            raise decoding.Unreadable("decoded again")
        return decode(content, frame)

    with monkeypatch.context() as patched:
        patched.setattr(sources, "decode", only_new)
        dataset = again()
    assert not dataset.skipped and len(dataset.train) + len(dataset.test) == 40
    packs = [path for path in (cache / "packs").iterdir() if path.is_dir()]
    assert len(packs) == 1, "the new pack takes the place of the old one"
    after = split_of(dataset)
    assert all(after[picture] == split for picture, split in first.items() if picture in after)
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "other"))
    afresh = again()
    assert (afresh.train.hash, afresh.test.hash) == (dataset.train.hash, dataset.test.hash)


def test_how_large_the_pack_will_be_is_said_first(tmp_path, capsys):
    data(folder(tmp_path / "set", 30), size=200)
    assert "Packing 30 pictures at 200×200: 4 MB" in capsys.readouterr().err
    data(tmp_path / "set", size=200)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_is_not_square_is_fitted_as_asked(tmp_path, fit):
    for number in range(20):
        write(tmp_path / "set" / f"{number}.png", np.full((8, 24, 3), number, np.uint8))
    dataset = data(tmp_path / "set", fit=fit, background="#ff0000")
    image = dataset.train.images[0]
    red = (image == (255, 0, 0)).all(-1)
    assert red.any(axis=1).sum() == (16 if fit == "pad" else 0)
    words = {"crop": "centre crop", "pad": "on a #ff0000 square", "squash": "squashed"}
    assert words[fit] in dataset.description["resize"]


def test_the_hash_is_that_of_pixels_and_labels(tmp_path):
    folder(tmp_path / "set" / "a", 10)
    folder(tmp_path / "set" / "b", 10, first=10)
    dataset = data(tmp_path / "set")
    for split in (dataset.train, dataset.test):
        assert split.hash == packing.hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()


def test_a_failure_halfway_leaves_nothing(tmp_path, monkeypatch, cache):
    root = folder(tmp_path / "set")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(packing, "hash_of", full)
        with pytest.raises(Refused, match="No space left on device"):
            data(root)
    assert not [path for path in (cache / "packs").iterdir() if path.is_dir()]
    assert len(everything(data(root))) == 20


SLOW = """
import sys, time
from tasvir.config import DataConfig
from tasvir.data import load, sources
decode = sources.decode
def slow(*given):
    time.sleep(float(sys.argv[2]))
    return decode(*given)
sources.decode = slow
print(load(DataConfig(source=(sys.argv[1],), size=24)).train.hash)
"""


def process(root: Path, seconds: float) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(packing.__file__).parents[2])}
    command = [sys.executable, "-c", SLOW, str(root), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_kill_halfway_leaves_no_pack_and_no_workers(tmp_path, cache):
    root = folder(tmp_path / "set")
    killed = process(root, 1.0)
    packs = cache / "packs"
    wait_for(lambda: list(packs.glob(".set-*.tmp/test.images.npy")))
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children")
    if children.exists():
        wait_for(lambda: children.read_text().split())
    workers = children.read_text().split() if children.exists() else []
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert not list(packs.glob("set-*"))
    wait_for(lambda: not any(_alive(worker) for worker in workers), 5)
    assert len(everything(data(root))) == 20
    assert not list(packs.glob(".set-*.tmp")), "what the killed process left is swept away"


def _alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_two_processes_pack_the_same_set(tmp_path, cache):
    root = folder(tmp_path / "set")
    both = [process(root, 0.02) for _ in range(2)]
    hashes = [one.communicate(timeout=120)[0].strip() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert hashes[0] == hashes[1] == data(root).train.hash
    assert len(list((cache / "packs").glob("set-*"))) == 1


def test_a_damaged_pack_is_made_again(tmp_path, cache):
    root = folder(tmp_path / "set")
    before = data(root).train.hash
    [pack] = (cache / "packs").glob("set-*")
    with (pack / "train.images.npy").open("r+b") as file:
        file.truncate(1000)
    assert data(root).train.hash == before


# Split and limit


def split_of(dataset) -> dict[bytes, str]:
    return {image.tobytes(): name for name in ("train", "test") for image in getattr(dataset, name).images}


def test_no_picture_moves_when_others_are_added(tmp_path):
    root = folder(tmp_path / "set", 100)
    before = split_of(data(root))
    assert 2 <= sum(name == "test" for name in before.values()) <= 25
    folder(root / "more", 60, first=100)
    (root / "000.png").rename(root / "more" / "renamed.png")
    after = split_of(data(root))
    assert len(after) == 160
    assert {picture: after[picture] for picture in before} == before


def test_copies_never_straddle(tmp_path):
    root = folder(tmp_path / "set", 60)
    for number in range(60):
        (root / f"copy{number}.png").write_bytes((root / f"{number:03d}.png").read_bytes())
    dataset = data(root)
    train, test = ([image.tobytes() for image in split.images] for split in (dataset.train, dataset.test))
    assert len(train) + len(test) == 120 and not set(train) & set(test) and len(test) == 2 * len(set(test))
    assert any("60 pictures are exact copies" in note for note in dataset.notes)


def test_a_limit_takes_a_fixed_part_of_all_classes(tmp_path):
    for place in range(4):
        folder(tmp_path / "set" / str(place), 40, first=40 * place)
    whole, some, fewer = (data(tmp_path / "set", limit=limit) for limit in (None, 60, 20))
    assert len(some.train) == 60 and len(some.test) <= 60
    assert set(some.train.labels) == {0, 1, 2, 3}
    np.testing.assert_array_equal(some.train.images[:20], fewer.train.images)
    assert split_of(some).items() <= split_of(whole).items()


def test_broken_files_do_not_count_towards_the_limit(tmp_path):
    root = folder(tmp_path / "set", 60)
    for number in range(60):
        (root / f"bad{number}.png").write_bytes(b"%d" % number)
    assert len(data(root, limit=20).train) == 20


# Built-in sets and those of torchvision


def test_digits_are_scikit_learns(monkeypatch):
    from sklearn.datasets import load_digits

    asked = []
    dataset = load(DataConfig(source=("digits",)), lambda size: asked.append(size) or size)
    assert asked == [8] and dataset.pictures.size == 8 and dataset.pictures.channels == 1
    assert len(dataset.train) + len(dataset.test) == 1797
    original = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    known = {image.tobytes(): label for image, label in zip(original, load_digits().target, strict=False)}
    for split in (dataset.train, dataset.test):
        assert [known[image.tobytes()] for image in split.images] == split.labels.tolist()
    large = load(DataConfig(source=("digits",), size=16), lambda size: pytest.fail("the size was given"))
    first = Image.fromarray(dataset.train.images[0, ..., 0]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(large.train.images[0, ..., 0], np.asarray(first))


def test_cartoons_and_their_attributes():
    from tasvir.data.cartoons import ATTRIBUTES, attributes, cartoon

    asked = []
    dataset = load(DataConfig(source=("cartoons",), limit=30), lambda size: asked.append(size) or 32)
    assert asked == [None] and dataset.pictures.classes == tuple(ATTRIBUTES["hair_style"])
    assert dataset.train.images.shape == dataset.test.images.shape == (30, 32, 32, 3)
    drawn = {cartoon(number, 32)[0].tobytes(): number for number in range(5500)[10::11]}
    numbers = [drawn[image.tobytes()] for image in dataset.test.images]
    assert dataset.test.labels.tolist() == [attributes(number, 0)["hair_style"] for number in numbers]
    assert not {image.tobytes() for image in dataset.train.images} & set(drawn)
    assert data("cartoons", limit=30, size=32, labels="skin").pictures.classes == tuple(ATTRIBUTES["skin"])
    assert data("cartoons", limit=30, size=32, labels="none").train.labels is None


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, zipped: bool) -> tuple[np.ndarray, np.ndarray]:
    import gzip

    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    for stem, part in (("train", slice(0, 30)), ("t10k", slice(30, 40))):
        for what, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            content = idx(array)
            name = f"{stem}-{what}-ubyte" + (".gz" if zipped else "")
            (raw / name).write_bytes(gzip.compress(content) if zipped else content)
    return images, labels


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_read_where_it_lies_even_if_nothing_may_be_written(tmp_path, monkeypatch, zipped):
    images, labels = write_mnist(tmp_path / "root", zipped)
    (tmp_path / "root" / "MNIST" / "raw").chmod(0o555)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it would fail
    dataset = load(DataConfig(source=("mnist",), root=tmp_path / "root"))
    np.testing.assert_array_equal(dataset.train.images[..., 0], images[:30])
    np.testing.assert_array_equal(dataset.test.images[..., 0], images[30:])
    np.testing.assert_array_equal(dataset.test.labels, labels[30:])
    monkeypatch.setenv("TASVIR_DATA", str(tmp_path / "root"))
    assert load(DataConfig(source=("mnist",))).train.hash == dataset.train.hash
    assert (tmp_path / "root" / "MNIST" / "raw").stat().st_mode & 0o777 == 0o555
    (tmp_path / "root" / "MNIST" / "raw").chmod(0o755)


def test_a_damaged_mnist_is_refused(tmp_path):
    write_mnist(tmp_path, True)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Refused, match="train-images.*cannot be read"):
        load(DataConfig(source=("mnist",), root=tmp_path))


def offline(monkeypatch, present: dict | None = None) -> list[bool]:
    """A torchvision without a network, with the given set on disk or none; the calls' `download` is returned."""
    calls = []

    def make(root, download, **options):
        calls.append(download)
        if present is None:
            raise OSError("Name or service not known") if download else RuntimeError("Dataset not found")
        return types.SimpleNamespace(**present)

    kinds = types.SimpleNamespace(**dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "SVHN"), make))
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=kinds))
    return calls


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_set_that_cannot_be_fetched_says_where_to_put_it(tmp_path, monkeypatch, name):
    calls = offline(monkeypatch)
    with pytest.raises(Refused) as refusal:
        load(DataConfig(source=(name,), root=tmp_path / "root"))
    assert calls == [False, True]
    for word in (name, str(tmp_path / "root"), "could not be fetched", "service not known", "--data.root"):
        assert word in str(refusal.value)


@pytest.mark.parametrize("name, first", [("cifar10", False), ("svhn", True)])
def test_torchvision_sets_are_downloaded_only_when_absent(tmp_path, monkeypatch, name, first):
    pixels = np.stack([noise(number, 32, 32) for number in range(20)])
    stored = pixels.transpose(0, 3, 1, 2) if first else pixels
    names = (
        {"labels": np.arange(20) % 10}
        if first
        else {"targets": [n % 10 for n in range(20)], "classes": list("abcdefghij")}
    )
    calls = offline(monkeypatch, {"data": stored, **names})
    dataset = load(DataConfig(source=(name,), root=tmp_path / "root"))
    assert calls == [False, False]
    np.testing.assert_array_equal(dataset.train.images, pixels)
    assert dataset.train.labels.tolist() == [n % 10 for n in range(20)] and len(dataset.pictures.classes) == 10


def lines(path: Path, *words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(words))


def pets(root: Path, train: list[int], test: list[int]) -> None:
    for name, numbers in (("trainval", train), ("test", test)):
        about = [f"{('Cat', 'Dog')[n % 2]}_{n} {n % 2 + 1} {n % 2 + 1} 1" for n in numbers]
        lines(root / "oxford-iiit-pet" / "annotations" / f"{name}.txt", *about)
    for n in train + test:
        write(root / "oxford-iiit-pet" / "images" / f"{('Cat', 'Dog')[n % 2]}_{n}.jpg", noise(n))


def textures(root: Path, train: list[int], test: list[int]) -> None:
    for name, numbers in (("train1", train), ("val1", test[:4]), ("test1", test[4:])):
        lines(root / "dtd" / "dtd" / "labels" / f"{name}.txt", *(f"{'ab'[n % 2]}/{n}.jpg" for n in numbers))
    for n in train + test:
        write(root / "dtd" / "dtd" / "images" / "ab"[n % 2] / f"{n}.jpg", noise(n))


def food(root: Path, train: list[int], test: list[int]) -> None:
    for name, numbers in (("train", train), ("test", test)):
        found = {kind: [f"{kind}/{n}" for n in numbers if "ab"[n % 2] == kind] for kind in "ab"}
        lines(root / "food-101" / "meta" / f"{name}.json", json.dumps(found))
    for n in train + test:
        write(root / "food-101" / "images" / "ab"[n % 2] / f"{n}.jpg", noise(n))


def satellites(root: Path, train: list[int], test: list[int]) -> None:
    for n in train + test:
        write(root / "eurosat" / "2750" / "ab"[n % 2] / f"{n}.jpg", noise(n))


@pytest.mark.parametrize(
    "name, lay", [("oxford-pets", pets), ("dtd", textures), ("food101", food), ("eurosat", satellites)]
)
def test_torchvisions_sets_of_files_are_read_where_they_lie(tmp_path, name, lay):
    """By torchvision itself, from its own layout on disk."""
    lay(tmp_path, list(range(20)), list(range(20, 26)))
    dataset = load(DataConfig(source=(name,), root=tmp_path, size=24))
    assert len(dataset.pictures.classes) == 2 and dataset.pictures.channels == 3
    if name != "eurosat":
        assert (len(dataset.train), len(dataset.test)) == (20, 6)
    assert sorted(np.concatenate([dataset.train.labels, dataset.test.labels]).tolist()) == [0] * 13 + [1] * 13
    one = (tmp_path / "oxford-iiit-pet" / "images" / "Cat_4.jpg") if name == "oxford-pets" else None
    if one is not None:
        place = [image.tobytes() for image in dataset.train.images].index(np.asarray(Image.open(one)).tobytes())
        assert dataset.train.labels[place] == 0


def test_every_row_of_the_table_opens_or_refuses_plainly(tmp_path, monkeypatch):
    offline(monkeypatch)
    for name in DATASETS:
        try:
            source = sources.find(DataConfig(source=(name,), root=tmp_path))
        except Refused:
            continue
        assert source.name == name and json.dumps(source.fingerprint)


def test_a_name_beats_a_path_that_is_not_spelled_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "digits")
    folder(tmp_path / "mine")
    by_name = load(DataConfig(source=("digits",)))
    assert by_name.pictures.size == 8 and any("./digits" in note for note in by_name.notes)
    assert data("./digits").pictures.channels == 3
    assert data("mine").name == "mine"


@pytest.mark.skipif(not (SHARED / "MNIST").exists(), reason=f"{SHARED}/MNIST is not there")
def test_the_real_mnist():
    dataset = load(DataConfig(source=("mnist",), root=SHARED))
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert np.bincount(dataset.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(dataset.train.images.mean() / 255 - 0.1307) < 1e-4  # the mean that the world normalizes by


@pytest.mark.skipif(
    not (SHARED / "anime_faces_64px_6000.zip").exists(), reason=f"{SHARED}/anime_faces_64px_6000.zip is not there"
)
def test_a_real_zip_of_faces():
    path = SHARED / "anime_faces_64px_6000.zip"
    dataset = load(DataConfig(source=(str(path),), limit=200))
    assert dataset.train.images.shape == (200, 64, 64, 3) and dataset.pictures.classes == () and not dataset.skipped
    with zipfile.ZipFile(path) as archive:
        known = {np.asarray(Image.open(archive.open(name)).convert("RGB")).tobytes() for name in archive.namelist()}
    assert everything(dataset) <= known


def test_splits_of_class_folders_come_mixed(tmp_path: Path) -> None:
    """The first held-out pictures are of all classes, not of the first folder's; and a stray picture is told of."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for number in range(20):
                pixels = np.random.default_rng([number, len(split), ord(label)]).integers(0, 255, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / label / f"{number}.png")
    dataset = load(DataConfig(source=(str(tmp_path / "set"),), size=8))
    assert dataset.test.labels is not None and len(dataset.test) == 40 and set(dataset.test.labels[:12]) == {0, 1}
    Image.fromarray(pixels).save(tmp_path / "set" / "train" / "cover.png")
    dataset = load(DataConfig(source=(str(tmp_path / "set"),), size=8))
    assert dataset.test.labels is None and any("There are no classes" in note for note in dataset.notes)
