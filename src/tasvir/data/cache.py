"""What tasvir keeps in the user's cache folder: packed sets, unpacked archives, fetched sets and weights, features.
All can be made again."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tasvir.config import Refused, nearest
from tasvir.data.items import cache_folder

KINDS = {
    "packs": "packed pictures",
    "tars": "unpacked archive",
    "tables": "unpacked table",
    "streams": "look at shards",
    "datasets": "fetched set",
    "features": "features",
    "classifiers": "classifier",
    "weights": "fetched weights",
}
"""Folder in the cache → what each thing in it is."""


@dataclass(frozen=True)
class Entry:
    """One thing in the cache."""

    path: Path
    kind: str
    bytes: int
    changed: datetime
    about: str
    """In a few words, what it is."""

    @property
    def name(self) -> str:
        return self.path.name


def entries() -> list[Entry]:
    """All that is kept, largest first."""
    found = [_entry(path, KINDS[kind]) for kind in KINDS for path in _inside(cache_folder() / kind)]
    return sorted(found, key=lambda entry: -entry.bytes)


def chosen(words: Sequence[str]) -> list[Entry]:
    """The entries that are meant: `all`, full names, or how names begin. Raises `Refused` for a word that fits none."""
    known = entries()
    found: dict[Path, Entry] = {}
    for word in words:
        fit = [entry for entry in known if word == "all" or entry.name == word]
        fit = fit or [entry for entry in known if entry.name.startswith(f"{word}-")]
        if not fit and word != "all":
            names = {entry.name.split("-")[0] for entry in known}
            raise Refused(f"Nothing in {cache_folder()} is called '{word}'.{nearest(word, names)}")
        found |= {entry.path: entry for entry in fit}
    return list(found.values())


def clear(wanted: Sequence[Entry]) -> list[Entry]:
    """Remove entries; returns those that are gone. What another process is packing at the moment stays."""
    gone = []
    for entry in wanted:
        try:
            with FileLock(_lock_of(entry.path), timeout=0):
                shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
                gone.append(entry)
        except Timeout:
            continue
        except OSError as error:
            raise Refused(f"{entry.path} cannot be removed: {error.strerror or error}.") from None
    return gone


def _lock_of(path: Path) -> Path:
    """The lock that is held while a thing is made; a pack shares its own with those of the same pictures."""
    name = path.name.lstrip(".").removesuffix(".tmp").removesuffix(".partial")
    return path.parent / f".{name.rsplit('-', 1)[0] if path.parent.name == 'packs' else name}.lock"


def _inside(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.suffix != ".lock")


def _entry(path: Path, kind: str) -> Entry:
    about = path.stat()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else about.st_size
    what = "unfinished" if path.name.startswith(".") else _told(path)
    return Entry(path, kind, size, datetime.fromtimestamp(about.st_mtime), what)


def _told(path: Path) -> str:
    try:
        about = json.loads((path / "description.json").read_text())
        if "about" in about:
            return str(about["about"])
        count, size = sum(about["counts"].values()), about["size"]
        colors = "grey" if about["channels"] == 1 else "colour"
        return f"{count} pictures, {size}×{size} {colors}"
    except (OSError, ValueError, KeyError):
        return ""
