"""Pictures made by any software, read to be measured: a folder, an archive or arrays, with labels if they have them."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tasvir.config import DataConfig, Refused
from tasvir.data import DATASETS, Dataset, load
from tasvir.data.decoding import Frame, Unreadable, whole, with_channels
from tasvir.data.items import Items, absolute
from tasvir.data.sources import find
from tasvir.data.workers import chunked, workers
from tasvir.metrics.subject import chosen, spooled

CHUNK = 64


@dataclass(frozen=True)
class Made:
    """Pictures that are measured, and the set they are held against."""

    images: np.ndarray
    """uint8 [N,H,W,C], at the reference's size and with its channels."""
    labels: np.ndarray | None
    """[N] int64, numbered as the reference's classes; None where they have no labels or other ones."""
    hash: str
    """sha256 of the pixels."""
    reference: Dataset
    settled: bool
    """Whether the reference came with a split of its own."""
    notes: list[str]
    """Plain sentences: what was left out, resized or not understood."""


def against(generated: str, reference: DataConfig, number: int) -> Made:
    """Generated pictures, at most `number`, and the reference set at one size.

    The size is `reference.size`; left out, that of the reference where it has one of its own (28 for mnist), else that
    of the first generated picture. Raises `Refused` if there are no pictures in either.
    """
    items = _items(generated, "--generated")
    side, first = _first(items, generated)
    dataset = load(reference, lambda own: own or side)
    settled = reference.source[0] in DATASETS or any(find(reference).read().splits or ())
    size, channels = dataset.pictures.size, dataset.pictures.channels
    notes = []
    if side != size:
        notes.append(f"The generated pictures are {side} px and the reference {size} px: they were resized (Lanczos).")
    places = first + chosen(len(items) - first, number)
    read = partial(_decoded, frame=Frame(size, reference.fit), channels=channels)
    digest, bad = hashlib.sha256(), {}

    def parts() -> Iterator[np.ndarray]:
        with workers(items) as crew:
            chunks = chunked(places.tolist(), CHUNK)
            for images, faults in crew.map(read, chunks, len(places), "reading generated pictures"):
                bad.update(faults)
                digest.update(images.tobytes())
                yield images

    images = spooled(parts(), len(places))
    kept = [place for place in places.tolist() if place not in bad]
    if bad:
        some = "; ".join(f"{items.names[place]} ({why})" for place, why in list(bad.items())[:3])
        notes.append(f"Could not be used: {some}; {len(bad)} in all.")
    labels, said = _labels(generated, items, kept, dataset.pictures.classes)
    notes += said
    return Made(images[: len(kept)], labels, digest.hexdigest(), dataset, settled, notes)


def _items(path: str, flag: str) -> Items:
    config = DataConfig(source=(path,))
    source = find(config)
    if source.paired or source.beside is not None:
        source = find(DataConfig(source=(path,), layout="flat"))
    items = source.read()
    if not len(items):
        raise Refused(f"{flag} {path} has no pictures.")
    return items


def _first(items: Items, path: str) -> tuple[int, int]:
    """The shorter side of the first readable picture, and its number."""
    why = ""
    for number in range(min(len(items), 100)):
        try:
            return items.picture(number, Frame(8)).side, number
        except Unreadable as error:
            why = why or f"{items.names[number]}: {error}"
    raise Refused(f"No picture in {path} can be read ({why}).")


def _decoded(items: Items, numbers: list[int], frame: Frame, channels: int) -> tuple[np.ndarray, dict[int, str]]:
    """The readable ones among some pictures, and why the others are not."""
    images, bad = [], {}
    for number in numbers:
        try:
            images.append(with_channels(items.picture(number, frame).image, channels))
        except Unreadable as error:
            bad[number] = str(error)
    empty = np.empty((0, frame.size, frame.size, channels), np.uint8)
    return (np.stack(images) if images else empty), bad


def _labels(path: str, items: Items, kept: list[int], classes: tuple[str, ...]) -> tuple[np.ndarray | None, list[str]]:
    """What the generated pictures were meant to be, as numbers of the reference's classes; and what to say of it.

    From class folders, `labels` in an .npz, or the `label` column of an index.csv, as `tasvir sample` writes.
    """
    words = _index(path, items) or (None if items.labels is None else [items.classes[label] for label in items.labels])
    if words is None or not classes:
        return None, []
    known = {name: number for number, name in enumerate(classes)}
    if not all(words[place] in known for place in kept):
        known = {str(number): number for number in range(len(classes))}
    strange = sorted({words[place] for place in kept} - set(known))
    if strange:
        some = ", ".join(strange[:3])
        return None, [f"Their labels ({some} …) are not the reference's ({', '.join(classes[:3])} …) and are left out."]
    return np.array([known[words[place]] for place in kept], np.int64), []


def _index(path: str, items: Items) -> list[str] | None:
    """The label of each picture in the index.csv of a folder; None if there is none or it leaves one out."""
    file = absolute(path) / "index.csv"
    if not file.is_file():
        return None
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            told = {row.get("file"): row.get("label") or "" for row in csv.DictReader(lines)}
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    found = [told.get(name, "") for name in items.names]
    return found if all(found) else None


def pairs(
    generated: str, reference: str, number: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], str, str, list[str]]:
    """Generated pictures and the real ones of the same names, at their own sizes: (made, real) uint8 [N,H,W,C] for
    each size, the sha256 of the made and of the real pixels, and what to say of them.

    Names are compared without their endings. Raises `Refused` if none agree or two of a pair differ in size.
    """
    made, real = _items(generated, "--generated"), _items(reference, "--reference")
    places = {Path(name).with_suffix("").as_posix(): place for place, name in enumerate(real.names)}
    matches = [(place, places.get(Path(name).with_suffix("").as_posix())) for place, name in enumerate(made.names)]
    together = [(one, other) for one, other in matches if other is not None]
    if not together and not made.encoded and not real.encoded and len(made) == len(real):
        together = [(place, place) for place in range(len(made))]
    if not together:
        raise Refused(
            f"No picture in {generated} has the name of one in {reference}: {made.names[0]}, {real.names[0]}.\n"
            "With --pairs each generated picture is held against the real one of the same name."
        )
    groups: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    digest, real_digest = hashlib.sha256(), hashlib.sha256()
    for one, other in together[:number]:
        here, there = _whole(made, one), _whole(real, other)
        if here.shape[:2] != there.shape[:2]:
            sizes = [f"{image.shape[1]}×{image.shape[0]}" for image in (here, there)]
            raise Refused(
                f"{made.names[one]} is {sizes[0]} px and its real picture {sizes[1]} px; both must have one size."
            )
        channels = max(here.shape[2], there.shape[2])
        here, there = with_channels(here, channels), with_channels(there, channels)
        digest.update(here.tobytes())
        real_digest.update(there.tobytes())
        groups.setdefault(here.shape, []).append((here, there))
    left = len(made) - len(together)
    notes = [f"{left} generated pictures have no real one of their name and are left out."] if left else []
    found = [(np.stack([a for a, _ in group]), np.stack([b for _, b in group])) for group in groups.values()]
    return found, digest.hexdigest(), real_digest.hexdigest(), notes


def _whole(items: Items, number: int) -> np.ndarray:
    """A picture at its own size. Raises `Refused`."""
    try:
        if items.encoded:
            return whole(items.contents(number)[0])
        return items.picture(number, Frame(items.picture(number, Frame(8)).side)).image
    except Unreadable as error:
        raise Refused(f"{items.names[number]} cannot be read: {error}.") from None
