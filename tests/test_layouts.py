"""Every layout that people have: recognized by looking, said, forced to be another, and told what is missing."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REAL
from tasvir.config import DataConfig, Refused
from tasvir.data import load
from tasvir.data.layouts import arrange
from tasvir.data.packing import Dataset
from tasvir.data.sources import find


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TASVIR_DATA", raising=False)
    return tmp_path / "cache"


def pixels(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """Without steps between neighbours, as photographs mostly are."""
    start, slope = np.random.default_rng(seed).integers(0, 100, (2, 3))
    ramp = np.linspace(0, 1, width)[None, :, None] * slope + start
    return np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)


def write(root: Path, names: list[str]) -> Path:
    """A picture of its own under each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(root / name)
    return root


def numbered(folder: str, count: int = 20, ending: str = "png") -> list[str]:
    return [f"{folder}/{number:02d}.{ending}".lstrip("/") for number in range(count)]


def data(*source: Path | str, **settings: object) -> Dataset:
    return load(DataConfig(source=tuple(map(str, source)), **{"size": 16, **settings}))  # type: ignore[arg-type]


def told(dataset: Dataset, words: str) -> bool:
    return any(words in note for note in dataset.notes)


def pictures(dataset: Dataset) -> dict[bytes, tuple[str, int | None, bytes | None]]:
    """Pixels → split, label, pixels of the source."""
    found = {}
    for name in ("train", "test"):
        split = getattr(dataset, name)
        for number, image in enumerate(split.images):
            label = None if split.labels is None else int(split.labels[number])
            source = None if split.sources is None else split.sources[number].tobytes()
            found[image.tobytes()] = name, label, source
    return found


# Names alone

BOTH = {"train", "test"}


def several(*folders: str) -> list[str]:
    return [name for folder in folders for name in numbered(folder)]


def recognized(names: list[str], layout: str = "auto", direction: str = "a-to-b"):  # type: ignore[no-untyped-def]
    return arrange(names, layout, direction, lambda positions: None)


@pytest.mark.parametrize(
    ("names", "layout", "classes", "splits"),
    [
        (numbered(""), "flat", (), None),
        (numbered("deep/er"), "flat", (), None),
        (numbered("cats") + numbered("dogs"), "classes", ("cats", "dogs"), None),
        (numbered("set/cats/a") + numbered("set/dogs/b"), "classes", ("cats", "dogs"), None),
        (numbered("train") + numbered("test"), "splits", (), {"train", "test"}),
        (numbered("Training") + numbered("val") + numbered("testing"), "splits", (), {"train", "test"}),
        (numbered("x/train/c") + numbered("x/train/d") + numbered("x/valid/d"), "splits", ("c", "d"), BOTH),
        (numbered("") + numbered("cats"), "flat", (), None),
        (numbered("a") + numbered("b"), "classes", ("a", "b"), None),
        (numbered("A") + numbered("B"), "matched", (), None),
        (numbered("lr") + numbered("hr", ending="jpg"), "matched", (), None),
        (several("A/train", "A/test", "B/train", "B/test"), "matched", (), BOTH),
        (several("train/A", "train/B", "val/A", "val/B"), "matched", (), BOTH),
        (several("trainA", "testA", "testB") + numbered("trainB", 30), "unmatched", (), BOTH),
        (numbered("source", 9) + [f"target/{n}x.png" for n in range(9)], "classes", ("source", "target"), None),
        (numbered("inputs") + numbered("targets", 15), "matched", (), None),
        (numbered("mask") + numbered("image"), "matched", (), None),
        (numbered("train/c") + numbered("train/d") + numbered("dev/c"), "splits", ("c", "d"), BOTH),
    ],
)  # fmt: skip
def test_layouts_are_recognized_by_names(names, layout, classes, splits):  # type: ignore[no-untyped-def]
    found = recognized(names)
    assert (found.layout, found.classes) == (layout, classes)
    assert (set(found.splits) if found.splits else None) == splits
    if layout != "flat":
        assert found.notes


@pytest.mark.parametrize(
    ("names", "layout", "expected"),
    [
        (numbered("cats") + numbered("dogs"), "flat", ("flat", ())),
        (numbered("train") + numbered("test"), "classes", ("classes", ("test", "train"))),
        (numbered("A") + numbered("B"), "classes", ("classes", ("A", "B"))),
        (numbered("cats") + numbered("dogs"), "matched", ("matched", ())),
        (numbered("A") + numbered("B"), "unmatched", ("unmatched", ())),
        (numbered("cats") + numbered("dogs"), "unmatched", ("unmatched", ())),
        (numbered(""), "side-by-side", ("side-by-side", ())),
    ],
)
def test_a_layout_can_be_forced(names, layout, expected):  # type: ignore[no-untyped-def]
    found = recognized(names, layout)
    assert (found.layout, found.classes) == expected


@pytest.mark.parametrize(
    ("names", "layout", "words"),
    [
        (numbered(""), "classes", "at least two classes"),
        (numbered("") + numbered("cats"), "classes", "lie outside the sub-folders"),
        (numbered("cats"), "splits", "train and test"),
        (numbered("cats") + numbered("dogs") + numbered("mice"), "matched", "two folders"),
        (numbered(""), "unmatched", "two folders"),
        (numbered("cats") + [f"dogs/{n}x.png" for n in range(9)], "matched", "cannot be matched"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(names, layout, words):  # type: ignore[no-untyped-def]
    with pytest.raises(Refused, match=words):
        recognized(names, layout)


def test_what_might_be_meant_otherwise_is_said():
    (said,) = recognized(numbered("cats") + numbered("dogs")).notes[1:]
    assert "--data.layout matched makes pairs of them" in said
    assert not recognized(numbered("cats") + numbered("dogs", 9)).notes[1:]
    notes = recognized(numbered("train") + numbered("val") + numbered("extra")).notes
    assert "look like a split" in notes[0] and "extra/00.png" in notes[0]


def test_two_files_of_one_name_are_not_lost():
    names = ["A/1.png", "A/1.jpg", "A/2.png", "B/1.png", "B/2.png", "B/2.bmp"]
    found = recognized(names)
    assert found.layout == "matched" and len(found.pictures) == 2
    assert {names[position]: why for position, why in found.left_out} == {
        "A/1.jpg": "1.png has the same name, and is used",
        "B/2.bmp": "2.png has the same name, and is used",
    }


def test_partners_are_found_by_name_and_leftovers_are_told():
    names = ["A/1_A.png", "A/2_A.png", "A/4_A.png", "B/1_B.jpg", "B/2_B.jpg", "B/3_B.jpg"]
    found = recognized(names, "matched")
    assert found.sources is not None
    assert [(names[b], names[a]) for b, a in zip(found.pictures, found.sources, strict=True)] == [
        ("B/1_B.jpg", "A/1_A.png"),
        ("B/2_B.jpg", "A/2_A.png"),
    ]
    assert sorted(names[position] for position, _ in found.left_out) == ["A/4_A.png", "B/3_B.jpg"]
    other = recognized(names, "matched", "b-to-a")
    assert other.pictures == found.sources and other.sources == found.pictures


# Folders and archives


def archived(root: Path, ending: str) -> Path:
    path = root.with_suffix(ending)
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(root))
    else:
        mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}[ending]
        with tarfile.open(path, mode) as tar:
            for file in files:
                tar.add(file, f"./{file.relative_to(root)}")
    return path


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_an_archive_is_what_its_folder_is(tmp_path, ending):  # type: ignore[no-untyped-def]
    names = [f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "xy" for number in range(10)]
    root = write(tmp_path / "set", names)
    whole, packed = data(root), data(archived(root, ending))
    assert pictures(packed) == pictures(whole) and packed.pictures == whole.pictures
    assert packed.train.hash == whole.train.hash and packed.name == "set"
    assert told(packed, "training and test split") and told(packed, "2 sub-folders are taken as classes: x, y")
    if ending != ".tar" and ending != ".zip":
        assert told(packed, "is compressed, so it was unpacked once")


def test_a_tar_names_what_it_may_not_hold(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "in" / "set", numbered(""))
    path = tmp_path / "in" / "set.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(root.iterdir()):
            tar.add(file, file.name)
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        for name in ("../out.png", "/abs.png", "x/../../up.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    before = set(tmp_path.rglob("*"))
    dataset = data(path)
    assert len(pictures(dataset)) == 20
    assert {file for file, _ in dataset.skipped} == {
        "link.png", "hard.png", "pipe.png", "../out.png", "/abs.png", "x/../../up.png",
    }  # fmt: skip
    new = {path for path in tmp_path.rglob("*") if path not in before}
    assert all((tmp_path / "cache") in (path, *path.parents) for path in new)


def test_an_archive_cut_short_gives_what_is_whole_or_is_refused(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", numbered(""))
    whole = archived(root, ".tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:30_000])
    try:
        dataset = data(tmp_path / "cut.tar")
        assert 16 <= len(pictures(dataset)) < 20 and dataset.skipped
    except Refused as error:
        assert "cut.tar" in str(error)
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(whole)[:-400])
    with pytest.raises(Refused, match="cut.tar.gz"):
        data(tmp_path / "cut.tar.gz")
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_tar_that_grows_without_end_is_refused(tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    from tasvir.data import files

    monkeypatch.setattr(files, "BLOCK", 1 << 12)
    monkeypatch.setattr(files, "LEAST_BOMB", 1 << 16)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        entry = tarfile.TarInfo("a.png")
        entry.size = 8 << 20
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(inner.getvalue()))
    with pytest.raises(Refused, match="decompression bomb"):
        data(tmp_path / "bomb.tar.gz")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_dataset_json_gives_the_classes(tmp_path, kind):  # type: ignore[no-untyped-def]
    names = [f"0000{number // 10}/img{number:08d}.png" for number in range(24)]
    root = write(tmp_path / "set", names)
    labels = [[name, 3 if number % 2 else 8] for number, name in enumerate(names[:22])]
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    dataset = data(root if kind == "folder" else archived(root, ".zip"))
    found = pictures(dataset)
    assert dataset.pictures.classes == ("3", "8") and told(dataset, "dataset.json")
    assert {seed: found[pixels(seed).tobytes()][1] for seed in range(22)} == {
        seed: int(not seed % 2) for seed in range(22)
    }
    assert [file for file, _ in dataset.skipped] == names[22:]
    assert data(root, layout="classes").pictures.classes == ("00000", "00001", "00002")
    (root / "dataset.json").write_text('{"labels": null}')
    assert data(root).pictures.classes == () and len(pictures(data(root))) == 24
    for other in ("[", '{"labels": [["elsewhere.png", 1]]}', '{"labels": [["00000/img00000000.png", [0.1, 0.2]]]}'):
        (root / "dataset.json").write_text(other)
        assert told(data(root), "so it was left aside") and len(pictures(data(root))) == 24
        with pytest.raises(Refused, match=r"layout is dataset-json, but"):
            data(root, layout="dataset-json")


@pytest.mark.parametrize("together", [".zip", ".tar"])
def test_a_folder_of_archives_is_one_set(tmp_path, together):  # type: ignore[no-untyped-def]
    (tmp_path / "all").mkdir()
    for kind in ("cats", "dogs"):
        root = write(tmp_path / kind, numbered("", 12))
        if kind == "dogs":
            for seed, file in enumerate(sorted(root.iterdir())):
                Image.fromarray(pixels(100 + seed)).save(file)
        archived(root, together).rename(tmp_path / "all" / f"{kind}{together}")
    dataset = data(tmp_path / "all")
    assert dataset.pictures.classes == ("cats", "dogs") and len(pictures(dataset)) == 24
    for number, kind in enumerate(("cats", "dogs")):
        (tmp_path / "all" / f"{kind}{together}").rename(tmp_path / "all" / f"part-{number:03d}{together}")
    assert data(tmp_path / "all").pictures.classes == () and data(tmp_path / "all").name == "part"


def test_what_is_no_archive_in_a_folder_of_them_is_named(tmp_path):  # type: ignore[no-untyped-def]
    (tmp_path / "all").mkdir()
    archived(write(tmp_path / "good", numbered("")), ".zip").rename(tmp_path / "all" / "good.zip")
    (tmp_path / "all" / "empty.zip").write_bytes(b"")
    (tmp_path / "all" / "cut.zip").write_bytes((tmp_path / "all" / "good.zip").read_bytes()[:-30])
    dataset = data(tmp_path / "all")
    assert len(pictures(dataset)) == 20 and {file for file, _ in dataset.skipped} == {"empty.zip", "cut.zip"}
    (tmp_path / "all" / "good.zip").unlink()
    with pytest.raises(Refused, match="None of the archives"):
        data(tmp_path / "all")


def test_many_archives_do_not_stay_open(tmp_path):  # type: ignore[no-untyped-def]
    from tasvir.data import files

    (tmp_path / "all").mkdir()
    for number in range(2 * files.MOST_OPEN):
        with zipfile.ZipFile(tmp_path / "all" / f"{number:03d}.zip", "w") as archive:
            png = io.BytesIO()
            Image.fromarray(pixels(number)).save(png, "PNG")
            archive.writestr("a.png", png.getvalue())
    items = find(DataConfig(source=(str(tmp_path / "all"),))).read()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert all(items.contents(number) for number in (*range(len(items)), 0, 1))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + files.MOST_OPEN


def test_what_is_skipped_is_told_of_the_files_as_they_are_now(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", numbered(""))
    assert not data(root).skipped
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert [file for file, _ in data(root).skipped] == ["gone.png"] and told(data(root), "gone.png")


# Pairs


def beside(a: np.ndarray, b: np.ndarray) -> Image.Image:
    return Image.fromarray(np.concatenate([a, b], axis=1))


def test_pairs_side_by_side_are_recognized_by_their_seam(tmp_path):  # type: ignore[no-untyped-def]
    for folder, seamless in (("pairs", False), ("panoramas", True)):
        (tmp_path / folder).mkdir()
        for number in range(20):
            left, right = smooth(number), 255 - smooth(number + 100)
            image = Image.fromarray(smooth(number, 16, 32)) if seamless else beside(left, right)
            image.save(tmp_path / folder / f"{number}.png")
    dataset = data(tmp_path / "pairs")
    assert dataset.pictures.source is not None and dataset.pictures.matched
    assert told(dataset, "the left half is the source") and told(dataset, "32x16")
    expected = {(255 - smooth(n + 100)).tobytes(): smooth(n).tobytes() for n in range(20)}
    assert {image: source for image, (_, _, source) in pictures(dataset).items()} == expected
    turned = data(tmp_path / "pairs", direction="b-to-a")
    assert {source: image for image, (_, _, source) in pictures(turned).items()} == expected
    assert data(tmp_path / "pairs", layout="flat").pictures.source is None
    assert data(tmp_path / "panoramas").pictures.source is None
    assert data(tmp_path / "panoramas", layout="side-by-side").pictures.source is not None


def test_pairs_matched_by_name_stay_together(tmp_path):  # type: ignore[no-untyped-def]
    for number in range(30):
        for folder, seed, ending in (("A", number, "png"), ("B", 100 + number, "bmp")):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(seed)).save(tmp_path / "set" / folder / f"{number}.{ending}")
    (tmp_path / "set" / "A" / "alone.png").write_bytes((tmp_path / "set" / "A" / "0.png").read_bytes())
    (tmp_path / "set" / "A" / "3.png").write_bytes(b"broken")
    dataset = data(tmp_path / "set")
    expected = {pixels(100 + n).tobytes(): pixels(n).tobytes() for n in range(30) if n != 3}
    assert {image: source for image, (_, _, source) in pictures(dataset).items()} == expected
    assert dict(dataset.skipped)["A/alone.png"] == "it has no partner in the other folder"
    assert "A/3.png" in dict(dataset.skipped)["B/3.bmp"]
    assert {split for split, _, _ in pictures(dataset).values()} == {"train", "test"}
    two = data(tmp_path / "set" / "A", tmp_path / "set" / "B", layout="matched")
    assert {image: source for image, (_, _, source) in pictures(two).items()} == expected
    assert two.name == "A-to-B"
    turned = data(tmp_path / "set" / "A", tmp_path / "set" / "B", layout="matched", direction="b-to-a")
    assert {source: image for image, (_, _, source) in pictures(turned).items()} == expected


def test_both_directions_hold_out_the_same_pairs(tmp_path):  # type: ignore[no-untyped-def]
    for number in range(60):
        for folder, seed in (("A", number), ("B", 100 + number)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(seed)).save(tmp_path / "set" / folder / f"{number}.png")
    there, back = (data(tmp_path / "set", direction=direction) for direction in ("a-to-b", "b-to-a"))
    assert there.test.sources is not None
    assert {image.tobytes() for image in there.test.sources} == {image.tobytes() for image in back.test.images}


def test_a_picture_of_another_shape_is_not_cut_in_two(tmp_path):  # type: ignore[no-untyped-def]
    root = pairs(tmp_path)
    Image.fromarray(pixels(7)).save(root / "z.png")
    for number in range(30):
        beside(smooth(50 + number), 255 - smooth(number + 200)).save(root / f"y{number}.png")
    dataset = data(root)
    assert dict(dataset.skipped) == {"z.png": "not twice as wide as high, as the other pairs are"}
    assert not data(root, layout="side-by-side").skipped


def test_several_sources_of_pairs_stay_pairs(tmp_path):  # type: ignore[no-untyped-def]
    one, two = pairs(tmp_path), tmp_path / "others"
    two.mkdir()
    for number in range(20):
        beside(smooth(300 + number), 255 - smooth(number + 400)).save(two / f"{number}.png")
    dataset = data(one, two)
    assert dataset.pictures.source is not None and len(dataset.pictures.classes) == 2
    with pytest.raises(Refused, match="cannot be put together"):
        data(one, write(tmp_path / "plain", numbered("")))
    assert data(one, tmp_path / "plain", layout="flat").pictures.source is None


def test_sources_of_the_same_name_are_told_apart(tmp_path):  # type: ignore[no-untyped-def]
    one = write(tmp_path / "x" / "set", numbered(""))
    two = write(tmp_path / "y" / "set", [f"{number}.png" for number in range(100, 120)])
    dataset = data(one, two)
    assert dataset.pictures.classes == ("x-set", "y-set") and "/" not in dataset.name


def test_unmatched_sets_are_packed_each_on_its_own(tmp_path):  # type: ignore[no-untyped-def]
    for folder, count, first in (("trainA", 30, 0), ("trainB", 20, 100), ("testA", 5, 200), ("testB", 4, 300)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pixels(first + number)).save(tmp_path / "set" / folder / f"{folder}-{number}.png")
    for direction, image, source in (("a-to-b", 100, 0), ("b-to-a", 0, 100)):
        dataset = data(tmp_path / "set", direction=direction)
        assert not dataset.pictures.matched and dataset.pictures.source is not None
        assert {picture.tobytes() for picture in dataset.train.images} == {
            pixels(image + n).tobytes() for n in range(20 if image else 30)
        }
        assert {picture.tobytes() for picture in dataset.train.sources} == {
            pixels(source + n).tobytes() for n in range(20 if source else 30)
        }
        assert len(dataset.test) == (4 if image else 5) and len(dataset.test.sources) == (4 if source else 5)
        assert dataset.description["hash"]["train"] == dataset.train.hash
    two = data(tmp_path / "set" / "trainA", tmp_path / "set" / "trainB", layout="unmatched")
    assert len(two.train) + len(two.test) == 20 and len(two.train.sources) + len(two.test.sources) == 30
    with pytest.raises(Refused, match="two sources"):
        data(*[tmp_path / "set" / "trainA"] * 3, layout="unmatched")


def test_edges_are_made_when_packing_and_kept_beside(tmp_path):  # type: ignore[no-untyped-def]
    for number in range(20):
        square = np.full((16, 16, 3), 20, np.uint8)
        square[4:12, 4:12] = 200 + number
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(square).save(tmp_path / "set" / f"{number}.png")
    dataset = data(tmp_path / "set", derive="edges", color="rgb")
    assert dataset.pictures.source is not None and dataset.pictures.source.channels == 1
    drawn = np.unique(dataset.train.sources)
    assert drawn.tolist() == [0, 255] and (dataset.train.sources == 0).any(axis=(1, 2, 3)).all()
    with pytest.raises(Refused, match="pairs already"):
        data(REAL / "maps_val_512x256.zip" if REAL.exists() else pairs(tmp_path), derive="grey")


def pairs(root: Path) -> Path:
    (root / "pairs").mkdir()
    for number in range(20):
        beside(smooth(number), 255 - smooth(number + 100)).save(root / "pairs" / f"{number}.png")
    return root / "pairs"


@pytest.mark.parametrize("name", ["low-resolution", "grey", "masked"])
def test_sources_made_in_batches_are_announced(tmp_path, name):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", numbered(""))
    dataset = data(root, derive=name, scale=4)
    source = dataset.pictures.source
    assert source is not None and (source.channels, source.size) == {
        "low-resolution": (3, 4), "grey": (1, 16), "masked": (3, 16),
    }[name]  # fmt: skip
    with pytest.raises(Refused, match=r"not divisible"):
        data(root, derive="low-resolution", scale=3)


# Several sources and choices


def test_several_sources_are_classes(tmp_path):  # type: ignore[no-untyped-def]
    one = write(tmp_path / "one", numbered("train") + numbered("test", 4))
    two = tmp_path / "two"
    two.mkdir()
    for number in range(30):
        Image.fromarray(pixels(500 + number)).save(two / f"{number}.png")
    dataset = data(one, archived(two, ".zip"), "digits")
    found = pictures(dataset)
    assert dataset.pictures.classes == ("one", "two", "digits") and dataset.name == "one-and-two-and-digits"
    assert all(found[pixels(seed).tobytes()][:2] == ("train" if seed < 20 else "test", 0) for seed in range(24))
    assert all(found[pixels(500 + seed).tobytes()][1] == 1 for seed in range(30))
    assert set(dataset.train.labels) == {0, 1, 2}
    assert data(one, two, labels="none").pictures.classes == ()
    with pytest.raises(Refused, match="same source twice"):
        data(one, one)


def test_the_part_of_a_set_that_is_used_stays_the_same(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", numbered("", 90))
    half, other, more = (
        pictures(data(root, fraction=part, choice_seed=seed)) for part, seed in ((0.5, 0), (0.5, 1), (0.8, 0))
    )
    everything = pictures(data(root))
    assert 30 < len(half) < 60 and half.items() <= everything.items() and half.items() <= more.items()
    assert set(half) != set(other)
    for seed in range(200, 240):
        Image.fromarray(pixels(seed)).save(root / f"{seed}.png")
    assert half.items() <= pictures(data(root, fraction=0.5)).items()
    assert told(data(root, fraction=0.5), "because of the fraction 0.5")


def test_some_of_the_class_folders_are_chosen(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", [name for kind in "abcdefgh" for name in numbered(f"class-{kind}", 8)])
    chosen = [data(root, folders=5, choice_seed=seed).pictures.classes for seed in range(4)]
    assert all(len(classes) == 5 and list(classes) == sorted(classes) for classes in chosen)
    assert len(set(chosen)) > 1 and data(root, folders=5).pictures.classes == chosen[0]
    assert set(data(root, folders=3).pictures.classes) < set(chosen[0])
    found = pictures(data(root, folders=5))
    for number, kind in enumerate("abcdefgh"):
        for seed in range(8 * number, 8 * number + 8):
            expected = chosen[0].index(f"class-{kind}") if f"class-{kind}" in chosen[0] else None
            assert found.get(pixels(seed).tobytes(), (0, None))[1] == expected
    assert told(data(root, folders=2), "2 of the 8 classes were chosen: class-")
    with pytest.raises(Refused, match="only 8 classes"):
        data(root, folders=9)
    with pytest.raises(Refused, match="no classes to choose from"):
        data(write(tmp_path / "flat", numbered("")), folders=2)


def test_copies_of_test_pictures_are_left_out_of_training(tmp_path):  # type: ignore[no-untyped-def]
    root = write(tmp_path / "set", numbered("train", 30) + numbered("test", 6))
    (root / "train" / "copy.png").write_bytes((root / "test" / "00.png").read_bytes())
    dataset = data(root)
    assert (len(dataset.train), len(dataset.test)) == (30, 6)
    assert told(dataset, "1 training picture is an exact copy of a test picture and was left out")


# Arrays and tables


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_array_files_are_sets(tmp_path, ending):  # type: ignore[no-untyped-def]
    images = np.stack([pixels(seed) for seed in range(40)])
    labels = np.arange(40) % 3
    path = tmp_path / f"set.{ending}"
    np.save(path, images) if ending == "npy" else np.savez(path, images=images, labels=labels)
    dataset = load(DataConfig(source=(str(path),)))
    found = pictures(dataset)
    assert dataset.pictures.size == 16 and set(found) == {image.tobytes() for image in images}
    if ending == "npz":
        assert all(found[images[n].tobytes()][1] == labels[n] for n in range(40))
        assert data(path, layout="flat").pictures.classes == ()
    small = data(path, size=8)
    expected = {
        np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.LANCZOS)).tobytes() for image in images
    }
    assert set(pictures(small)) == expected
    with pytest.raises(Refused, match="layout of its own"):
        data(path, layout="classes")


def test_a_folder_of_arrays_says_to_name_one(tmp_path):  # type: ignore[no-untyped-def]
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "faces.npy", np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(Refused, match=r"Name the one that is meant: faces.npy"):
        data(tmp_path / "set")


def test_pickled_arrays_are_refused(tmp_path):  # type: ignore[no-untyped-def]
    np.save(tmp_path / "set.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(Refused, match="pickle"):
        data(tmp_path / "set.npy")


def test_one_picture_is_no_set(tmp_path):  # type: ignore[no-untyped-def]
    write(tmp_path, ["one.png"])
    with pytest.raises(Refused, match="is one picture"):
        data(tmp_path / "one.png")


# Real pictures


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("file", "layout", "count"),
    [
        ("maps_val_512x256.zip", "side-by-side", 100),
        ("cifar10_test_5k.zip", "classes", 5000),
        ("anime_faces_64px_6000.zip", "flat", 6000),
        ("t91_png.zip", "flat", 91),
        ("set5.zip", "flat", 5),
        ("set14.zip", "flat", 14),
    ],
)
def test_the_real_sets_are_recognized(file, layout, count):  # type: ignore[no-untyped-def]
    source = find(DataConfig(source=(str(REAL / file),)))
    assert source.layout == layout and len(source.read()) == count


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not there")
def test_the_real_maps_are_pairs():
    dataset = data(REAL / "maps_val_512x256.zip", size=64)
    assert dataset.train.sources is not None
    spread = [
        np.mean([np.std(image, axis=(0, 1)).mean() for image in part])
        for part in (dataset.train.images, dataset.train.sources)
    ]
    assert spread[1] > 1.5 * spread[0], "aerial photographs vary more than drawn maps"
