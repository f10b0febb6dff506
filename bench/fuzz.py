"""Damaged and hostile files against the readers: what is no picture has to be refused by name, and nothing else may
happen. `python bench/fuzz.py [--cases N] [--seed S] [--only FORMAT:NUMBER]`; exit code 1 if anything else did.

Every case is a function of (seed, format, number), so that one can be tried again alone. Cases run in a process of
their own, which is ended when it hangs and started again when it crashes.
"""

import argparse
import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import resource
import shutil
import stat
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasvir.config import DataConfig, Refused
from tasvir.data import arrays, load
from tasvir.data.decoding import Frame, Unreadable, decode, decode_halves

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = {  # some real files, where they are there
    "anime_faces_64px_6000.zip": 12,
    "maps_val_512x256.zip": 3,
    "cifar10_test_5k.zip": 8,
    "set5.zip": 2,
    "cartoonset_samples_30.zip": 1,
}
SLOWEST, LARGEST = 10.0, 1.5e9
"""Seconds and bytes that no case may go beyond."""
HUNG = 60.0
NAME = "collection7"
"""What a file is called that a refusal has to name."""
EVIL = "evil"
"""Part of every name that must not appear on disk."""
OUTSIDE = "/", tempfile.gettempdir()
DECODED, REJECTED = "decoded", "rejected"


class Broken(Exception):
    """A reader did what it must not do."""


# Files to damage


def _picture(rng: np.random.Generator, height: int = 40, width: int = 30, channels: int = 3) -> np.ndarray:
    rough = rng.integers(0, 256, (height // 5, width // 5, channels), np.uint8)
    return np.kron(rough, np.ones((5, 5, 1), np.uint8))


def _saved(image: Image.Image, kind: str, **options: Any) -> list[bytes]:
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except (OSError, ValueError, KeyError, RuntimeError):  # this Pillow cannot write it
        return []
    return [file.getvalue()]


@lru_cache(1)
def pictures() -> dict[str, list[bytes]]:
    """Whole files of every format, in many variants."""
    rng = np.random.default_rng(0)
    color, alpha = Image.fromarray(_picture(rng)), Image.fromarray(_picture(rng, channels=4))
    modes = {mode: color.convert(mode) for mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB")}
    modes |= {"RGB": color, "RGBA": alpha, "LA": alpha.convert("LA")}
    deep = Image.fromarray(_picture(rng, channels=1)[..., 0].astype(np.uint16) * 250)
    real = Image.fromarray(_picture(rng, channels=1)[..., 0].astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    about = {"exif": exif, "icc_profile": profile}
    film = {"save_all": True, "append_images": [color.rotate(90 * turn) for turn in (1, 2)]}
    found: dict[str, list[bytes]] = {}
    found["jpeg"] = [
        *(data for mode in ("L", "RGB", "CMYK", "YCbCr") for data in _saved(modes[mode], "JPEG", **about)),
        *_saved(color, "JPEG", progressive=True),
        *_saved(color, "JPEG", quality=95, subsampling=0, restart_marker_rows=1),
    ]
    found["png"] = [
        *(data for mode in ("1", "L", "LA", "P", "RGB", "RGBA") for data in _saved(modes[mode], "PNG", **about)),
        *(data for image in (deep, modes["P"]) for data in _saved(image, "PNG", transparency=1)),
        *_saved(color, "PNG", **film),
    ]
    found["webp"] = [
        *(data for image in (color, alpha) for data in _saved(image, "WEBP", **about)),
        *(data for image in (color, alpha) for data in _saved(image, "WEBP", lossless=True)),
        *_saved(color, "WEBP", **film),
    ]
    found["gif"] = [
        *(data for mode in ("L", "P") for data in _saved(modes[mode], "GIF", interlace=mode == "P")),
        *_saved(modes["P"], "GIF", transparency=3),
        *_saved(color, "GIF", **film),
    ]
    found["bmp"] = [data for mode in ("1", "L", "P", "RGB", "RGBA") for data in _saved(modes[mode], "BMP")]
    packings = {"1": ("packbits", "group3", "group4"), "L": ("jpeg", "tiff_lzw"), "RGB": ("jpeg", "tiff_adobe_deflate")}
    found["tiff"] = [
        *(d for mode, image in modes.items() if mode != "YCbCr" for d in _saved(image, "TIFF", **about)),
        *(data for image in (deep, real) for data in _saved(image, "TIFF", **about)),
        *(
            d
            for mode in packings
            for packing in packings[mode]
            for d in _saved(modes[mode], "TIFF", compression=packing)
        ),
        *_saved(color, "TIFF", **film),
    ]
    found["ppm"] = [
        *(data for image in (modes["1"], modes["L"], color, deep) for data in _saved(image, "PPM")),
        b"P3\n4 4\n255\n" + b" ".join(b"%d" % (value * 5) for value in range(48)),
        b"P2 # words\n5 4 31\n" + b" ".join(b"%d" % value for value in range(20)),
        b"P1\n8 2\n1010101001010101",
        b"Pf\n4 4\n-1.0\n" + np.linspace(0, 1, 16).astype("<f4").tobytes(),
    ]
    for name, count in REAL.items():
        if (SHARED / name).exists():
            with zipfile.ZipFile(SHARED / name) as archive:
                files = [entry for entry in archive.infolist() if not entry.is_dir()][:count]
                for entry in files:
                    found["jpeg" if entry.filename.endswith(".jpg") else "png"].append(archive.read(entry))
    return found


# Damage

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def damaged(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The file with a few changes: bits, runs, cuts, splices of another file, extreme numbers in its fields."""
    changed = bytearray(data)
    for _ in range(min(rng.geometric(0.6), 5)):
        if not changed:
            break
        place = int(rng.integers(len(changed)))
        if rng.random() < 0.5:  # where headers and directories are
            place = min(place % 300, len(changed) - 1) if rng.random() < 0.7 else max(0, len(changed) - 1 - place % 300)
        length = int(min(2 ** rng.integers(0, 9), len(changed) - place))
        kind = rng.integers(9)
        if kind < 2:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[place : place + length] = rng.integers(0, 256, length, np.uint8).tobytes()
        elif kind == 3:
            changed[place : place + length] = bytes([int(rng.choice((0, 255)))]) * length
        elif kind == 4 and rng.random() < 0.5:
            del changed[place:]
        elif kind == 4:
            del changed[place : place + length]
        elif kind == 5 and other:
            start = int(rng.integers(len(other)))
            changed[place : place + length * int(rng.integers(2))] = other[start : start + length]
        elif kind == 6:
            changed[place:place] = changed[place : place + length]
        else:
            size = int(rng.choice((1, 2, 4, 8)))
            value = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
            changed[place : place + size] = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return bytes(changed)


def _checksums_mended(data: bytes) -> bytes:
    """A PNG whose chunks pass the check, so that what is in them is looked at."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        end = place + 8 + int.from_bytes(mended[place : place + 4], "big")
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


def _damaged_picture(rng: np.random.Generator, kind: str) -> bytes:
    files = pictures()[kind]
    data = damaged(rng, files[rng.integers(len(files))], files[rng.integers(len(files))])
    return _checksums_mended(data) if kind == "png" and rng.random() < 0.6 else data


# One case of each format: DECODED, REJECTED, or an exception


def picture_case(rng: np.random.Generator, folder: Path, kind: str) -> str:
    frame = Frame(int(rng.choice((8, 33, 64))), rng.choice(("crop", "pad", "squash")), (255, 128, 0))
    return decoded_or_rejected(_damaged_picture(rng, kind), frame, rng.random() < 0.2)


def decoded_or_rejected(data: bytes, frame: Frame, halves: bool = False) -> str:
    try:
        found = (decode_halves if halves else decode)(data, frame)
    except Unreadable as reason:
        if not str(reason) or len(str(reason)) > 200 or "\n" in str(reason):
            raise Broken(f"no short reason: {reason}") from None
        return REJECTED
    for pixels in (found.image, found.source):
        if pixels is None:
            continue
        if pixels.dtype != np.uint8 or pixels.shape not in ((frame.size, frame.size, 1), (frame.size, frame.size, 3)):
            raise Broken(f"{pixels.dtype} {pixels.shape} is no picture")
    if found.side < 1 or (found.source is None) == halves:
        raise Broken("not what was asked for")
    return DECODED


def _array(rng: np.random.Generator) -> np.ndarray:
    count, height, width = (int(number) for number in rng.integers(1, 12, 3))
    form = [(count, height, width), (count, height, width, 3), (count, 3, height, width), (count, height, width, 4)]
    shape = form[rng.integers(4)]
    dtype = rng.choice(["u1", "u1", "u1", "?", "<u2", ">u2", "<i4", ">i8", "<f4", ">f8", "<f2"])
    values = rng.integers(0, 2 if dtype == "?" else 256, shape)
    scaled = values / 255 if rng.random() < 0.3 else values
    return np.asfortranarray(scaled.astype(dtype)) if rng.random() < 0.1 else scaled.astype(dtype)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _idx(rng: np.random.Generator) -> bytes:
    kind, dtype = [(8, "u1"), (8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")][rng.integers(7)]
    shape = rng.integers(1, 12, rng.choice((1, 2, 3, 3, 3, 4)))
    if len(shape) == 4:
        shape[-1] = rng.choice((1, 3))
    array = rng.integers(0, 100, shape).astype(dtype)
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy_case(rng: np.random.Generator, folder: Path) -> str:
    (folder / f"{NAME}.npy").write_bytes(_damaged_npy(rng, _npy(_array(rng))))
    return read_or_refused(folder / f"{NAME}.npy")


def _damaged_npy(rng: np.random.Generator, data: bytes) -> bytes:
    """Damaged anywhere, or only in its values, or so in the header that it can still be parsed."""
    kind = rng.integers(4)
    if kind < 2:
        return damaged(rng, data, data)
    changed = bytearray(data)
    if kind == 2:
        places = range(128, len(data))
        letters = bytes(range(256))
    else:
        letters = b"0123456789fuibO<>|"
        places = [place for place in range(10, min(len(data), 128)) if data[place] in letters]
    for place in rng.choice(places, min(len(places), 3)):
        changed[place] = rng.choice(list(letters))
    return bytes(changed)


def npz_case(rng: np.random.Generator, folder: Path) -> str:
    method = int(rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    names = rng.choice(["images", "x_train", "x_test", "labels", "y_train", "classes", "arr_0", "../x", "/a"], 3)
    inside = rng.random() < 0.5
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in sorted(set(names)):
            kinds = {"labels": rng.integers(0, 3, 5), "classes": np.array(["a", "b", "c"])}
            data = _npy(kinds.get(name, _array(rng)))
            if inside and rng.random() < 0.6:
                data = _damaged_npy(rng, data)
            archive.writestr(f"{name}.npy", data)
    data = file.getvalue()
    (folder / f"{NAME}.npz").write_bytes(data if inside else damaged(rng, data, data))
    return read_or_refused(folder / f"{NAME}.npz")


def idx_case(rng: np.random.Generator, folder: Path) -> str:
    data, packed = _idx(rng), rng.random() < 0.4
    kind = rng.integers(3)
    if kind == 0:  # only values
        data = data[:-3] + rng.integers(0, 256, 3, np.uint8).tobytes()
    elif kind == 1:
        data = damaged(rng, data, data)
    data = gzip.compress(data, mtime=0) if packed else data
    if kind == 2:
        data = damaged(rng, data, data)
    path = folder / f"{NAME}-images-idx3-ubyte{'.gz' * packed}"
    path.write_bytes(data)
    if rng.random() < 0.3:
        (folder / f"{NAME}-labels-idx1-ubyte").write_bytes(damaged(rng, _idx(rng), data))
    return read_or_refused(path)


def read_or_refused(path: Path) -> str:
    try:
        found = arrays.read(path)
        loaded = found.load()
    except Refused as refusal:
        if NAME not in str(refusal) or len(str(refusal).splitlines()) > 3:
            raise Broken(f"no plain refusal: {refusal}") from None
        return REJECTED
    for number in {0, found.count // 2, found.count - 1}:
        loaded.content(number)
        try:
            pixels = loaded.row(number)
        except Unreadable:
            continue
        if pixels.dtype != np.uint8 or pixels.shape != found.shape or found.shape[2] not in (1, 3):
            raise Broken(f"{pixels.dtype} {pixels.shape} is no picture")
    if found.splits is not None and len(found.splits) != found.count:
        raise Broken("not a split for each picture")
    if loaded.labels is not None and not (
        loaded.labels.shape == (found.count,) and 0 <= loaded.labels.min() <= loaded.labels.max() < len(loaded.classes)
    ):
        raise Broken("labels that are none")
    return DECODED


def _members(rng: np.random.Generator) -> tuple[dict[str, bytes], set[str]]:
    """Pictures by name, some of them damaged, and the names of those that cannot be decoded."""
    members = {}
    for number in range(18):
        members[f"good/{number:02d}.png"] = _saved(Image.fromarray(_picture(rng, 10, 10)), "PNG")[0]
    for number in range(rng.integers(0, 6)):
        kind = str(rng.choice(list(pictures())))
        ending = "tif" if kind == "tiff" else kind
        members[f"bad/{number}.{ending}"] = _damaged_picture(rng, kind) if rng.random() < 0.9 else b""
    return members, {name for name, data in members.items() if decoded_or_rejected(data, Frame(8)) == REJECTED}


def _hostile_names(rng: np.random.Generator) -> list[str]:
    names = [
        f"../{EVIL}.png",
        f"../../../{EVIL}.png",
        f"good/../../{EVIL}.png",
        f"{tempfile.gettempdir()}/{EVIL}.png",
        f"/{EVIL}.png",
        f"C:/{EVIL}.png",
        f"..\\{EVIL}.png",
    ]
    return [names[place] for place in sorted(set(rng.integers(0, len(names), rng.integers(0, 4))))]


def _write_zip(rng: np.random.Generator, members: dict[str, bytes]) -> tuple[bytes, set[str]]:
    file, hostile = io.BytesIO(), set()
    method = int(rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    whole = next(iter(members.values()))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        for name in _hostile_names(rng):
            archive.writestr(name, whole)
            hostile.add(name)
        for kind in (stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO):
            if rng.random() < 0.2:
                entry = zipfile.ZipInfo(f"{EVIL}-{kind}.png")
                entry.external_attr = (kind | 0o777) << 16
                archive.writestr(entry, b"../../in")
                hostile.add(entry.filename)
        if rng.random() < 0.2:
            import warnings

            with warnings.catch_warnings(action="ignore"):
                archive.writestr(next(iter(members)), whole)
    return file.getvalue(), hostile


def _write_tar(rng: np.random.Generator, members: dict[str, bytes]) -> tuple[bytes, set[str]]:
    file, hostile = io.BytesIO(), set()
    whole = next(iter(members.values()))
    form = int(rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name in _hostile_names(rng):
            entry = tarfile.TarInfo(name)
            entry.size = len(whole)
            archive.addfile(entry, io.BytesIO(whole))
            hostile.add(name)
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        for kind in kinds:
            if rng.random() < 0.2:
                entry = tarfile.TarInfo(f"{EVIL}-{kind.decode()}.png")
                entry.type, entry.linkname = (
                    kind,
                    str(rng.choice(["../../in", "/etc/passwd", next(iter(members)), "."])),
                )
                archive.addfile(entry)
                hostile.add(entry.name)
        if rng.random() < 0.2:  # the same name twice
            entry = tarfile.TarInfo(next(iter(members)))
            entry.size = len(whole)
            archive.addfile(entry, io.BytesIO(whole))
    return file.getvalue(), hostile


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": partial(gzip.compress, compresslevel=1, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": partial(lzma.compress, preset=0),
}


def archive_case(rng: np.random.Generator, folder: Path, kind: str) -> str:
    """An archive that is whole, of pictures of which some are not; or one that is damaged itself."""
    members, bad = _members(rng)
    data, hostile = (_write_zip if kind == "zip" else _write_tar)(rng, members)
    whole = rng.random() < 0.4
    if not whole and (kind not in PACKED or rng.random() < 0.5):
        data = damaged(rng, data, data)
    if kind in PACKED:
        data = PACKED[kind](data)
        data = data if whole or rng.random() < 0.5 else damaged(rng, data, data)
    path = folder / f"{NAME}.{kind}"
    path.write_bytes(data)
    return loaded_or_refused(path, len(members) - len(bad) if whole else None, bad | hostile if whole else set())


def loaded_or_refused(path: Path, readable: int | None, rejected: set[str]) -> str:
    """`readable`: how many pictures have to be there; `rejected`: the names that have to be named."""
    cache = Path(os.environ["TASVIR_CACHE"])
    before = _tree(cache.parent)
    try:
        dataset = load(DataConfig(source=(str(path),), size=8, layout="flat"))
    except Refused as refusal:
        if "ended from outside" in str(refusal):
            raise Broken("a decoding process crashed") from None
        if readable is not None or NAME not in str(refusal) or len(str(refusal).splitlines()) > 3:
            raise Broken(f"not a plain refusal: {refusal}") from None
        return REJECTED
    finally:
        if _tree(cache.parent) != before or any(Path(where, f"{EVIL}.png").exists() for where in OUTSIDE):
            raise Broken("a file appeared or changed outside the cache")
        if any(EVIL in file.name or file.is_symlink() for file in cache.rglob("*")):
            raise Broken("a hostile name or link appeared in the cache")
        shutil.rmtree(cache)
    unnamed = rejected - {name for name, reason in dataset.skipped if reason}
    if unnamed:
        raise Broken(f"rejected and not named: {sorted(unnamed)}")
    found = len(dataset.train) + len(dataset.test)
    if readable not in (None, found):
        raise Broken(f"{found} pictures where there are {readable}")
    return DECODED


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    """All that lies around a case but the cache: what leads out of an archive would be there."""
    found = {}
    for where, folders, files in os.walk(root):
        if where == str(root):
            folders.remove("cache")
        for name in (*files, *folders):
            about = os.lstat(os.path.join(where, name))
            found[os.path.join(where, name)] = about.st_size, about.st_mtime_ns if name in files else 0
    return found


# Files that claim or unfold to as much as they can


def _png(width: int, height: int, color: int, rows: bytes, *more: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    extra = b"".join(chunk(part[:4], part[4:]) for part in more)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(min(1 << 24, size - at))) for at in range(0, size, 1 << 24)) + packer.flush()


def _blank(width: int, height: int, mode: str, kind: str, **options: Any) -> bytes:
    return _saved(Image.new(mode, (width, height)), kind, **options)[0]


def _zip_of(size: int, count: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            with archive.open(f"{number}.png", "w", force_zip64=True) as member:
                for _ in range(size >> 20):
                    member.write(bytes(1 << 20))
    return file.getvalue()


def _gzip_of(size: int, head: bytes = b"") -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        packed.write(head)
        for _ in range(size >> 24):
            packed.write(bytes(1 << 24))
    return file.getvalue()


def _tar_head(size: int) -> bytes:
    entry = tarfile.TarInfo("0.png")
    entry.size = size
    return entry.tobuf()


def _claiming(size: int) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size}, 1000, 1000), }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def _npz_claiming() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", _claiming(10**6))
        archive.getinfo("images.npy").file_size = 10**12
    return file.getvalue()


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png that claims 900 million pixels": (".png", lambda: _png(30_000, 30_000, 2, _zeros(1000))),
    "png that claims 2^31 by 2^31": (".png", lambda: _png(2**31 - 1, 2**31 - 1, 2, _zeros(1000))),
    "png one pixel high": (".png", lambda: _png(80_000_000, 1, 0, _zeros(80_000_001))),
    "png of 80 million pixels": (".png", lambda: _png(8_900, 9_000, 2, _zeros(9_000 * (8_900 * 3 + 1)))),
    "png of 80 million transparent pixels": (".png", lambda: _png(8_900, 9_000, 6, _zeros(9_000 * (8_900 * 4 + 1)))),
    "png as long as allowed": (".png", lambda: _png(900_000, 99, 6, _zeros(99 * (900_000 * 4 + 1)))),
    "png with 1 GB of text": (".png", lambda: _png(9, 9, 0, _zeros(90), b"zTXtA\0\0" + _zeros(1 << 30))),
    "png with 1 GB of profile": (".png", lambda: _png(9, 9, 0, _zeros(90), b"iCCPA\0\0" + _zeros(1 << 30))),
    "jpeg of 64 million pixels": (".jpg", lambda: _blank(8_000, 8_000, "RGB", "JPEG")),
    "jpeg of 64 million pixels, progressive": (".jpg", lambda: _blank(8_000, 8_000, "RGB", "JPEG", progressive=True)),
    "jpeg of 64 million pixels, CMYK": (".jpg", lambda: _blank(8_000, 8_000, "CMYK", "JPEG")),
    "gif of 80 million pixels": (".gif", lambda: _blank(8_900, 9_000, "P", "GIF", transparency=0)),
    "tiff of 80 million pixels": (
        ".tif",
        lambda: _blank(8_900, 9_000, "RGBA", "TIFF", compression="tiff_adobe_deflate"),
    ),
    "tiff of 80 million numbers": (
        ".tif",
        lambda: _blank(8_900, 9_000, "I;16", "TIFF", compression="tiff_adobe_deflate"),
    ),
    "tiff of 80 million floats": (".tif", lambda: _blank(8_900, 9_000, "F", "TIFF", compression="tiff_adobe_deflate")),
    "webp of 64 million pixels": (".webp", lambda: _blank(16_000, 4_000, "RGB", "WEBP", lossless=True, method=0)),
    "ppm that claims a billion pixels": (".ppm", lambda: b"P6 31622 31622 255\n" + bytes(99)),
    "npy that claims 1 TB": (".npy", lambda: _claiming(10**6)),
    "npz that claims 1 TB": (".npz", _npz_claiming),
    "idx that claims 2^96 bytes": ("-idx3-ubyte", lambda: b"\0\0\x08\3" + b"\xff" * 12),
    "idx.gz that claims 2^96 bytes": ("-idx3-ubyte.gz", lambda: gzip.compress(b"\0\0\x08\3" + b"\xff" * 12)),
    "zip with 1 GB of zeros": (".zip", lambda: _zip_of(1 << 30)),
    "zip with 16 times 300 MB of zeros": (".zip", lambda: _zip_of(300 << 20, 16)),
    "tar.gz of 2 GB of zeros": (".tar.gz", lambda: _gzip_of(1 << 31, _tar_head(1 << 31))),
    "gz of 2 GB of zeros": (".tar.gz", lambda: _gzip_of(1 << 31)),
}


def bomb_case(number: int, folder: Path) -> str:
    """The file is there already: what it takes to make it is not what is measured."""
    path = next(folder.glob(f"{NAME}*"))
    ending = path.name.removeprefix(NAME)
    if ending in (".zip", ".tar.gz"):
        return loaded_or_refused(path, None, set())
    if "np" in ending or "idx" in ending:
        return read_or_refused(path)
    return decoded_or_rejected(path.read_bytes(), Frame(64))


# The cases, their process, the table

CASES: dict[str, tuple[float, Callable[[np.random.Generator, Path], str]]] = {
    **{kind: (1.0, partial(picture_case, kind=kind)) for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm")},
    "npy": (0.7, npy_case),
    "npz": (0.7, npz_case),
    "idx": (0.6, idx_case),
    **{kind: (0.6, partial(archive_case, kind=kind)) for kind in ("zip", "tar", "tar.gz")},
    **{kind: (0.2, partial(archive_case, kind=kind)) for kind in ("tar.bz2", "tar.xz")},
}
"""By format: how many cases it gets beside the others, and one of them."""
BOMB = "bombs"


def one_case(kind: str, number: int, seed: int, folder: Path) -> str:
    """DECODED or REJECTED; any exception is a failure. `folder` is empty but for a bomb."""
    if kind == BOMB:
        return bomb_case(number, folder)
    return CASES[kind][1](np.random.default_rng([seed, list(CASES).index(kind), number]), folder)


def serve(pipe: Any, seed: int, root: Path) -> None:
    """In a process of its own: cases come in, (outcome, seconds, peak bytes) go out."""
    os.chdir(root / "a" / "b" / "cwd")
    os.environ["TASVIR_CACHE"] = str(root / "cache")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # packing says what it does, libtiff what it thinks of a file
    folder = root / "a" / "b" / "in"
    pictures()
    while (order := pipe.recv()) is not None:
        (root / "cache").mkdir(exist_ok=True)
        _forget_peak()
        start = time.perf_counter()
        try:
            outcome = one_case(*order, seed, folder)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        peak = _peak()
        for left in folder.iterdir():
            left.unlink()
        pipe.send((outcome, seconds, peak))


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    """Bytes of this process since `_forget_peak`, or of the largest process that it has started."""
    with open("/proc/self/status") as file:
        own = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)


def results(orders: list[tuple[str, int]], seed: int, root: Path) -> Iterator[tuple[str, int, str, float, int]]:
    """(format, number, outcome, seconds, peak bytes) of each case."""
    context = multiprocessing.get_context("spawn")
    process = ours = None
    for kind, number in orders:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, seed, root), daemon=False)
            process.start()
            theirs.close()
        assert ours is not None
        if kind == BOMB:
            ending, make = list(BOMBS.values())[number]
            (root / "a" / "b" / "in" / f"{NAME}{ending}").write_bytes(make())
        ours.send((kind, number))
        try:
            if not ours.poll(HUNG):
                raise TimeoutError
            yield kind, number, *ours.recv()
        except (TimeoutError, EOFError) as error:
            if isinstance(error, TimeoutError):
                process.kill()
            process.join()
            what = "hung" if isinstance(error, TimeoutError) else f"crashed with exit code {process.exitcode}"
            process = None
            for left in (root / "a" / "b" / "in").iterdir():
                left.unlink()
            yield kind, number, what, HUNG, 0
    if process is not None and ours is not None:
        ours.send(None)
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one case, such as tiff:17, or one format")
    options = parser.parse_args()
    whole = sum(part for part, _ in CASES.values())
    orders = [(kind, n) for kind, (part, _) in CASES.items() for n in range(-int(-options.cases * part // whole))]
    orders += [(BOMB, number) for number in range(len(BOMBS))]
    if options.only:
        kind, _, number = options.only.partition(":")
        orders = [(kind, int(number))] if number else [order for order in orders if order[0] == kind]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind, _ in orders}
    slowest = dict.fromkeys(counts, 0.0)
    largest = dict.fromkeys(counts, 0)
    failures = []
    with tempfile.TemporaryDirectory(prefix="tasvir-fuzz-") as name:
        root = Path(name)
        for part in ("a/b/in", "a/b/cwd", "cache"):
            (root / part).mkdir(parents=True)
        start = time.perf_counter()
        for kind, number, outcome, seconds, peak in results(orders, options.seed, root):
            known = outcome in (DECODED, REJECTED)
            counts[kind][outcome if known else "other"] += 1
            slowest[kind], largest[kind] = max(slowest[kind], seconds), max(largest[kind], peak)
            label = f"{kind}:{number}"
            if kind == BOMB:
                label += f" ({list(BOMBS)[number]})"
                print(f"{label:58} {outcome[:40]:10} {seconds:6.2f} s {peak / 1e6:6.0f} MB")
            if not known:
                failures.append(f"{label}  {outcome}")
            if seconds > SLOWEST or peak > LARGEST:
                failures.append(f"{label}  took {seconds:.1f} s and {peak / 1e6:.0f} MB")
    print("format   cases  decoded  rejected  other  slowest (s)  peak memory (MB)")
    for kind, count in counts.items():
        numbers = f"{count.total():5}  {count[DECODED]:7}  {count[REJECTED]:8}  {count['other']:5}"
        print(f"{kind:7}  {numbers}  {slowest[kind]:11.2f}  {largest[kind] / 1e6:16.0f}")
    total = sum((count for count in counts.values()), Counter())
    print(
        f"{total.total()} cases in {time.perf_counter() - start:.0f} s, seed {options.seed}: "
        f"{total[DECODED]} decoded, {total[REJECTED]} rejected, {len(failures)} failures"
    )
    print(*failures[:40], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
