"""Any row of a column in parquet and Arrow files, in bounded memory; read by PyArrow, which may not be installed."""

import hashlib
import json
import os
import shutil
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from tasvir.config import Refused
from tasvir.data.decoding import LARGEST_FILE, Unreadable
from tasvir.data.items import cache_folder

if TYPE_CHECKING:
    import pyarrow

HELD = 32 << 20
"""Bytes of unpacked rows that a process keeps; a row group that is larger is laid down in the cache instead."""
BATCH = 64
"""Rows unpacked at a time."""


def arrow() -> Any:
    """PyArrow. Raises `Refused` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise Refused(
            "Parquet files and Hugging Face folders are read by PyArrow, which is not installed.\n"
            "Install it with: pip install 'tasvir[hf]'"
        ) from None
    return pyarrow


@dataclass
class TableFile:
    """One parquet or Arrow file; opened by each process and thread for itself."""

    path: Path
    name: str
    schema: "pyarrow.Schema" = None
    groups: list[tuple[int, int]] = field(default_factory=list)
    """Where each run of rows that are read together is found, and how many rows it has."""
    stamp: int = 0
    mapped: bool = False
    """Whether rows are where they lie on disk, and take no memory."""
    handles: dict[tuple[int, int], Any] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """The type of each column; of those with the same name, none."""
        names = Counter(self.schema.names)
        return {name: kind for name, kind in zip(self.schema.names, self.schema.types, strict=True) if names[name] == 1}

    def mine(self) -> Any:
        me = os.getpid(), threading.get_ident()
        if me not in self.handles:
            self.handles[me] = self.opened()
        return self.handles[me]

    def opened(self) -> Any:
        raise NotImplementedError

    def arrays(self, group: int, column: str) -> Iterator["pyarrow.Array"]:
        """A group's rows, some at a time."""
        raise NotImplementedError

    def values(self, column: str) -> Iterator[Any]:
        """All of a small column. Raises `Refused`."""
        pa = arrow()
        try:
            for group, _ in self.groups:
                for array in self.arrays(group, column):
                    yield from array.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(self.path, error) from None


class ParquetFile(TableFile):
    def opened(self) -> Any:
        # mapped: without that, PyArrow holds all of a row group's bytes, however large it is
        return arrow().parquet.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)

    def look(self) -> None:
        file = self.mine()
        self.schema = file.schema_arrow
        self.groups = [(group, file.metadata.row_group(group).num_rows) for group in range(file.num_row_groups)]

    def arrays(self, group: int, column: str) -> Iterator["pyarrow.Array"]:
        struct = arrow().types.is_struct(self.schema.field(column).type)
        wanted = f"{column}.bytes" if struct else column
        for batch in self.mine().iter_batches(BATCH, row_groups=[group], columns=[wanted], use_threads=False):
            yield _inner(batch.column(0))


class ArrowFile(TableFile):
    """Mapped into memory. A group is a record batch: its number in a file with an index, its offset in a stream."""

    def opened(self) -> Any:
        pa = arrow()
        source = pa.memory_map(str(self.path))
        indexed = source.read(6) == b"ARROW1"
        source.seek(0)
        return pa.ipc.open_file(source) if indexed else source

    def look(self) -> None:
        pa = arrow()
        source = self.mine()
        if isinstance(source, pa.ipc.RecordBatchFileReader):
            self.schema = source.schema
            for number in range(source.num_record_batches):
                self.groups.append((number, self._counted(lambda: source.get_batch(number))))  # noqa: B023
            return
        self.schema = pa.ipc.read_schema(source)
        self.groups, size = [], source.size()
        while (place := source.tell()) < size:
            try:
                message = pa.ipc.read_message(source)
            except EOFError:
                return
            if message.type != "record batch":
                raise ValueError(f"a {message.type} among the rows is not understood")
            rows = self._counted(lambda: pa.ipc.read_record_batch(message, self.schema))  # noqa: B023
            self.groups.append((place, rows))

    def _counted(self, read: "Callable[[], pyarrow.RecordBatch]") -> int:
        """The rows of a batch; notes whether reading it takes memory, as it does when it is compressed."""
        allocated = arrow().total_allocated_bytes
        before = allocated()
        batch = read()
        batch.validate()  # a negative length in a damaged file would end the process
        self.mapped = (self.mapped or not self.groups) and 2 * (allocated() - before) < batch.nbytes
        return batch.num_rows

    def arrays(self, group: int, column: str) -> Iterator["pyarrow.Array"]:
        pa = arrow()
        source = self.mine()
        if isinstance(source, pa.ipc.RecordBatchFileReader):
            batch = source.get_batch(group)
        else:
            source.seek(group)
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), self.schema)
        array = _inner(batch.column(self.schema.get_field_index(column)))
        array.validate(full=True)  # as would one that leads out of it
        yield array


def _inner(array: "pyarrow.Array") -> "pyarrow.Array":
    """The bytes of pictures that have a path beside them."""
    return array.field("bytes") if arrow().types.is_struct(array.type) else array


def open_table(path: Path, name: str) -> TableFile:
    pa = arrow()
    file = (ParquetFile if path.suffix.lower() == ".parquet" else ArrowFile)(path, name)
    try:
        about = path.stat()
        file.look()
        file.columns()  # damaged names are found out
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    stamp = hashlib.blake2b(repr((name, about.st_size, about.st_mtime_ns)).encode(), digest_size=8).digest()
    file.stamp = int.from_bytes(stamp, "big")
    return file


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__


def _damaged(path: Path, error: Exception) -> Refused:
    return Refused(f"{path} cannot be read as a table ({_reason(error)}).\nFetch or save it again, or move it away.")


class _Rows:
    """Rows held in memory or mapped into it."""

    def __init__(self, arrays: "Iterable[pyarrow.Array]"):
        self.arrays = list(arrays)
        self.ends = np.cumsum([len(array) for array in self.arrays]).tolist()

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, row: int) -> Any:
        place = bisect_right(self.ends, row)
        return self.arrays[place][row - (self.ends[place - 1] if place else 0)].as_py()


class Groups:
    """The column of pictures, unpacked group by group.

    A process keeps the groups that it used last, up to `HELD` bytes: enough for reading in order. A group that is
    larger, or that is asked for again after it was let go of (rows are then wanted in another order), is laid down in
    the cache as an uncompressed Arrow file, once for all processes, and mapped.
    """

    def __init__(self, files: list[TableFile], column: str, folder: Path):
        self.files, self.column, self.folder = files, column, folder
        self.places = [(file, group) for file, found in enumerate(files) for group, _ in found.groups]
        self.starts = np.cumsum([0, *(rows for file in files for _, rows in file.groups)]).tolist()
        self.kept: dict[tuple[int, int], OrderedDict[int, tuple[_Rows | Unreadable, int]]] = {}
        self.known: set[int] = set()

    def content(self, row: int) -> bytes:
        number = bisect_right(self.starts, row) - 1
        rows = self._loaded(number)
        if isinstance(rows, Unreadable):
            raise rows
        data = rows[row - self.starts[number]]
        if data is None:
            raise Unreadable("no picture in this row, at most the address of one")
        if len(data) > LARGEST_FILE:
            raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
        return data

    def _loaded(self, number: int) -> _Rows | Unreadable:
        kept = self.kept.setdefault((os.getpid(), threading.get_ident()), OrderedDict())
        if number in kept:
            kept.move_to_end(number)
            return kept[number][0]
        pa = arrow()
        file, group = self.places[number]
        laid_down = self.folder / f"{file}-{group}.arrow"
        held = 0
        rows: _Rows | Unreadable | None
        try:
            rows = self._mapped(laid_down)
            if rows is None:
                found = None if number in self.known else self._held(self.files[file], group)
                if found is None:
                    self._lay_down(self.files[file], group, laid_down)
                    rows = self._mapped(laid_down)
                else:
                    rows, held = found
            if rows is None or len(rows) != self.starts[number + 1] - self.starts[number]:
                raise ValueError("there are not as many as it says")
        except (pa.ArrowException, OSError, ValueError) as error:
            rows = Unreadable(f"the rows around it are damaged: {_reason(error)}")
        self.known.add(number)
        while kept and sum(size for _, size in kept.values()) + held > HELD:
            kept.popitem(last=False)
        kept[number] = rows, held
        return rows

    def _held(self, file: TableFile, group: int) -> tuple[_Rows, int] | None:
        """The rows and the bytes that they take; None when those are too many."""
        arrays, size = [], 0
        for array in file.arrays(group, self.column):
            arrays.append(array)
            size += 0 if file.mapped else array.nbytes
            if size > HELD:
                return None
        return _Rows(arrays), size

    def _mapped(self, path: Path) -> _Rows | None:
        if not path.exists():
            return None
        reader = arrow().ipc.open_file(arrow().memory_map(str(path)))
        return _Rows(reader.get_batch(number).column(0) for number in range(reader.num_record_batches))

    def _lay_down(self, file: TableFile, group: int, path: Path) -> None:
        """Raises `Refused` when the disk is full."""
        pa = arrow()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{path.name}.lock"):
                if path.exists():
                    return
                for leftover in self.folder.glob(f".{path.name}.*.tmp"):  # of a process that was killed
                    leftover.unlink()
                number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=self.folder)
                try:
                    with os.fdopen(number, "wb") as sink:
                        self._write(file, group, sink)
                    os.replace(name, path)
                finally:
                    Path(name).unlink(missing_ok=True)
        except pa.ArrowException:
            raise
        except OSError as error:
            if error.strerror is None:  # Arrow's, about the file that is read
                raise
            raise self._full(error.strerror) from None

    def _write(self, file: TableFile, group: int, sink: Any) -> None:
        pa = arrow()
        writer = None
        for array in file.arrays(group, self.column):
            batch = pa.record_batch([array], names=[self.column])
            if shutil.disk_usage(self.folder).free < (64 << 20) + array.nbytes:
                raise self._full("the disk is full")
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()

    def _full(self, why: str) -> Refused:
        return Refused(
            f"The rows of {self.files[0].path.parent} cannot be laid down in {self.folder} ({why}).\n"
            "They must be, to be read in any order: make room, or name another folder with TASVIR_CACHE."
        )


def grouped(files: list[TableFile], column: str, name: str, notes: list[str]) -> Groups:
    where = [[str(file.path), file.stamp, column] for file in files]
    digest = hashlib.sha256(json.dumps(where).encode()).hexdigest()[:16]
    size = sum(file.path.stat().st_size for file in files)
    folder = cache_folder() / "tables" / f"{name}-{digest}"
    if size > HELD and any(isinstance(file, ParquetFile) for file in files):
        told = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
        notes.append(f"Rows that are wanted out of order are laid down in {folder}, at most about {told}.")
    return Groups(files, column, folder)
