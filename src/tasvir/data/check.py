"""`tasvir data check`: every picture looked at, and what was found. remarks.py, suits.py and contact.py tell it."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from functools import cached_property, lru_cache, partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from tasvir.config import DataConfig, Refused
from tasvir.data import tiling
from tasvir.data.decoding import (
    Decoded,
    Frame,
    Unreadable,
    animated,
    check_shapes,
    decode,
    is_grey,
    opened,
    orientation,
    parse_color,
    upright_size,
)
from tasvir.data.items import Items, Source
from tasvir.data.splitting import SPLITS, digest_of, places
from tasvir.data.workers import chunked, workers

if TYPE_CHECKING:
    pass

CHUNK = 64
SLOW = 5000
"""Pictures from which on several cores are worth their start, even if they need not be decoded."""
THUMBNAIL = 32
"""Height and width in pixels, out of proportion, at which pictures are compared."""
LUMA, CHROMA = 8, 4
"""Lowest frequencies kept along either axis, of the brightness and of either colour difference."""
HASH = LUMA**2 + 2 * CHROMA**2
ALIKE = 0.1
"""Distance of two hashes below which pictures can be nearly the same; two different pictures are about 1 apart."""
SURE = 0.03
"""... and below which they are, whatever else is in the set."""
TREES, LEAF = 6, 1024
NEIGHBOURS, CLEAR = 16, 0.4
"""... and else only if they are this much closer to each other than to their 16th neighbour: where all pictures are
alike, as the ones among handwritten digits, none of them is a copy."""
FAINT = 4.0
"""Levels of contrast below which hashes say nothing: skies and empty pages are not compared."""
BLANK = 8
"""Levels between the darkest and the brightest pixel of a thumbnail up to which a picture is of one colour."""
ANY_SIZE = 12 << 10
"""Pixels that every derivation can work with: divisible by each scale, and large."""
ENDINGS = {"PNG": "png", "JPEG": "jpg jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif tiff"}


class Trait(IntFlag):
    """What is true of one picture (of a pair: of one side)."""

    GREY = 1  # no pixel has a colour
    BLANK = 2
    ROTATED = 4  # EXIF says that it has to be turned or mirrored
    PROFILE = 8  # a colour profile other than sRGB
    TRANSPARENT = 16
    ANIMATED = 32
    MISNAMED = 64  # the name ends as those of another format do


ABSENT, DAMAGED, READABLE = range(3)
PICTURE = np.dtype([("digest", "V16"), ("state", "u1"), ("files", "u1"), ("bytes", "u8")])
SIDE = np.dtype(
    [
        ("width", "u4"),  # upright; of a half, where two pictures are side by side
        ("height", "u4"),
        ("mode", "S6"),
        ("format", "S5"),
        ("traits", "u2"),
        ("contrast", "f4"),
        ("hash", "f2", (HASH,)),
    ]
)
Group = tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What was found in a set. Of every picture only numbers are kept: 260 bytes, 500 for a pair."""

    source: Source
    config: DataConfig
    items: Items
    pictures: np.ndarray
    """[N] `PICTURE`."""
    sides: np.ndarray
    """[N,1] `SIDE`; [N,2] for pairs: picture and source."""
    reasons: dict[int, str]
    """Why a picture cannot be read, by number."""
    testing: np.ndarray
    """[N] bool: which pictures are for testing."""
    copies: list[Group]
    """Pictures whose files are the same, byte for byte."""
    alike: list[Group]
    """Pictures that are nearly the same."""
    beside: "Findings | None" = None
    """The pictures to translate from, where they are not matched."""

    @cached_property
    def readable(self) -> np.ndarray:
        """[N] bool."""
        return self.pictures["state"] == READABLE

    @cached_property
    def good(self) -> np.ndarray:
        """[readable, 1 or 2] `SIDE`."""
        return self.sides[self.readable]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """[N] int64."""
        return None if self.items.labels is None else np.asarray(self.items.labels, np.int64)

    @property
    def paired(self) -> bool:
        return self.source.paired

    @property
    def settled(self) -> bool:
        """Whether the source says which pictures are for testing; else their content does."""
        return self.items.splits is not None and all(self.items.splits)

    @property
    def drawn(self) -> bool:
        """Whether the pictures are drawn, at whatever size is asked for."""
        return self.source.size is None and self.source.layout == "named"

    @property
    def shaped(self) -> bool:
        """Whether height and width are known; else the shorter side stands for both."""
        return self.items.encoded or self.source.size is not None

    @property
    def tiled(self) -> bool:
        """Whether pictures are cut into tiles."""
        return self.config.fit == "tiles"

    def tiles(self, size: int, overlap: float | None = None) -> np.ndarray:
        """[N] int64: how many tiles each readable picture that is not left out gives; of the others none."""
        overlap = self.config.overlap if overlap is None else overlap
        counts = np.zeros(len(self.items), np.int64)
        used = np.flatnonzero(self.readable & ~self.left_out)
        shapes, place = np.unique(self.sides[used][:, 0][["width", "height"]], return_inverse=True)
        known = [tiling.count(int(width), int(height), size, overlap) for width, height in shapes]
        counts[used] = np.array(known, np.int64)[place] if known else 0
        return counts

    @cached_property
    def halves(self) -> np.ndarray:
        """[N] bool: which pictures are one half of a file, whose other half is the source."""
        return self.readable & self.paired & (self.pictures["files"] == 1)

    @cached_property
    def left_out(self) -> np.ndarray:
        """[N] bool: the copies for training of pictures for testing, which packing leaves out."""
        there = np.zeros(len(self.items), bool)
        as_published = self.settled and not self.items.sorted
        if not as_published or self.config.limit is not None or self.config.fraction < 1:
            for group in self.straddling(self.copies):
                there[list(group)] = ~self.testing[list(group)]
        return there

    @cached_property
    def grey(self) -> bool:
        """Whether no picture has a colour."""
        return bool(len(self.good)) and bool((self.good["traits"] & Trait.GREY).all())

    def channels(self, side: int = 0) -> int:
        """How many the packed pictures have, or with `side` 1 the sources of pairs."""
        if self.config.color != "auto":
            return 1 if self.config.color == "grey" else 3
        return 1 if len(self.good) and (self.good["traits"][:, side] & Trait.GREY).all() else 3

    @cached_property
    def side(self) -> int | None:
        """The shorter side of a typical picture, in pixels; None if any size will do or no picture can be read."""
        if self.drawn or not len(self.good):
            return None
        return int(np.median(np.minimum(self.good["width"], self.good["height"]).min(1)))

    def counts(self) -> dict[str, int]:
        """Pictures by split, those that cannot be read and those that packing leaves out aside."""
        used = self.readable & ~self.left_out
        return {"train": int((used & ~self.testing).sum()), "test": int((used & self.testing).sum())}

    def class_counts(self) -> np.ndarray:
        """[classes, 2] int64: what `counts` counts, by class."""
        counts = np.zeros((len(self.items.classes), 2), np.int64)
        if self.labels is not None and len(counts):
            used = self.readable & ~self.left_out
            np.add.at(counts, (self.labels[used], self.testing[used].astype(int)), 1)
        return counts

    def having(self, trait: Trait) -> list[int]:
        """Numbers of the readable pictures of which it is true, on either side."""
        return np.flatnonzero(self.readable & (self.sides["traits"] & trait).any(1)).tolist()

    def of_mode(self, *modes: bytes) -> list[int]:
        """Numbers of the readable pictures of which a side has one of Pillow's modes."""
        return np.flatnonzero(self.readable & np.isin(self.sides["mode"], modes).any(1)).tolist()

    def straddling(self, groups: Iterable[Group]) -> list[Group]:
        """The groups of which some are for training and some for testing."""
        return [group for group in groups if 0 < self.testing[list(group)].sum() < len(group)]


# Looking


def check(source: Source, config: DataConfig) -> Findings:
    """Look at every picture of a set, on all cores, with a progress bar on a terminal.

    What cannot be read is named in the findings. `config` says what is under transparency; the rest of it is only
    handed on, to be told and to be said in commands. Raises `Refused` if `derive` can make no pairs of these pictures.
    """
    if config.derive != "none" and (source.paired or source.beside is not None):
        raise Refused(f"{source.name} has pairs already; leave --data.derive out, or say --data.layout flat.")
    items = source.read()
    if config.fit == "tiles" and not source.files:
        raise Refused(tiling.no_files(source.name))
    _refuse_derive(items, config)
    sides = 2 if source.paired else 1
    pictures, shown = np.zeros(len(items), PICTURE), np.zeros((len(items), sides), SIDE)
    reasons: dict[int, str] = {}
    frame = Frame(THUMBNAIL, "squash", parse_color(config.background))
    look = partial(_look, sides=sides, frame=frame, tiles=config.fit == "tiles")
    chunks = chunked(list(range(len(items))), CHUNK)
    with workers(replace(items, slow=items.slow or len(items) > SLOW)) as crew:
        for chunk, found in zip(chunks, crew.map(look, chunks, len(items), "looking at pictures"), strict=True):
            pictures[chunk], shown[chunk] = found[:2]
            reasons.update(found[2])
    readable = np.flatnonzero(pictures["state"] == READABLE)
    return Findings(
        source=source,
        config=config,
        items=items,
        pictures=pictures,
        sides=shown,
        reasons=reasons,
        testing=_testing(items.splits or [""] * len(items), pictures),
        copies=_copies(readable, pictures["digest"]),
        alike=_alike(readable, pictures["digest"], shown),
        beside=None if source.beside is None else check(source.beside, config),
    )


def _refuse_derive(items: Items, config: DataConfig) -> None:
    """Raise `Refused` for a derivation that these settings rule out, whatever the pictures turn out to be."""
    if config.derive == "none":
        return
    from tasvir.data import derive

    grey = config.color == "grey" or (config.color == "auto" and items.channels == 1)
    size = config.size or ANY_SIZE
    derive.check(config.derive, channels=1 if grey else 3, size=size, scale=config.scale, mask=config.mask)


def _look(
    items: Items, numbers: list[int], sides: int, frame: Frame, tiles: bool
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The facts of some pictures: [n] `PICTURE`, [n,sides] `SIDE`, and why some cannot be read."""
    pictures, shown = np.zeros(len(numbers), PICTURE), np.zeros((len(numbers), sides), SIDE)
    reasons: dict[int, str] = {}
    for place, number in enumerate(numbers):
        picture, name = pictures[place], items.names[number]
        try:
            contents = items.contents(number)
            picture["digest"], picture["state"] = np.void(digest_of(contents)), DAMAGED
            picture["files"], picture["bytes"] = len(contents), sum(map(len, contents))
            if not items.encoded:
                _array_facts(items, number, frame, shown[place])
            elif sides > len(contents):  # only the source knows whether a file counts as a pair
                _file_facts(contents[0], name, partial(items.picture, number), frame, shown[place])
            else:
                _file_facts(contents[0], name, partial(decode, contents[0]), frame, shown[place, :1])
                if sides == 2:
                    _source_facts(contents[1], frame, shown[place, 1:])
                    (width, other), (height, beside) = (shown[place][name].tolist() for name in ("width", "height"))
                    check_shapes((width, height), (other, beside), tiles)
            picture["state"] = READABLE
        except Unreadable as error:
            reasons[number] = str(error)
    return pictures, shown, reasons


def _array_facts(items: Items, number: int, frame: Frame, shown: np.ndarray) -> None:
    made = items.picture(number, frame)
    shown["width"] = shown["height"] = made.side
    shown["format"] = b"array"
    for side, pixels in zip(shown, (made.image, made.source), strict=False):
        assert pixels is not None
        side["mode"] = b"L" if pixels.shape[-1] == 1 else b"RGB"
        _pixel_facts(side, pixels)


def _file_facts(
    content: bytes, name: str, decoded: Callable[[Frame], Decoded], frame: Frame, shown: np.ndarray
) -> None:
    """Fill in the facts of one picture, [1] `SIDE`, or of the two halves of one, [2]. Raises `Unreadable`."""
    image = opened(content)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    turned = orientation(image)
    width, height = upright_size(image)
    ending = os.path.splitext(name)[1].lower().lstrip(".")
    traits = Trait.ROTATED * (turned > 1) | Trait.ANIMATED * animated(image)
    traits |= Trait.PROFILE * _profiled(image.info.get("icc_profile"))
    if any(ending in endings.split() for other, endings in ENDINGS.items() if other != kind):
        traits |= Trait.MISNAMED
    shown["width"], shown["height"] = width // len(shown), height
    shown["mode"], shown["format"] = image.mode.encode(), kind.encode()
    made = _pixels(decoded(frame))
    for side, pixels in zip(shown, made, strict=True):
        _pixel_facts(side, pixels)
    if any(pixels.shape[-1] == 3 for pixels in made) and (shown["traits"] & Trait.GREY).any():
        # a small spot of colour is lost in a thumbnail
        for side, pixels in zip(shown, _pixels(decoded(replace(frame, size=256))), strict=True):
            if side["traits"] & Trait.GREY and not is_grey(pixels):
                side["traits"] ^= Trait.GREY
    shown["traits"] |= int(traits | Trait.TRANSPARENT * _transparent(image))


def _source_facts(content: bytes, frame: Frame, shown: np.ndarray) -> None:
    """The same for the other file of a pair."""
    try:
        _file_facts(content, "", partial(decode, content), frame, shown)
    except Unreadable as error:
        raise Unreadable(f"its partner: {error}") from None


def _pixels(made: Decoded) -> tuple[np.ndarray, ...]:
    return (made.image,) if made.source is None else (made.image, made.source)


@lru_cache(64)
def _profiled(profile: bytes | None) -> bool:
    """Whether a colour profile is another than sRGB, as far as it can be read."""
    if not profile:
        return False
    try:
        return "srgb" not in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False


def _transparent(image: Image.Image) -> bool:
    """Whether some pixel lets the background through; the pixels have been decoded before without fault."""
    if not image.has_transparency_data:
        return False
    try:
        alpha = image.getchannel("A") if "A" in image.getbands() else image.convert("RGBA").getchannel("A")
        return alpha.getextrema()[0] < 255  # type: ignore[operator]
    except Exception:  # 16 bits with a transparent value have no such conversion
        return True


def _pixel_facts(side: np.ndarray, pixels: np.ndarray) -> None:
    """Fill in what the pixels of a thumbnail say; `side` is one `SIDE`."""
    side["traits"] = int(Trait.GREY * is_grey(pixels) | Trait.BLANK * bool((np.ptp(pixels, (0, 1)) <= BLANK).all()))
    side["hash"], side["contrast"] = perceptual_hash(pixels)


# Copies


@lru_cache(1)
def _cosines() -> np.ndarray:
    """[LUMA, THUMBNAIL] float32: the lowest rows of the orthonormal DCT-II."""
    angles = np.pi / THUMBNAIL * np.outer(np.arange(LUMA), np.arange(THUMBNAIL) + 0.5)
    rows = np.cos(angles) * np.sqrt(2 / THUMBNAIL)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def perceptual_hash(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """[32,32,1 or 3] uint8 to ([HASH] float16, the contrast in levels, root mean square).

    The lowest frequencies of brightness (as in pHash: Zauner 2010) and of both colour differences (ITU-R 601), in units
    of the contrast. They are not cut down to one bit each: at one bit, hundreds of MNIST's digits are the same.
    """
    levels = pixels.astype(np.float32)
    red, blue = levels[..., 0], levels[..., -1]
    luma = red if pixels.shape[-1] == 1 else levels @ np.array([0.299, 0.587, 0.114], np.float32)
    rows = _cosines() / np.sqrt(np.float32(THUMBNAIL))
    few = rows[:CHROMA]
    parts = rows @ luma @ rows.T, few @ ((blue - luma) * 0.564) @ few.T, few @ ((red - luma) * 0.713) @ few.T
    values = np.concatenate([part.ravel() for part in parts])
    contrast = float(np.sqrt(sum((part.ravel()[1:] ** 2).sum() for part in parts)))
    return (values / max(contrast, 2 * FAINT)).astype(np.float16), contrast


def _copies(readable: np.ndarray, digests: np.ndarray) -> list[Group]:
    """Groups of pictures with the same digest."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number in readable.tolist():
        groups[digests[number].tobytes()].append(number)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _alike(readable: np.ndarray, digests: np.ndarray, sides: np.ndarray) -> list[Group]:
    """Groups of pictures that look the same though their files differ; of pairs, both sides must."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers = readable[(sides["contrast"][readable] >= FAINT).any(1)]
    hashes = np.ascontiguousarray(sides["hash"][numbers].reshape(len(numbers), sides.shape[1] * HASH))
    known: dict[bytes, int] = {}  # one point for all that look exactly the same
    places = np.array([known.setdefault(row.tobytes(), len(known)) for row in hashes], np.int64)
    _, firsts = np.unique(places, return_index=True)
    points = hashes[firsts].astype(np.float32) / np.sqrt(np.float32(sides.shape[1]))
    one, other = _tied(points)
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(points), len(points)))
    group_of = connected_components(links, directed=False)[1][places] if len(points) else places
    groups: dict[int, list[int]] = defaultdict(list)
    for number, group in zip(numbers.tolist(), group_of.tolist(), strict=True):
        groups[group].append(number)
    several = [tuple(group) for group in groups.values() if len(group) > 1]
    return [group for group in several if len({digests[number].tobytes() for number in group}) > 1]


def _tied(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N,D] float32 to the places of pairs of points that are nearly the same.

    Every point is compared with those that share a leaf with it in one of some random trees (Dasgupta and Freund
    2008), so that a hundred times as many take a hundred times as long, whatever they are.
    """
    crowd = np.full(len(points), np.inf, np.float32)  # how far the 16th neighbour is, at most
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    generator = np.random.default_rng(0)
    for _ in range(TREES if len(points) > LEAF else 1):
        for leaf in _leaves(points, np.arange(len(points), dtype=np.int32), generator):
            squares = (points[leaf] ** 2).sum(1)
            distances = squares[:, None] + squares - 2 * (points[leaf] @ points[leaf].T)
            np.fill_diagonal(distances, np.inf)
            some = np.flatnonzero(distances.min(1, initial=np.inf) < ALIKE**2)
            if not len(some):
                continue
            reach = min(NEIGHBOURS, len(leaf) - 1)
            near = np.argpartition(distances[some], reach - 1, axis=1)[:, :reach]
            reached = np.sqrt(np.maximum(np.take_along_axis(distances[some], near, 1), 0))
            crowd[leaf[some]] = np.minimum(crowd[leaf[some]], reached.max(1))
            row, column = np.nonzero(reached < ALIKE)
            found.append((leaf[some][row], leaf[near[row, column]], reached[row, column]))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, other, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    tied = (distance < SURE) | (distance < CLEAR * np.minimum(crowd[one], crowd[other]))
    return one[tied], other[tied]


def _leaves(points: np.ndarray, places: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Places in parts of at most `LEAF`, halved again and again along the line through two of the points."""
    if len(places) <= LEAF:
        yield places
        return
    one, other = generator.choice(places, 2, replace=False)
    order = np.argsort(points[places] @ (points[one] - points[other]), kind="stable")
    for half in np.array_split(order, 2):
        yield from _leaves(points, places[half], generator)


def _testing(given: Sequence[str], pictures: np.ndarray) -> np.ndarray:
    """[N] bool: which pictures are for testing, by the same rule as packing."""
    digests = {n: pictures["digest"][n].tobytes() for n in np.flatnonzero(pictures["state"] > ABSENT).tolist()}
    testing = np.array([split == SPLITS[1] for split in given], bool)
    testing[[number for number, split in places(given, digests).items() if split == SPLITS[1]]] = True
    readable = pictures["state"] == READABLE
    if not all(given) and not (testing & readable).any() and readable.any():  # one is lent, with its copies
        lent = min(digests[number] for number in np.flatnonzero(readable).tolist())
        testing[[number for number in digests if digests[number] == lent]] = True
    return testing
