"""From the names of files to what they are for: training or testing, which class, which picture of a pair."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from tasvir.config import Refused

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"), "test"),
}
PAIR_FOLDERS = (
    ("a", "b"),
    ("source", "target"),
    ("input", "output"),
    ("input", "target"),
    ("lr", "hr"),
    ("low", "high"),
    ("left", "right"),
    ("grey", "color"),
    ("gray", "color"),
    ("edge", "photo"),
    ("map", "photo"),
    ("label", "photo"),
    ("label", "image"),
    ("mask", "image"),
)
"""Names of two folders (an s at the end aside) that mean pairs, if most files have the same names; A first."""
MATCHED, MOSTLY = 0.9, 0.5
"""Part of the files that must have a partner: for trainA and trainB to be pairs, and for folders of the names above."""


@dataclass
class Arrangement:
    """What each picture is for; all lists are of equal length."""

    layout: str
    pictures: list[int]
    """Positions among the names."""
    sources: list[int] | None = None
    """Position of each picture's source, for pairs matched by name."""
    beside: "Arrangement | None" = None
    """The sources, where the two sets are not matched."""
    splits: list[str] | None = None
    labels: list[int] | None = None
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)
    """Positions of files that have no place, with the reason."""
    used: set[str] = field(default_factory=set)
    """Names of other files that said something of the pictures."""


@dataclass
class _Place:
    """Where one file lies."""

    position: int
    split: str
    folders: list[str]
    """Without those that say the split or the domain, and without those that all have in common."""
    file: str
    domain: str = ""
    """`a` or `b` where that is told by a folder."""

    def key(self, without_suffix: bool) -> str:
        """What two files of a pair have in common."""
        stem = os.path.splitext(self.file)[0]
        if without_suffix:
            stem = re.sub(r"[_-](a|b|lr|hr|source|target|input|output|x[234])$", "", stem, flags=re.IGNORECASE)
        return "/".join((self.split, *self.folders, stem))


def arrange(names: Sequence[str], layout: str, direction: str, seam: Callable[[list[int]], str | None]) -> Arrangement:
    """Recognize how files are laid out, or take them as `layout` says. Raises `Refused` where they do not fit it.

    `seam` looks at some pictures, given by position: a sentence if each is a pair side by side, else None.
    """
    if layout == "flat":
        return Arrangement("flat", list(range(len(names))), notes=["They are taken as one set without classes."])
    places = [_Place(number, "", name.split("/")[:-1], name.split("/")[-1]) for number, name in enumerate(names)]
    _strip_common(places)
    notes: list[str] = []
    if layout != "classes":
        notes += _take_splits(places, forced=layout == "splits")
        if layout in ("auto", "matched", "unmatched"):
            found = _domains(places, layout, direction, notes)
            if found is not None:
                return found
    splits = [place.split for place in places] if any(place.split for place in places) else None
    positions = [place.position for place in places]
    if layout == "side-by-side":
        return Arrangement(layout, positions, splits=splits, notes=[*notes, _side_by_side(direction)])
    labels, classes, said = _classes(places, forced=layout == "classes")
    notes += said
    if layout == "auto" and labels is None:
        sentence = seam(positions)
        if sentence:
            notes += [sentence, _side_by_side(direction)]
            return Arrangement("side-by-side", positions, splits=splits, notes=notes)
    kind = "splits" if splits else "classes" if labels else "flat"
    return Arrangement(kind, positions, splits=splits, labels=labels, classes=classes, notes=notes)


def _side_by_side(direction: str) -> str:
    first, second = ("left", "right") if direction == "a-to-b" else ("right", "left")
    return f"Each picture is a pair: the {first} half is the source, the {second} half is what is learned."


def _strip_common(places: list[_Place]) -> None:
    """Forget the folders that all files lie in."""
    levels = zip(*(place.folders for place in places), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    for place in places:
        place.folders = place.folders[common:]


def _take_splits(places: list[_Place], forced: bool) -> list[str]:
    """Read train, test and val folders off the first level, if all files lie in such; sentences about it."""
    words = [SPLIT_FOLDERS.get(place.folders[0].lower(), "") if place.folders else "" for place in places]
    if set(words) != {"train", "test"}:
        if forced:
            raise Refused(
                "--data.layout splits wants all pictures in folders train and test (or val); "
                f"these are not: {_list(_outside(places, words), 3)}."
            )
        if {"train", "test"} <= set(words):
            known = _list(place.folders[0] for place, word in zip(places, words, strict=True) if word)
            other = _list(_outside(places, words), 3)
            return [f"{known} look like a split, but are not taken as one: these lie in neither: {other}."]
        return []
    sentence = f"The folders {_list(place.folders[0] for place in places)} are taken as training and test split."
    for place, word in zip(places, words, strict=True):
        place.split, place.folders = word, place.folders[1:]
    _strip_common(places)
    return [sentence]


def _outside(places: list[_Place], words: list[str]) -> list[str]:
    """Files in no folder that `words` knows."""
    return ["/".join((*place.folders, place.file)) for place, word in zip(places, words, strict=True) if not word]


def _classes(places: list[_Place], forced: bool) -> tuple[list[int] | None, tuple[str, ...], list[str]]:
    """Labels and classes from the first level of folders, and sentences about them."""
    classes = tuple(sorted({place.folders[0] for place in places if place.folders}))
    outside = [place.file for place in places if not place.folders]
    if outside and classes:
        told = f"{len(outside)} pictures lie outside the sub-folders ({_list(outside, 3)})"
        if forced:
            raise Refused(f"--data.layout classes wants every picture in the folder of its class, but {told}.")
        return None, (), [f"There are no classes: {told}."]
    if len(classes) < 2:
        if forced:
            raise Refused("--data.layout classes wants a sub-folder for each of at least two classes.")
        return None, (), []
    numbers = {name: number for number, name in enumerate(classes)}
    said = [f"The {len(classes)} sub-folders are taken as classes: {_list(classes)}."]
    hint = _may_be_pairs(places, classes)
    said += [hint] if hint and not forced else []
    legible = tuple(name.encode(errors="replace").decode() for name in classes)  # not all names are UTF-8
    labels = [numbers[place.folders[0]] for place in places]
    return labels, legible if len(set(legible)) == len(classes) else classes, said


# Two folders, for translation


def _domains(places: list[_Place], layout: str, direction: str, notes: list[str]) -> Arrangement | None:
    """Pairs matched by name, or two unmatched sets, if that is what the folders say."""
    if layout == "auto" and len({place.folders[0] for place in places if place.folders}) not in range(2, 7):
        return None  # neither A and B nor trainA, trainB, testA, testB
    places = [replace(place) for place in places]  # what is read off them counts only if they are pairs
    known = _read_domains(places, forced=layout != "auto")
    if known is None:
        return None
    a = [place for place in places if place.domain == "a"]
    b = [place for place in places if place.domain == "b"]
    keys = _matching(a, b)
    pairs, alone = _partners(a, b, keys)
    part = len(pairs) / max(len(a), len(b))
    joint = known[0][-1].lower() == "a" and known[1][-1].lower() == "b"
    if layout == "auto" and part < MOSTLY and not joint:
        return None
    splits = any(place.split for place in places)
    if layout == "matched" or (layout == "auto" and part >= (MATCHED if len(known[0]) > 1 and joint else MOSTLY)):
        if not pairs:
            raise Refused(
                f"No file of {known[0]} has the name of one of {known[1]}, so they cannot be matched.\n"
                "Pairs have the same name in both folders; --data.layout unmatched takes them as two sets."
            )
        found = Arrangement(
            "matched",
            pictures=[one.position for one, _ in pairs],
            sources=[other.position for _, other in pairs],
            splits=[one.split for one, _ in pairs] if splits else None,
            left_out=[(place.position, why) for place, why in alone],
        )
    else:
        found = _unmatched(a, b, splits)
    if direction == "b-to-a":
        _turn(found)
        known = known[::-1]
    how = "pairs matched by name" if found.layout == "matched" else "two unmatched sets"
    notes.append(f"{known[0]} and {known[1]} are {how}: {known[0]} is the source, {known[1]} is what is learned.")
    found.notes = notes
    return found


def _matching(a: list[_Place], b: list[_Place]) -> bool:
    """Whether names match better without endings like _A and _B."""

    def shared(without_suffix: bool) -> int:
        return len({place.key(without_suffix) for place in a} & {place.key(without_suffix) for place in b})

    return shared(True) > shared(False)


def _partners(
    a: list[_Place], b: list[_Place], keys: bool
) -> tuple[list[tuple[_Place, _Place]], list[tuple[_Place, str]]]:
    """(place of B, place of A) for each pair, and every file that is in none, with the reason."""
    first: list[dict[str, _Place]] = [{}, {}]
    alone: list[tuple[_Place, str]] = []
    for known, places in zip(first, (a, b), strict=True):
        for place in places:
            other = known.setdefault(place.key(keys), place)
            if other is not place:
                alone.append((place, f"{other.file} has the same name, and is used"))
    pairs = [(place, first[0][key]) for key, place in first[1].items() if key in first[0]]
    for known, others in (first, first[::-1]):
        alone += [(place, "it has no partner in the other folder") for key, place in known.items() if key not in others]
    return pairs, alone


def _unmatched(a: list[_Place], b: list[_Place], splits: bool) -> Arrangement:
    def part(places: list[_Place]) -> Arrangement:
        positions = [place.position for place in places]
        return Arrangement("unmatched", positions, splits=[place.split for place in places] if splits else None)

    found = part(b)
    found.beside = part(a)
    return found


def _turn(found: Arrangement) -> None:
    """Learn A from B instead of B from A."""
    if found.beside is not None:
        other = found.beside
        found.pictures, other.pictures = other.pictures, found.pictures
        found.splits, other.splits = other.splits, found.splits
    elif found.sources is not None:
        found.pictures, found.sources = found.sources, found.pictures


def _read_domains(places: list[_Place], forced: bool) -> tuple[str, str] | None:
    """Set every file's domain, and its split where the folders say that too; the names of the two, A first."""
    firsts = sorted({place.folders[0] for place in places if place.folders}, key=str.lower)
    if not all(place.folders for place in places):
        found = None
    else:
        found = _joint_domains(places, firsts) or _two_folders(places, firsts, forced)
    if found is None and forced:
        raise Refused(
            "--data.layout matched and unmatched want two folders, or trainA, trainB, testA and testB, with all "
            f"pictures in them; here {_list(firsts) or 'there are none'}."
        )
    return found


def _joint_domains(places: list[_Place], firsts: list[str]) -> tuple[str, str] | None:
    """trainA, trainB, and perhaps testA, testB."""
    words: dict[str, tuple[str, str]] = {}
    for first in firsts:
        match = re.fullmatch(r"([a-z]+?)[_-]?([ab])", first, re.IGNORECASE)
        split = SPLIT_FOLDERS.get(match[1].lower()) if match else None
        if match is None or split is None:
            return None
        words[first] = split, match[2].lower()
    if {domain for _, domain in words.values()} != {"a", "b"}:
        return None
    settled = len({split for split, _ in words.values()}) == 2
    for place in places:
        split, place.domain = words[place.folders[0]]
        place.split = split if settled else place.split
        place.folders = place.folders[1:]
    a, b = (_list(first for first in firsts if words[first][1] == domain) for domain in "ab")
    return a, b


def _two_folders(places: list[_Place], firsts: list[str], forced: bool) -> tuple[str, str] | None:
    """A and B, or whatever the two are called; each may hold train and test."""
    words = [_singular(first) for first in firsts]
    order = next((pair for pair in PAIR_FOLDERS if sorted(pair) == sorted(words)), None)
    if len(firsts) != 2 or (order is None and not forced) or (firsts == ["a", "b"] and not forced):  # mere letters
        return None
    if order is None or words[0] == words[1]:
        words, order = firsts, (firsts[0], firsts[1])
    for place in places:
        place.domain = "ab"[order.index(words[firsts.index(place.folders[0])])]
        place.folders = place.folders[1:]
    for domain in "ab":
        _strip_common([place for place in places if place.domain == domain])
    if not any(place.split for place in places):
        _take_splits(places, forced=False)
    return firsts[words.index(order[0])], firsts[words.index(order[1])]


def _singular(folder: str) -> str:
    return folder.lower().removesuffix("s") if len(folder) > 2 else folder.lower()


def _may_be_pairs(places: list[_Place], classes: tuple[str, ...]) -> str | None:
    """A sentence where two classes have the same file names, as pairs do."""
    if len(classes) != 2:
        return None
    sides = [{place.key(False).split("/", 2)[-1] for place in places if place.folders[0] == name} for name in classes]
    if len(sides[0] & sides[1]) < MATCHED * max(map(len, sides)):
        return None
    return f"The files of {classes[0]} and {classes[1]} have the same names: --data.layout matched makes pairs of them."


# Labels that stand in a file


def dataset_json(data: bytes, names: Sequence[str]) -> tuple[list[int | None] | None, tuple[str, ...], str]:
    """Labels by a StyleGAN `dataset.json` ({"labels": [[file, class], …] or null}), the classes, and a sentence.

    A label is None where the file says nothing of a picture. Raises `ValueError` if it is no such file.
    """
    try:
        listed = json.loads(data)["labels"]
        if listed is None:
            return None, (), "dataset.json says that there are no labels."
        known = {str(file): int(label) for file, label in listed}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            'dataset.json has no labels as StyleGAN writes them ({"labels": [[file, class], …]})'
        ) from None
    if not set(known) & set(names):
        raise ValueError("dataset.json names none of the pictures")
    numbers = sorted(set(known.values()))
    if len(numbers) < 2:
        return None, (), "dataset.json knows one class only, so there are no classes."
    places = {number: place for place, number in enumerate(numbers)}
    labels = [places[known[name]] if name in known else None for name in names]
    return labels, tuple(map(str, numbers)), f"dataset.json gives their classes: {len(numbers)} of them."


def _list(words: Iterable[str], most: int = 12) -> str:
    unique = sorted(set(words))
    return ", ".join(unique[:most]) + (f" and {len(unique) - most} more" if len(unique) > most else "")
