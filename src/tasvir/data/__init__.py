"""Where pictures come from: a set by name, a folder or a zip, decoded once, packed on disk, then only read."""

from collections.abc import Callable

import numpy as np

from tasvir.config import DataConfig, Refused
from tasvir.data.decoding import Unreadable, decode, with_channels
from tasvir.data.packing import Dataset, Split, pack
from tasvir.data.sources import DATASETS, ENDINGS, absolute, find

__all__ = ["DATASETS", "Dataset", "Split", "load", "look"]


def own_size(size: int | None) -> int:
    """The set's own height and width; 64 where any will do."""
    return 64 if size is None else size


def load(config: DataConfig, choose_size: Callable[[int | None], int] = own_size) -> Dataset:
    """The pictures that `config` names, packed at one size; the second time they are only mapped from disk.

    `choose_size` is asked only when `config.size` is None: it is given the set's own size (28 for mnist; None when
    any will do) and returns the height and width to pack at. Raises `Refused` for an unknown name, a set that cannot
    be fetched, fewer than `packing.MINIMUM` readable pictures, an unknown label attribute, or a full disk.
    """
    source = find(config)
    size = choose_size(source.size) if config.size is None else config.size
    return pack(source, size, config.color, config.limit)


def look(source: str, number: int, size: int, channels: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The first `number` readable pictures of a file, folder, zip or set, in its own order and not packed.

    Returns uint8 [N,size,size,channels], and (file, reason) of those that cannot be read. Raises `Refused` if none can.
    """
    path = absolute(source)
    if path.is_file() and path.suffix.lower().lstrip(".") in ENDINGS:
        names, picture = [path.name], lambda _, side: decode(path.read_bytes(), side)
    else:
        items = find(DataConfig(source=source)).read()
        names, picture = items.names, items.picture
    found: list[np.ndarray] = []
    skipped: list[tuple[str, str]] = []
    for position, name in enumerate(names):
        if len(found) == number:
            break
        try:
            found.append(with_channels(picture(position, size)[0], channels))
        except Unreadable as error:
            skipped.append((name, str(error)))
    if not found:
        why = f": {skipped[0][0]} ({skipped[0][1]})" if skipped else ""
        raise Refused(f"{source} has no picture that can be read{why}.")
    return np.stack(found), skipped
