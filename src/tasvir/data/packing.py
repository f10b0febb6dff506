"""A set of pictures decoded once, on all cores, into arrays on disk that later runs only map into memory."""

import hashlib
import json
import re
import shutil
import sys
import tempfile
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from tasvir.config import DataConfig, Pictures, Refused
from tasvir.data.decoding import Decoded, Frame, Met, Unreadable, described, is_grey, parse_color, with_channels
from tasvir.data.items import Items, Source, cache_folder, first_names
from tasvir.data.splitting import SPLITS, Plan, plan
from tasvir.data.store import Rows, hash_of, made_grey
from tasvir.data.tiling import LeftOut, tiled
from tasvir.data.workers import Workers, workers

if TYPE_CHECKING:
    from tasvir.data.first_look import Streamed

FORMAT = 2
"""Version of what a pack holds and of how pictures are decoded: raising it packs every set anew."""
MINIMUM = 16
"""Fewest readable pictures that are a set."""
CHUNK_BYTES = 8 << 20
ROW = np.dtype([("stamp", "<u8"), ("digest", "V16"), ("side", "<u4"), ("split", "u1"), ("row", "<i8"), ("met", "u1")])
"""What the index of a pack remembers of each picture, so that it need not be read again."""


class TooFew(Refused):
    """There are fewer readable pictures than `MINIMUM`."""

    def __init__(self, message: str, classes: bool):
        super().__init__(message)
        self.classes = classes
        """Whether they have classes."""


@dataclass(frozen=True)
class Split:
    """Pictures mapped from disk, with what stands beside them."""

    images: np.ndarray
    """[N,H,W,C] uint8."""
    labels: np.ndarray | None
    """[N] int64 classes."""
    hash: str
    """sha256 of the pixels and the labels."""
    sources: np.ndarray | None = None
    """[N,H,W,C'] uint8: what each picture is made from; for unmatched sets another number of them, in any order."""
    prepared: np.ndarray | None = None
    """[N,...]: what a run's foundation makes of each picture."""
    grey: np.ndarray | None = None
    """[N,H,W,1] uint8: what training draws black and white pictures from anew, where `images` are one such draw."""

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
    settings: DataConfig = DataConfig()
    """What is made of the pictures in batches: augmentation, derived sources."""
    stream: "Streamed | None" = None
    """Where training pictures are read from as training goes; `train` is empty then."""

    def changed_since(self, description: dict[str, Any]) -> bool:
        """Whether the pictures of either split are not those that an earlier description tells of."""
        return {"train": self.train.hash, "test": self.test.hash} != description.get("hash")


@dataclass(frozen=True)
class _Order:
    """What is to be packed, and how."""

    source: Source
    frame: Frame
    color: str
    limit: int | None
    fraction: float
    choice_seed: int
    derive: str
    """A derivation that is made when packing, or nothing."""
    overlap: float
    """Of tiles."""

    @property
    def address(self) -> list[Any]:
        """What tells this pack from all others, whatever becomes of the pictures."""
        settings = [self.color, self.limit, self.fraction, self.choice_seed, self.derive]
        frame: list[Any] = [self.frame.size, self.frame.fit, list(self.frame.background)]
        frame += [self.overlap] if self.tiled else []
        return [FORMAT, self.source.name, self.source.address, *frame, *settings]

    @property
    def tiled(self) -> bool:
        return self.frame.fit == "tiles"

    @property
    def paired(self) -> bool:
        return self.source.paired or bool(self.derive)


def pack(source: Source, config: DataConfig, size: int) -> Dataset:
    """The set at `size`, from its pack; the pack is made first if there is none that fits.

    Training and test split are the source's own, or else come from each file's content: a picture stays where it is
    when others are added, and copies stay together. `config.limit` bounds either split. Raises `Refused`.
    """
    frame = Frame(size, config.fit, parse_color(config.background))
    derive = config.derive if _made_when_packing(config.derive) else ""
    order = _Order(
        source, frame, config.color, config.limit, config.fraction, config.choice_seed, derive, config.overlap
    )
    dataset = _packed(order)
    if source.beside is None:
        return dataset
    return _side_by_side(dataset, _packed(replace(order, source=replace(source.beside, name=f"{source.name}-source"))))


def _side_by_side(learned: Dataset, origin: Dataset) -> Dataset:
    """Two unmatched sets as one: the pictures of `origin` are the sources."""

    def both(one: Split, other: Split) -> Split:
        digest = hashlib.sha256(f"{one.hash} {other.hash}".encode()).hexdigest()
        return replace(one, sources=other.images, hash=digest)

    train, test = both(learned.train, origin.train), both(learned.test, origin.test)
    counts = {f"{split} sources": len(getattr(origin, split)) for split in SPLITS}
    description = {
        **learned.description,
        "counts": {**learned.description["counts"], **counts},
        "hash": {"train": train.hash, "test": test.hash},
        "skipped": [*learned.description["skipped"], *origin.description["skipped"]],
        "notes": [*learned.notes, *(f"Sources: {note}" for note in origin.notes)],
    }
    return replace(
        learned,
        pictures=replace(learned.pictures, source=origin.pictures, matched=False),
        notes=tuple(description["notes"]),
        skipped=(*learned.skipped, *origin.skipped),
        description=description,
        train=train,
        test=test,
    )


def _packed(order: _Order) -> Dataset:
    """From its pack, which is made if it is not there and takes the place of one of older pictures."""
    folder = cache_folder() / "packs"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", order.source.name)[:40]
    stem = f"{plain}-{order.frame.size}-{_short(order.address)}"
    final = folder / f"{stem}-{_short(order.source.fingerprint)}"
    dataset = _opened(final, order.source)
    if dataset is not None:
        return dataset
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{stem}.lock"):  # a second process waits, then finds the pack
            dataset = _opened(final, order.source)
            if dataset is None:
                older = [path for path in folder.glob(f"{stem}-*") if path != final]
                _make(final, order, older)
                dataset = _opened(final, order.source)
                for path in older:  # whoever still has one mapped keeps it until the end
                    shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        raise Refused(
            f"The pictures cannot be packed in {folder} ({error.strerror or error}).\n"
            "Make room or name another folder with TASVIR_CACHE."
        ) from None
    assert dataset is not None
    return dataset


def _short(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def _opened(folder: Path, source: Source) -> Dataset | None:
    """The pack in `folder`, or None when there is none or it is damaged."""
    try:
        description = json.loads((folder / "description.json").read_text())
        splits = {}
        for split in SPLITS:
            images = np.load(folder / f"{split}.images.npy", mmap_mode="r")
            sources = (
                np.load(folder / f"{split}.sources.npy", mmap_mode="r") if description["source_channels"] else None
            )
            labels = np.load(folder / f"{split}.labels.npy") if description["classes"] else None
            known = [part for part in (images, sources, labels) if part is not None]
            if any(len(part) != description["counts"][split] for part in known):
                return None
            splits[split] = Split(images, labels, description["hash"][split], sources)
    except (OSError, ValueError, KeyError):
        return None
    skipped = [*({"file": file, "reason": reason} for file, reason in source.skipped), *description["skipped"]]
    told = [(entry["file"], entry["reason"]) for entry in skipped]
    lost = [f"Could not be used: {_some(told)}; {len(told)} in all."] if told else []
    description |= {"skipped": skipped, "notes": [*source.notes, *description["notes"], *lost]}
    size, channels = description["size"], description["source_channels"]
    return Dataset(
        name=description["name"],
        pictures=Pictures(
            description["channels"],
            size,
            tuple(description["classes"]),
            source=Pictures(channels, size) if channels else None,
        ),
        notes=tuple(description["notes"]),
        skipped=tuple(told),
        description=description,
        train=splits["train"],
        test=splits["test"],
    )


def _make(final: Path, order: _Order, older: list[Path]) -> None:
    """Write the pack beside its place and rename it: there is never half a pack."""
    for leftover in final.parent.glob(f".{final.name.rsplit('-', 1)[0]}-*.tmp"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)  # we hold the lock
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata
            _write(folder, order, _Older(older))
        if final.exists():  # damaged, or it would have been opened
            shutil.rmtree(final)
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Older:
    """Packs of the same set as it was before: what has not changed is taken from them."""

    def __init__(self, folders: list[Path]):
        self.images: list[np.ndarray] = []
        self.sources: list[np.ndarray | None] = []
        found = [self._read(folder) for folder in folders]
        rows = np.concatenate(found) if found else np.empty(0, ROW)
        self.rows = rows[np.argsort(rows["stamp"], kind="stable")]

    def _read(self, folder: Path) -> np.ndarray:
        try:
            rows = np.load(folder / "index.npy")
            images = [np.load(folder / f"{split}.images.npy", mmap_mode="r") for split in SPLITS]
            paths = [folder / f"{split}.sources.npy" for split in SPLITS]
            sources = [np.load(path, mmap_mode="r") if path.exists() else None for path in paths]
        except (OSError, ValueError):
            return np.empty(0, ROW)
        if rows.dtype != ROW or any(
            (rows["row"][rows["split"] == k] >= len(part)).any() for k, part in enumerate(images)
        ):
            return np.empty(0, ROW)
        rows["split"] += len(self.images)
        self.images += images
        self.sources += sources
        return rows

    def find(self, stamp: int) -> np.void | None:
        place = int(np.searchsorted(self.rows["stamp"], np.uint64(stamp)))
        if place < len(self.rows) and self.rows["stamp"][place] == np.uint64(stamp):
            return self.rows[place]
        return None

    def decoded(self, row: np.void) -> Decoded:
        sources = self.sources[row["split"]]
        source = None if sources is None else sources[row["row"]]
        return Decoded(self.images[row["split"]][row["row"]], int(row["side"]), met=Met(int(row["met"])), source=source)

    def spare(self, items: Items) -> Items:
        """The items, those that were packed before no longer decoded."""
        stamps = items.stamps
        if stamps is None or not len(self.rows):
            return items

        def picture(number: int, frame: Frame) -> Decoded:
            row = self.find(stamps[number])
            return items.picture(number, frame) if row is None else self.decoded(row)

        return replace(items, picture=picture)

    def digest(self, items: Items, number: int) -> bytes | None:
        row = None if items.stamps is None else self.find(items.stamps[number])
        digest = b"" if row is None else bytes(row["digest"])
        return digest if any(digest) else None


def _write(folder: Path, order: _Order, older: _Older) -> None:
    source, size = order.source, order.frame.size
    items = source.read()
    lost: LeftOut = []
    if order.tiled:
        items, lost = tiled(items, source.name, size, order.overlap)
    items = older.spare(_with_derived(items, order.derive))
    channels = 1 if order.color == "grey" or (order.color == "auto" and items.channels == 1) else 3
    source_channels = 0 if not order.paired else 1 if order.color == "grey" or order.derive else 3
    total = len(items)
    most = total if order.limit is None else min(total, 2 * order.limit)
    _make_sure_of_room(folder, most, size, channels + source_channels)
    counts: dict[str, int] = {}
    index: list[np.ndarray] = []
    with workers(items) as crew:
        known = partial(older.digest, items)
        planned = plan(items, order.limit, order.fraction, order.choice_seed, crew, known)
        seen = _Seen(dict(planned.bad))
        for split in reversed(SPLITS):
            writer = _Writer(folder, split, size, channels, source_channels)
            while True:
                _decode_into(writer, planned.numbers[split], order, items, crew, seen, split)
                if len(writer) or split == "train" or not planned.lend():
                    break
            if order.tiled:
                writer.reorder(planned.numbers[split])
            writer.finish()
            if items.labels is not None:
                np.save(folder / f"{split}.labels.npy", np.array([items.labels[n] for n in writer.numbers], np.int64))
            counts[split] = len(writer)
            if items.stamps is not None:
                index.append(_index(items, planned, writer, SPLITS.index(split)))
    if index:
        np.save(folder / "index.npy", np.concatenate(index))
    bad = [*lost, *_named(items, seen.bad)]
    skipped = [*source.skipped, *bad]
    _refuse_too_few(order, total - len(seen.bad), counts, skipped, planned, items.labels is not None)
    if order.color == "auto" and channels == 3 and seen.grey:
        channels = made_grey(folder, "images")
    if order.color == "auto" and source_channels == 3 and seen.grey_sources:
        source_channels = made_grey(folder, "sources")
    description = {
        "format": FORMAT,
        "name": source.name,
        "source": [source.address, source.fingerprint],
        "layout": source.layout,
        "size": size,
        "channels": channels,
        "source_channels": source_channels,
        "classes": list(items.classes),
        "counts": counts,
        "limit": order.limit,
        "fraction": order.fraction,
        "color": order.color,
        "resize": described(order.frame),
        "hash": {split: hash_of(folder, split) for split in counts},
        "skipped": [{"file": file, "reason": reason} for file, reason in bad],
        "notes": [*items.notes, *_notes(total, counts, order, planned, seen), *_met_notes(items, size, seen.met)],
    }
    with (folder / "description.json").open("w") as file:
        json.dump(description, file, indent=1)


def _named(items: Items, bad: dict[int, str]) -> list[tuple[str, str]]:
    """(file, reason) of what cannot be used; of a file's tiles only the first."""
    files = range(len(items)) if items.files is None else items.files
    first = {int(files[number]): number for number in sorted(bad, reverse=True)}
    return [(items.names[number], bad[number]) for _, number in sorted(first.items())]


def _made_when_packing(derive: str) -> bool:
    """Whether a source is made once and stored; the others are made in batches, on the device."""
    if derive == "none":
        return False
    from tasvir.data.derive import DERIVATIONS

    return DERIVATIONS[derive].packed


def _with_derived(items: Items, derive: str) -> Items:
    """The items with a source picture made from each of them when it is decoded."""
    if not derive:
        return items
    from tasvir.data.derive import edges

    def picture(number: int, frame: Frame) -> Decoded:
        made = items.picture(number, frame)
        return replace(made, source=edges(made.image))

    return replace(items, picture=picture)


def _make_sure_of_room(folder: Path, most: int, size: int, channels: int) -> None:
    """Say how large the pack will be. Raises `Refused` where the disk would not hold it."""
    needed = most * size * size * channels
    free = shutil.disk_usage(folder).free
    if needed * 1.05 > free:
        raise Refused(
            f"The packed pictures take {_large(needed)}, but {folder.parent} has {_large(free)} free.\n"
            "Choose a smaller --data.size or --data.limit, or another folder with TASVIR_CACHE"
            + ("; if all are grey, say --data.color grey." if channels >= 3 else ".")
        )
    print(f"Packing {most} pictures at {size}×{size}: {_large(needed)} in {folder.parent}.", file=sys.stderr)


def _large(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _refuse_too_few(
    order: _Order,
    readable: int,
    counts: dict[str, int],
    skipped: list[tuple[str, str]],
    planned: Plan,
    classes: bool,
) -> None:
    name = order.source.name
    if readable < MINIMUM:
        unread = f"Left out: {_some(skipped)}." if skipped else "Add more."
        raise TooFew(f"{name} has {readable} readable pictures; at least {MINIMUM} are needed.\n{unread}", classes)
    for split, count in counts.items():
        if count == 0:
            if order.fraction < 1:
                why = f"--data.fraction {order.fraction:g} leaves none: give a larger one."
            elif planned.leaked and split == "train":
                why = "All its training pictures are copies of test pictures."
            elif order.tiled:
                why = "All its tiles are of one picture: give at least two, one for training and one for testing."
            elif skipped:
                why = f"Could not be used: {_some(skipped)}."
            else:
                why = "All pictures are copies of one."
            raise Refused(f"{name} has no picture left for its {split} split.\n{why}")


def _some(skipped: list[tuple[str, str]], most: int = 3) -> str:
    """The first files with the reason; those that have the same one together."""
    files: dict[str, list[str]] = {}
    for file, reason in skipped:
        files.setdefault(reason, []).append(file)
    told = [f"{first_names(names, most)} ({reason})" for reason, names in list(files.items())[:most]]
    more = sum(map(len, list(files.values())[most:]))
    return ", ".join(told) + (f" and {more} more" if more else "")


def _notes(total: int, counts: dict[str, int], order: _Order, planned: Plan, seen: "_Seen") -> list[str]:
    size = order.frame.size
    word = "tiles" if order.tiled else "pictures"
    notes = [f"{counts['train']} {word} are for training and {counts['test']} for testing."]
    asked = [f"the limit {order.limit}"] if order.limit is not None else []
    asked += [f"the fraction {order.fraction:g}"] if order.fraction < 1 else []
    if asked and sum(counts.values()) + len(seen.bad) < total:
        notes[0] = f"{notes[0][:-1]}, of {total}, because of {' and '.join(asked)}."
    if planned.copies and not planned.settled:
        copies = "1 picture is an exact copy of another" if planned.copies == 1 else ""
        copies = copies or f"{planned.copies} pictures are exact copies of others"
        notes.append(f"{copies}; copies are never split between train and test.")
    if planned.leaked:
        leaked = "1 training picture is an exact copy of a test picture and was" if planned.leaked == 1 else ""
        leaked = leaked or f"{planned.leaked} training pictures are exact copies of test pictures and were"
        notes.append(f"{leaked} left out.")
    if seen.small:
        are = "1 picture is" if seen.small == 1 else f"{seen.small} pictures are"
        were = "was" if seen.small == 1 else "were"
        notes.append(f"{are} smaller than {size}x{size} and {were} enlarged.")
    return notes


MET = {
    Met.ANIMATED: ("picture is animated", "pictures are animated", "only the first picture of each is used"),
    Met.ODD_WIDTH: ("pair is", "pairs are", "of an odd width: the middle column belongs to neither half"),
    Met.OTHER_SIZE: ("pair is", "pairs are", "of two sizes: both are brought to {size}×{size}"),
}
"""One, many, and what is said of them."""


def _met_notes(items: Items, size: int, met: dict[Met, list[int]]) -> list[str]:
    notes = []
    for kind, (one, many, told) in MET.items():
        names = [items.names[number] for number in sorted(met[kind])]
        if items.files is not None:
            names = list(dict.fromkeys(name.rpartition("@")[0] for name in names))
        if names:
            joint = ": " if kind == Met.ANIMATED else " "
            count = f"{len(names):,} {one if len(names) == 1 else many}"
            notes.append(f"{count}{joint}{told.format(size=size)} ({first_names(names)}).")
    return notes


# Decoding on all cores


@dataclass
class _Seen:
    """What was met while decoding."""

    bad: dict[int, str]
    """Number to reason."""
    small: int = 0
    met: dict[Met, list[int]] = field(default_factory=lambda: {kind: [] for kind in Met})
    """Numbers of the pictures of which it is true."""
    grey: bool = True
    grey_sources: bool = True


def _decode_into(
    writer: "_Writer",
    numbers: list[int],
    order: _Order,
    items: Items,
    crew: Workers,
    seen: _Seen,
    split: str,
) -> None:
    """Append the readable ones among `numbers`, up to the limit; every worker writes what it decoded."""
    size, limit = order.frame.size, order.limit
    length = max(1, min(256, CHUNK_BYTES // (size * size * 3), len(numbers) // (4 * crew.count)))
    decode = partial(_decode_chunk, frame=order.frame, images=writer.images, sources=writer.sources)
    left = numbers
    while left and (limit is None or len(writer) < limit):
        taken = left if limit is None else left[: limit - len(writer)]
        left = left[len(taken) :]
        if items.files is not None:  # a file's tiles one after the other, so that it is decoded once
            taken = sorted(taken)
        first = len(writer)
        chunks = [_Chunk(first + place, taken[place : place + length]) for place in range(0, len(taken), length)]
        for done in crew.map(decode, chunks, len(taken), f"packing {split} pictures"):
            seen.bad.update(done.bad)
            writer.keep(done)
            seen.small += sum(side < size for side in done.sides)
            for kind, numbers_met in seen.met.items():
                numbers_met += [number for number, met in zip(done.numbers, done.met, strict=True) if met & kind]
            seen.grey = seen.grey and done.grey
            seen.grey_sources = seen.grey_sources and done.grey_sources


@dataclass(frozen=True)
class _Chunk:
    """Some pictures, and the row at which the first of them belongs."""

    row: int
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class _Done:
    """What became of a chunk: the readable ones are in their rows, one after the other."""

    row: int
    numbers: list[int]
    sides: list[int]
    met: list[int]
    bad: dict[int, str]
    grey: bool
    grey_sources: bool


def _decode_chunk(items: Items, chunk: _Chunk, frame: Frame, images: Rows, sources: Rows | None) -> _Done:
    kept: list[int] = []
    sides: list[int] = []
    met: list[int] = []
    bad: dict[int, str] = {}
    grey = grey_sources = True
    with images.at(chunk.row) as write, sources.at(chunk.row) if sources else nullcontext() as write_source:
        for number in chunk.numbers:
            try:
                made = items.picture(number, frame)
            except Unreadable as error:
                bad[number] = str(error)
                continue
            grey = grey and is_grey(made.image)
            write(with_channels(made.image, images.shape[-1]))
            if write_source is not None and sources is not None and made.source is not None:
                grey_sources = grey_sources and is_grey(made.source)
                write_source(with_channels(made.source, sources.shape[-1]))
            kept.append(number)
            sides.append(made.side)
            met.append(int(made.met))
    return _Done(chunk.row, kept, sides, met, bad, grey, grey_sources)


def _index(items: Items, planned: Plan, writer: "_Writer", split: int) -> np.ndarray:
    """The rows of a split for the pack's index."""
    assert items.stamps is not None
    index = np.zeros(len(writer), ROW)
    index["stamp"] = [items.stamps[number] for number in writer.numbers]
    index["digest"] = [planned.digests.get(number, b"") for number in writer.numbers]
    index["side"], index["split"], index["row"] = writer.sides, split, np.arange(len(writer))
    index["met"] = writer.met
    return index


# Arrays on disk


class _Writer:
    """The growing arrays of a split."""

    def __init__(self, folder: Path, split: str, size: int, channels: int, source_channels: int):
        self.numbers: list[int] = []
        self.sides: list[int] = []
        self.met: list[int] = []
        self.images = Rows(folder / f"{split}.images.npy", (size, size, channels))
        self.sources = Rows(folder / f"{split}.sources.npy", (size, size, source_channels)) if source_channels else None

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self, done: _Done) -> None:
        """Take up the rows of a chunk; unreadable pictures before it have left a gap."""
        for rows in (self.images, self.sources):
            if rows is not None and done.row != len(self):
                rows.write(len(self), rows.read(done.row, len(done.numbers)))
        self.numbers += done.numbers
        self.sides += done.sides
        self.met += done.met

    def reorder(self, numbers: list[int]) -> None:
        """Bring the rows into the order that `numbers` have."""
        place = {number: row for row, number in enumerate(self.numbers)}
        order = [place[number] for number in numbers if number in place]
        for rows in (self.images, self.sources):
            if rows is not None:
                rows.reorder(order)
        self.numbers = [self.numbers[row] for row in order]
        self.sides = [self.sides[row] for row in order]
        self.met = [self.met[row] for row in order]

    def finish(self) -> None:
        for rows in (self.images, self.sources):
            if rows is not None:
                rows.finish(len(self))
