"""Training from shards as they are read: shuffled, decoded ahead, nothing packed, for sets that fit on no disk.

A round over the shards is a pure function of (seed, round): the shards in a new order, some of them read in turns, and
what they give drawn at random from a buffer. Batch `step` is cut from these rounds by position, so that resuming is
exact.
"""

import json
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tasvir.config import Refused
from tasvir.data.decoding import Unreadable, decode
from tasvir.data.first_look import Streamed, cores, in_channels
from tasvir.data.shards import Shard, samples
from tasvir.data.splitting import digest_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tasvir.core import Batch

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

    `say` is told a sentence where something goes wrong that does not stop the training.
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
        say: Callable[[str], None] | None = None,
    ):
        import torch

        self.streamed, self.batch_size, self.seed, self.device = streamed, batch_size, seed, torch.device(device)
        self.channels_last, self.rank, self.processes = channels_last, rank, processes
        self.say = say
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
        reader, decoders = ThreadPoolExecutor(1), ThreadPoolExecutor(cores())

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
            if digest_of((sample.data,)) < border:
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
            return in_channels(decode(picture.data, self.streamed.frame).image, self.streamed.channels)
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
