"""What every source of pictures comes down to: numbered pictures, none of them decoded yet."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.config import Refused
from tasvir.data.decoding import Decoded, Frame


@dataclass(frozen=True)
class Items:
    """The pictures of a source, by number."""

    names: Sequence[str]
    picture: Callable[[int, Frame], Decoded]
    """Number and frame to pixels. Raises `Unreadable`."""
    contents: Callable[[int], tuple[bytes, ...]]
    """The bytes behind a picture: of one file, or of two (picture, source) for pairs matched by name. They decide
    its place in train or test. Raises `Unreadable`."""
    encoded: bool = True
    """Whether the contents are picture files (PNG, JPEG …); else they are the pixels of an array."""
    labels: Sequence[int] | None = None
    classes: tuple[str, ...] = ()
    splits: Sequence[str] | None = None
    """`train`, `test`, or nothing where the content shall decide, for each picture."""
    channels: int | None = None
    """Where it is known beforehand."""
    slow: bool = True
    """Whether several cores are worth their start."""
    sorted: bool = False
    """Whether neighbours are alike, as files in class folders are: every split is then put into another order."""
    stamps: np.ndarray | None = None
    """[N] uint64: for each picture a number that changes when its file does."""
    shape: Callable[[int], tuple[int, int]] | None = None
    """Number to the upright width and height of a picture (of either half, for a pair in one file), read from the
    file's head; None where pictures cannot be cut into tiles. Raises `Unreadable`."""
    files: np.ndarray | None = None
    """[N] int64, ascending: the file that each tile was cut from; None where every picture is whole."""
    notes: tuple[str, ...] = ()
    """Plain sentences about what was met only when the pictures were looked into."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Source:
    """Where pictures come from, recognized but not read."""

    name: str
    address: Any
    """Plain values that say which pictures are meant, whatever becomes of them."""
    fingerprint: Any
    """Plain values that change whenever the pictures may have changed."""
    size: int | None
    """Height and width that the set has of its own; None when any will do."""
    read: Callable[[], Items]
    notes: tuple[str, ...] = ()
    """Plain sentences: what was recognized."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Files that are left out, with the reason."""
    attributes: tuple[str, ...] = ()
    """What can be the class, for sets that leave the choice."""
    layout: str = "flat"
    """What was recognized, as `--data.layout` has it."""
    paired: bool = False
    """Whether every picture comes with its source."""
    files: bool = False
    """Whether the pictures are files, which can be cut into tiles."""
    beside: "Source | None" = None
    """For unmatched translation: the pictures to translate from."""


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def subset(items: Items, numbers: Sequence[int]) -> Items:
    """Only the pictures at `numbers`, in that order."""

    def only(values: Sequence | None) -> list | None:
        return None if values is None else [values[number] for number in numbers]

    return replace(
        items,
        names=only(items.names) or [],
        picture=lambda place, frame: items.picture(numbers[place], frame),
        contents=lambda place: items.contents(numbers[place]),
        labels=only(items.labels),
        splits=only(items.splits),
        stamps=None if items.stamps is None else items.stamps[list(numbers)],
        shape=None if items.shape is None else partial(_shape_at, items.shape, numbers),
    )


def _shape_at(shape: Callable[[int], tuple[int, int]], numbers: Sequence[int], place: int) -> tuple[int, int]:
    return shape(numbers[place])


def changed(source: Source, how: Callable[[Items], Items], what: Any, *notes: str) -> Source:
    """The source with its items changed by `how`; `what` tells this change from others, in plain values."""
    return replace(
        source,
        read=lambda: how(source.read()),
        address=[source.address, what],
        notes=(*source.notes, *notes),
        beside=None if source.beside is None else changed(source.beside, how, what),
    )


def cache_folder() -> Path:
    """Where tasvir keeps what it can make again: TASVIR_CACHE, or .cache/tasvir in the home folder."""
    return Path(os.environ.get("TASVIR_CACHE") or Path.home() / ".cache" / "tasvir").expanduser()


def absolute(name: str) -> Path:
    """A path as it was typed, from the root. Raises `Refused` for what can be no path."""
    try:
        path = Path(os.path.expanduser(name)).resolve()
        path.exists()
    except (OSError, ValueError) as error:
        raise Refused(f"{name[:80]!r} is no path: {getattr(error, 'strerror', None) or error}.") from None
    if not name.strip():
        raise Refused("--data is empty: give the path of a folder or zip of pictures, or a set by name.")
    return path
