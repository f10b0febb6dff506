"""Pictures cut into squares at their own resolution, so that a few large photographs are a set of many small ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tasvir.config import Refused
from tasvir.data.decoding import Decoded, Frame, Unreadable, fit
from tasvir.data.items import Items
from tasvir.data.workers import chunked, workers

CHUNK = 32
SLOW = 500
"""Files from which on several cores are worth their start, to read only their heads."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""What is added to a file's stamp for each of its tiles but the first; odd, so that no two are the same."""

LeftOut = list[tuple[str, str]]


@dataclass(frozen=True)
class Tile:
    """A square of `size` pixels of one file."""

    file: int
    left: int
    top: int


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where the tiles along one side begin: at steps of size·(1 - overlap), the last one flush with the far border.

    Empty if the side is shorter than a tile.
    """
    if length < size:
        return []
    found = list(range(0, length - size + 1, step(size, overlap)))
    return found if found[-1] == length - size else [*found, length - size]


def step(size: int, overlap: float) -> int:
    """Pixels from one tile to the next."""
    return max(1, round(size * (1 - overlap)))


def count(width: int, height: int, size: int, overlap: float) -> int:
    """How many tiles cover a picture; 0 if it is smaller than one."""
    return len(starts(width, size, overlap)) * len(starts(height, size, overlap))


def no_files(name: str) -> str:
    """What is said of a set that cannot be cut."""
    return (
        f"--data.fit tiles cuts picture files in folders, zips and tars, and {name} has none.\n"
        "Leave it out, or give the pictures as files."
    )


def tiled(items: Items, name: str, size: int, overlap: float) -> tuple[Items, LeftOut]:
    """The tiles of all pictures, row by row and file by file; and (file, reason) of those that give none.

    A tile is called FILE@LEFT,TOP. Only the heads of the files are read. Raises `Refused` for what is no set of files,
    and if no picture is as large as a tile.
    """
    if items.shape is None:
        raise Refused(no_files(name))
    tiles: list[Tile] = []
    lost: LeftOut = []
    for file, (shape, reason) in enumerate(_shapes(items)):
        found = [] if shape is None else _cover(file, *shape, size, overlap)
        if shape is not None and not found:
            reason = f"{shape[0]}x{shape[1]} px, smaller than a tile of {size} px"
        tiles += found
        lost += [] if found else [(items.names[file], reason)]
    if not tiles and len(items):
        some = ", ".join(f"{file} ({reason})" for file, reason in lost[:3])
        raise Refused(
            f"{name} has no picture that gives a tile of {size} px: {some}.\n"
            "Give a smaller --data.size; or --data.fit crop, which enlarges them."
        )
    return _expanded(items, tiles, size, len(items) - len(lost)), lost


def _cover(file: int, width: int, height: int, size: int, overlap: float) -> list[Tile]:
    lefts = starts(width, size, overlap)
    return [Tile(file, left, top) for top in starts(height, size, overlap) for left in lefts]


def _shapes(items: Items) -> list[tuple[tuple[int, int] | None, str]]:
    """(width, height) of every picture, or None with the reason."""
    with workers(replace(items, slow=len(items) > SLOW)) as crew:
        chunks = chunked(list(range(len(items))), CHUNK)
        return [shape for done in crew.map(_shape_chunk, chunks, len(items), "measuring pictures") for shape in done]


def _shape_chunk(items: Items, numbers: list[int]) -> list[tuple[tuple[int, int] | None, str]]:
    assert items.shape is not None
    found: list[tuple[tuple[int, int] | None, str]] = []
    for number in numbers:
        try:
            found.append((items.shape(number), ""))
        except Unreadable as error:
            found.append((None, str(error)))
    return found


def _expanded(items: Items, tiles: Sequence[Tile], size: int, pictures: int) -> Items:
    """The items with one entry for each tile."""
    files = np.array([tile.file for tile in tiles], np.int64)
    places = np.arange(len(files)) - np.searchsorted(files, files)  # among the tiles of its file

    def of_files(values: Sequence | None) -> list | None:
        return None if values is None else [values[tile.file] for tile in tiles]

    word = "picture" if pictures == 1 else "pictures"
    note = f"{pictures:,} {word} gave {len(tiles):,} tiles of {size}×{size}."
    return replace(
        items,
        names=[f"{items.names[tile.file]}@{tile.left},{tile.top}" for tile in tiles],
        picture=partial(_cut, _Last(items), tiles, size),
        contents=lambda number: items.contents(tiles[number].file),
        labels=of_files(items.labels),
        splits=of_files(items.splits),
        stamps=None if items.stamps is None else items.stamps[files] + places.astype(np.uint64) * ODD,
        shape=None,
        files=files,
        notes=(*items.notes, note),
    )


class _Last:
    """Whole pictures, of which the last one is kept: neighbouring tiles are of one file."""

    def __init__(self, items: Items):
        self.items = items
        self.known: tuple[int, Frame, Decoded | Unreadable] | None = None

    def whole(self, file: int, frame: Frame) -> Decoded:
        """The picture of a file as it is. Raises `Unreadable`."""
        known = self.known
        if known is None or known[:2] != (file, frame):
            made: Decoded | Unreadable
            try:
                made = self.items.picture(file, frame)
            except Unreadable as error:
                made = error
            known = self.known = file, frame, made
        if isinstance(known[2], Unreadable):
            raise Unreadable(str(known[2]))
        return known[2]


def _cut(last: _Last, tiles: Sequence[Tile], size: int, number: int, frame: Frame) -> Decoded:
    """One tile; made to fit the frame where that wants another size."""
    tile = tiles[number]
    whole = last.whole(tile.file, Frame(size, "tiles", frame.background))

    def cut(pixels: np.ndarray) -> np.ndarray:
        square = pixels[tile.top : tile.top + size, tile.left : tile.left + size]
        return square if frame.fit == "tiles" else fit(square, frame)

    source = None if whole.source is None else cut(whole.source)
    return replace(whole, image=cut(whole.image), side=size, source=source)
