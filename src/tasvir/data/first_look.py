"""The first look at a set in shards: its test pictures, classes and colours, kept in the cache for later runs.

Pictures whose content hash is among the lowest tenth are for testing, as in packs, and never trained on. The first of
them are taken out and kept; nothing else is.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tasvir.config import Refused
from tasvir.data.decoding import Frame, Unreadable, decode, described, with_channels
from tasvir.data.items import cache_folder
from tasvir.data.shards import Sample, Shard, classes_of, located, samples
from tasvir.data.splitting import digest_of, test_border
from tasvir.data.workers import progress

FORMAT = 1
"""Raising it looks at the first shards of every set anew."""
HELD_OUT = 1000
"""Test pictures, unless there are fewer."""


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
        digest = digest_of((sample.data,))
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
    look = _Look(frame, test_border())
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
    stacked = np.stack([in_channels(image, channels) for image in images])
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
        "stream": {"shards": len(shards), "bytes": size},
        "skipped": [{"file": file, "reason": reason} for file, reason in look.skipped.items()],
        "notes": notes,
    }
    _write(folder, stacked, numbered, description)


def _look_at(look: _Look, shards: tuple[Shard, ...], wanted: int) -> int:
    """Read shards until there are `wanted` test pictures; returns how many shards were begun."""
    with ThreadPoolExecutor(cores()) as pool, progress(wanted, "looking at the first shards") as advance:
        for number, shard in enumerate(shards):
            with closing(samples(shard, look.problem)) as found:
                for sample in found:
                    look.add(sample)
                    if len(look.waiting) >= 4 * cores():
                        advance(len(look.waiting))
                        look.decode(pool)
                    if len(look.images) + len(look.waiting) >= wanted:
                        look.decode(pool)
                        if len(look.images) >= wanted:
                            return number + 1
        look.decode(pool)
    return len(shards)


def cores() -> int:
    """Threads that decode."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, count)


def in_channels(image: np.ndarray, channels: int) -> np.ndarray:
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
