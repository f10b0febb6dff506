"""Pictures held as arrays: .npy, .npz and IDX files (MNIST's), known by their headers, and mapped where they can be."""

import gzip
import math
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasvir.config import Refused
from tasvir.data.decoding import LARGEST_FILE, Unreadable
from tasvir.data.layouts import SPLIT_FOLDERS

PICTURES = ("images", "image", "x", "imgs", "pictures", "data", "arr_0")
"""Names of the array that holds the pictures of an .npz, best first; otherwise the only one that can."""
LABELS = ("labels", "label", "y", "targets", "target", "arr_1")
CLASSES = ("classes", "class_names", "label_names", "categories")
BESIDE = {"images": "labels", "image": "label", "x": "y", "X": "y", "data": "labels"}
"""A word in the name of an .npy of pictures, and what stands for it in that of its labels."""
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LAYOUTS = "[N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels, or [N,H,W,4] with transparency"
NO_LETTERS = "some of its letters are no letters of Unicode"
_BLOCK = 16 << 20  # bytes looked through at once
_HEADER = 1 << 16  # bytes in which an .npy says what it is; a claim of more is not believed
_MOST = 1000  # arrays in one .npz
_DENSEST = 1032  # bytes that deflate can make of one
_NAMED = 8  # arrays that one sentence names


@dataclass(frozen=True)
class Loaded:
    """The pictures of one array file, by number, and what their values told."""

    row: Callable[[int], np.ndarray]
    """Number to [H,W,1 or 3] uint8. Raises `Unreadable` where floats are not finite."""
    content: Callable[[int], bytes]
    """The picture's values as they are stored."""
    labels: np.ndarray | None = None
    """[N] int64, numbers of `classes`."""
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Plain sentences: the range of the values, and the classes."""


@dataclass(frozen=True)
class Arrays:
    """What the headers of an array file say."""

    count: int
    shape: tuple[int, int, int]
    """Height, width, channels (1 or 3) of every picture."""
    fingerprint: list[list[int]]
    """Size and time of change (ns) of the file, and of the file of labels beside it if there is one."""
    load: Callable[[], Loaded]
    """Reads the values, at every call: what is compressed comes into memory, and all but bytes is looked through once,
    in blocks. Raises `Refused` where they are damaged, too large for memory, or of no range that is known."""
    splits: list[str] | None = None
    """`train` or `test` for each picture, where the file says so."""
    notes: tuple[str, ...] = ()
    """Plain sentences: what was recognized, and what was left aside."""


@dataclass(frozen=True)
class _Entry:
    """An array that is known by its header."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name} [{','.join(map(str, self.shape))}]"


_Part = tuple[str, _Entry, _Entry | None]  # split, pictures, labels


def recognized(path: Path) -> bool:
    """Whether a file is one of these, by its name or by how it begins; not whether it can be read."""
    if path.suffix.lower() in (".npy", ".npz") or re.search(r"idx[1-4].ubyte(\.gz)?$", path.name.lower()):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in IDX_TYPES and 1 <= head[3] <= 4


def read(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Arrays:
    """The pictures in an .npy, .npz or IDX file (plain or .gz), with labels where there are any; only headers are read.

    Integers of 8 and 16 bits, booleans, and floats in [0,1], [-1,1] or [0,255] become uint8; a fourth channel is
    transparency and laid on the background. Raises `Refused` for what is no such array as far as headers tell: pickled,
    cut off, of another shape or type; `Arrays.load` does so for values.
    """
    files = [path, *_partner(path)]
    stamps = [_stamp(file) for file in files]
    others: list[_Entry | str] = []
    if path.suffix.lower() == ".npz":
        parts, others = _npz(path)
    else:
        images, *labels = map(_npy if path.suffix.lower() == ".npy" else _idx, files)
        parts = [("", images, labels[0] if labels else None)]
    layout, shape = _form(path, [images for _, images, _ in parts])
    counts = [images.shape[0] for _, images, _ in parts]
    labels, refused = _label_entries(parts)
    names = [entry for entry in others if isinstance(entry, _Entry) and labels and _are_class_names(entry)][:1]
    aside = [str(other) for other in others if other not in names]
    form = {"NHW": "[N,H,W]", "NHWC": "[N,H,W,C]", "NCHW": "[N,C,H,W], channels first"}[layout]
    what = f"{sum(counts)} pictures of {shape[0]}x{shape[1]} (height x width), {parts[0][1].dtype.name} {form}"
    notes = [f"{path.name}: {what}."]
    if shape[2] == 4:
        notes.append("The fourth channel is taken as transparency.")
    splits: list[str] = []
    if parts[0][0]:
        for (split, *_), count in zip(parts, counts, strict=True):
            splits += [split] * count
        named = ", ".join(f"{images.name} ({split})" for split, images, _ in parts)
        notes.append(f"Its arrays are taken as training and test split: {named}.")
    if aside:
        more = f" and {len(aside) - _NAMED} more" * (len(aside) > _NAMED)
        notes.append(f"Left aside: {', '.join(aside[:_NAMED])}{more}.")

    def load() -> Loaded:
        if [_stamp(file) for file in files] != stamps:
            raise Refused(f"{path} was changed since it was looked at.\nStart again when it is complete.")
        return _loaded(path, [images for _, images, _ in parts], labels, names, layout, background)

    return Arrays(
        count=sum(counts),
        shape=(shape[0], shape[1], min(shape[2], 3)),
        fingerprint=stamps,
        load=load,
        splits=splits or None,
        notes=(*notes, *refused),
    )


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, plain (mapped from disk) or .gz: two zeros, a type, the number of dimensions; the
    dimensions; the values, all big-endian (http://yann.lecun.com/exdb/mnist). Raises `Refused` if it is damaged."""
    return _idx(path).load()


# Files


def _npy(path: Path) -> _Entry:
    with _plainly(path), path.open("rb") as file:
        size = path.stat().st_size
        shape, dtype, order, offset = _header(path, path.stem, file)
    if dtype.hasobject:
        raise _pickled(path, path.stem)
    wanted = offset + math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise _damaged(path, f"it has {size} bytes and should have {wanted}: perhaps it was cut off")
    return _Entry(path.stem, shape, dtype, partial(_mapped, path, dtype, shape, order, offset))


def _npz(path: Path) -> tuple[list[_Part], list[_Entry | str]]:
    """The pictures in it with their labels, and whatever else it holds, with names of classes first."""
    with _plainly(path), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        members = [info for info in infos if info.filename.endswith(".npy")]
        if len(members) > _MOST:
            raise Refused(f"{path} holds {len(members)} arrays.\nPut the pictures into one: np.savez(images=...).")
        entries = {member.filename[:-4]: _member(path, archive, member) for member in members}
    parts = _named_parts(path, entries)
    taken = {id(entry) for part in parts for entry in part[1:]}
    left = [entry for entry in entries.values() if id(entry) not in taken]
    left.sort(key=lambda entry: CLASSES.index(entry.name) if entry.name in CLASSES else len(CLASSES))
    files = [info.filename for info in infos if info not in members and not info.filename.endswith("/")]
    return parts, [*left, *(_printable(name) or "a file without a name" for name in files)]


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Entry:
    name = _printable(member.filename[:-4])
    with archive.open(member) as file:
        shape, dtype, order, offset = _header(path, name, file)
    if dtype.hasobject:
        return _Entry(name, shape, dtype, lambda: np.empty(0))  # never read
    wanted = offset + math.prod(shape) * dtype.itemsize
    if member.file_size != wanted:
        raise _damaged(path, f"'{name}' has {member.file_size} bytes and should have {wanted}")
    if member.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as raw:
            raw.seek(member.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", raw.read(4))
        start = member.header_offset + 30 + name_length + extra_length
        if member.compress_size != wanted or start + wanted > path.stat().st_size:
            raise _damaged(path, f"'{name}' goes on beyond its end")
        return _Entry(name, shape, dtype, partial(_mapped, path, dtype, shape, order, start + offset))
    if member.compress_type == zipfile.ZIP_DEFLATED and wanted > _DENSEST * (member.compress_size + 8):
        raise _damaged(path, f"'{name}' claims to be larger than it can be")

    def load() -> np.ndarray:
        advice = "Save it uncompressed (np.savez, or np.save): then it is read from disk, picture by picture"
        with _plainly(path), zipfile.ZipFile(path) as again, again.open(member) as file:
            file.read(offset)
            return _unpacked(path, file, dtype, shape, order, advice)

    return _Entry(name, shape, dtype, load)


def _idx(path: Path) -> _Entry:
    packed = path.suffix.lower() == ".gz"
    with _plainly(path):
        size = path.stat().st_size
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or not head[3]:
                raise _damaged(path, "it is no IDX file, which begins with two zeros, a type and a number of sizes")
            sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise _damaged(path, "it ends before its sizes do")
    dtype, shape, offset = np.dtype(IDX_TYPES[head[2]]), tuple(np.frombuffer(sizes, ">u4").tolist()), 4 + len(sizes)
    wanted = offset + math.prod(shape) * dtype.itemsize
    if wanted > size * _DENSEST if packed else wanted != size:
        raise _damaged(path, f"it has {size} bytes{' packed' * packed} and says that it has {wanted}")

    def load() -> np.ndarray:
        with _plainly(path), gzip.open(path) as file:
            file.read(offset)
            return _unpacked(path, file, dtype, shape, "C", "Unpack it with gunzip")

    return _Entry(path.name, shape, dtype, load if packed else partial(_mapped, path, dtype, shape, "C", offset))


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, str, int]:
    """Shape, type, C or Fortran order, and the place of the first value."""
    start = BytesIO(file.read(_HEADER))
    if start.getvalue()[:1] == b"\x80":
        raise _pickled(path, name)
    try:
        version = np.lib.format.read_magic(start)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise _damaged(path, f"'{name}' is of .npy version {version[0]}.{version[1]}")
        shape, fortran, dtype = readers[version](start)
    except Refused:
        raise
    except Exception as error:  # numpy evaluates the header as Python and raises what that raises
        raise _damaged(path, f"'{name}' has no .npy header that can be read: {_short(error)}") from None
    if min(shape, default=0) < 0 or math.prod(size or 1 for size in shape) * (dtype.itemsize or 1) >= 1 << 62:
        raise _damaged(path, f"'{name}' claims a shape that cannot be")
    return shape, dtype, "F" if fortran and len(shape) > 1 else "C", start.tell()


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...], order: Any, offset: int) -> np.ndarray:
    if not math.prod(shape) * dtype.itemsize:
        return np.empty(shape, dtype)
    with _plainly(path):
        array = np.asarray(np.memmap(path, dtype, "r", offset, shape, order))
    if order == "C":
        return array
    # a picture's values lie all over the file
    _fits(path, array.nbytes, "Save it in C order: np.save(path, np.ascontiguousarray(pictures))")
    return np.ascontiguousarray(array)


def _unpacked(path: Path, file: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any, advice: str) -> np.ndarray:
    """The rest of a compressed file, which has to be of the size that was claimed."""
    size = math.prod(shape) * dtype.itemsize
    _fits(path, size, advice)
    values = np.empty(size, np.uint8)
    filled = 0
    while filled < size:
        got = file.readinto(values.data[filled : filled + _BLOCK])
        if not got:
            raise _damaged(path, f"it ends after {filled} of {size} bytes")
        filled += got
    if file.read(1):  # also where checksums are compared
        raise _damaged(path, f"it goes on after the {size} bytes that it should have")
    return values.view(dtype).reshape(shape, order=order)


def _fits(path: Path, size: int, advice: str) -> None:
    free = _memory()
    if size > free:
        raise Refused(
            f"{path} needs {size / 1e9:.1f} GB of memory to be read, and {free / 1e9:.1f} GB are free.\n{advice}."
        )


def _memory() -> int:
    """Bytes that can still be allocated, as far as the system says."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return 1 << 40


def _partner(path: Path) -> list[Path]:
    """The file of labels beside one of pictures, if there is one, by its name: x_train.npy and y_train.npy."""
    ending = path.suffix.lower()
    words = {} if ending == ".npz" else BESIDE if ending == ".npy" else {"images": "labels"}
    for word, other in words.items():
        name, found = re.subn(rf"(?<![A-Za-z]){word}(?![A-Za-z])", other, path.name)
        if not found:
            continue
        name = re.sub(r"idx\d", "idx1", name)
        for candidate in (name, name.removesuffix(".gz"), name if ending == ".npy" else f"{name}.gz"):
            if (path.parent / candidate).is_file():
                return [path.parent / candidate]
    return []


def _stamp(path: Path) -> list[int]:
    with _plainly(path):
        about = path.stat()
    return [about.st_size, about.st_mtime_ns]


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file becomes `Refused`: zipfile and the decompressors raise almost anything."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _short(error: object) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])


def _damaged(path: Path, error: object) -> Refused:
    error = error.strerror or error if isinstance(error, OSError) else error
    return Refused(f"{path} cannot be read: {_short(error)}.\nFetch it or save it again.")


def _pickled(path: Path, name: str) -> Refused:
    return Refused(
        f"{path}: '{name}' holds pickled Python objects, which may run any program when opened; they are never read.\n"
        "Save the pictures as one array of numbers: np.save(path, np.stack(pictures).astype(np.uint8))."
    )


# Which array is what


def _named_parts(path: Path, entries: dict[str, _Entry]) -> list[_Part]:
    """The parts of an .npz, by the names of its arrays."""
    lower = {name.lower(): entry for name, entry in entries.items()}
    like = {name: entry for name, entry in lower.items() if _layout(entry.shape) and entry.dtype.kind in "buif"}
    parts = []
    for word, split in SPLIT_FOLDERS.items():
        images = next((like[name] for name in _with_split(PICTURES, word) if name in like), None)
        if images is not None:
            labels = next((lower[name] for name in _with_split(LABELS, word) if name in lower), None)
            parts.append((split, images, labels))
    if parts:
        return parts if len({split for split, *_ in parts}) > 1 else [("", *part[1:]) for part in parts]
    name = next((name for name in PICTURES if name in like), None)
    if name is None and len(like) == 1:
        name = next(iter(like))
    if name is None:
        if pickled := next((entry for entry in entries.values() if entry.dtype.hasobject), None):
            raise _pickled(path, pickled.name)
        listed = "; ".join(map(str, list(entries.values())[:8])) or "no arrays"
        raise Refused(
            f"{path} holds {listed}{' …' * (len(entries) > 8)}: it is not clear which of them are pictures.\n"
            f"Save them under the name images, as {LAYOUTS}."
        )
    found = [lower[word] for word in LABELS if word in lower and word != name and (word != "arr_1" or name == "arr_0")]
    return [("", like[name], found[0] if found else None)]


def _with_split(words: Sequence[str], split: str) -> list[str]:
    return [joined for word in words for joined in (f"{word}_{split}", f"{split}_{word}", f"{word}{split}")]


def _layout(shape: tuple[int, ...]) -> str | None:
    """Which axis is which, from the sizes; None if it cannot be a set of pictures."""
    if len(shape) == 3 and shape[-1] not in (1, 3, 4):  # otherwise a single picture
        return "NHW"
    if len(shape) == 4:
        return "NHWC" if shape[-1] in (1, 3, 4) else "NCHW" if shape[1] in (1, 3) else None
    return None


def _form(path: Path, entries: list[_Entry]) -> tuple[str, tuple[int, int, int]]:
    """The layout that all the arrays have, and a picture's stored height, width and channels."""
    forms = [_pictures(path, entry) for entry in entries]
    if len(set(forms)) > 1 or len({entry.dtype for entry in entries}) > 1:
        sizes = "; ".join(map(str, entries))
        raise Refused(f"{path} holds pictures of several kinds: {sizes}.\nSave them with one shape and one type.")
    return forms[0]


def _pictures(path: Path, entry: _Entry) -> tuple[str, tuple[int, int, int]]:
    layout = _layout(entry.shape)
    if layout is None or entry.dtype.kind not in "buif":
        hint = ""
        if len(entry.shape) == 2 or (len(entry.shape) == 3 and entry.shape[-1] in (1, 3, 4)):
            hint = "it may be a single picture, or a row for each; "
        elif len(entry.shape) == 1:
            hint = "labels, perhaps; "
        raise Refused(f"{path} holds {entry}: {hint}it is no set of pictures.\nWanted are numbers as {LAYOUTS}.")
    sizes = dict(zip(layout, entry.shape, strict=True))
    height, width, channels = sizes["H"], sizes["W"], sizes.get("C", 1)
    if not math.prod(entry.shape):
        raise Refused(f"{path} holds {entry}: there is not one picture in it.\nWanted are numbers as {LAYOUTS}.")
    if height * width * channels * entry.dtype.itemsize > LARGEST_FILE:
        raise Refused(
            f"{path} holds {entry}: each picture is larger than {LARGEST_FILE >> 20} MiB.\nSave smaller ones."
        )
    return layout, (height, width, channels)


def _loaded(
    path: Path,
    images: list[_Entry],
    labels: list[_Entry],
    names: list[_Entry],
    layout: str,
    background: tuple[int, int, int],
) -> Loaded:
    arrays = [entry.load() for entry in images]
    convert, said = _range(path, arrays)
    starts = np.cumsum([0, *(len(array) for array in arrays)])
    count = int(starts[-1])

    def stored(number: int) -> np.ndarray:
        if not 0 <= number < count:
            raise IndexError(number)
        part = int(np.searchsorted(starts, number, "right")) - 1
        return arrays[part][number - starts[part]]

    def row(number: int) -> np.ndarray:
        values = stored(number)
        values = values[..., None] if layout == "NHW" else values.transpose(1, 2, 0) if layout == "NCHW" else values
        return _opaque(convert(values), background)

    numbers, classes, more = _labels(labels, names)
    return Loaded(row, lambda number: stored(number).tobytes(), numbers, classes, (*said, *more))


# Values


def _range(path: Path, arrays: list[np.ndarray]) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """What makes uint8 of the values, found from the lowest and highest of them all, and sentences about it."""
    kind = np.result_type(*arrays).kind
    if kind == "b":
        return _from_bool, ["True and false become white and black."]
    if all(array.dtype == np.uint8 for array in arrays):
        first = max(int(array[:: max(1, len(array) // 64)][:64].max()) for array in arrays)
        if first > 1:  # bytes as they should be; no need to look through them all
            return _from_whole, []
    low, high = _extremes(arrays)
    if not low <= high:
        raise Refused(f"{path} holds no finite values.\nSave the pictures again, as numbers from 0 to 255.")
    span = f"{low:.6g} to {high:.6g}"
    if kind != "f":
        if low >= 0 and high <= 1 and high > 0:
            return _from_unit, ["The values are 0 and 1 only: black and white."]
        if low >= 0 and high <= 255:
            noted = (
                [] if all(array.dtype == np.uint8 for array in arrays) else [f"Values ({span}) are taken as 0 to 255."]
            )
            return _from_whole, noted
        if low >= 0 and high <= 65535:
            return _from_16_bits, [f"Values ({span}) are taken as 16 bits and divided by 257."]
    else:
        slack = 1e-3
        if low >= -slack and high <= 1 + slack:
            return _from_unit, [f"Values ({span}) are taken as 0 to 1 and scaled to 0 to 255."]
        if low >= -1 - slack and high <= 1 + slack:
            return _from_signed, [f"Values ({span}) are taken as -1 to 1 and scaled to 0 to 255."]
        if low >= -slack and high <= 255 + slack:
            return _from_whole, [f"Values ({span}) are taken as 0 to 255 and rounded."]
    ranges = "0 to 1, -1 to 1, or 0 to 255" if kind == "f" else "0 to 255, or 16 bits: 0 to 65535"
    raise Refused(
        f"{path} holds values from {span}, and it is not clear which are black and white.\nScale them to {ranges}."
    )


def _extremes(arrays: list[np.ndarray]) -> tuple[float, float]:
    """The lowest and highest finite value; (inf, -inf) if there is none."""
    low, high = math.inf, -math.inf
    for array in arrays:
        step = max(1, _BLOCK // array[0].nbytes)
        for start in range(0, len(array), step):
            block = array[start : start + step]
            least, most = float(block.min()), float(block.max())
            if not (math.isfinite(least) and math.isfinite(most)):
                block = block[np.isfinite(block)]
                if not block.size:
                    continue
                least, most = float(block.min()), float(block.max())
            low, high = min(low, least), max(high, most)
    return low, high


def _from_bool(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8) * np.uint8(255)


def _from_whole(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values) if values.dtype == np.uint8 else _rounded(values, 1, 0)


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535/255 = 257


def _from_unit(values: np.ndarray) -> np.ndarray:
    return _rounded(values, 255, 0)


def _from_signed(values: np.ndarray) -> np.ndarray:
    return _rounded(values, 127.5, 127.5)


def _rounded(values: np.ndarray, scale: float, shift: float) -> np.ndarray:
    scaled = values.astype(np.float32) * np.float32(scale)
    scaled += np.float32(shift)
    if not np.isfinite(scaled).all():
        raise Unreadable("some values are not finite")
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _opaque(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    if pixels.shape[-1] != 4:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint16)
    under = np.array(background, np.uint16)
    return ((pixels[..., :3] * alpha + under * (255 - alpha) + 127) // 255).astype(np.uint8)


# Labels


def _are_class_names(entry: _Entry) -> bool:
    words = entry.dtype.kind in "US" and len(entry.shape) == 1 and entry.shape[0] <= _MOST
    return entry.name in CLASSES and words


def _label_entries(parts: list[_Part]) -> tuple[list[_Entry], list[str]]:
    """The labels of each part, none if they cannot be such by their headers, and a sentence about that."""
    found = [labels for *_, labels in parts if labels is not None]
    if not found:
        return [], []
    if len(found) < len(parts):
        return [], ["Only some of its arrays have labels; they are left aside."]
    for entry, (_, images, _) in zip(found, parts, strict=True):
        if reason := _no_labels(entry, images.shape[0]):
            return [], [_left_aside(entry, reason)]
    if len({entry.dtype.kind if entry.dtype.kind in "US" else "" for entry in found}) > 1:
        return [], ["The labels of its arrays are of several kinds; they are left aside."]
    return found, []


def _no_labels(entry: _Entry, count: int) -> str:
    """The reason why an array holds no labels of `count` pictures, if its header tells."""
    if not entry.shape or entry.shape[0] != count:
        return f"{entry.shape[0] if entry.shape else 1} labels for {count} pictures"
    wide = entry.dtype.itemsize * math.prod(entry.shape[1:]) > 80_000
    if len(entry.shape) > 2 or entry.dtype.kind not in "buifUS" or wide:
        return "wanted is one number or word for each picture, or one column for each class"
    if entry.dtype.kind in "US" and entry.shape[1:] not in ((), (1,)):
        return "several words for each picture"
    return ""


def _left_aside(entry: _Entry, reason: str) -> str:
    return f"{entry} is left aside: {reason}."


def _labels(entries: list[_Entry], names: list[_Entry]) -> tuple[np.ndarray | None, tuple[str, ...], list[str]]:
    """Labels of all parts [N] int64, the classes' names, and sentences about them."""
    found = []
    for entry in entries:
        values, reason = _label_values(entry.load())
        if values is None:
            return None, (), [_left_aside(entry, reason)]
        found.append(values)
    if not found:
        return None, (), []
    values = np.concatenate(found)
    unique, numbers = np.unique(values, return_inverse=True)
    if len(unique) > 1000 and len(unique) > len(values) / 2:
        said = f"{len(unique)} different labels for {len(values)} pictures are no classes; they are left aside."
        return None, (), [said]
    said = f"Labels are taken from {', '.join(entry.name for entry in entries)}"
    more = []
    for entry in names:
        words = entry.load()
        if not _legible(words):
            more.append(_left_aside(entry, NO_LETTERS))
            continue
        given = tuple(map(_word, words.tolist()))
        if values.dtype.kind == "i" and unique[0] >= 0 and unique[-1] < len(given):
            return values.astype(np.int64), given, [f"{said}, the classes' names from {entry.name}."]
        more.append(_left_aside(entry, "it has no name for some of the labels"))
    classes = tuple(_word(word) for word in unique.tolist())
    return numbers.astype(np.int64), classes, [f"{said}: {len(classes)} classes.", *more]


def _legible(words: np.ndarray) -> bool:
    """Whether all letters are within Unicode: numpy stores any number as a letter, and fails to show it."""
    if words.dtype.kind != "U" or not words.nbytes:
        return True
    codes = np.ascontiguousarray(words).view(np.dtype("u4").newbyteorder(words.dtype.byteorder))
    return bool(codes.max() <= sys.maxunicode)


def _word(value: Any) -> str:
    word = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")  # half a letter becomes ?
    return word.decode("utf-8", "replace")


def _label_values(values: np.ndarray) -> tuple[np.ndarray | None, str]:
    """[N] integers or strings; or None and the reason why they are no labels."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "US":
        return (values, "") if _legible(values) else (None, NO_LETTERS)
    if values.ndim == 2:
        if not values.size or not (((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()):
            return None, "several numbers for each picture, which are not one column for each class"
        values = values.argmax(1)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all() and np.abs(values).max() < 2**53):
            return None, "not whole numbers"
    elif values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
        return None, "numbers beyond 63 bits"
    return values.astype(np.int64), ""
