"""WebDataset shards: tars, here or at any fsspec address, in which files of one name belong together.

Only pictures and classes are ever taken out of them: nothing is unpickled, and no address runs a command.
"""

import gzip
import itertools
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasvir.config import Refused
from tasvir.data.decoding import LARGEST_FILE, Unreadable
from tasvir.data.files import ENDINGS
from tasvir.data.items import absolute

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")
LABEL_ENDINGS = ("cls", "json", "txt")
"""Files that can say the class of the picture of the same name; the first that does is believed."""
LABEL_KEYS = ("label", "class", "cls", "class_id", "class_name", "category", "target")
"""Where a .json file says it."""
LONGEST_CLASS = 100
MOST_SHARDS = 100_000
LOOKED_UP = 1000
"""Shards at an address that are asked for beforehand; of more, as many, spread evenly."""
WAITS = 1.0, 2.0, 4.0
"""Seconds before each new attempt to read on."""
BLOCK = 8 << 20


# Addresses


@dataclass(frozen=True)
class Shard:
    """One tar of samples."""

    address: str
    size: int | None = None
    """Bytes, where known."""
    changed: str = ""
    """Something that changes when the shard does, where known."""

    @property
    def name(self) -> str:
        return self.address.rstrip("/").rpartition("/")[2]


def is_address(text: str) -> bool:
    """Whether `text` is an address on a network, or another that fsspec knows, and not a path."""
    return "://" in text


def expand(address: str) -> list[str]:
    """The shards that an address or path means: {000..012} and {a,b} are all of them, as in a shell, and a folder's
    are the tars in it. Raises `Refused` for none, for too many, and for what is neither address nor path."""
    if re.match(r"\s*(pipe|cmd|exec):|\s*\|", address, re.IGNORECASE):
        raise Refused(f"{address[:80]!r} would run a command, and tasvir runs none.\nGive the shards' own addresses.")
    if is_address(address):
        _protocol_of(address)
        return list(_braces(address))
    if not absolute(address).exists():
        found = [absolute(path) for path in _braces(address)]
        missing = [path for path in found if not path.is_file()]
        if missing:
            raise _missing(str(missing[0]), len(missing) - 1)
        return [str(path) for path in found]
    path = absolute(address)
    shards = [str(file) for file in ([path] if path.is_file() else shard_paths(path))]
    if not shards:
        raise Refused(f"There are no shards in {path}.\nShards end in {', '.join(SHARD_ENDINGS)}.")
    return shards


def _missing(address: str, others: int = 0) -> Refused:
    more = f", nor {others} more" if others else ""
    return Refused(
        f"There is no shard {address}{more}.\nGive those that there are: {{000..012}} counts from 000 to 012."
    )


def _braces(address: str) -> Iterator[str]:
    """`address` with every {first..last} and {one,another} filled in, the last one counting fastest."""
    parts = re.split(r"\{([^{}]*)\}", address)
    choices: list[Sequence[str]] = [[part] for part in parts]
    total = 1
    for place in range(1, len(parts), 2):
        counted = re.fullmatch(r"(\d+)\.\.(\d+)", parts[place])
        if counted:
            first, last = int(counted[1]), int(counted[2])
            total *= abs(last - first) + 1
            if total > MOST_SHARDS:
                raise Refused(f"{address} means over {MOST_SHARDS} shards.")
            padded = any(number.startswith("0") and len(number) > 1 for number in counted.groups())
            width = max(map(len, counted.groups())) if padded else 1
            step = 1 if last >= first else -1
            choices[place] = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        else:
            choices[place] = parts[place].split(",") if "," in parts[place] else ["{" + parts[place] + "}"]
            total *= len(choices[place])
    if total > MOST_SHARDS:
        raise Refused(f"{address} means over {MOST_SHARDS} shards.")
    return map("".join, itertools.product(*choices))


def _protocol_of(address: str) -> str:
    """s3 of s3://…; of several that are chained by ::, the first. Raises `Refused` if fsspec cannot use it."""
    protocol = re.split(r"://|::", address)[0].lower()
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        what = "fsspec" if error.name == "fsspec" else " ".join(str(error).split())
        raise Refused(
            f"Reading {protocol}:// needs a package that is not installed ({what}).\n"
            "Install it: pip install 'tasvir[shards]' for http and https, s3fs for s3, gcsfs for gs."
        ) from None
    except ValueError:
        raise Refused(f"{address[:120]} is no address that can be read: {protocol}:// is not known.") from None
    return protocol


def _filesystem(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if _protocol_of(address) in ("http", "https"):
        from aiohttp import ClientTimeout

        waiting = ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": waiting, "trust_env": True}}
    return url_to_fs(address, **options)


def located(address: str) -> list[Shard]:
    """The shards of `expand`, with what is known of them. Raises `Refused` naming the first that is not there."""
    addresses = expand(address)
    if not is_address(address):
        return [Shard(path, os.stat(path).st_size, str(os.stat(path).st_mtime_ns)) for path in addresses]
    step = max(1, -(-len(addresses) // LOOKED_UP))
    asked = sorted({*range(0, len(addresses), step), len(addresses) - 1})
    with ThreadPoolExecutor(16) as pool:
        known = dict(zip(asked, pool.map(_looked_up, [addresses[place] for place in asked]), strict=True))
    return [known.get(place, Shard(address)) for place, address in enumerate(addresses)]


def _looked_up(address: str) -> Shard:
    for wait in (*WAITS, None):
        try:
            filesystem, path = _filesystem(address)
            about = filesystem.info(path)
            break
        except Refused:
            raise
        except Exception as error:  # each protocol has its own
            if _is_missing(error):
                raise _missing(address) from None
            if wait is None or isinstance(error, PermissionError):
                raise _unreachable(address, error) from None
            time.sleep(wait)
    told = (about.get(key) for key in ("ETag", "Last-Modified", "LastModified", "mtime", "updated", "created"))
    return Shard(address, about.get("size"), str(next((value for value in told if value), "")))


def _is_missing(error: Exception) -> bool:
    """Whether a server said that there is nothing; fsspec says the same of one that could not be reached."""
    cause = error.__cause__
    not_reached = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    return isinstance(error, FileNotFoundError) and not not_reached and getattr(cause, "status", 404) in (404, 410)


def _unreachable(address: str, error: Exception) -> Refused:
    reason = " ".join(str(error).split())[:150] or type(error).__name__
    return Refused(f"{address} cannot be read ({reason}).\nTry again later, or give other shards.")


class Reader:
    """A shard's bytes in order. Where reading fails it waits, opens the shard anew and goes on at the same byte."""

    def __init__(self, shard: Shard):
        self.shard, self.position = shard, 0
        self.file: Any = None
        self.in_one_piece = False
        """For servers that send a file only from its beginning."""

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the shard. Raises `Refused` when it cannot be read."""
        parts, left = [], size
        while left:
            part = self._some(min(left, BLOCK))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        waits = iter((*WAITS, None))
        while True:
            try:
                if self.file is None:
                    self.file = self._opened()
                data = self.file.read(size)
                if data or self.position >= (self.shard.size or 0):
                    self.position += len(data)
                    return data
                raise OSError("it ended before its end")
            except Refused:
                raise
            except Exception as error:  # each protocol has its own
                self.close()
                if _is_missing(error):
                    raise _missing(self.shard.address) from None
                if isinstance(error, ValueError) and is_address(self.shard.address) and not self.in_one_piece:
                    self.in_one_piece = True
                    continue
                wait = next(waits)
                if wait is None or isinstance(error, PermissionError):
                    raise _unreachable(self.shard.address, error) from None
                time.sleep(wait)

    def _opened(self) -> Any:
        address = self.shard.address
        if not is_address(address):
            file: Any = open(address, "rb")  # noqa: SIM115
            file.seek(self.position)
            return file
        filesystem, path = _filesystem(address)
        file = filesystem.open(path, "rb", block_size=0 if self.in_one_piece else BLOCK)
        if self.position and self.in_one_piece:
            left = self.position
            while left:
                left -= len(file.read(min(left, BLOCK))) or left
        elif self.position:
            file.seek(self.position)
        return file

    def close(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


# What is in a shard


@dataclass(frozen=True)
class Sample:
    """A picture in a shard, still encoded, and the class that stands beside it."""

    name: str
    """The shard's and the file's."""
    data: bytes
    label: int | str | None


class _Broken(Exception):
    """A tar cannot be read on."""


def samples(shard: Shard, problem: Callable[[str, str], None]) -> Generator[Sample, None, None]:
    """The pictures in a shard. Files belong together that follow each other and have the same name up to its first dot.

    `problem` is told (name, reason) of what cannot be used; of a broken shard what comes before the damage is used.
    Raises `Refused` when the shard is not there or cannot be reached.
    """
    reader = Reader(shard)
    compressed = not shard.name.endswith(".tar") and shard.name.endswith(SHARD_ENDINGS)
    file: Any = gzip.GzipFile(fileobj=reader) if compressed else reader  # type: ignore[call-overload]
    group: dict[str, tuple[str, bytes]] = {}
    current = ""
    try:
        for name, data in _members(file, lambda name, size: _wanted(name, size, shard, problem)):
            key, ending = key_of(name)
            if key != current:
                if group:
                    yield from _sample(shard, group)
                group, current = {}, key
            group.setdefault(ending, (name, data))
    except (_Broken, EOFError, gzip.BadGzipFile, OSError, ValueError) as error:
        problem(shard.name, f"{error}: what comes before is used")
    except Exception as error:
        if type(error).__module__ != "zlib":  # zlib.error has no other common base
            raise
        problem(shard.name, f"{error}: what comes before is used")
    finally:
        reader.close()
    yield from _sample(shard, group)


def _sample(shard: Shard, group: Mapping[str, tuple[str, bytes]]) -> Iterator[Sample]:
    pictures = sorted(
        (ending for ending in group if _is_picture(ending)), key=lambda ending: (ending.count("."), ending)
    )
    if pictures:
        name, data = group[pictures[0]]
        beside = {ending: content for ending, (_, content) in group.items() if ending in LABEL_ENDINGS}
        yield Sample(f"{shard.name}/{name}", data, _first_class(beside))


def key_of(name: str) -> tuple[str, str]:
    """A file's name up to the first dot after the last slash, and what comes after that dot in small letters."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending.lower()


def _is_picture(ending: str) -> bool:
    return ending.rpartition(".")[2] in ENDINGS


def _wanted(name: str, size: int, shard: Shard, problem: Callable[[str, str], None]) -> bool:
    """Whether a file in a shard is read at all; all others are passed over."""
    key, ending = key_of(name)
    if not (_is_picture(ending) or ending in LABEL_ENDINGS) or key.rpartition("/")[2] == "":
        return False
    if size > LARGEST_FILE:
        problem(f"{shard.name}/{name}", f"larger than {LARGEST_FILE >> 20} MiB")
        return False
    return True


def _members(file: Any, wanted: Callable[[str, int], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files in a tar that is read from beginning to end. Raises `_Broken`.

    The tarfile module would end without a word where a tar is damaged, so only its headers' parser is used.
    """
    told: dict[str, str] = {}  # by an entry about the next one
    while header := file.read(tarfile.BLOCKSIZE):
        if header.count(0) == tarfile.BLOCKSIZE:
            return
        try:
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise _Broken(f"the shard is damaged ({error})") from None
        size = entry.size
        if entry.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            content = _content(file, size, entry.name) if 0 <= size <= 1 << 20 else b""
            if not content:
                raise _Broken("the shard is damaged (a name of impossible length)")
            if entry.type == tarfile.GNUTYPE_LONGNAME:
                told["path"] = content.split(b"\0")[0].decode("utf-8", "backslashreplace")
            elif entry.type != tarfile.GNUTYPE_LONGLINK:
                told |= _extended(content)
            continue
        name = told.get("path", entry.name)
        plain = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
        plain = plain and not any(key.startswith("GNU.sparse") for key in told)
        if told.get("size", "").isdecimal():
            size = int(told["size"])
        if size < 0:
            raise _Broken("the shard is damaged (a file of negative length)")
        told = {} if entry.type != tarfile.XGLTYPE else told
        if plain and wanted(name, size):
            yield name, _content(file, size, name)
        elif entry.isreg() or entry.type not in tarfile.SUPPORTED_TYPES or entry.type == tarfile.XGLTYPE:
            _pass_over(file, size, name)
    raise _Broken("the shard has no end, and was perhaps cut off")


def _content(file: Any, size: int, name: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _Broken(f"the shard ends within {name}")
    padding = -size % tarfile.BLOCKSIZE
    if padding:
        file.read(padding)
    return data


def _pass_over(file: Any, size: int, name: str) -> None:
    left = size + -size % tarfile.BLOCKSIZE
    while left:
        passed = len(file.read(min(left, BLOCK)))
        if not passed:
            raise _Broken(f"the shard ends within {name}")
        left -= passed


def _extended(content: bytes) -> dict[str, str]:
    """The records of a pax header, each its own length, a space, key=value and a line's end (POSIX.1-2001)."""
    found = {}
    while record := re.match(rb"(\d{1,7}) ([^=]+)=", content):
        length = int(record[1])
        if length <= record.end() or length > len(content):
            break
        found[record[2].decode("utf-8", "replace")] = content[record.end() : length - 1].decode(
            "utf-8", "backslashreplace"
        )
        content = content[length:]
    return found


# Classes


def class_of(data: bytes, ending: str = "cls") -> int | str:
    """The class that a .cls, .txt or .json file says: a number or a word. Raises `Unreadable` where it says none."""
    try:
        text = data.decode("utf-8-sig").strip()
        value = _of_json(json.loads(text)) if ending == "json" else text
    except (ValueError, RecursionError):
        raise Unreadable("what should be its class cannot be read") from None
    if isinstance(value, str):
        value = value.strip()
        if re.fullmatch(r"[+-]?\d{1,9}", value):
            return int(value)
        if not value or len(value) > LONGEST_CLASS or "\n" in value:
            raise Unreadable("what should be its class is empty or a text")
    if value is None:
        raise Unreadable("no class is said")
    return value


def _of_json(value: Any) -> int | str | None:
    if isinstance(value, dict):
        value = next((value[key] for key in LABEL_KEYS if key in value), None)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _first_class(beside: Mapping[str, bytes]) -> int | str | None:
    """The class that the first of these files says, by ending."""
    for ending in LABEL_ENDINGS:
        if ending in beside:
            try:
                return class_of(beside[ending], ending)
            except Unreadable:
                continue
    return None


def classes_of(values: Sequence[int | str | None]) -> dict[int | str, int] | None:
    """The number of each class. None unless over half of the pictures have one and they are shared: texts are none.

    Numbers 0 to K-1 keep their meaning, also where some do not occur; all others are put in order.
    """
    said = [value for value in values if value is not None]
    distinct = set(said)
    if 2 * len(said) <= len(values) or not 2 <= len(distinct) <= max(2, len(said) // 2):
        return None
    numbers = sorted(value for value in distinct if isinstance(value, int))
    words = sorted(value for value in distinct if isinstance(value, str))
    if not words and numbers[0] >= 0 and numbers[-1] < 10 * len(numbers) + 100:
        return {number: number for number in range(numbers[-1] + 1)}
    ordered: list[int | str] = [*numbers, *words]
    return {value: place for place, value in enumerate(ordered)}


def labels(
    names: Sequence[str], others: Sequence[str], content: Callable[[str], bytes]
) -> tuple[list[int | None], tuple[str, ...], str] | None:
    """For shards read like any archive: each picture's label, the classes, and a sentence about them.

    `names` are the pictures', `others` all other files'; `content` reads one, and raises `Unreadable`. None unless
    over half of the pictures have a class beside them.
    """
    files: dict[str, dict[str, str]] = {}
    for other in others:
        key, ending = key_of(other)
        if ending in LABEL_ENDINGS:
            files.setdefault(key, {})[ending] = other
    if 2 * sum(key_of(name)[0] in files for name in names) <= len(names):
        return None

    def value(name: str) -> int | str | None:
        try:
            return _first_class({end: content(file) for end, file in files.get(key_of(name)[0], {}).items()})
        except Unreadable:
            return None

    values = [value(name) for name in names]
    numbers = classes_of(values)
    if numbers is None:
        return None
    used = ", ".join(f".{ending}" for ending in LABEL_ENDINGS if any(ending in found for found in files.values()))
    note = f"The {len(numbers)} classes are those that the files beside the pictures say ({used})."
    return [None if value is None else numbers[value] for value in values], tuple(map(str, numbers)), note


def shard_paths(folder: Path) -> list[Path]:
    """The shards that lie in a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(SHARD_ENDINGS) and file.is_file())
