"""Arrays on disk: .npy files of 8 bits that several processes fill, and that are never in memory as a whole."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from tasvir.data.splitting import SPLITS

BLOCK_BYTES = 8 << 20


class Rows:
    """A .npy file of uint8 rows [N, *shape] that several processes fill, and whose number is known only at the end."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape = path, shape
        self.length = math.prod(shape)
        with path.open("wb") as file:
            self._write_header(file, 0)
            self.start = file.tell()

    @contextmanager
    def at(self, row: int) -> Iterator[Callable[[np.ndarray], None]]:
        """A function that writes rows, the first of them number `row`."""
        with self.path.open("r+b") as file:
            file.seek(self.start + row * self.length)

            def write(rows: np.ndarray) -> None:
                file.write(np.ascontiguousarray(rows).data)

            yield write

    def write(self, row: int, rows: np.ndarray) -> None:
        with self.at(row) as write:
            write(rows)

    def read(self, row: int, count: int) -> np.ndarray:
        return np.fromfile(self.path, np.uint8, count * self.length, offset=self.start + row * self.length)

    def reorder(self, order: Sequence[int]) -> None:
        """Bring the rows into this order, some at a time; those that are not named are dropped."""
        if not order:
            return
        other = Rows(self.path.with_suffix(".order"), self.shape)
        rows = np.memmap(self.path, np.uint8, "r", offset=self.start).reshape(-1, self.length)
        many = max(1, BLOCK_BYTES // self.length)
        for start in range(0, len(order), many):
            other.write(start, rows[list(order[start : start + many])])
        del rows
        other.path.replace(self.path)

    def finish(self, count: int) -> None:
        """Say how many rows there are, and drop what lies behind them."""
        with self.path.open("r+b") as file:
            self._write_header(file, count)  # NumPy leaves room for the first dimension to grow
            assert file.tell() == self.start
            file.truncate(self.start + count * self.length)
            file.flush()
            os.fsync(file.fileno())

    def _write_header(self, file: IO[bytes], count: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        np.lib.format.write_array_header_1_0(file, header)


def blocks(path: Path) -> Iterator[np.ndarray]:
    """The rows of a .npy file, some at a time; read and not mapped, so that they do not stay in memory."""
    images = np.load(path, mmap_mode="r")
    shape, offset = images.shape, images.offset
    del images
    rows, length = max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]))), math.prod(shape[1:])
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            yield np.fromfile(file, np.uint8, count * length).reshape(count, *shape[1:])


def made_grey(folder: Path, what: str) -> int:
    """Keep one channel of the three equal ones; returns 1."""
    for split in SPLITS:
        path = folder / f"{split}.{what}.npy"
        height, width = np.load(path, mmap_mode="r").shape[1:3]
        other = path.with_suffix(".grey")
        rows, count = Rows(other, (height, width, 1)), 0
        for block in blocks(path):
            rows.write(count, block[..., :1])
            count += len(block)
        rows.finish(count)
        other.replace(path)
    return 1


def hash_of(folder: Path, split: str, images: str = "images") -> str:
    """sha256 of the bytes of the pixels [N,H,W,C], then of the labels (int64, little-endian), then of the sources."""
    digest = hashlib.sha256()
    for block in blocks(folder / f"{split}.{images}.npy"):
        digest.update(block.data)
    if (folder / f"{split}.labels.npy").exists():
        digest.update(np.load(folder / f"{split}.labels.npy").astype("<i8").tobytes())
    if (folder / f"{split}.sources.npy").exists():
        for block in blocks(folder / f"{split}.sources.npy"):
            digest.update(block.data)
    return digest.hexdigest()
