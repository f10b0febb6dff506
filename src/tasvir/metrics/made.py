"""Pictures made by any software, read to be measured: a folder, an archive or arrays, with labels if they have them."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasvir.config import DataConfig, Refused
from tasvir.data import DATASETS, Dataset, load
from tasvir.data.decoding import (
    COLORS,
    FitName,
    Frame,
    Unreadable,
    described,
    is_grey,
    opened,
    squaring,
    whole,
    with_channels,
)
from tasvir.data.items import Items, absolute
from tasvir.data.sources import find
from tasvir.data.workers import chunked, workers
from tasvir.metrics.subject import chosen, spooled

CHUNK = 64
SQUARED: dict[FitName, str] = {
    "crop": "the centre was taken",
    "pad": "the whole was padded to a square",
    "squash": "the whole was squashed to a square",
}
"""What became of pictures that are not square."""


class Form(NamedTuple):
    """What a generated picture was before it was made like the reference."""

    side: int
    """The shorter side in pixels."""
    square: bool
    channels: int
    """1 or 3; where the reference is grey, 1 also for three that are all the same."""


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
    facts: dict[str, Any]
    """For the passport: what they were before they were made like the reference; empty where they were like it."""
    notes: list[str]
    """Plain sentences: what was left out, changed or not understood."""


@dataclass(frozen=True)
class Paired:
    """Generated pictures, each with a real one of its own size."""

    groups: list[tuple[np.ndarray, np.ndarray]]
    """(made, real) uint8 [N,H,W,C] for each size."""
    hash: str
    """sha256 of the made pixels."""
    real_hash: str
    """sha256 of the real pixels."""
    facts: dict[str, Any]
    """For the passport: their sizes, channels and number."""
    notes: list[str]
    """Plain sentences: what was left out or changed."""


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
    frame = Frame(size, squaring(reference.fit))
    places = first + chosen(len(items) - first, number)
    read = partial(_decoded, frame=frame, channels=channels)
    digest, bad, forms = hashlib.sha256(), {}, Counter[Form]()

    def parts() -> Iterator[np.ndarray]:
        with workers(items) as crew:
            chunks = chunked(places.tolist(), CHUNK)
            for images, faults, found in crew.map(read, chunks, len(places), "reading generated pictures"):
                bad.update(faults)
                forms.update(found)
                digest.update(images.tobytes())
                yield images

    images = spooled(parts(), len(places))
    kept = [place for place in places.tolist() if place not in bad]
    facts, notes = _changes(forms, frame, channels)
    if bad:
        some = "; ".join(f"{items.names[place]} ({why})" for place, why in list(bad.items())[:3])
        notes.append(f"Could not be used: {some}; {len(bad)} in all.")
    labels, said = _labels(generated, items, kept, dataset.pictures.classes)
    notes += said
    return Made(images[: len(kept)], labels, digest.hexdigest(), dataset, settled, facts, notes)


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


def _decoded(
    items: Items, numbers: list[int], frame: Frame, channels: int
) -> tuple[np.ndarray, dict[int, str], Counter[Form]]:
    """The readable ones among some pictures, why the others are not, and how many were of which form."""
    images, bad, forms = [], {}, Counter[Form]()
    for number in numbers:
        try:
            made = items.picture(number, frame)
            square = _is_square(items, number, made.side)
        except Unreadable as error:
            bad[number] = str(error)
            continue
        grey = made.image.shape[-1] == 1 or (channels == 1 and is_grey(made.image))
        forms[Form(made.side, square, 1 if grey else 3)] += 1
        images.append(with_channels(made.image, channels))
    empty = np.empty((0, frame.size, frame.size, channels), np.uint8)
    return (np.stack(images) if images else empty), bad, forms


def _is_square(items: Items, number: int, side: int) -> bool:
    """Whether a picture is as wide as high. Raises `Unreadable`."""
    if items.encoded:
        width, height = opened(items.contents(number)[0]).size
        return width == height
    # arrays tell their shorter side only: where padding shows, they are no squares
    black, white = (items.picture(number, Frame(side, "pad", COLORS[color])).image for color in ("black", "white"))
    return np.array_equal(black, white)


def _changes(forms: Counter[Form], frame: Frame, channels: int) -> tuple[dict[str, Any], list[str]]:
    """What was changed to make pictures like the reference: for the passport, and in a sentence of each kind."""
    total = forms.total()

    def those(which: list[Form]) -> tuple[str, str]:
        count = sum(forms[form] for form in which)
        words = f"{'All' if count == total > 1 else f'{count:,} of'} {total:,} generated pictures"
        return f"{words} {'is' if count == 1 else 'are'}", "was" if count == 1 else "were"

    facts: dict[str, Any] = {}
    notes = []
    oblong = [form for form in forms if not form.square]
    resized = [form for form in forms if form.side != frame.size]
    recolored = [form for form in forms if form.channels != channels]
    if oblong:
        notes.append(f"{those(oblong)[0]} not square: {SQUARED[frame.fit]}.")
    if resized:
        sides = sorted({form.side for form in resized})
        size = f"{sides[0]} px" if len(sides) == 1 else f"of other sizes ({sides[0]} to {sides[-1]} px)"
        some, were = those(resized)
        notes.append(f"{some} {size} and {were} brought to {frame.size} px (Lanczos).")
    if recolored:
        colors = ("in colour", "grey: luma is measured") if channels == 1 else ("grey", "in colour: grey became RGB")
        notes.append(f"{those(recolored)[0]} {colors[0]}, the reference is {colors[1]}.")
    if oblong or resized:
        facts["generated_size"] = _one_of(
            {f"{form.side}{'' if form.square else ' at the shorter side'}" for form in forms}
        )
        facts["generated_resize"] = described(frame)
    if recolored:
        facts["generated_channels"] = _one_of({form.channels for form in forms})
    return facts, notes


def _one_of(values: set[Any]) -> Any:
    """What all have in common, or `various`."""
    return next(iter(values)) if len(values) == 1 else "various"


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


def pairs(generated: str, reference: str, number: int) -> Paired:
    """Generated pictures and the real ones of the same names, at most `number` of each, at their own sizes.

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
    channels_made, recolored = set(), Counter[int]()
    for one, other in together[:number]:
        here, there = _whole(made, one), _whole(real, other)
        if here.shape[:2] != there.shape[:2]:
            sizes = [f"{image.shape[1]}×{image.shape[0]}" for image in (here, there)]
            raise Refused(
                f"{made.names[one]} is {sizes[0]} px and its real picture {sizes[1]} px; both must have one size."
            )
        channels = max(here.shape[2], there.shape[2])
        channels_made.add(here.shape[2])
        if here.shape[2] != there.shape[2] and not (is_grey(here) and is_grey(there)):
            recolored[here.shape[2]] += 1
        here, there = with_channels(here, channels), with_channels(there, channels)
        digest.update(here.tobytes())
        real_digest.update(there.tobytes())
        groups.setdefault(here.shape, []).append((here, there))
    found = [(np.stack([a for a, _ in group]), np.stack([b for _, b in group])) for group in groups.values()]
    total = sum(len(group) for group, _ in found)
    facts = {
        "size": _one_of({height if height == width else f"{width}×{height}" for height, width, _ in groups}),
        "channels": _one_of({channels for *_, channels in groups}),
        "reference_pictures": total,
        **({"generated_channels": _one_of(channels_made)} if recolored else {}),
    }
    notes = []
    if left := len(made) - len(together):
        notes.append(f"Generated pictures without a real one of their name: {left:,} of {len(made):,}, left out.")
    if left := len(real) - len({other for _, other in together}):
        notes.append(f"Real pictures without a generated one of their name: {left:,} of {len(real):,}, left out.")
    for channels, words in ((1, "grey, the real ones in colour"), (3, "in colour, the real ones grey")):
        if recolored[channels]:
            notes.append(f"In {recolored[channels]:,} of {total:,} pairs the generated picture is {words}: as RGB.")
    return Paired(found, digest.hexdigest(), real_digest.hexdigest(), facts, notes)


def _whole(items: Items, number: int) -> np.ndarray:
    """A picture at its own size. Raises `Refused`."""
    try:
        if items.encoded:
            return whole(items.contents(number)[0])
        side = items.picture(number, Frame(8)).side
        if _is_square(items, number, side):
            return items.picture(number, Frame(side)).image
    except Unreadable as error:
        raise Refused(f"{items.names[number]} cannot be read: {error}.") from None
    raise Refused(
        f"{items.names[number]} of an array is not square.\n"
        "With --pairs pictures are measured as they are: save such ones as files, PNG for example."
    )
