"""A set of pictures decoded once, on all cores, into arrays on disk that later runs only map into memory."""

import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from filelock import FileLock

from tasvir.config import Pictures, Refused
from tasvir.data.decoding import FILTER, Unreadable, with_channels
from tasvir.data.sources import Items, Source, cache_folder

T = TypeVar("T")

FORMAT = 1
"""Version of what a pack holds and of how pictures are decoded: raising it packs every set anew."""
MINIMUM = 16
"""Fewest readable pictures that are a set."""
TEST_FRACTION = 0.1
MOST_TEST = 10_000
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Split:
    """Pictures mapped from disk, with their classes."""

    images: np.ndarray
    """[N,H,W,C] uint8."""
    labels: np.ndarray | None
    """[N] int64."""
    hash: str
    """sha256 of the pixels and the labels."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A set of pictures, ready to learn from."""

    name: str
    pictures: Pictures
    train: Split
    test: Split
    notes: tuple[str, ...]
    """Plain sentences: what was recognized, and what was left out and why."""
    skipped: tuple[tuple[str, str], ...]
    """(file, reason) of every file that could not be used."""
    description: dict[str, Any]
    """All of this but the arrays, as plain values; `description.json` of the pack."""


def pack(source: Source, size: int, color: str, limit: int | None) -> Dataset:
    """The set at `size`, from its pack; the pack is made first if there is none that fits.

    Training and test split are the source's own, or else come from each file's content: a picture stays where it is
    when others are added, and copies stay together. `limit` bounds either split. Raises `Refused`.
    """
    key = [FORMAT, source.name, source.fingerprint, size, color, limit]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    folder = cache_folder() / "packs"
    final = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source.name)[:40]}-{digest}"
    dataset = _opened(final, source)
    if dataset is not None:
        return dataset
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{final.name}.lock"):  # a second process waits, then finds the pack
            dataset = _opened(final, source)
            if dataset is None:
                _make(final, source, size, color, limit)
                dataset = _opened(final, source)
    except OSError as error:
        raise Refused(
            f"The pictures cannot be packed in {folder} ({error.strerror or error}).\n"
            "Make room or name another folder with TASVIR_CACHE."
        ) from None
    assert dataset is not None
    return dataset


def _opened(folder: Path, source: Source) -> Dataset | None:
    """The pack in `folder`, or None when there is none or it is damaged."""
    try:
        description = json.loads((folder / "description.json").read_text())
        splits = {}
        for split in ("train", "test"):
            images = np.load(folder / f"{split}.images.npy", mmap_mode="r")
            labels = np.load(folder / f"{split}.labels.npy") if description["classes"] else None
            if len(images) != description["counts"][split] or (labels is not None and len(labels) != len(images)):
                return None
            splits[split] = Split(images, labels, description["hash"][split])
    except (OSError, ValueError, KeyError):
        return None
    description["notes"] = [*source.notes, *description["notes"]]
    return Dataset(
        name=description["name"],
        pictures=Pictures(description["channels"], description["size"], tuple(description["classes"])),
        notes=tuple(description["notes"]),
        skipped=tuple((entry["file"], entry["reason"]) for entry in description["skipped"]),
        description=description,
        **splits,
    )


def _make(final: Path, source: Source, size: int, color: str, limit: int | None) -> None:
    """Write the pack beside its place and rename it: there is never half a pack."""
    for leftover in final.parent.glob(f".{final.name}.*.tmp"):  # of a process that was killed; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata
            _write(folder, source, size, color, limit)
        if final.exists():  # damaged, or it would have been opened
            shutil.rmtree(final)
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, source: Source, size: int, color: str, limit: int | None) -> None:
    items = source.read()
    channels = 1 if color == "grey" or (color == "auto" and items.channels == 1) else 3
    total = len(items.names)
    most = total if limit is None else min(total, 2 * limit)
    _make_sure_of_room(folder, most * size * size * channels)
    counts = {}
    with _workers(items) as workers:
        plan = _plan(items, limit, workers)
        seen = _Seen(dict(plan.bad))
        for split in ("test", "train"):
            kept: list[int] = []
            with _Rows(folder / f"{split}.images.npy", (size, size, channels)) as rows:
                while True:
                    _decode_into(rows, kept, plan.numbers[split], limit, items, workers, seen, split)
                    if kept or split == "train" or not plan.lend():
                        break
            if items.labels is not None:
                np.save(folder / f"{split}.labels.npy", np.array([items.labels[number] for number in kept], np.int64))
            counts[split] = len(kept)
    skipped = [*source.skipped, *((items.names[number], reason) for number, reason in sorted(seen.bad.items()))]
    _refuse_too_few(source.name, total - len(seen.bad), counts, skipped)
    if color == "auto" and channels == 3 and seen.grey:
        channels = 1
        for split in counts:
            _drop_to_one_channel(folder / f"{split}.images.npy")
    description = {
        "format": FORMAT,
        "name": source.name,
        "source": source.fingerprint,
        "size": size,
        "channels": channels,
        "classes": list(items.classes),
        "counts": counts,
        "limit": limit,
        "color": color,
        "resize": FILTER,
        "hash": {split: _hash_of(folder, split, items.labels is not None) for split in counts},
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped],
        "notes": _notes(total, counts, limit, skipped, plan.copies, seen.small, size),
    }
    with (folder / "description.json").open("w") as file:
        json.dump(description, file, indent=1)


def _make_sure_of_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed * 1.05 > free:
        raise Refused(
            f"The packed pictures take {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB free.\n"
            "Choose a smaller --data.size or --data.limit, or another folder with TASVIR_CACHE."
        )


def _refuse_too_few(name: str, readable: int, counts: dict[str, int], skipped: list[tuple[str, str]]) -> None:
    if readable < MINIMUM:
        raise Refused(
            f"{name} has {readable} readable pictures; at least {MINIMUM} are needed.\n"
            + (f"Not readable: {_some(skipped)}." if skipped else "Add more.")
        )
    for split, count in counts.items():
        if count == 0:
            why = f"Not readable: {_some(skipped)}." if skipped else "All pictures are copies of one."
            raise Refused(f"{name} has no picture left for its {split} split.\n{why}")


def _some(skipped: list[tuple[str, str]], most: int = 3) -> str:
    told = ", ".join(f"{file} ({reason})" for file, reason in skipped[:most])
    return told + (f" and {len(skipped) - most} more" if len(skipped) > most else "")


def _notes(
    total: int,
    counts: dict[str, int],
    limit: int | None,
    skipped: list[tuple[str, str]],
    copies: int,
    small: int,
    size: int,
) -> list[str]:
    notes = [f"{counts['train']} pictures are for training and {counts['test']} for testing."]
    if limit is not None and sum(counts.values()) + len(skipped) < total:
        notes[0] = f"{notes[0][:-1]}, of {total}, because of the limit {limit}."
    if skipped:
        notes.append(f"Could not be used: {_some(skipped)}; {len(skipped)} in all.")
    if copies:
        notes.append(f"{copies} pictures are exact copies of others; copies are never split between train and test.")
    if small:
        notes.append(f"{small} pictures are smaller than {size}x{size} and were enlarged.")
    return notes


# Which picture goes where


@dataclass
class _Plan:
    """Numbers of the pictures of each split, in the order in which they are wanted."""

    numbers: dict[str, list[int]]
    digests: dict[int, bytes] = field(default_factory=dict)
    """Hash of each picture's content, where splits come from that."""
    bad: dict[int, str] = field(default_factory=dict)
    """Number to reason, of pictures whose content cannot be had."""
    copies: int = 0

    def lend(self) -> bool:
        """Make the first training picture, with its copies, the test pictures; False when there is none to lend."""
        train = self.numbers["train"]
        if not train or not self.digests:
            return False
        first = self.digests[train[0]]
        self.numbers["test"] = [number for number in train if self.digests[number] == first]
        self.numbers["train"] = [number for number in train if self.digests[number] != first]
        return True


def _plan(items: Items, limit: int | None, workers: "_Workers") -> _Plan:
    """The source's own split, or one by content; by order of content hash where not all is wanted in order.

    A picture is for testing when its hash is among the lowest tenth of all possible ones, and among the `MOST_TEST`
    lowest. As a set grows, no training picture ever becomes a test picture.
    """
    everything = range(len(items.names))
    if items.splits is not None and limit is None and not items.sorted:
        return _Plan({split: [n for n in everything if items.splits[n] == split] for split in ("train", "test")})
    digests: dict[int, bytes] = {}
    bad: dict[int, str] = {}
    for done in workers.map(_hash_chunk, _chunks(list(everything), 64), len(everything), "reading"):
        for number, digest, reason in done:
            if reason:
                bad[number] = reason
            else:
                digests[number] = digest
    shuffled = sorted(digests, key=lambda number: (digests[number], number))
    if items.splits is not None:
        numbers = {split: [n for n in shuffled if items.splits[n] == split] for split in ("train", "test")}
        return _Plan(numbers, bad=bad)
    border = int(TEST_FRACTION * 2**64).to_bytes(8, "big")
    if len(shuffled) > MOST_TEST:
        border = min(border, digests[shuffled[MOST_TEST]])
    numbers = {
        "test": [number for number in shuffled if digests[number] < border],
        "train": [number for number in shuffled if digests[number] >= border],
    }
    return _Plan(numbers, digests, bad, len(digests) - len(set(digests.values())))


# Decoding on all cores


@dataclass
class _Seen:
    """What was met while decoding."""

    bad: dict[int, str]
    """Number to reason."""
    small: int = 0
    grey: bool = True


def _decode_into(
    rows: "_Rows",
    kept: list[int],
    numbers: list[int],
    limit: int | None,
    items: Items,
    workers: "_Workers",
    seen: _Seen,
    split: str,
) -> None:
    """Append the readable ones among `numbers` to `rows` and `kept`, up to the limit."""
    size, _, channels = rows.shape
    wanted = len(numbers) if limit is None else min(limit, len(numbers))
    chunks = _chunks(numbers, max(1, min(64, CHUNK_BYTES // (size * size * 3))))
    decode = partial(_decode_chunk, size=size, channels=channels)
    for done in workers.map(decode, chunks, wanted, f"packing {split} pictures"):
        seen.bad.update(done.bad)
        take = len(done.numbers) if limit is None else min(len(done.numbers), limit - len(kept))
        rows.append(done.images[:take])
        kept.extend(done.numbers[:take])
        seen.small += sum(side < size for side in done.sides[:take])
        seen.grey = seen.grey and bool((done.images[:take] == done.images[:take, ..., :1]).all())
        if limit is not None and len(kept) >= limit:
            return


def _chunks(numbers: list[int], length: int) -> list[list[int]]:
    return [numbers[start : start + length] for start in range(0, len(numbers), length)]


@dataclass
class _Decoded:
    images: np.ndarray  # [n,size,size,channels] uint8
    numbers: list[int]
    sides: list[int]
    bad: dict[int, str]


_SHARED: dict[int, Items] = {}  # forked workers inherit it: nothing has to be sent


def _hash_chunk(key: int, numbers: list[int]) -> list[tuple[int, bytes, str]]:
    found = []
    for number in numbers:
        try:
            digest = hashlib.blake2b(_SHARED[key].content(number), digest_size=16).digest()
            found.append((number, digest, ""))
        except Unreadable as error:
            found.append((number, b"", str(error)))
    return found


def _decode_chunk(key: int, numbers: list[int], size: int, channels: int) -> _Decoded:
    images, kept, sides, bad = [], [], [], {}
    for number in numbers:
        try:
            image, side = _SHARED[key].picture(number, size)
        except Unreadable as error:
            bad[number] = str(error)
            continue
        images.append(with_channels(image, channels))
        kept.append(number)
        sides.append(side)
    stacked = np.stack(images) if images else np.empty((0, size, size, channels), np.uint8)
    return _Decoded(stacked, kept, sides, bad)


class _Workers:
    """An executor, and the key under which its workers find the pictures."""

    def __init__(self, executor: Executor, key: int, count: int):
        self.executor, self.key, self.count = executor, key, count

    def map(
        self, function: Callable[[int, list[int]], T], chunks: list[list[int]], total: int, what: str
    ) -> Iterator[T]:
        """Results in order, a few ahead of what was asked for; with a progress bar on a terminal."""
        pending: deque[tuple[int, Future[T]]] = deque()
        with _progress(total, what) as advance:
            try:
                for chunk in chunks:
                    pending.append((len(chunk), self.executor.submit(function, self.key, chunk)))
                    if len(pending) > 2 * self.count:
                        length, future = pending.popleft()
                        yield future.result()
                        advance(length)
                while pending:
                    length, future = pending.popleft()
                    yield future.result()
                    advance(length)
            except BrokenProcessPool:
                raise Refused(
                    "A process that decodes pictures was ended from outside, perhaps for want of memory.\n"
                    "Try again with more memory free, or with a smaller --data.size."
                ) from None
            finally:
                for _, future in pending:
                    future.cancel()


@contextmanager
def _workers(items: Items) -> Iterator[_Workers]:
    """Processes on Linux (measured: twice as fast as threads on small files); threads where forking is not safe."""
    key = id(items)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = count if items.slow else 1
    executor: Executor
    if sys.platform == "linux" and items.slow:
        executor = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=_in_a_worker)
    else:
        executor = ThreadPoolExecutor(count)
    _SHARED[key] = items
    try:
        yield _Workers(executor, key, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        del _SHARED[key]


def _in_a_worker() -> None:
    """A worker leaves interruptions to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more pictures are done; shows a bar when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


# Arrays on disk


class _Rows:
    """A .npy file of uint8 rows whose number is known only at the end."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.count = path, shape, 0

    def __enter__(self) -> Self:
        self.file = self.path.open("wb")
        self._write_header()
        self.start = self.file.tell()
        return self

    def append(self, rows: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def __exit__(self, kind: object, *_: object) -> None:
        with self.file:
            if kind is None:
                self.file.seek(0)
                self._write_header()  # NumPy leaves room for the first dimension to grow
                assert self.file.tell() == self.start
                self.file.flush()
                os.fsync(self.file.fileno())

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]


def _drop_to_one_channel(path: Path) -> None:
    images = np.load(path, mmap_mode="r")
    other = path.with_suffix(".grey")
    with _Rows(other, (*images.shape[1:3], 1)) as rows:
        for block in _blocks(images):
            rows.append(block[..., :1])
    del images
    other.replace(path)


def _hash_of(folder: Path, split: str, labelled: bool) -> str:
    """sha256 of the bytes of the pixels [N,H,W,C], then of the labels (int64, little-endian)."""
    digest = hashlib.sha256()
    for block in _blocks(np.load(folder / f"{split}.images.npy", mmap_mode="r")):
        digest.update(np.ascontiguousarray(block).data)
    if labelled:
        digest.update(np.load(folder / f"{split}.labels.npy").astype("<i8").tobytes())
    return digest.hexdigest()
