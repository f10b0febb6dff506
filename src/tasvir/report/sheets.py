"""Pictures on a page: cut from the run's grids, set into sheets and films, packed into data URIs of bounded size."""

import base64
import io
import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from tasvir.pictures import CAPTIONED, SET_NAMES, to_pil

LARGEST = 1280
"""Width in px beyond which a sheet is reduced."""
ACROSS, SETS = 6, 12
"""Pictures in a row, where several belong together, and how many of these sets are shown; of large ones fewer."""
SMOOTH = 200
"""Up to this width a sheet's pixels stay squares; else the page's script decides, by how much it is enlarged."""


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows."""

    images: np.ndarray
    """uint8 [N,H,W,C] with one or three channels."""
    columns: int
    group: int = 1
    """So many neighbours belong together and touch."""
    most: int = 450_000
    """Bytes its data URI may have."""
    spaced: bool = True
    """Whether there is space between its pictures."""
    lead: int = 0
    """So many times as much space more after the first column."""
    names: tuple[str, ...] = ()
    """What those that belong together are, if it is known."""

    @property
    def column_names(self) -> list[str]:
        """A name above each column."""
        return list(self.names) * (self.columns // self.group)


@dataclass(frozen=True)
class Film:
    """Sheets of one shape, one for each step."""

    frames: dict[int, Sheet]
    most: int = 1_900_000
    """Bytes that all data URIs together may have."""


@dataclass(frozen=True)
class Embedded:
    """A picture as the page holds it."""

    uri: str = field(repr=False)
    width: int
    height: int

    @property
    def pixels(self) -> bool:
        """Whether its pixels are to stay squares when it is enlarged."""
        return self.width <= SMOOTH


LEVELS: tuple[tuple[float, int], ...] = (
    *((1.0, quality) for quality in (100, 90, 80, 65)),
    *((0.75, 70), (0.6, 65), (0.5, 55), (0.35, 50), (0.25, 40), (0.15, 30), (0.08, 20)),
)
"""From best to smallest: (factor of the size, WebP quality); 100 is without loss."""


def cut(picture: Image.Image, size: int, group: int = 1) -> Sheet:
    """The pictures of a grid that `tasvir.pictures.grid` or `save_captioned` made from pictures of `size` px, at their
    own size again; `group` neighbours belong together, unless the file says how many do and what they are.

    Raises `ValueError` if it is no such grid.
    """
    captioned = picture.info.get(CAPTIONED)
    factor, strip, *more = map(int, captioned.split()) if captioned else (max(1, math.ceil(28 / size)), 0)
    group = more[0] if more else group
    gap, tile = 2, size * factor
    high = strip + tile
    columns, rows = (picture.width - gap) // (tile + gap), (picture.height - gap) // (high + gap)
    if (
        columns * (tile + gap) + gap != picture.width
        or rows * (high + gap) + gap != picture.height
        or not columns * rows
    ):
        raise ValueError(f"no grid of {tile} px pictures")
    values = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    values = values.reshape(*values.shape[:2], -1)[gap:, gap:]
    tiles = values.reshape(rows, high + gap, columns, tile + gap, -1)[:, strip:high:factor, :, :tile:factor]
    names = tuple(map(str, json.loads(picture.info.get(SET_NAMES, "[]"))))
    return Sheet(tiles.swapaxes(1, 2).reshape(rows * columns, size, size, -1), columns, group, names=names)


def in_sets(sheet: Sheet) -> Sheet:
    """The sheet with at most `SETS` of those that belong together, in rows of about `ACROSS` pictures."""
    beside = max(1, ACROSS // sheet.group)
    shown = min(len(sheet.images) // sheet.group, SETS if beside > 1 else SETS * 2 // 3)
    return replace(sheet, images=sheet.images[: shown * sheet.group], columns=min(beside, shown) * sheet.group)


def bounded(sheet: Sheet) -> Sheet:
    """The sheet with its pictures reduced so that it is at most `LARGEST` px wide."""
    size = sheet.images.shape[2]
    wanted = max(1, LARGEST // sheet.columns - 2)
    if size <= wanted:
        return sheet
    height = max(1, round(sheet.images.shape[1] * wanted / size))
    small = [np.asarray(to_pil(image).resize((wanted, height), Image.Resampling.LANCZOS)) for image in sheet.images]
    return replace(sheet, images=np.stack(small).reshape(len(small), height, wanted, -1))


def laid_out(sheet: Sheet) -> Image.Image:
    """One RGBA picture of the sheet, transparent between its pictures."""
    sheet = bounded(sheet)
    number, height, width, _channels = sheet.images.shape
    gap = max(1, width // 16) if sheet.spaced else 0
    groups = math.ceil(sheet.columns / sheet.group)
    rows = math.ceil(number / sheet.columns)
    across = sheet.columns * width + (groups - 1 + sheet.lead) * gap
    canvas = np.zeros((rows * (height + gap) - gap, across, 4), np.uint8)
    for position, image in enumerate(sheet.images):
        row, column = divmod(position, sheet.columns)
        spaces = column // sheet.group + (sheet.lead if column else 0)
        top, left = row * (height + gap), column * width + spaces * gap
        canvas[top : top + height, left : left + width, :3] = image
        canvas[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(canvas)


def embed(sheet: Sheet, allowance: float = 1.0) -> Embedded:
    """The sheet as the best data URI of at most `sheet.most * allowance` bytes."""
    picture = laid_out(sheet)
    for level in LEVELS[_first_level(picture) :]:
        uri = _uri(picture, level)
        if len(uri) <= sheet.most * allowance:
            break
    return Embedded(uri, picture.width, picture.height)


def embed_film(film: Film, allowance: float = 1.0) -> dict[int, Embedded]:
    """All frames at one quality, within `film.most * allowance` bytes; if the worst one is too much, fewer frames."""
    most = film.most * allowance
    frames = {step: laid_out(sheet) for step, sheet in film.frames.items()}
    while frames:
        pictures = list(frames.values())
        probes = pictures[:: max(1, len(pictures) // 2)][:2] + pictures[-1:]
        for level in LEVELS[_first_level(pictures[0]) :]:
            if sum(len(_uri(probe, level)) for probe in probes) / len(probes) * len(frames) > most:
                continue
            uris = {step: _uri(picture, level) for step, picture in frames.items()}
            if sum(map(len, uris.values())) <= most:
                return {step: Embedded(uris[step], frames[step].width, frames[step].height) for step in frames}
        steps = list(frames)
        frames = {step: frames[step] for step in ([*steps[:-1:2], steps[-1]] if len(steps) > 2 else steps[1:])}
    return {}


@dataclass(frozen=True)
class Reel:
    """One film as the page holds it."""

    name: str
    steps: list[int]
    images: list[Embedded]
    map: list[int]
    """Point of the slider → frame."""


@dataclass(frozen=True)
class Timeline:
    """Films under one slider."""

    points: int
    films: list[Reel]


def embed_films(films: list[tuple[str, Film]], allowance: float = 1.0) -> Timeline:
    """Named films under one slider: at each point, every film shows the frame nearest in its share of training."""
    made = [(name, embed_film(film, allowance)) for name, film in films]
    points = max(len(frames) for _, frames in made)
    reels = []
    for name, frames in made:
        steps = list(frames)
        if len(made) == 1:
            chosen = list(range(points))
        else:
            part = np.array(steps) / max(steps[-1], 1)
            chosen = [int(np.abs(part - at).argmin()) for at in np.linspace(0, 1, points)]
        reels.append(Reel(name, steps, list(frames.values()), chosen))
    return Timeline(points, reels)


def _first_level(picture: Image.Image) -> int:
    """Large sheets are not worth the time of packing them without loss."""
    return 0 if picture.width * picture.height <= 400_000 else 1


def _uri(picture: Image.Image, level: tuple[float, int]) -> str:
    factor, quality = level
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    packed = [("webp", _packed(picture, "WEBP", quality=quality, lossless=quality == 100, method=3))]
    if quality == 100:
        packed.append(("png", _packed(picture, "PNG", optimize=True)))
    kind, content = min(packed, key=lambda pair: len(pair[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _packed(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
