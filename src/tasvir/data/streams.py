"""Training from shards as they are read: shuffled, decoded ahead, nothing packed, for sets that fit on no disk.

A round over the shards is a pure function of (seed, round): the shards in a new order, some of them read in turns, and
what they give drawn at random from a buffer. Batch `step` is cut from these rounds by position, so that resuming is
exact. Pictures whose content hash is among the lowest tenth are for testing, as in packs, and never trained on.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from tasvir.config import Refused
from tasvir.data.decoding import Frame, Unreadable, decode, described, with_channels
from tasvir.data.items import cache_folder
from tasvir.data.shards import Sample, Shard, classes_of, located, samples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tasvir.core import Batch

FORMAT = 1
"""Raising it looks at the first shards of every set anew."""
HELD_OUT = 1000
"""Test pictures, unless there are fewer."""
BUFFER = 2000
"""Encoded pictures among which the next one is drawn."""
BUFFER_BYTES = 256 << 20
"""Bytes of them, if that is fewer pictures."""
TURNS = 4
"""Shards that are read in turns."""
CHUNK = 32
"""Pictures that are read ahead from a shard at a time."""
CHUNK_BYTES = 4 << 20
AHEAD = 3
"""Batches that are decoded ahead."""
ORDER = 7  # so that no other part of a run draws the same random numbers
NAMED = 1000
"""Pictures and shards that could not be used, of which the names are kept."""
LONG = 10_000
"""Pictures to pass over when resuming from which on it is said."""


@dataclass(frozen=True)
class Streamed:
    """A set in shards, looked at but not read: the test pictures, and what a `Stream` needs."""

    name: str
    shards: tuple[Shard, ...]
    frame: Frame
    channels: int
    classes: tuple[str, ...]
    numbers: dict[int | str, int]
    """Number of each class, by what stands in the shards; empty without classes."""
    border: bytes
    """Pictures with a content hash below it are for testing."""
    held_out: np.ndarray
    """[N,size,size,C] uint8 test pictures, mapped from disk."""
    labels: np.ndarray | None
    """[N] int64 classes of them."""
    notes: tuple[str, ...]
    """Plain sentences: what was recognized."""
    skipped: tuple[tuple[str, str], ...]
    """(file, reason) of what could not be used in the shards that were looked at."""
    description: dict[str, Any]
    """All of this but the arrays, as plain values, with the keys of a pack's."""
    folder: Path
    """Where in the cache this is kept."""

    def training_pictures(self) -> int | None:
        """How many there are in a round; None until one was read to its end on this machine."""
        try:
            return int(json.loads((self.folder / "count.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None


def open_stream(
    addresses: Sequence[str],
    frame: Frame,
    *,
    color: str = "auto",
    labels: str | None = None,
    held_out: int = HELD_OUT,
) -> Streamed:
    """Look at the first shards, once: take `held_out` test pictures out of them and learn which classes there are.

    `labels` is none for no classes, or how many there are, where the first shards do not show all. `color` is auto
    (grey if the test pictures are), grey or rgb. Raises `Refused` for shards that are missing or cannot be reached,
    and for fewer than 16 pictures.
    """
    if labels not in (None, "none") and not re.fullmatch(r"\d{1,6}", labels or ""):
        raise Refused(f"--data.labels is '{labels}', but shards have no attributes: say none, or how many classes.")
    shards = tuple(shard for address in addresses for shard in located(address))
    looks = [repr(frame), color, labels, held_out]
    key = [FORMAT, [[shard.address, shard.size, shard.changed] for shard in shards], looks]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    stem = re.sub(r"\{.*|\*.*", "", shards[0].address if len(addresses) > 1 else addresses[0]).rstrip("/-_.")
    name = Path(stem).name.split(".")[0] or "shards"
    folder = cache_folder() / "streams" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:40]}-{digest}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):  # a second process waits, then finds it
            found = _kept(folder, shards, frame)
            if found is None:
                for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                _look(folder, name, shards, frame, color, labels, held_out)
                found = _kept(folder, shards, frame)
    except OSError as error:
        raise Refused(
            f"The test pictures cannot be kept in {folder} ({error.strerror or error}).\n"
            "Make room or name another folder with TASVIR_CACHE."
        ) from None
    assert found is not None
    return found


def _kept(folder: Path, shards: tuple[Shard, ...], frame: Frame) -> Streamed | None:
    """What an earlier look found, or None."""
    try:
        about = json.loads((folder / "description.json").read_text())
        held_out = np.load(folder / "test.images.npy", mmap_mode="r")
        labels = np.load(folder / "test.labels.npy") if about["classes"] else None
        numbers = dict(about["numbers"])
        border = bytes.fromhex(about["border"])
        if len(held_out) != about["counts"]["test"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Streamed(
        name=about["name"],
        shards=shards,
        frame=frame,
        channels=about["channels"],
        classes=tuple(about["classes"]),
        numbers=numbers,
        border=border,
        held_out=held_out,
        labels=labels,
        notes=tuple(about["notes"]),
        skipped=tuple((entry["file"], entry["reason"]) for entry in about["skipped"]),
        description=about,
        folder=folder,
    )


# The first shards


class _Look:
    """What the first shards show."""

    def __init__(self, frame: Frame, border: bytes):
        self.frame, self.border = frame, border
        self.images: list[np.ndarray] = []
        self.said: list[int | str | None] = []  # by each test picture
        self.values: Counter[int | str | None] = Counter()
        self.seen = self.testing = 0
        self.skipped: dict[str, str] = {}
        self.lowest: tuple[bytes, Sample] | None = None
        self.waiting: list[Sample] = []

    def add(self, sample: Sample) -> None:
        digest = _digest(sample.data)
        self.seen += 1
        self.values[sample.label] += 1
        if digest < self.border:
            self.testing += 1
            self.waiting.append(sample)
        elif self.lowest is None or digest < self.lowest[0]:
            self.lowest = digest, sample

    def problem(self, name: str, reason: str) -> None:
        self.skipped.setdefault(name, reason)

    def decode(self, pool: ThreadPoolExecutor) -> None:
        """The test pictures that wait for it."""
        for sample, image in zip(self.waiting, pool.map(self._decoded, self.waiting), strict=True):
            if image is not None:
                self.images.append(image)
                self.said.append(sample.label)
        self.waiting = []

    def _decoded(self, sample: Sample) -> np.ndarray | None:
        try:
            return decode(sample.data, self.frame).image
        except Unreadable as error:
            self.problem(sample.name, str(error))
            return None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _look(
    folder: Path,
    name: str,
    shards: tuple[Shard, ...],
    frame: Frame,
    color: str,
    labels: str | None,
    wanted: int,
) -> None:
    """Write what the first shards show beside its place, and rename it."""
    from tasvir.data.splitting import TEST_FRACTION

    look = _Look(frame, int(TEST_FRACTION * 2**64).to_bytes(8, "big"))
    looked = _look_at(look, shards, wanted)
    complete = looked == len(shards) and len(look.images) < wanted
    if complete and not look.images and look.lowest is not None:
        digest, sample = look.lowest  # a small set lends its first training picture, and copies of it
        look.border, look.testing = digest + b"\0", look.testing + 1
        look.waiting.append(sample)
        with ThreadPoolExecutor(1) as pool:
            look.decode(pool)
    usable = look.seen - len(look.skipped)
    if usable < 16 or not look.images:
        bad = "; ".join(f"{file}: {reason}" for file, reason in list(look.skipped.items())[:3])
        raise Refused(
            f"{name} has {max(usable, 0)} readable pictures in {looked} shards; at least 16 are needed.\n"
            + (f"Not readable: {bad}." if bad else "Are these shards of WebDataset, with pictures in them?")
        )
    numbers, notes = _numbers(look, labels, looked, len(shards))
    kept = [place for place, value in enumerate(look.said) if not numbers or value in numbers]
    images = [look.images[place] for place in kept]
    grey = all(image.shape[-1] == 1 or (image == image[..., :1]).all() for image in images)
    channels = 1 if color == "grey" or (color == "auto" and grey) else 3
    stacked = np.stack([_in_channels(image, channels) for image in images])
    numbered = np.array([numbers[look.said[place]] for place in kept], np.int64) if numbers else None  # type: ignore[index]
    size = sum(shard.size or 0 for shard in shards)
    told = f"{len(shards)} shards" + (f" ({size / 1e9:.1f} GB)" if size >= 1e8 else "")
    notes = [
        f"{name}: {told}, read as training goes; nothing is packed.",
        f"{len(stacked)} pictures are for testing. Those that are, by their content, in the same tenth "
        "are not trained on.",
        *notes,
    ]
    if look.skipped:
        some = ", ".join(f"{file} ({reason})" for file, reason in list(look.skipped.items())[:3])
        notes.append(f"Could not be used: {some}; {len(look.skipped)} in the {looked} shards that were looked at.")
    contents = hashlib.sha256(stacked.tobytes())
    if numbered is not None:
        contents.update(numbered.astype("<i8").tobytes())
    known = [[shard.address, shard.size, shard.changed] for shard in shards]
    description = {
        "format": FORMAT,
        "name": name,
        "source": ["shards", [shard.address for shard in shards]],
        "size": frame.size,
        "channels": channels,
        "classes": list(map(str, numbers)),
        "numbers": list(numbers.items()),
        "counts": {"train": look.seen - look.testing if complete else None, "test": len(stacked)},
        "color": color,
        "resize": described(frame),
        "hash": {"train": hashlib.sha256(json.dumps(known).encode()).hexdigest(), "test": contents.hexdigest()},
        "border": look.border.hex(),
        "stream": {"shards": len(shards), "bytes": size, "buffer": BUFFER, "turns": TURNS},
        "skipped": [{"file": file, "reason": reason} for file, reason in look.skipped.items()],
        "notes": notes,
    }
    _write(folder, stacked, numbered, description)


def _look_at(look: _Look, shards: tuple[Shard, ...], wanted: int) -> int:
    """Read shards until there are `wanted` test pictures; returns how many shards were begun."""
    from tasvir.data.workers import progress

    with ThreadPoolExecutor(_cores()) as pool, progress(wanted, "looking at the first shards") as advance:
        for number, shard in enumerate(shards):
            with closing(samples(shard, look.problem)) as found:
                for sample in found:
                    look.add(sample)
                    if len(look.waiting) >= 4 * _cores():
                        advance(len(look.waiting))
                        look.decode(pool)
                    if len(look.images) + len(look.waiting) >= wanted:
                        look.decode(pool)
                        if len(look.images) >= wanted:
                            return number + 1
        look.decode(pool)
    return len(shards)


def _cores() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, count)


def _in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey pictures stored as RGB keep their values exactly."""
    if channels == 1 and (image == image[..., :1]).all():
        return image[..., :1]
    return with_channels(image, channels)


def _numbers(look: _Look, labels: str | None, looked: int, total: int) -> tuple[dict[int | str, int], list[str]]:
    """The number of each class, and sentences about them."""
    if labels == "none":
        return {}, ["There are no classes, as was asked for."]
    found = classes_of(list(look.values.elements()))
    where = "the shards" if looked == total else f"the first {looked} of {total} shards"
    if labels is not None:
        wrong = [value for value in look.values if value is not None and not _is_below(value, int(labels))]
        if wrong or not any(value is not None for value in look.values):
            said = f"the class {wrong[0]!r} is not among these" if wrong else "no picture there has a class"
            raise Refused(f"--data.labels {labels} means classes 0 to {int(labels) - 1}, but in {where} {said}.")
        return {number: number for number in range(int(labels))}, [f"There are {labels} classes, as was said."]
    if found is None:
        return {}, [f"No classes were recognized in {where}."]
    names = list(map(str, found))
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    more = "" if looked == total else " If there are more, say how many with --data.labels."
    return found, [f"The {len(found)} classes are those seen in {where}: {shown}.{more}"]


def _is_below(value: int | str, count: int) -> bool:
    return isinstance(value, int) and 0 <= value < count


def _write(folder: Path, images: np.ndarray, labels: np.ndarray | None, description: dict[str, Any]) -> None:
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        np.save(made / "test.images.npy", images)
        if labels is not None:
            np.save(made / "test.labels.npy", labels)
        if description["counts"]["train"] is not None and not description["classes"]:
            (made / "count.json").write_text(json.dumps(description["counts"]["train"]))
        (made / "description.json").write_text(json.dumps(description, indent=1))
        if folder.exists():  # damaged, or it would have been used
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


# Training


@dataclass(frozen=True)
class _Picture:
    """A training picture, still encoded."""

    name: str
    data: bytes
    label: int


class _Ahead:
    """An iterator that a thread reads a chunk ahead."""

    def __init__(self, found: Iterator[_Picture], pool: ThreadPoolExecutor):
        self.found, self.pool = found, pool
        self.chunk: deque[_Picture] = deque()
        self.next: Future[list[_Picture]] = pool.submit(self._read)

    def _read(self) -> list[_Picture]:
        chunk, size = [], 0
        for picture in self.found:
            chunk.append(picture)
            size += len(picture.data)
            if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
                break
        return chunk

    def take(self) -> _Picture | None:
        """The next one; None at the end."""
        if not self.chunk:
            self.chunk.extend(self.next.result())
            if self.chunk:
                self.next = self.pool.submit(self._read)
        return self.chunk.popleft() if self.chunk else None


class _Closed(Exception):
    """Nobody wants the next batch any more."""


class Stream:
    """Batch number `step` of an endless shuffled stream from shards: a pure function of (seed, step, rank).

    Step `s` takes the `batch_size * processes` pictures from position `s * batch_size * processes` on, and each rank
    its share: every process reads the whole stream and decodes only what is its own. In the place of a picture that
    cannot be decoded comes the next one after it that can, among those of the step, the first following the last.

    `finish` is given [B,C,H,W] float in [-1,1] on the device and the step, and returns the same augmented. `say` is
    told a sentence where something goes wrong that does not stop the training.
    """

    def __init__(
        self,
        streamed: Streamed,
        batch_size: int,
        seed: int,
        device: "torch.device | str",
        *,
        channels_last: bool = True,
        rank: int = 0,
        processes: int = 1,
        finish: "Callable[[Tensor, int], Tensor] | None" = None,
        say: Callable[[str], None] | None = None,
    ):
        import torch

        self.streamed, self.batch_size, self.seed, self.device = streamed, batch_size, seed, torch.device(device)
        self.channels_last, self.rank, self.processes = channels_last, rank, processes
        self.finish, self.say = finish, say
        self.skipped: dict[str, str] = {}
        """Name to reason of the first `NAMED` pictures and shards that could not be used."""
        self._lock = threading.Lock()
        self._said = 0

    def iterate(self, start: int, stop: int) -> "Iterator[tuple[int, Batch]]":
        """(step, batch) for the steps from `start` up to and without `stop`, read and decoded a few ahead.

        To begin within a round, what comes before in it is read again and not decoded. Raises `Refused` when a shard
        is missing or cannot be reached, for an unknown class, and when no picture of a step can be decoded.
        """
        each = self.batch_size * self.processes
        closed = threading.Event()
        coming = self._from(start * each, closed)
        mine = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        pending: deque[Future[tuple[list[_Picture], list[Future]]]] = deque()
        reader, decoders = ThreadPoolExecutor(1), ThreadPoolExecutor(_cores())

        def gather() -> tuple[list[_Picture], list[Future]]:
            group = list(islice(coming, each))
            return group, [decoders.submit(self._decoded, group[place]) for place in mine]

        try:
            submitted = start
            for step in range(start, stop):
                while submitted < min(stop, step + AHEAD):
                    pending.append(reader.submit(gather))
                    submitted += 1
                group, decoded = pending.popleft().result()
                batch = self._batch(step, group, decoded)
                self._tell()
                yield step, batch
        finally:
            closed.set()
            reader.shutdown(wait=True, cancel_futures=True)
            decoders.shutdown(wait=True, cancel_futures=True)
            coming.close()

    # Reading

    def _from(self, position: int, closed: threading.Event) -> Generator[_Picture, None, None]:
        """The stream from a position on."""
        count = self.streamed.training_pictures()
        number, passed_over = divmod(position, count) if count else (0, position)
        if passed_over >= LONG and self.say:
            self.say(f"Reading on to where training stopped: {passed_over} pictures are passed over.")
        while True:
            seen = 0
            with closing(self._round(number)) as pictures:
                for picture in pictures:
                    if closed.is_set():
                        raise _Closed
                    seen += 1
                    if passed_over:
                        passed_over -= 1
                    else:
                        yield picture
            if not seen:
                raise Refused(f"{self.streamed.name} has no picture to train on: all are for testing or without class.")
            if count is None:
                self._remember(seen)
            elif seen != count:
                raise Refused(
                    f"{self.streamed.name} has changed: a round had {count} pictures and now has {seen}.\n"
                    "Start a new run, or bring the shards back as they were."
                )
            count, number = seen, number + 1

    def _remember(self, count: int) -> None:
        """Keep the number of pictures in a round, so that whole rounds can be passed over at once."""
        path = self.streamed.folder / "count.json"
        try:
            made, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(made, "w") as file:
                json.dump(count, file)
            os.replace(name, path)
        except OSError:  # resuming will take longer, and be right
            return

    def _round(self, number: int) -> Generator[_Picture, None, None]:
        """Every training picture once, in an order of this round's own."""
        random = np.random.default_rng((ORDER, self.seed % 2**64, number))
        order = random.permutation(len(self.streamed.shards))
        buffer: list[_Picture] = []
        size = 0
        with closing(self._in_turns(order)) as pictures:
            for picture in pictures:
                buffer.append(picture)
                size += len(picture.data)
                while len(buffer) >= BUFFER or size >= BUFFER_BYTES:
                    place = int(random.integers(len(buffer)))
                    buffer[place], buffer[-1] = buffer[-1], buffer[place]
                    drawn = buffer.pop()
                    size -= len(drawn.data)
                    yield drawn
        for place in random.permutation(len(buffer)):
            yield buffer[place]

    def _in_turns(self, order: np.ndarray) -> Generator[_Picture, None, None]:
        """One picture from each of `TURNS` shards, again and again; a shard at its end makes room for the next."""
        waiting = deque(self.streamed.shards[number] for number in order)
        pool = ThreadPoolExecutor(TURNS)
        opened: list[Generator[_Picture, None, None]] = []
        try:
            reading: deque[_Ahead] = deque()
            while waiting or reading:
                while waiting and len(reading) < TURNS:
                    pictures = self._training_pictures(waiting.popleft())
                    opened.append(pictures)
                    reading.append(_Ahead(pictures, pool))
                turn = reading.popleft()
                picture = turn.take()
                if picture is not None:
                    yield picture
                    reading.append(turn)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for pictures in opened:
                pictures.close()

    def _training_pictures(self, shard: Shard) -> Generator[_Picture, None, None]:
        border, numbers = self.streamed.border, self.streamed.numbers
        for sample in samples(shard, self._problem):
            if _digest(sample.data) < border:
                continue
            if not numbers:
                yield _Picture(sample.name, sample.data, 0)
            elif sample.label is None:
                self._problem(sample.name, "no class stands beside it")
            elif sample.label in numbers:
                yield _Picture(sample.name, sample.data, numbers[sample.label])
            else:
                raise Refused(
                    f"{sample.name} is of the class {sample.label!r}, which the first shards did not show.\n"
                    "Say how many classes there are with --data.labels, or none for no classes, and start a new run."
                )

    # Batches

    def _decoded(self, picture: _Picture) -> np.ndarray | Unreadable:
        try:
            return _in_channels(decode(picture.data, self.streamed.frame).image, self.streamed.channels)
        except Unreadable as error:
            self._problem(picture.name, str(error))
            return error

    def _batch(self, step: int, group: list[_Picture], decoded: list[Future]) -> "Batch":
        import torch

        from tasvir.core import Batch
        from tasvir.data.batches import to_float

        first = self.rank * self.batch_size
        known: dict[int, Any] = {first + place: found.result() for place, found in enumerate(decoded)}
        images, labels = [], []
        for place in range(first, first + self.batch_size):
            for other in range(place, place + len(group)):
                other %= len(group)
                if other not in known:
                    known[other] = self._decoded(group[other])
                if not isinstance(known[other], Unreadable):
                    break
            else:
                raise Refused(
                    f"None of the {len(group)} pictures of step {step} can be decoded: {group[0].name} "
                    f"({known[place]}) and those after it."
                )
            images.append(known[other])
            labels.append(group[other].label)
        image = to_float(self._ready(torch.from_numpy(np.stack(images))))
        if self.finish is not None:
            image = self.finish(image, step)
        label = self._ready(torch.tensor(labels)) if self.streamed.numbers else None
        return Batch(image if self.channels_last else image.contiguous(), label)

    def _ready(self, values: "Tensor") -> "Tensor":
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def _problem(self, name: str, reason: str) -> None:
        with self._lock:
            if len(self.skipped) < NAMED:
                self.skipped.setdefault(name, reason)

    def _tell(self) -> None:
        """Say what could not be used: the first few by name, then now and then how many."""
        if self.say is None or len(self.skipped) == self._said:
            return
        with self._lock:
            found = list(self.skipped.items())
        for number, (name, reason) in enumerate(found[self._said :], self._said + 1):
            if number <= 3:
                self.say(f"Could not be used: {name} ({reason}).")
            elif number in (10, 100, NAMED):
                self.say(f"Could not be used: {number} pictures or shards by now; the last is {name} ({reason}).")
        self._said = len(found)
