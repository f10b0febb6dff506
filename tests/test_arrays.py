"""Pictures held as arrays: every layout, type and range of .npy, .npz and IDX files, and what is refused."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tasvir.config import Refused
from tasvir.data import arrays
from tasvir.data.arrays import Loaded, read, read_idx, recognized
from tasvir.data.decoding import Unreadable

SHARED = Path(__file__).parents[2] / "shared" / "data"
RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 9, 7, 3), np.uint8)
GREY = COLOR[..., 0]


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path / "pictures.npy", array)
    return path / "pictures.npy"


def npz(path: Path, packed: bool = False, /, **named: np.ndarray) -> Path:
    (np.savez_compressed if packed else np.savez)(path / "set.npz", **named)
    return path / "set.npz"


def idx(path: Path, array: np.ndarray, name: str = "train-images-idx3-ubyte", kind: int = 8) -> Path:
    content = bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
    (path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path / name


def loaded(path: Path, **settings: tuple[int, int, int]) -> Loaded:
    return read(path, **settings).load()


def rows(found: arrays.Arrays) -> np.ndarray:
    whole = found.load()
    pixels = np.stack([whole.row(number) for number in range(found.count)])
    assert pixels.dtype == np.uint8 and pixels.shape == (found.count, *found.shape)
    return pixels


def refused(path: Path, *words: str, late: bool | None = None) -> None:
    """`late`: whether the values have to be read before it is; None where it does not matter."""
    before = False
    with pytest.raises(Refused) as refusal:
        found = read(path)
        before = True
        found.load()
    assert late in (None, before), "refused too early" if late else "refused too late"
    message = str(refusal.value)
    assert all(word in message for word in (path.name, *words)), message
    assert len(message.splitlines()) <= 2 and len(message) < 700


# Layouts


@pytest.mark.parametrize(
    "stored, shown, form",
    [
        (GREY, GREY[..., None], "[N,H,W]"),
        (GREY[..., None], GREY[..., None], "[N,H,W,C]"),
        (COLOR, COLOR, "[N,H,W,C]"),
        (COLOR.transpose(0, 3, 1, 2), COLOR, "channels first"),
        (GREY[:, None], GREY[..., None], "channels first"),
        (np.asfortranarray(COLOR), COLOR, "[N,H,W,C]"),
    ],
    ids=["NHW", "NHW1", "NHW3", "N3HW", "N1HW", "fortran"],
)
@pytest.mark.parametrize("kind", ["npy", "npz", "packed npz"])
def test_every_layout_is_recognized(tmp_path, kind, stored, shown, form):
    path = npy(tmp_path, stored) if kind == "npy" else npz(tmp_path, kind == "packed npz", images=stored)
    found = read(path)
    whole = found.load()
    assert found.count == 20 and whole.labels is None and whole.classes == () and found.splits is None
    assert any("20 pictures of 9x7 (height x width), uint8 [N" in note and form in note for note in found.notes)
    np.testing.assert_array_equal(rows(found), shown)
    assert len({whole.content(number) for number in range(20)}) == 20
    assert whole.content(3) == np.ascontiguousarray(stored[3]).tobytes()
    with pytest.raises(IndexError):
        whole.row(20)


def test_four_channels_are_laid_on_the_background(tmp_path):
    pixels = RNG.integers(0, 256, (20, 9, 7, 4), np.uint8)
    alpha = pixels[..., 3:] / 255
    for background in ((255, 255, 255), (10, 200, 0)):
        found = read(npy(tmp_path, pixels), background)
        assert found.shape == (9, 7, 3) and any("transparency" in note for note in found.notes)
        expected = pixels[..., :3] * alpha + np.array(background) * (1 - alpha)
        assert np.abs(rows(found) - expected).max() <= 0.51


@pytest.mark.parametrize(
    "shape, word",
    [
        ((9, 7), "single picture"),
        ((9, 7, 3), "single picture"),
        ((20,), "labels"),
        ((), "no set of pictures"),
        ((20, 9, 7, 2), "no set of pictures"),
        ((20, 4, 9, 7), "no set of pictures"),
        ((2, 20, 9, 7, 3), "no set of pictures"),
        ((0, 9, 7, 3), "not one picture"),
        ((20, 0, 7, 3), "not one picture"),
    ],
)
def test_other_shapes_are_refused(tmp_path, shape, word):
    refused(npy(tmp_path, np.zeros(shape, np.uint8)), word, "[N,H,W]", late=False)
    refused(npz(tmp_path, images=np.zeros(shape, np.uint8), other=np.zeros(3)), "[N,H,W]", late=False)


# Types and ranges


@pytest.mark.parametrize(
    "stored, shown, word",
    [
        (GREY > 99, (GREY > 99) * 255, "black"),
        ((GREY > 99).astype(np.uint8), (GREY > 99) * 255, "0 and 1 only"),
        ((GREY > 99).astype(np.int64), (GREY > 99) * 255, "0 and 1 only"),
        (GREY.astype(np.int32), GREY, "0 to 255"),
        (GREY.astype(">i8"), GREY, "0 to 255"),
        (GREY.astype(np.uint16) * 257, GREY, "16 bits"),
        (GREY.astype(">u2") * 250, np.round(GREY * (250 / 257)), "16 bits"),
        (GREY.astype(np.int32) * 200, np.round(GREY * (200 / 257)), "16 bits"),
        (GREY / 255, GREY, "0 to 1"),
        ((GREY / 255).astype(">f4"), GREY, "0 to 1"),
        (GREY / 127.5 - 1, GREY, "-1 to 1"),
        ((GREY / 127.5 - 1).astype(np.float32), GREY, "-1 to 1"),
        (GREY.astype(np.float64), GREY, "0 to 255"),
        (GREY.astype(np.float16), GREY, "0 to 255"),
        (np.zeros_like(GREY), np.zeros_like(GREY), "uint8"),
    ],
)
def test_every_range_is_recognized_and_said(tmp_path, stored, shown, word):
    for path in (npy(tmp_path, stored), npz(tmp_path, True, images=stored)):
        found = read(path)
        notes = (*found.notes, *found.load().notes)
        assert any(word in note for note in notes), notes
        np.testing.assert_array_equal(rows(found)[..., 0], shown)


@pytest.mark.parametrize("low, high", [(-2.0, 2.0), (-1.0, 255.0), (0.0, 300.0), (-1, 255), (0, 65536), (-128, 127)])
def test_other_ranges_are_refused(tmp_path, low, high):
    values = np.linspace(low, high, GREY.size).reshape(GREY.shape).astype(np.int32 if isinstance(low, int) else float)
    refused(npy(tmp_path, values), f"{low:g} to {high:g}", "Scale", late=True)


@pytest.mark.parametrize("kind", [complex, "M8[s]", "S3", "U2", [("a", "u1")]])
def test_what_is_no_number_is_refused(tmp_path, kind):
    refused(npy(tmp_path, np.zeros((20, 9, 7), kind)), "no set of pictures")


def test_the_last_value_counts_in_a_file_larger_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_BLOCK", 500)
    values = np.zeros((20, 9, 7), np.float32)
    values[-1, -1, -1] = 200
    assert any("0 to 255" in note for note in loaded(npy(tmp_path, values)).notes)
    values[-1, -1, -1] = -200
    refused(npy(tmp_path, values), "-200 to 0")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_picture_that_is_not_finite_is_unreadable_and_the_others_are_not(tmp_path, bad):
    values = GREY / 255
    values[4, 2, 2] = bad
    found = loaded(npy(tmp_path, values))
    with pytest.raises(Unreadable, match="not finite"):
        found.row(4)
    assert found.content(4)
    np.testing.assert_array_equal(found.row(5)[..., 0], GREY[5])
    refused(npy(tmp_path, np.full((20, 9, 7), bad)), "no finite values")


# Labels and names


LABELS = np.arange(20) % 4


@pytest.mark.parametrize("images", arrays.PICTURES)
def test_arrays_are_found_by_their_names(tmp_path, images):
    other = np.zeros((20, 5, 5), np.uint8)  # could be pictures too
    found = read(npz(tmp_path, **{"zzz": other, images: COLOR, "labels": LABELS}))
    np.testing.assert_array_equal(rows(found), COLOR)
    whole = found.load()
    assert whole.labels is not None and whole.labels.dtype == np.int64
    np.testing.assert_array_equal(whole.labels, LABELS)
    assert whole.classes == ("0", "1", "2", "3") and any("4 classes" in note for note in whole.notes)


@pytest.mark.parametrize("labels", [*arrays.LABELS[:-1], "Y"])
def test_labels_are_found_by_their_names(tmp_path, labels):
    np.testing.assert_array_equal(loaded(npz(tmp_path, **{"x": COLOR, labels: LABELS})).labels, LABELS)


def test_arrays_without_names(tmp_path):
    np.savez(tmp_path / "a.npz", COLOR, LABELS)
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(rows(found), COLOR)
    np.testing.assert_array_equal(found.load().labels, LABELS)
    np.testing.assert_array_equal(rows(read(npz(tmp_path, whatever=COLOR, table=np.zeros((3, 3))))), COLOR)


@pytest.mark.parametrize(
    "labels, numbers, classes",
    [
        (LABELS.astype(np.float32), LABELS, ("0", "1", "2", "3")),
        (LABELS[:, None], LABELS, ("0", "1", "2", "3")),
        (np.eye(4)[LABELS], LABELS, ("0", "1", "2", "3")),
        (np.eye(4, dtype=bool)[LABELS], LABELS, ("0", "1", "2", "3")),
        (LABELS * 5 - 5, LABELS, ("-5", "0", "5", "10")),
        (LABELS > 1, LABELS // 2, ("0", "1")),
        (np.array(list("dbca"))[LABELS], np.array([3, 1, 2, 0])[LABELS], ("a", "b", "c", "d")),
        (np.array([b"dog", b"cat"])[LABELS // 2], 1 - LABELS // 2, ("cat", "dog")),
    ],
)
def test_labels_of_every_form(tmp_path, labels, numbers, classes):
    found = loaded(npz(tmp_path, images=COLOR, labels=labels))
    assert found.classes == classes
    np.testing.assert_array_equal(found.labels, numbers)


@pytest.mark.parametrize("name", arrays.CLASSES)
def test_names_of_classes(tmp_path, name):
    words = np.array(["cat", "dog", "fox", "owl", "unseen"])
    found = loaded(npz(tmp_path, **{"images": COLOR, "labels": LABELS, name: words}))
    assert found.classes == ("cat", "dog", "fox", "owl", "unseen")
    np.testing.assert_array_equal(found.labels, LABELS)
    too_few = loaded(npz(tmp_path, **{"images": COLOR, "labels": LABELS, name: words[:3]}))
    assert too_few.classes == ("0", "1", "2", "3") and f"{name} str192 [3] is left aside" in too_few.notes[-1]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:-1],
        LABELS + 0.5,
        np.full(20, np.nan),
        np.ones((20, 4)),
        np.zeros((20, 2, 2)),
        np.array(["a", None] * 10, object),
        np.zeros((20, 0)),
        np.full(20, 2**63, np.uint64),
    ],
)
def test_labels_that_are_none_are_left_aside_and_said(tmp_path, labels):
    found = read(npz(tmp_path, images=COLOR, labels=labels))
    whole = found.load()
    assert whole.labels is None and whole.classes == () and found.count == 20
    assert sum("labels" in note and "left aside" in note for note in (*found.notes, *whole.notes)) == 1


@pytest.mark.parametrize("order", "<>")
def test_letters_that_are_none(tmp_path, order):
    """An array of strings may hold any 32 bits as a letter, and half a letter of UTF-16."""
    codes = np.array([[0x61, 0x110000], [0x61, 0x62]], f"{order}u4")
    words = codes.view(f"{order}U2")[:, 0]
    found = loaded(npz(tmp_path, images=COLOR, labels=words[LABELS % 2]))
    assert found.labels is None and "no letters of Unicode" in found.notes[-1]
    found = loaded(npz(tmp_path, images=COLOR, labels=LABELS % 2, classes=words))
    assert found.classes == ("0", "1") and "no letters of Unicode" in found.notes[-1]
    codes[0, 1] = 0xD800
    assert loaded(npz(tmp_path, images=COLOR, labels=words[LABELS % 2])).classes == ("ab", "a?")


def test_numbers_of_pictures_are_no_classes(tmp_path):
    many = np.zeros((3000, 2, 2), np.uint8)
    found = loaded(npz(tmp_path, images=many, labels=np.arange(3000)))
    assert found.labels is None and any("3000 different labels" in note for note in found.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_val", "Y_val"),
        ("images_train", "labels_train", "images_test", "labels_test"),
        ("x_train", "y_train", "x_valid", "y_valid"),
        ("training_data", "training_targets", "dev_data", "dev_targets"),
        ("xtrain", "ytrain", "xeval", "yeval"),
        ("x_train", "y_train", "x_evaluation", "y_evaluation"),
    ],
)
def test_two_arrays_are_training_and_test_split(tmp_path, names):
    found = read(npz(tmp_path, **dict(zip(names, (COLOR[:15], LABELS[:15], COLOR[15:], LABELS[15:]), strict=True))))
    assert found.splits == ["train"] * 15 + ["test"] * 5
    np.testing.assert_array_equal(rows(found), COLOR)
    np.testing.assert_array_equal(found.load().labels, LABELS)
    assert found.load().content(15) == COLOR[15].tobytes()
    assert any("training and test split" in note for note in found.notes)
    assert not any("aside" in note for note in found.notes)


@pytest.mark.parametrize(
    "more, named",
    [
        ({"x_extra": COLOR}, "x_extra uint8 [20,9,7,3]"),
        ({"y_unlabeled": LABELS, "images": GREY}, "y_unlabeled int64 [20], images uint8 [20,9,7]"),
        ({"train_data": COLOR, "y_test": LABELS}, "train_data uint8 [20,9,7,3], y_test int64 [20]"),
        ({"a\n\x1b[31mb": np.zeros(1)}, "a??[31mb float64 [1]"),
        ({"classes": np.zeros(4), "label_names": np.array(list("abcd"))}, "classes float64 [4]"),
        ({f"m{number:02d}": np.zeros(()) for number in range(10)}, "m06 float64 [], m07 float64 [] and 2 more"),
    ],
)
def test_arrays_that_are_not_used_are_named(tmp_path, more, named):
    found = read(npz(tmp_path, x_train=COLOR, y_train=LABELS, **more))
    assert found.count == 20 and found.notes[-1].startswith("Left aside: ")
    assert found.notes[-1].endswith(f"{named}.") and sum("aside" in note for note in found.notes) == 1
    loaded = found.load()
    assert loaded.classes == (tuple("abcd") if "label_names" in more else ("0", "1", "2", "3"))


def test_pictures_beside_the_pictures_are_named(tmp_path):
    found = read(npz(tmp_path, images=COLOR, masks=GREY, more_images=COLOR, classes=np.array(["a"])))
    assert found.notes[-1] == ("Left aside: classes str32 [1], masks uint8 [20,9,7], more_images uint8 [20,9,7,3].")
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("about.txt", "pictures of a beach")
        archive.writestr("folder/", "")
        archive.writestr("N.txt", "no name")
    content = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(content.replace(b"N.txt", b"\0.txt"))
    assert read(tmp_path / "set.npz").notes[-1].endswith("[20,9,7,3], about.txt, a file without a name.")
    assert not any("aside" in note for note in read(npz(tmp_path, images=COLOR, labels=LABELS)).notes)


def test_parts_that_do_not_fit_together(tmp_path):
    refused(npz(tmp_path, x_train=COLOR, x_test=GREY), "several kinds", "x_train", "x_test")
    refused(npz(tmp_path, x_train=COLOR, x_test=COLOR / 255), "several kinds")
    found = read(npz(tmp_path, x_train=COLOR, y_train=LABELS, x_test=COLOR))
    assert found.load().labels is None and any("Only some" in note for note in found.notes)
    alone = read(npz(tmp_path, x_train=COLOR, y_train=LABELS))
    assert alone.splits is None and alone.load().labels is not None
    two_kinds = npz(tmp_path, x_train=COLOR, y_train=LABELS, x_dev=COLOR, y_dev=np.array(["a"] * 20))
    found = read(two_kinds)
    assert found.load().labels is None and any("several kinds" in note for note in found.notes)


def test_what_is_not_clear_is_refused_with_a_list(tmp_path):
    refused(npz(tmp_path, one=COLOR, two=GREY), "one uint8 [20,9,7,3]", "two uint8 [20,9,7]", "images")
    refused(npz(tmp_path, table=np.zeros((3, 3))), "table float64 [3,3]")
    refused(npz(tmp_path), "no arrays")


def test_labels_beside_an_npy(tmp_path):
    for images, labels in (("images", "labels"), ("x_train", "y_train"), ("X", "y"), ("train-images", "train-labels")):
        np.save(tmp_path / f"{images}.npy", COLOR)
        assert loaded(tmp_path / f"{images}.npy").labels is None
        np.save(tmp_path / f"{labels}.npy", LABELS)
        np.testing.assert_array_equal(loaded(tmp_path / f"{images}.npy").labels, LABELS)
    np.save(tmp_path / "labels.npy", LABELS[:3])
    found = read(tmp_path / "images.npy")
    assert found.load().labels is None and any("3 labels for 20 pictures" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["npy", "npz", "gz"])
def test_the_fingerprint_changes_with_the_file_and_with_its_labels(tmp_path, kind):
    def written(values: np.ndarray) -> Path:
        if kind == "npz":
            return npz(tmp_path, True, images=values)
        return npy(tmp_path, values) if kind == "npy" else idx(tmp_path, values, "train-images-idx3-ubyte.gz")

    def labelled(values: np.ndarray) -> Path:
        np.save(tmp_path / "images.npy", GREY)
        np.save(tmp_path / "labels.npy", values)
        return tmp_path / "labels.npy"

    path = written(GREY)
    first = read(path)
    about = path.stat()
    assert first.fingerprint == [[about.st_size, about.st_mtime_ns]] == read(path).fingerprint
    os.utime(path, ns=(about.st_mtime_ns, about.st_mtime_ns + 1))
    assert read(path).fingerprint != first.fingerprint
    with pytest.raises(Refused, match="changed since"):
        first.load()
    if kind == "npy":
        labels = labelled(LABELS)
    elif kind == "gz":
        labels = idx(tmp_path, LABELS.astype(np.uint8), "train-labels-idx1-ubyte")
    else:
        return
    path = tmp_path / "images.npy" if kind == "npy" else path
    beside = read(path)
    assert len(beside.fingerprint) == 2
    os.utime(labels, ns=(0, 12345))
    assert read(path).fingerprint == [beside.fingerprint[0], [labels.stat().st_size, 12345]]
    labels.unlink()
    assert read(path).fingerprint == beside.fingerprint[:1]


def test_only_headers_are_read_until_it_is_loaded(tmp_path, monkeypatch):
    """The values of compressed files are never unpacked and those of plain ones never looked at."""
    compressed = [
        npz(tmp_path, True, images=np.resize(COLOR, (2000, 9, 7, 3)), labels=np.resize(LABELS, 2000)),
        idx(tmp_path, np.resize(GREY, (2000, 9, 7)), "train-images-idx3-ubyte.gz"),
    ]
    idx(tmp_path, np.resize(LABELS, 2000).astype(np.uint8), "train-labels-idx1-ubyte.gz")
    plain = npy(tmp_path, np.full((20, 9, 7), np.nan))

    def never(*_: object) -> None:
        raise AssertionError("values were read")

    with monkeypatch.context() as patched:
        for name in ("_unpacked", "_mapped", "_extremes"):
            patched.setattr(arrays, name, never)
        found = [read(path) for path in (*compressed, plain)]
    assert [one.count for one in found] == [2000, 2000, 20]
    for one in found[:2]:
        np.testing.assert_array_equal(one.load().labels, np.resize(LABELS, 2000))
    refused(plain, "no finite values", late=True)


# IDX


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_with_and_without_its_labels(tmp_path, ending):
    path = idx(tmp_path, GREY, f"train-images-idx3-ubyte{ending}")
    np.testing.assert_array_equal(read_idx(path), GREY)
    assert loaded(path).labels is None
    for other in (ending, ".gz" if not ending else ""):  # the labels may be packed though the pictures are not
        labels = idx(tmp_path, LABELS.astype(np.uint8), f"train-labels-idx1-ubyte{other}")
        found = read(path)
        np.testing.assert_array_equal(rows(found)[..., 0], GREY)
        np.testing.assert_array_equal(found.load().labels, LABELS)
        labels.unlink()
    refused(idx(tmp_path, LABELS.astype(np.uint8), f"t10k-labels-idx1-ubyte{ending}"), "labels, perhaps")


def test_idx_of_other_types_and_in_colour(tmp_path):
    np.testing.assert_array_equal(rows(read(idx(tmp_path, COLOR, "a-images.idx4-ubyte"))), COLOR)
    for kind, dtype in ((9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        path = idx(tmp_path, (GREY // 2).astype(dtype), "a-images-idx3", kind)
        np.testing.assert_array_equal(read_idx(path), GREY // 2)
        assert read_idx(path).dtype == np.dtype(dtype)
        np.testing.assert_array_equal(rows(read(path))[..., 0], GREY // 2)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_damaged_idx_is_refused(tmp_path, ending):
    name = f"train-images-idx3-ubyte{ending}"
    whole = idx(tmp_path, GREY, name).read_bytes()
    raw = gzip.decompress(whole) if ending else whole

    def written(content: bytes) -> Path:
        (tmp_path / name).write_bytes(gzip.compress(content) if ending else content)
        return tmp_path / name

    for content in (raw[:-1], raw + b"x", raw[:2], raw[:9], b"", b"\1" + raw[1:], raw[:2] + b"\7" + raw[3:]):
        for reader in (loaded, read_idx):
            with pytest.raises(Refused, match="cannot be read"):
                reader(written(content))
    huge = raw[:4] + struct.pack(">3I", *(0xFFFFFFFF,) * 3) + raw[16:]
    refused(written(huge), "cannot be read")
    refused(written(raw[:3] + b"\xff" + bytes([255]) * 1020 + raw), "cannot be read")
    if ending:
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        refused(tmp_path / name, "cannot be read")
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(changed)
        refused(tmp_path / name, "cannot be read")


# What is refused


def test_pickled_objects_are_refused_and_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    trap = np.array([Trap()] * 20, object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    refused(tmp_path / "a.npy", "pickled", "np.save", late=False)
    np.savez(tmp_path / "a.npz", images=trap)
    refused(tmp_path / "a.npz", "pickled", "np.save")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(trap))
    refused(tmp_path / "b.npy", "pickled")
    np.savez(tmp_path / "c.npz", images=COLOR, labels=trap, classes=trap, meta=trap)
    found = read(tmp_path / "c.npz")
    assert found.count == 20 and found.load().labels is None and any("meta object [20]" in n for n in found.notes)
    assert not (tmp_path / "opened").exists()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + size + text.encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPX\1\0v\0",
        b"\x93NUMPY\1\0\xff\xff{",
        b"\x93NUMPY\2\0\xff\xff\xff\xff{",
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 9, 7), }", b"\3\0"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 9, 7), }", b"\x09\x09"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 9, 7), }") + bytes(1259),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 9, 7), }") + bytes(1261),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ", " + "9" * 4000 + ", 3), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (-20, -9, 7), }") + bytes(1260),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, " + "9" * 4000 + ", 7), }"),
        header("{'descr': '|q9', 'fortran_order': False, 'shape': (20, 9, 7), }") + bytes(1260),
        header("{'descr': ('|u1', (99999, 99999)), 'fortran_order': False, 'shape': (20, 9, 7), }"),
        header("{'descr': '|u1', 'fortran_order': 3, 'shape': (20, 9, 7), }") + bytes(1260),
        header("{'descr': '|u1', 'shape': (20, 9, 7), }") + bytes(1260),
        header("__import__('os').system('touch opened')"),
        header("(" * 5000),
        header("{'descr': '|u1'" + "L" * 9000),
    ],
)
def test_a_damaged_npy_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy", "cannot be read", late=False)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    refused(tmp_path / "a.npz", "cannot be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.npz"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_npz_is_refused(tmp_path, packed):
    whole = npz(tmp_path, packed, images=COLOR).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\3\4", whole[:-30]):
        (tmp_path / "set.npz").write_bytes(content)
        refused(tmp_path / "set.npz", "cannot be read")
    if packed:
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 0xFF
        (tmp_path / "set.npz").write_bytes(changed)
        refused(tmp_path / "set.npz", "cannot be read")


def test_a_header_that_claims_more_than_there_is_allocates_nothing(tmp_path):
    """Claims of terabytes, plain and packed, with sizes in the zip's directory that agree."""
    claim = header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", claim + bytes(1000))
        info = archive.getinfo("images.npy")
        info.file_size = len(claim) + 10**12  # written to the directory as zip64
    (tmp_path / "a.npz").write_bytes(file.getvalue())
    refused(tmp_path / "a.npz", "larger than it can be", late=False)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_memory", lambda: 1000)
    refused(npz(tmp_path, True, images=COLOR), "GB of memory", "uncompressed", late=True)
    refused(idx(tmp_path, GREY, "train-images-idx3-ubyte.gz"), "GB of memory", "gunzip")
    refused(npy(tmp_path, np.asfortranarray(COLOR)), "GB of memory", "C order")
    np.testing.assert_array_equal(rows(read(npz(tmp_path, images=COLOR))), COLOR)  # these are only mapped
    np.testing.assert_array_equal(rows(read(npy(tmp_path, COLOR))), COLOR)
    np.testing.assert_array_equal(rows(read(idx(tmp_path, GREY)))[..., 0], GREY)


def test_plain_files_are_mapped_not_loaded(tmp_path):
    """A sparse file far larger than memory."""
    path = npy(tmp_path, COLOR)
    count = 2 * 10**9
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, 9, 7)})
        start = file.tell()
        file.write(bytes([200]) * 63)
        file.truncate(start + count * 63)
    found = read(path)
    whole = found.load()
    assert found.count == count and (whole.row(0) == 200).all() and not whole.row(count - 1).any()
    path.unlink()


def test_too_large_pictures_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2, 20000, 20000)})
        file.truncate(file.tell() + 2 * 20000**2)
    refused(path, "larger than 256 MiB")


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    for name in ("a.npy", "a.npz", "a-images-idx3-ubyte", "a-images-idx3-ubyte.gz"):
        refused(tmp_path / name, "cannot be read", "No such file")
        (tmp_path / name).mkdir()
        refused(tmp_path / name, "cannot be read")


def test_recognized_by_name_or_beginning(tmp_path):
    assert recognized(tmp_path / "a.NPY") and recognized(tmp_path / "a.npz") and not recognized(tmp_path / "a.zip")
    for name in ("train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte", "x-idx4-ubyte"):
        assert recognized(tmp_path / name)
    assert recognized(idx(tmp_path, GREY, "nameless"))
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "short").write_bytes(b"\0\0")
    assert not recognized(tmp_path / "picture") and not recognized(tmp_path / "short")


@pytest.mark.skipif(not (SHARED / "MNIST" / "raw").exists(), reason=f"{SHARED}/MNIST/raw is not there")
def test_the_real_mnist():
    path = next((SHARED / "MNIST" / "raw").glob("train-images-idx3-ubyte*"))
    found = read(path)
    whole = found.load()
    assert found.count == 60_000 and found.shape == (28, 28, 1) and whole.classes == tuple("0123456789")
    assert np.bincount(whole.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(read_idx(path).mean() / 255 - 0.1307) < 1e-4  # the mean that the world normalizes by
