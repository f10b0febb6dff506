"""What is wrong or unusual about a set of pictures, in words, and what becomes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tasvir.data.check import Findings, Group, Trait
from tasvir.data.decoding import OTHER_SHAPE, TILES_OF_PAIRS
from tasvir.data.packing import MINIMUM

IMBALANCE, TINY = 10, 10
"""Largest to smallest class; pictures of a tiny class."""
SQUARE, LONG = 1.02, 2.0
"""Longer to shorter side up to which a picture is square, and from which on its shape is extreme."""
MOST_CASES = 1000
NO_PARTNER = "no partner"
COLORED = b"RGB", b"RGBA", b"RGBX", b"P", b"PA", b"CMYK", b"YCbCr", b"LAB"


@dataclass(frozen=True)
class Remark:
    """Something wrong or unusual about a set: "3 cannot be read: left out"."""

    key: str
    level: str
    """`wrong` or `unusual`."""
    count: int
    """Pictures that it is about; of classes, how many or how many times."""
    what: str
    done: str
    """What tasvir does about it, or what can be done."""
    cases: tuple[tuple[str, ...], ...] = ()
    """The pictures by name, at most `MOST_CASES`: each alone, with its reason, or with those that it is a copy of."""
    in_all: int = 0
    """How many cases there are."""
    joint: str = ""
    """What stands between the names of a case."""


Case = int | str | Sequence[int] | Sequence[str]


def remarks(found: Findings, size: int | None = None) -> list[Remark]:
    """What is wrong with a set and what is unusual, worst first. `size` is the height and width to train at."""
    return [
        *_lost(found),
        *_leaks(found),
        *_class_remarks(found),
        *_pair_remarks(found),
        *_blank(found),
        *_repeated(found),
        *_shape_remarks(found, size),
        *_color_remarks(found),
    ]


def _say(
    found: Findings,
    level: str,
    key: str,
    cases: Sequence[Case],
    what: str,
    done: str,
    count: int | None = None,
    joint: str = "",
) -> Iterator[Remark]:
    """A remark, if there is any case. Numbers are those of pictures; `count` is the number of cases if left out."""
    if not len(cases):
        return
    names = found.items.names
    groups = [[case] if isinstance(case, int | str) else case[:MOST_CASES] for case in cases[:MOST_CASES]]
    named = tuple(tuple(names[one] if isinstance(one, int) else one for one in group) for group in groups)
    yield Remark(key, level, len(cases) if count is None else count, what, done, named, len(cases), joint)


def _lost(found: Findings) -> Iterator[Remark]:
    readable = int(found.readable.sum())
    if readable < MINIMUM:
        yield Remark("few", "wrong", readable, f"readable in all; at least {MINIMUM} are needed", "add more")
    bad = [(found.items.names[number], reason) for number, reason in sorted(found.reasons.items())]
    apart = [case for case in bad if case[1].endswith((OTHER_SHAPE, TILES_OF_PAIRS))]
    bad = [case for case in bad if case not in apart]
    yield from _say(found, "wrong", "unreadable", bad, "cannot be read", "left out", joint=": ")
    yield from _say(found, "wrong", "pair-shapes", apart, "with a source of another shape", "left out", joint=": ")
    alone = [file for file, reason in found.source.skipped if NO_PARTNER in reason]
    yield from _say(found, "wrong", "unpaired", alone, "without a partner in the other folder", "left out")
    others = [skipped for skipped in found.source.skipped if NO_PARTNER not in skipped[1]]
    yield from _say(found, "wrong", "left-out", others, "cannot be used", "left out", joint=": ")


def _leaks(found: Findings) -> Iterator[Remark]:
    def testing(groups: list[Group]) -> int:
        return sum(int(found.testing[list(group)].sum()) for group in groups)

    same = found.straddling(found.copies)
    cleaned = "the copies for training are left out" if found.left_out.any() else "they stay, as the set was published"
    what = "for testing, though exact copies are for training"
    yield from _say(found, "wrong", "leaked", same, what, cleaned, testing(same), " = ")
    near = found.straddling(found.alike)
    done = "they stay, and test results look a little better than they are"
    what = "for testing, though nearly the same are for training"
    yield from _say(found, "wrong", "leaked-alike", near, what, done, testing(near), " ~ ")
    labels = found.labels
    if labels is not None:
        torn = [group for group in found.copies if len(np.unique(labels[list(group)])) > 1]
        done = "they stay; keep each in its true class only"
        yield from _say(found, "wrong", "contradictory", torn, "copies in different classes", done, _all(torn), " = ")


def _all(groups: list[Group]) -> int:
    return sum(map(len, groups))


def _class_remarks(found: Findings) -> Iterator[Remark]:
    classes = found.items.classes
    if found.labels is None or len(classes) < 2:
        return
    say, counts, among = partial(_say, found, "wrong"), found.class_counts(), f"of {len(classes)} classes"
    total = counts.sum(1)
    empty = [name for name, count in zip(classes, total, strict=True) if count == 0]
    yield from say("empty-classes", empty, f"{among} without any picture", "nothing is learned of them")
    filled = np.flatnonzero(total)
    tiny = [f"{classes[k]} ({total[k]})" for k in filled if total[k] < TINY]
    yield from say("tiny-classes", tiny, f"{among} with fewer than {TINY} pictures", "they are hardly learned")
    if len(filled):
        most, least = filled[total[filled].argmax()], filled[total[filled].argmin()]
        largest, smallest = (f"{classes[k]} ({total[k]:,})" for k in (most, least))
        if total[most] > IMBALANCE * total[least]:
            what = f"times as many in the largest class, {largest}, as in the smallest, {smallest}"
            done = "each is learned as often as it is there"
            yield Remark("imbalance", "wrong", round(total[most] / total[least]), what, done)
    enough = TINY if found.settled else 5 * TINY  # a tenth of fewer can be none by chance
    for place, word in enumerate(("training", "test")):
        missing = [name for name, row in zip(classes, counts, strict=True) if row[place] == 0 and row.sum() >= enough]
        done = "they are not learned" if place == 0 else "they are not tested"
        yield from say(f"no-{word}", missing, f"{among} without a {word} picture", done)


def _pair_remarks(found: Findings) -> Iterator[Remark]:
    if not found.paired:
        return
    apart = found.readable & ~found.halves
    width = found.sides["width"]
    other_size = apart & (width[:, 0] != width[:, 1])
    what, done = "with a source of another size", "both are brought to one size"
    yield from _say(found, "unusual", "pair-sizes", np.flatnonzero(other_size).tolist(), what, done)


def _blank(found: Findings) -> Iterator[Remark]:
    level, what = ("unusual", "with a side of one colour") if found.paired else ("wrong", "of one colour")
    yield from _say(found, level, "blank", found.having(Trait.BLANK), what, "they stay")


def _repeated(found: Findings) -> Iterator[Remark]:
    say = partial(_say, found, "unusual")
    copies, alike = (sorted(groups, key=len, reverse=True) for groups in (found.copies, found.alike))
    settled = "they stay, and count more than once"
    done = settled if found.settled else f"{settled}; never split between training and testing"
    yield from say("copies", copies, "exact copies of others", done, _all(copies) - len(copies), " = ")
    done = "they stay; remove what is not wanted twice"
    yield from say("alike", alike, "nearly the same as others", done, _all(alike) - len(alike), " ~ ")


def _shape_remarks(found: Findings, size: int | None) -> Iterator[Remark]:
    say = partial(_say, found, "unusual")
    yield from say("rotated", found.having(Trait.ROTATED), "turned or mirrored by EXIF", "made upright")
    width, height = found.sides["width"].astype(np.int64), found.sides["height"].astype(np.int64)
    longer, shorter = np.maximum(width, height).max(1), np.minimum(width, height).min(1)
    if found.shaped:
        extreme = np.flatnonzero(found.readable & (longer > LONG * shorter)).tolist()
        done = {
            "crop": "only the centre is used; --data.fit pad keeps the whole",
            "pad": "they become narrow bands",
            "squash": "far out of proportion; --data.fit pad keeps it",
            "tiles": "cut into tiles like the others",
        }
        yield from say("extreme", extreme, "more than twice as long as wide", done[found.config.fit])
    if size is not None and not found.drawn:
        small = np.flatnonzero(found.readable & (shorter < size)).tolist()
        what = f"smaller than {size} px"
        yield from say("small", small, what, "left out: they give no tile" if found.tiled else "enlarged")
    yield from say("animated", found.having(Trait.ANIMATED), "animated", "only the first picture is used")


def _color_remarks(found: Findings) -> Iterator[Remark]:
    say = partial(_say, found, "unusual")
    profiled = found.having(Trait.PROFILE)
    yield from say("profile", profiled, "with a colour profile other than sRGB", "made sRGB")
    yield from say("cmyk", found.of_mode(b"CMYK"), "in the colours of print (CMYK)", "made RGB")
    deep = found.of_mode(b"I", b"I;16", b"I;16B", b"I;16L", b"I;16N", b"F")
    yield from say("deep", deep, "with more than 8 bits", "scaled to 8 bits")
    done = f"laid on {found.config.background}; --data.background changes that"
    yield from say("transparent", found.having(Trait.TRANSPARENT), "partly transparent", done)
    if not found.paired and found.items.encoded:
        grey = found.readable & (found.sides["traits"] & Trait.GREY).all(1)
        if found.grey:
            grey &= np.isin(found.sides["mode"], COLORED).any(1)
            what, done = "grey, though stored as colour", "packed with one channel, unless --data.color is rgb"
        else:
            what, done = "grey, among pictures in colour", "three equal channels, as all must have the same"
        if found.config.color != "auto":
            done = f"all are packed as --data.color {found.config.color}"
        yield from say("grey", np.flatnonzero(grey).tolist(), what, done)
    misnamed = found.having(Trait.MISNAMED)
    yield from say("misnamed", misnamed, "with the ending of another format", "read by what is in them")
