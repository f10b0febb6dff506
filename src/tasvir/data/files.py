"""Folders, zips and tars of picture files: listed, and read in place; no name in an archive ever becomes a path."""

import bz2
import copy
import gzip
import hashlib
import itertools
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tasvir.config import Refused
from tasvir.data.decoding import LARGEST_FILE, Unreadable
from tasvir.data.items import cache_folder

ENDINGS = frozenset(("png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm"))
VIDEOS = frozenset(["mp4", "mov", "m4v", "avi", "mkv", "webm", "mpg", "mpeg", "wmv", "flv", "ogv", "3gp", "mts"])
BLOCK = 1 << 20
MOST_OPEN = 64
"""Archives that a thread keeps open."""
MOST_SHRUNK, LEAST_BOMB = 200, 1 << 30
"""Times that a tar of pictures may grow when it is unpacked, from so many bytes on; pictures hardly shrink."""


@dataclass
class Files:
    """The picture files of a folder or archive, sorted by name, and how to read them."""

    root: Path
    kind: str
    """folder, zip, tar, or what several of them are together."""
    load: Callable[[str], bytes]
    """A file's first `LARGEST_FILE + 1` bytes, by name. Raises `Unreadable`."""
    names: list[str] = field(default_factory=list)
    """With / between folders."""
    stamps: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """[N] uint64: a number for each that changes when the file does."""
    others: list[str] = field(default_factory=list)
    """Names of files that are no pictures."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """What cannot or must not be read, and why."""
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.root.name.split(".")[0] or self.root.name or str(self.root)

    @property
    def videos(self) -> list[str]:
        return [name for name in self.others if is_video(name)]

    def content(self, name: str) -> bytes:
        """All of a file. Raises `Unreadable`."""
        data = self.load(name)
        if len(data) > LARGEST_FILE:
            raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
        return data

    def left_aside(self, used: frozenset[str] = frozenset()) -> str:
        """How many other files there are by ending, and some of their names; nothing if all were `used`."""
        left = [name for name in self.others if name not in used]
        endings = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in left)
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        some = ", ".join(left[:3]) + (" …" if len(left) > 3 else "")
        return f"{counts} ({some})" if left else ""


def is_video(name: str) -> bool:
    """Whether a file is a video, by the ending of its name."""
    return os.path.splitext(name)[1].lower().lstrip(".") in VIDEOS


class _Found:
    """What a listing has come upon so far."""

    def __init__(self) -> None:
        self.pictures: list[tuple[str, int]] = []  # name and stamp
        self.others: list[str] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, name: str, *about: int) -> None:
        if os.path.splitext(name)[1].lower().lstrip(".") in ENDINGS:
            digest = hashlib.blake2b(repr((name, *about)).encode(errors="surrogatepass"), digest_size=8).digest()
            self.pictures.append((name, int.from_bytes(digest, "big")))
        else:
            self.others.append(name)

    def files(self, root: Path, kind: str, load: Callable[[str], bytes], *notes: str) -> Files:
        self.pictures.sort()
        names = [name for name, _ in self.pictures]
        stamps = np.array([stamp for _, stamp in self.pictures], np.uint64)
        return Files(root, kind, load, names, stamps, sorted(self.others), self.skipped, list(notes))


def _hidden(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))


def folder(path: Path) -> Files:
    """The files below a folder; links are followed, each folder is entered once."""
    root, found, seen = path.resolve(), _Found(), set()

    def unlisted(error: OSError) -> None:
        found.skipped.append((str(error.filename), error.strerror or "cannot be listed"))

    for where, folders, files in os.walk(root, onerror=unlisted, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        inside = "" if Path(where) == root else Path(where).relative_to(root).as_posix() + "/"
        for file in sorted(files):
            if _hidden(file):
                continue
            try:
                about = os.stat(os.path.join(where, file))
            except OSError as error:
                found.skipped.append((inside + file, error.strerror or "cannot be looked at"))
                continue
            if stat.S_ISREG(about.st_mode):
                found.add(inside + file, about.st_size, about.st_mtime_ns, about.st_ctime_ns)

    def load(name: str) -> bytes:
        try:
            with open(f"{root}/{name}", "rb", buffering=0) as file:
                return file.read(min(os.fstat(file.fileno()).st_size, LARGEST_FILE) + 1)  # so much is allocated
        except (OSError, ValueError) as error:
            raise Unreadable(getattr(error, "strerror", None) or "cannot be opened") from None

    return found.files(root, "folder", load)


def _outside(name: str) -> bool:
    """Whether a name in an archive leads out of it."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":"


class _Handles:
    """Open archives, each thread's own as a file's position is shared; of too many the oldest is closed."""

    opened = threading.local()
    numbers = itertools.count()

    def __init__(self, make: Callable[[], Any]):
        self.make, self.number = make, next(self.numbers)

    def mine(self) -> Any:
        local = self.opened
        if getattr(local, "process", None) != os.getpid():  # what was open before a fork is shared with the parent
            local.process, local.files = os.getpid(), OrderedDict()
        found: OrderedDict[int, Any] = local.files
        if self.number not in found:
            while len(found) >= MOST_OPEN:
                found.popitem(last=False)[1].close()
            found[self.number] = self.make()
        found.move_to_end(self.number)
        return found[self.number]


def archive(path: Path) -> Files | None:
    """The files in a zip or tar (.tar, .tar.gz, .tar.bz2, .tar.xz); None if it is neither. Raises `Refused`."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
        if zipfile.is_zipfile(path):
            return _zip(path)
        unpack = next((unpack for magic, unpack in COMPRESSED.items() if head.startswith(magic)), None)
        if unpack is None and tarfile.is_tarfile(path):
            return _tar(path, path)
        if unpack is not None and _holds_a_tar(path, unpack):
            plain = _decompressed(path, unpack)
            note = (
                f"{path.name} is compressed, so it was unpacked once into {plain} ({plain.stat().st_size >> 20} MiB)."
            )
            return _tar(path, plain, note)
    except Refused:
        raise
    except Exception as error:  # damaged archives make Python's readers raise almost anything
        why = " ".join(str(error).split())[:150] or type(error).__name__
        raise Refused(f"{path} cannot be read as an archive ({why}).\nFetch or make it again.") from None
    return None


def _zip(path: Path) -> Files:
    root, found = path.resolve(), _Found()
    with zipfile.ZipFile(root) as first:  # its directory stays known after it is closed
        first.infolist()
    for entry in first.infolist():
        if entry.is_dir():
            continue
        if _outside(entry.filename):
            found.skipped.append((entry.filename, "its name leads outside the archive"))
        elif any(_hidden(part) for part in entry.filename.split("/")):
            continue
        elif stat.S_ISLNK(entry.external_attr >> 16):
            found.skipped.append((entry.filename, "a link, not a file"))
        else:
            found.add(entry.filename, entry.file_size, entry.CRC)
    counts = Counter(name for name, _ in found.pictures)
    for name, count in counts.items():
        if count > 1:  # the last one is what the name leads to
            found.skipped.append((name, f"the name is there {count} times; the last one is used"))
    found.pictures = list(dict(found.pictures).items())

    def again() -> zipfile.ZipFile:  # the directory is read only once, and shared with forked workers
        mine = copy.copy(first)
        mine.fp, mine._fileRefCnt = root.open("rb"), 1  # type: ignore[attr-defined]
        return mine

    handles = _Handles(again)

    def load(name: str) -> bytes:
        try:
            if first.getinfo(name).file_size > LARGEST_FILE:
                raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
            with handles.mine().open(name) as file:
                return file.read(LARGEST_FILE + 1)
        except Unreadable:
            raise
        except Exception as error:  # wrong checksum, password, unknown compression
            raise Unreadable(f"cannot be taken out of the zip: {error}") from None

    return found.files(root, "zip", load)


COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""First bytes → what opens such a file."""


def _holds_a_tar(path: Path, unpack: Callable[..., Any]) -> bool:
    with unpack(path) as file:
        return file.read(512)[257:262] == b"ustar"


def _decompressed(path: Path, unpack: Callable[..., Any]) -> Path:
    """A compressed tar as a plain one in the cache, where any file in it can be read on its own."""
    about = path.stat()
    digest = hashlib.sha256(repr((str(path.resolve()), about.st_size, about.st_mtime_ns)).encode()).hexdigest()[:16]
    where = cache_folder() / "tars"
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"{path} is compressed and cannot be unpacked into {where} ({error.strerror or error}).\n"
            "Name another folder with TASVIR_CACHE, or give it as a zip or a folder."
        ) from None
    final = where / f"{path.name.split('.')[0][:40]}-{digest}.tar"
    with FileLock(where / f".{final.name}.lock"):
        for leftover in where.glob(f".{final.name}.*.tmp"):
            leftover.unlink()
        if final.exists():
            return final
        number, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".tmp", dir=where)
        try:
            with unpack(path) as packed, os.fdopen(number, "wb") as plain:
                while block := packed.read(16 * BLOCK):
                    if plain.tell() > max(LEAST_BOMB, MOST_SHRUNK * about.st_size):
                        raise Refused(f"{path} unpacks to over {MOST_SHRUNK} times its size: a decompression bomb.")
                    if shutil.disk_usage(where).free < 64 * BLOCK + len(block):
                        raise Refused(
                            f"{path} does not fit unpacked into {where}.\n"
                            "Make room, name another folder with TASVIR_CACHE, or give it as a zip or a folder."
                        )
                    plain.write(block)
            os.replace(name, final)
        finally:
            Path(name).unlink(missing_ok=True)
    return final


def _tar(path: Path, plain: Path, *notes: str) -> Files:
    found, places = _Found(), {}
    about = path.stat()
    with tarfile.open(plain, "r:") as listing:
        for entry in listing:
            listing.members = []  # type: ignore[attr-defined]  # or it would remember them all
            name = entry.name.removeprefix("./")
            if entry.isdir():
                continue
            if _outside(name):
                found.skipped.append((entry.name, "its name leads outside the archive"))
            elif any(_hidden(part) for part in name.split("/")):
                continue
            elif not entry.isreg() or entry.issparse():
                found.skipped.append((entry.name, "a link or device, not a file"))
            else:
                if name in places:
                    found.skipped.append((name, "the name is there more than once; the last one is used"))
                found.add(name, entry.size, int(entry.mtime), entry.offset_data, about.st_mtime_ns)
                places[name] = entry.offset_data, entry.size
    found.pictures = list(dict(found.pictures).items())
    handles = _Handles(lambda: plain.open("rb"))

    def load(name: str) -> bytes:
        start, size = places[name]
        try:
            file = handles.mine()
            file.seek(start)
            data = file.read(min(size, LARGEST_FILE + 1))
        except OSError as error:
            raise Unreadable(error.strerror or "cannot be read") from None
        if len(data) < min(size, LARGEST_FILE + 1):
            raise Unreadable("the archive ends before it")
        return data

    return found.files(path.resolve(), "tar", load, *notes)


def joined(several: Sequence[Files], prefixes: Sequence[str]) -> Files:
    """Several listings as one, each under a folder of its own."""
    parts = dict(zip(prefixes, several, strict=True))

    def load(name: str) -> bytes:
        prefix, rest = name.split("/", 1)
        return parts[prefix].load(rest)

    return Files(
        root=several[0].root,
        kind="collection",
        load=load,
        names=[f"{prefix}/{name}" for prefix, files in parts.items() for name in files.names],
        stamps=np.concatenate([files.stamps for files in several]),
        others=[f"{prefix}/{name}" for prefix, files in parts.items() for name in files.others],
        skipped=[(f"{prefix}/{name}", why) for prefix, files in parts.items() for name, why in files.skipped],
        notes=[note for files in several for note in files.notes],
    )
