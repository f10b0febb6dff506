"""Where pictures come from: a set by name, a folder or a zip, decoded once, packed on disk, then only read."""

from collections.abc import Callable

from tasvir.config import DataConfig
from tasvir.data.packing import Dataset, Split, pack
from tasvir.data.sources import DATASETS, find

__all__ = ["DATASETS", "Dataset", "Split", "load"]


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
