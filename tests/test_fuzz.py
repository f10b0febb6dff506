"""Files that are damaged, hostile or made up: a picture or a plain refusal, nothing else; bench/fuzz.py tries more."""

import importlib.util
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasvir.config import DataConfig
from tasvir.data import load
from tasvir.data.decoding import Frame

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "bench" / "fuzz.py")
assert SPEC is not None and SPEC.loader is not None
fuzz = importlib.util.module_from_spec(SPEC)
sys.modules["fuzz"] = fuzz
SPEC.loader.exec_module(fuzz)

pytestmark = pytest.mark.filterwarnings("ignore")  # what Pillow says of damaged files
PICTURES = tuple(fuzz.pictures())
FEW = [("zip", 40), ("tar", 40), ("tar.gz", 20), ("tar.xz", 20), ("tar.bz2", 20), ("npz", 60), ("idx", 40)]

CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["set", "cut", "drop", "insert", "number"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def examples(count: int):
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


def changed(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for where, kind, what in changes:
        place = int(where**3 * len(data))  # mostly near the beginning, where the headers are
        keep = {"set": len(what), "cut": len(data), "drop": len(what), "insert": 0, "number": 4}[kind]
        new = {"set": what, "insert": what, "number": b"\xff\xff\xff\x7f"}.get(kind, b"")
        data = data[:place] + new + data[place + keep :]
    return data


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a case's file lies, with the cache and the working folder beside it."""
    for part in ("a/b/in", "a/b/cwd", "cache"):
        (tmp_path / part).mkdir(parents=True)
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "a" / "b" / "cwd")
    return tmp_path / "a" / "b" / "in"


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures(kind):
    files = fuzz.pictures()[kind]
    assert all(fuzz.decoded_or_rejected(data, Frame(8)) == fuzz.DECODED for data in files)

    @examples(40)
    @given(st.sampled_from(files), CHANGES, st.booleans(), st.sampled_from(["crop", "pad", "squash"]), st.booleans())
    def check(data, changes, mended, fit, halves):
        data = changed(data, changes)
        data = fuzz._checksums_mended(data) if mended and kind == "png" else data
        fuzz.decoded_or_rejected(data, Frame(16, fit), halves)

    check()


@examples(80)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6 "]), st.binary())
def test_made_up_pictures(head, rest):
    fuzz.decoded_or_rejected(head + rest, Frame(8))


HEADERS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(
            ["|u1", "<u2", ">f4", "<f8", "|b1", "|O", "<U3", "<M8[s]", "|V0", "?", "", ("<f4", 3)]
        ),
        "fortran_order": st.sampled_from([True, False, None, 1]),
        "shape": st.lists(st.integers(-3, 5) | st.integers(), max_size=5).map(tuple) | st.text(max_size=3),
    }
)


@examples(150)
@given(HEADERS, st.binary(max_size=300), st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\0\0"]), CHANGES | st.just([]))
def test_made_up_npy_headers(tmp_path_factory, header, values, version, changes):
    text = repr(header).encode() + b"\n"
    head = b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text
    path = tmp_path_factory.getbasetemp() / f"{fuzz.NAME}.npy"
    path.write_bytes(changed(head, changes) + values)
    fuzz.read_or_refused(path)


@examples(80)
@given(
    st.lists(st.integers(0, 2**32 - 1) | st.integers(1, 4), max_size=5),
    st.integers(0, 255) | st.sampled_from([8, 9, 11, 12, 13, 14]),
    st.binary(max_size=300),
    st.booleans(),
)
def test_made_up_idx_files(tmp_path_factory, sizes, kind, values, packed):
    import gzip

    data = bytes((0, 0, kind, len(sizes))) + b"".join(size.to_bytes(4, "big") for size in sizes) + values
    path = tmp_path_factory.getbasetemp() / f"{fuzz.NAME}-idx3-ubyte{'.gz' * packed}"
    path.write_bytes(gzip.compress(data) if packed else data)
    fuzz.read_or_refused(path)


@pytest.mark.parametrize("kind, count", FEW)
def test_damaged_arrays_and_archives(folder, capfd, kind, count):
    outcomes = []
    for number in range(count):
        (folder.parents[2] / "cache").mkdir(exist_ok=True)
        outcomes.append(fuzz.one_case(kind, number, 7, folder))
        for left in folder.iterdir():
            left.unlink()
    assert set(outcomes) == {fuzz.DECODED, fuzz.REJECTED}


PARTS = st.sampled_from(["..", ".", "", "a", "b.png", "evil.png", "C:", "~", "evil\\..\\evil.png", "con", "x" * 300])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), min_size=1, max_size=5, unique=True)


def zip_of(names: list[str], content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content)


def tar_of(names: list[str], content: bytes, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("write", [zip_of, tar_of])
def test_no_name_leads_out_of_an_archive(folder, write):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
    good = [f"good{number}.png" for number in range(16)]

    @examples(40)
    @given(NAMES, st.sampled_from(["", "/", str(folder) + "/", "../"]))
    def check(names, head):
        (folder.parents[2] / "cache").mkdir(exist_ok=True)
        path = folder / f"{fuzz.NAME}.{'zip' if write is zip_of else 'tar'}"
        hostile = [head + name for name in names]
        write(good + hostile, file.getvalue(), path)
        out = {name for name in hostile if ".." in name.replace("\\", "/").split("/") or name[:1] in ("/", "\\")}
        pictures = {name for name in out if name.endswith(".png")}
        outcome = fuzz.loaded_or_refused(path, None, pictures)
        assert outcome == fuzz.REJECTED  # copies of one picture are no set
        path.unlink()

    check()


def test_what_lies_beyond_a_links_end_is_not_read(folder):
    """A tar whose link names a file outside, and whose next member has a name inside the link."""
    secret = folder.parent / "secret"
    secret.mkdir()
    Image.new("L", (8, 8), 7).save(secret / "own.png")
    path = folder / f"{fuzz.NAME}.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("inside")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for number in range(20):
            file = io.BytesIO()
            Image.fromarray(np.random.default_rng(number).integers(50, 256, (8, 8), np.uint8)).save(file, "PNG")
            entry = tarfile.TarInfo("inside/own.png" if number == 19 else f"{number}.png")
            entry.size = len(file.getvalue())
            file.seek(0)
            archive.addfile(entry, file)
    before = sorted(os.listdir(secret))
    dataset = load(DataConfig(source=(str(path),), size=8, layout="flat"))
    assert min(split.images.min() for split in (dataset.train, dataset.test)) >= 50
    assert sorted(os.listdir(secret)) == before and (secret / "own.png").stat().st_size
    assert ("inside", "a link or device, not a file") in dataset.skipped
