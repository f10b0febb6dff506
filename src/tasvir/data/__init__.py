"""Where pictures come from: any layout on disk, or a set by name; decoded once, packed on disk, then only read."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tasvir.config import DataConfig, Pictures, Refused
from tasvir.data.binarizing import binarized, drawn_once
from tasvir.data.binarizing import check as check_binarized
from tasvir.data.decoding import Frame, Unreadable, decode, parse_color, squaring, with_channels
from tasvir.data.packing import Dataset, Split, pack
from tasvir.data.shards import is_address
from tasvir.data.sources import DATASETS, ENDINGS, absolute, find

__all__ = ["DATASETS", "Dataset", "Split", "load", "look"]


def own_size(size: int | None) -> int:
    """The set's own height and width; 64 where any will do."""
    return 64 if size is None else size


def load(config: DataConfig, choose_size: Callable[[int | None], int] = own_size) -> Dataset:
    """The pictures that `config` names, packed at one size; the second time they are only mapped from disk.

    `choose_size` is asked only when `config.size` is None: it is given the set's own size (28 for mnist; None when
    any will do) and returns the height and width to pack at. Raises `Refused` for an unknown name, a set that cannot
    be fetched, fewer than `packing.MINIMUM` readable pictures, settings that do not fit the pictures, or a full disk.
    """
    if config.stream or any(is_address(name) for name in config.source):
        size = choose_size(None) if config.size is None else config.size
        return _with_settings(_streamed(config, size), config)
    source = find(config)
    size = choose_size(source.size) if config.size is None else config.size
    _check(config, size)
    if config.derive != "none" and (source.beside is not None or source.paired):
        raise Refused(f"{source.name} has pairs already; leave --data.derive out, or say --data.layout flat.")
    return _with_settings(binarized(pack(source, config, size), config), config)


def _streamed(config: DataConfig, size: int) -> Dataset:
    """A set in shards, of which only the test pictures are in memory. Raises `Refused` for settings it cannot have."""
    from tasvir.data.first_look import open_stream

    usual = DataConfig()
    for setting in ("limit", "fraction", "folders", "labelled"):
        if getattr(config, setting) != getattr(usual, setting):
            raise Refused(f"--data.{setting} does not go with streaming, which reads every shard; leave it out.")
    if config.layout not in ("auto", "shards") or config.derive == "edges":
        which = f"--data.layout {config.layout}" if config.layout not in ("auto", "shards") else "--data.derive edges"
        raise Refused(f"{which} does not go with streaming; pack the pictures instead, without --data.stream.")
    if config.fit == "tiles":
        raise Refused("--data.fit tiles does not go with streaming; pack the pictures instead, without --data.stream.")
    if config.binarize != "none":
        raise Refused("--data.binarize does not go with streaming; pack the pictures instead, without --data.stream.")
    frame = Frame(size, config.fit, parse_color(config.background))
    found = open_stream(config.source, frame, color=config.color, labels=config.labels)
    nothing = np.empty((0, size, size, found.channels), np.uint8)
    hashes = found.description["hash"]
    return Dataset(
        name=found.name,
        pictures=Pictures(found.channels, size, found.classes),
        train=Split(nothing, None if found.labels is None else np.empty(0, np.int64), hashes["train"]),
        test=Split(found.held_out, found.labels, hashes["test"]),
        notes=found.notes,
        skipped=found.skipped,
        description=found.description,
        stream=found,
    )


def _check(config: DataConfig, size: int, channels: int = 3) -> None:
    """Raise `Refused` for settings that pictures of this size and so many channels cannot have."""
    check_binarized(config)
    if config.jitter is not None and config.jitter < size:
        raise Refused(
            f"--data.jitter is {config.jitter}, smaller than the pictures ({size} px): give {size} or more; "
            f"pix2pix's 286 for 256 is {round(size * 286 / 256)} here."
        )
    if config.derive != "none":
        from tasvir.data import derive

        derive.check(config.derive, channels=channels, size=size, scale=config.scale, mask=config.mask)


def _with_settings(dataset: Dataset, config: DataConfig) -> Dataset:
    """The set with what is made of it in batches. Raises `Refused` where that cannot be."""
    pictures = dataset.pictures
    _check(config, pictures.size, pictures.channels)
    if config.labelled is not None and config.labelled < len(pictures.classes):
        raise Refused(
            f"--data.labelled is {config.labelled}, and there are {len(pictures.classes)} classes: one picture at "
            "least of each must keep its class."
        )
    if config.derive != "none":
        from tasvir.data.derive import source_shape

        channels, size = source_shape(config.derive, pictures.channels, pictures.size, config.scale)
        pictures = replace(pictures, source=Pictures(channels, size))
    return replace(dataset, pictures=pictures, settings=config)


def look(
    source: str, number: int, like: DataConfig, size: int, channels: int
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The first `number` readable pictures of a file, folder, archive or set, in its own order and not packed.

    They are made square (of tiles, the centre of each picture), binarized, and pairs turned, as `like` says. Returns
    uint8 [N,size,size,channels], and (file, reason) of those that cannot be read. Raises `Refused` if none can.
    """
    path = absolute(source)
    usual = DataConfig()
    config = replace(
        like, source=(source,), labels=None, limit=None, fraction=1.0, folders=None, stream=False, layout=usual.layout
    )
    frame = Frame(size, squaring(config.fit), parse_color(config.background))
    if path.is_file() and path.suffix.lower().lstrip(".") in ENDINGS:
        names, picture = [path.name], lambda _, frame: decode(path.read_bytes(), frame)
    else:
        items = find(config).read()
        names, picture = list(items.names), items.picture
    found: list[np.ndarray] = []
    skipped: list[tuple[str, str]] = []
    for position, name in enumerate(names):
        if len(found) == number:
            break
        try:
            found.append(with_channels(picture(position, frame).image, channels))
        except Unreadable as error:
            skipped.append((name, str(error)))
    if not found:
        why = f": {skipped[0][0]} ({skipped[0][1]})" if skipped else ""
        raise Refused(f"{source} has no picture that can be read{why}.")
    images = np.stack(found)
    return images if config.binarize == "none" else drawn_once(images), skipped
