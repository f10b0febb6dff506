"""What a person is shown of a checked set of pictures: sentences, plain values for programs, and a contact sheet."""

import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tasvir.data.check import Findings, Group, Trait
from tasvir.data.decoding import Frame, Unreadable, parse_color, with_channels
from tasvir.data.remarks import LONG, SQUARE, Remark, remarks
from tasvir.data.suits import Suit, hint, size_to_train
from tasvir.pictures import letters

PACKED = 64, 128, 256
"""Heights and widths at which it is told how large the pack will be."""
WIDEST = 120
LONGEST_NAME = 60
"""Letters of a set's name in that of its contact sheet: at most 240 of the 255 bytes that a file system allows."""
FEW_CASES, FEW_NAMES = 5, 4
"""Cases of a remark that are told, and names of each."""


def plain(found: Findings, suits: Sequence[Suit] = ()) -> dict[str, Any]:
    """Everything as dictionaries, lists, strings and numbers; lists of names end after `remarks.MOST_CASES`."""
    good, counts = found.good, found.class_counts().tolist()
    pixels = good["width"].astype(np.int64) * good["height"]
    said = remarks(found, size_to_train(suits, found))
    values = {
        "name": found.source.name,
        "layout": found.source.layout,
        "notes": [*found.source.notes, *found.items.notes],
        "listed": len(found.items),
        "readable": len(good),
        "splits": found.counts(),
        "tiles": tile_counts(found, size_to_train(suits, found)) if found.tiled else None,
        "split_by": "source" if found.settled else "content",
        "classes": {
            name: {"train": train, "test": test}
            for name, (train, test) in zip(found.items.classes, counts, strict=True)
        },
        "sizes": sizes(found),
        "shapes": shapes(found),
        "modes": _tally(_files_of(found)["mode"]),
        "formats": _tally(_files_of(found)["format"]),
        "grey": _grey(found),
        "pixels": int(pixels.sum()),
        "bytes": int(found.pictures["bytes"].sum()),
        "packed_bytes": {str(size): packed_bytes(found, size) for size in _packed_sizes(found, suits)},
        "remarks": [asdict(remark) for remark in said],
        "recipes": [asdict(suit) for suit in suits],
        "hint": hint(found),
        "beside": None if found.beside is None else plain(found.beside),
    }
    return encodable(values)


def encodable(value: Any) -> Any:
    """With the bytes of names that are no UTF-8 written as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(inner) for key, inner in value.items()}
    return [encodable(inner) for inner in value] if isinstance(value, list | tuple) else value


def sizes(found: Findings) -> dict[str, Any]:
    """Smallest, typical and largest by the shorter side, and the most frequent, all as [width, height] in pixels."""
    if found.drawn or not len(found.good):
        return {}
    every = np.stack([found.good["width"].ravel(), found.good["height"].ravel()], 1).astype(np.int64)
    order = every[np.lexsort((every.max(1), every.min(1)))]
    known = Counter(map(tuple, every.tolist()))
    return {
        "smallest": order[0].tolist(),
        "median": order[len(order) // 2].tolist(),
        "largest": order[-1].tolist(),
        "different": len(known),
        "frequent": [{"size": list(size), "count": count} for size, count in known.most_common(4)],
    }


def shapes(found: Findings) -> dict[str, Any]:
    """How many are square, landscape, portrait and extreme, and what part a centre crop cuts off a typical one."""
    if found.drawn or not found.shaped or not len(found.good):
        return {}
    ratio = (found.good["width"] / np.maximum(found.good["height"], 1).astype(np.float64)).ravel()
    longer = np.maximum(ratio, 1 / np.maximum(ratio, 1e-9))
    return {
        "square": int((longer <= SQUARE).sum()),
        "landscape": int(((longer > SQUARE) & (ratio > 1)).sum()),
        "portrait": int(((longer > SQUARE) & (ratio < 1)).sum()),
        "extreme": int((longer > LONG).sum()),
        "cut_off": round(float(1 - 1 / np.median(longer)), 3),
    }


def packed_bytes(found: Findings, size: int) -> int:
    """How large the pack is at a height and width."""
    channels = sum(map(found.channels, range(found.good.shape[1])))
    if found.config.derive != "none":
        from tasvir.data.derive import DERIVATIONS

        channels += DERIVATIONS[found.config.derive].packed  # one channel, stored beside the picture
    count = int(found.tiles(size).sum()) if found.tiled else len(found.good)
    return count * size * size * channels


def tile_counts(found: Findings, size: int | None) -> dict[str, int]:
    """How large tiles are, in pixels, and how many there are of each split."""
    size = size or PACKED[0]
    tiles = found.tiles(size)
    return {"size": size, "train": int(tiles[~found.testing].sum()), "test": int(tiles[found.testing].sum())}


def _packed_sizes(found: Findings, suits: Sequence[Suit]) -> list[int]:
    return sorted({*PACKED, size_to_train(suits, found) or PACKED[0]})


def _files_of(found: Findings) -> np.ndarray:
    """A `SIDE` for each readable file: two of a pair matched by name, one of a pair in one file."""
    two = (found.paired & ~found.halves)[found.readable]
    return np.concatenate([found.good[:, 0], found.good[two, -1]])


def _tally(values: np.ndarray) -> dict[str, int]:
    """How often each is there, most frequent first."""
    names, counts = np.unique(values, return_counts=True)
    return {names[k].decode(): int(counts[k]) for k in np.argsort(-counts, kind="stable")}


def _grey(found: Findings) -> int:
    return int((found.good["traits"] & Trait.GREY).all(1).sum())


# Sentences


def sheet_name(name: str) -> str:
    """What the contact sheet of a set is called: a file of the current folder, whatever the set is called."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:LONGEST_NAME]
    return f"{safe or 'pictures'}-check.png"


def told(found: Findings, suits: Sequence[Suit] = (), width: int | None = None) -> str:
    """What was recognized, what there is, what is wrong and what unusual, worst first, and what to train.

    `width` is that of the lines, in letters; left out, the terminal's.
    """
    width = width or min(shutil.get_terminal_size((110, 0)).columns, WIDEST)
    return "\n".join(map(legible, [*_told(found, suits, width), *_recipes(found, suits, width)]))


def _told(found: Findings, suits: Sequence[Suit], width: int) -> list[str]:
    lines = [line for note in (*found.source.notes, *found.items.notes) for line in textwrap.wrap(note, width)]
    rows = [("pairs" if found.paired else "pictures", _readable(found)), ("split", _splits(found))]
    rows += [("tiles", _tiles(found, size_to_train(suits, found)))] if found.tiled else []
    rows += [("classes", _classes(found)), ("sizes", _sizes(found)), ("shapes", _shapes(found))]
    rows += [("files", _files(found)), ("colour", _colors(found)), ("space", _space(found, suits))]
    lines += [""]
    for name, text in rows:
        lines += textwrap.wrap(text, width, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)
    said = remarks(found, size_to_train(suits, found))
    for level in ("wrong", "unusual"):
        chosen = [remark for remark in said if remark.level == level]
        lines += ["", f"What is {level}" if chosen else f"Nothing is {level}."]
        for remark in chosen:
            lines += _remark(remark, width)
    if found.beside is not None:
        lines += ["", "The pictures to translate from", *_told(found.beside, suits, width)]
    return lines


def _remark(remark: Remark, width: int) -> list[str]:
    said = f"{remark.what}: {remark.done}"
    lines = textwrap.wrap(said, width, initial_indent=f"{remark.count:>7,}  ", subsequent_indent=" " * 9)
    cases = []
    for case in remark.cases[:FEW_CASES]:
        more = len(case) - FEW_NAMES
        cases.append(remark.joint.join(case[:FEW_NAMES]) + (f" and {more:,} more" if more > 0 else ""))
    if remark.in_all > FEW_CASES:
        cases.append(f"and {remark.in_all - FEW_CASES:,} more")
    inside = " " * 11
    names = textwrap.wrap(
        "; ".join(cases), width, initial_indent=inside, subsequent_indent=inside, break_on_hyphens=False
    )
    return lines + names


def _readable(found: Findings) -> str:
    listed, readable = len(found.items), len(found.good)
    return f"{readable:,}, all can be read" if listed == readable else f"{readable:,} of {listed:,} can be read"


def _splits(found: Findings) -> str:
    counts = found.counts()
    how = "as the set has them" if found.settled else "decided by what is in the files"
    chosen = [f"--data.{name}" for name in ("limit", "fraction") if getattr(found.config, name) not in (None, 1)]
    before = f", before {' and '.join(chosen)}" if chosen else ""
    said = f"{counts['train']:,} for training and {counts['test']:,} for testing, {how}{before}"
    left_out = int(found.left_out.sum())
    return f"{said}; {left_out:,} more, copies of those for testing, left out" if left_out else said


def _tiles(found: Findings, size: int | None) -> str:
    known = tile_counts(found, size)
    return (
        f"{known['train'] + known['test']:,} of {known['size']}×{known['size']}, overlapping by "
        f"{found.config.overlap:.0%}: {known['train']:,} for training and {known['test']:,} for testing"
    )


def _classes(found: Findings) -> str:
    names, total = found.items.classes, found.class_counts().sum(1)
    if found.labels is None or not len(names):
        return "none"
    most, least = int(total.argmax()), int(total.argmin())
    if total[most] == total[least]:
        return f"{len(names)}, each of {total[most]:,}"
    return f"{len(names)}, of {total[least]:,} ({names[least]}) to {total[most]:,} ({names[most]})"


def _sizes(found: Findings) -> str:
    if found.drawn:
        return "drawn at any size"
    known = sizes(found)
    if not known:
        return ""

    def said(size: Sequence[int]) -> str:
        return f"{size[0]}×{size[1]}" if found.shaped else f"{size[0]} px on the shorter side"

    half = ", either half" if found.halves[found.readable].all() else ""
    if known["different"] == 1:
        return f"all {said(known['median'])}{half}"
    span = f"{said(known['smallest'])} to {said(known['largest'])}, typically {said(known['median'])}{half}"
    frequent = [f"{said(one['size'])} ({one['count']:,})" for one in known["frequent"] if one["count"] > 1]
    return f"{span}; {known['different']:,} different" + (f", often {', '.join(frequent)}" if frequent else "")


def _shapes(found: Findings) -> str:
    known = shapes(found)
    if not known:
        return ""
    if known["square"] == found.good.size:
        return "all square"
    kinds = ", ".join(f"{known[kind]:,} {kind}" for kind in ("square", "landscape", "portrait") if known[kind])
    extreme = f", {known['extreme']:,} of them over {LONG:g}:1" if known["extreme"] else ""
    if found.config.fit != "crop" or known["cut_off"] < 0.01:
        return kinds + extreme
    return f"{kinds}{extreme}; a centre crop cuts off {known['cut_off']:.0%} of a typical one (--data.fit pad keeps it)"


def _files(found: Findings) -> str:
    if not found.items.encoded:
        return "none: the pixels are in an array" if found.source.layout != "named" else ""
    formats, modes = (_tally(_files_of(found)[field]) for field in ("format", "mode"))
    return "; ".join(", ".join(f"{count:,} {name}" for name, count in kinds.items()) for kinds in (formats, modes))


def _colors(found: Findings) -> str:
    grey = _grey(found)
    if grey in (0, len(found.good)):
        return "all grey" if grey else "all in colour"
    return f"{len(found.good) - grey:,} in colour, {grey:,} grey"


def _space(found: Findings, suits: Sequence[Suit]) -> str:
    options = _packed_sizes(found, suits)
    packed = ", ".join(f"{_mib(packed_bytes(found, size))} at {size} px" for size in options)
    now = "" if found.drawn else f"{_mib(int(found.pictures['bytes'].sum()))} now; "
    return f"{now}packed {packed}"


def _mib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"


def _recipes(found: Findings, suits: Sequence[Suit], width: int) -> list[str]:
    """Commands under what they have in common; then the others by reason."""
    lines: list[str] = []
    good: dict[str, list[str]] = {}
    bad: dict[str, list[str]] = {}
    for suit in suits:
        (good if suit.command else bad).setdefault(suit.why, []).append(suit.command or suit.recipe)
    for why, commands in good.items():
        lines += ["", f"Recipes that suit it: {why}", *(f"  {command}" for command in commands)]
    if good and hint(found):
        lines += ["", *textwrap.wrap(hint(found), width)]
    if bad:
        lines += ["", "Recipes that do not suit it" if good else "No recipe suits it"]
    for why, names in bad.items():
        lines += textwrap.wrap(f"{', '.join(names)}: {why}", width, initial_indent="  ", subsequent_indent="    ")
    return lines


def legible(line: str) -> str:
    """Without what a terminal would obey or could not show: names of files can hold anything."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


# The contact sheet


COLUMNS, ROWS = 12, 5
"""Pictures in a row; rows of a set without classes."""
CELL = 88
"""Height and width of a picture on the sheet, about, in pixels."""
MARGIN, GAP, APART = 20, 4, 18
LABELS = 180
"""Most pixels for the names of classes, left of the rows."""
MOST_CLASSES, MOST_GROUPS, MOST_LINES = 24, 30, 8
INK, GREY, RED = "#1a1a1a", "#6f6f6f", "#b3261e"


def contact_sheet(found: Findings, columns: int = COLUMNS) -> Image.Image:
    """Pictures of every class, spread over the set, whole and with pairs side by side; below them those that are
    there several times or empty, and the names of those that cannot be read."""
    look = _look(found, columns)
    strips = [_heading(look, legible(found.source.name), 24), _line(look, _summary(found))]
    if found.beside is None:
        strips += _rows(found, look)
    else:
        strips += [_heading(look, "What is learned", 16), *_rows(found, look)]
        strips += [_heading(look, "The pictures to translate from", 16), *_rows(found.beside, look)]
    for remark in remarks(found):
        groups = _groups(found, remark.key)
        if groups:
            strips += [_heading(look, f"{remark.count:,} {remark.what}", 16), *_flow(found, look, groups)]
    if found.reasons:
        strips.append(_heading(look, f"{len(found.reasons):,} cannot be read", 16))
        bad = [f"{found.items.names[number]}: {reason}" for number, reason in sorted(found.reasons.items())]
        strips += [_line(look, line, RED) for line in bad[:MOST_LINES]]
        strips += [_line(look, f"and {len(bad) - MOST_LINES:,} more", RED)] if len(bad) > MOST_LINES else []
    sheet = Image.new("RGB", (look.width, sum(strip.height for strip in strips) + 2 * MARGIN), "white")
    top = MARGIN
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _groups(found: Findings, key: str) -> list[Group]:
    """The pictures that a remark is about, together with those that they are like."""
    copies, alike = found.straddling(found.copies), found.straddling(found.alike)
    shown: dict[str, list[Group]] = {
        "leaked": copies,
        "leaked-alike": alike,
        "copies": [group for group in found.copies if group not in set(copies)],
        "alike": [group for group in found.alike if group not in set(alike)],
        "blank": [(number,) for number in found.having(Trait.BLANK)],
    }
    return shown.get(key, [])[:MOST_GROUPS]


@dataclass(frozen=True)
class _Look:
    """The measures of a sheet, in pixels."""

    frame: Frame
    enlarged: int
    """Every pixel of a small picture becomes a square of so many."""
    columns: int
    labels: int

    @property
    def cell(self) -> int:
        return self.frame.size * self.enlarged

    @property
    def width(self) -> int:
        return 2 * MARGIN + self.labels + self.columns * (self.cell + GAP) - GAP


def _look(found: Findings, columns: int) -> _Look:
    side = min(found.side or CELL, CELL)
    frame = Frame(side, "pad", parse_color(found.config.background))
    words = [*found.items.classes, "00,000"] if found.labels is not None else []
    widest = max((round(letters(14).getlength(legible(word))) + MARGIN for word in words), default=0)
    return _Look(frame, max(1, round(CELL / side)), columns, min(LABELS, widest))


def _rows(found: Findings, look: _Look) -> list[Image.Image]:
    """A row of every class, or some of all pictures."""
    across = max(1, look.columns // (2 if found.paired else 1))
    readable = np.flatnonzero(found.readable)
    if found.labels is None or not found.items.classes:
        chosen = _spread(readable, across * ROWS)
        return [_row(found, look, chosen[start : start + across]) for start in range(0, len(chosen), across)]
    totals = found.class_counts().sum(1)
    classes = _spread(np.arange(len(totals)), MOST_CLASSES)
    strips = []
    for number in classes:
        chosen = _spread(readable[found.labels[readable] == number], across)
        strips.append(_row(found, look, chosen, found.items.classes[number], f"{totals[number]:,}"))
    if len(classes) < len(totals):
        strips.append(_line(look, f"{len(classes)} of {len(totals)} classes"))
    return strips


def _spread(values: np.ndarray, most: int) -> list[int]:
    """At most so many, at equal distances from the first to the last."""
    places = np.linspace(0, len(values) - 1, most).round().astype(int) if len(values) > most else range(len(values))
    return [int(values[place]) for place in places]


def _row(found: Findings, look: _Look, numbers: Sequence[int], name: str = "", count: str = "") -> Image.Image:
    strip = Image.new("RGB", (look.width, look.cell + GAP), "white")
    draw = ImageDraw.Draw(strip)
    middle = look.cell // 2
    draw.text((MARGIN, middle - 1), _fitting(name, look.labels - MARGIN // 2), INK, letters(14), anchor="ls")
    draw.text((MARGIN, middle + 4), count, GREY, letters(12), anchor="lt")
    left = MARGIN + look.labels
    for number in numbers:
        picture = _thumbnail(found, look, number)
        if picture is not None:
            strip.paste(picture, (left, 0))
            left += picture.width + GAP
    return strip


def _flow(found: Findings, look: _Look, groups: Sequence[Group]) -> list[Image.Image]:
    """Groups of pictures, one after the other, in as many rows as they take."""
    strips: list[Image.Image] = []
    left = look.width
    for group in groups:
        thumbnails = [_thumbnail(found, look, number) for number in group[:FEW_NAMES]]
        shown = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
        if left + sum(thumbnail.width + 1 for thumbnail in shown) > look.width - MARGIN:
            strips.append(Image.new("RGB", (look.width, look.cell + 2 * GAP), "white"))
            left = MARGIN
        for thumbnail in shown:
            strips[-1].paste(thumbnail, (left, 0))
            left += thumbnail.width + 1
        left += APART
    return strips


def _thumbnail(found: Findings, look: _Look, number: int) -> Image.Image | None:
    """A whole picture, or source and picture beside each other."""
    try:
        made = found.items.picture(number, look.frame)
    except Unreadable:
        return None
    sides = [with_channels(pixels, 3) for pixels in (made.source, made.image) if pixels is not None]
    pixels = np.concatenate(sides, axis=1).repeat(look.enlarged, 0).repeat(look.enlarged, 1)
    return Image.fromarray(pixels)


def _heading(look: _Look, text: str, size: int) -> Image.Image:
    strip = Image.new("RGB", (look.width, size + 24), "white")
    ImageDraw.Draw(strip).text(
        (MARGIN, 14), _fitting(text, look.width - 2 * MARGIN, size), INK, letters(size), anchor="lt"
    )
    return strip


def _line(look: _Look, text: str, ink: str = GREY) -> Image.Image:
    strip = Image.new("RGB", (look.width, 24), "white")
    ImageDraw.Draw(strip).text((MARGIN, 2), _fitting(text, look.width - 2 * MARGIN, 13), ink, letters(13), anchor="lt")
    return strip


def _summary(found: Findings) -> str:
    word = "pairs" if found.paired else "pictures"
    number = len(found.items.classes) if found.labels is not None else 0
    return f"{len(found.good):,} {word}{f' of {number} classes' if number else ''}, {_sizes(found)}"


def _fitting(text: str, width: float, size: int = 14) -> str:
    """The text, cut where it would be wider."""
    text = legible(text)
    if letters(size).getlength(text) <= width:
        return text
    while text and letters(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
