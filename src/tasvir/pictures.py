"""Pictures going out: grids, files and films. Pictures are uint8 [N,H,W,C] with one or three channels here."""

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tasvir.config import Refused

if TYPE_CHECKING:
    from tasvir.latent_space import Walked


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2, least: int = 1) -> Image.Image:
    """All pictures in rows on white, `columns` wide (about a square if left out), each at least `least` px high.

    Small pictures are enlarged by a whole factor, so that their pixels stay what they are.
    """
    factor = max(1, math.ceil(least / images.shape[1]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    number, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for position, image in enumerate(images):
        top, left = gap + position // columns * (height + gap), gap + position % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return to_pil(sheet)


NAMED = 48
"""Pictures beside names are enlarged to at least this height."""
LETTERS = 13
"""Height of a name's letters in px."""
LONGEST = 40
"""Letters of a row's name; the rest is left out."""


def named_grid(
    images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = (), across: int = 0
) -> Image.Image:
    """A grid, `across` pictures wide, with a name before each row and above each column, which may have several lines;
    either may be left out.
    """
    across = across or len(columns) or max(1, len(images) // max(1, len(rows)))
    sheet = grid(images, across, least=NAMED)
    font = letters(LETTERS)
    short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in rows]
    left = max((math.ceil(font.getlength(name)) + 12 for name in short), default=0)
    lines = max((name.count("\n") + 1 for name in columns), default=1)
    top = LETTERS + 10 + (lines - 1) * (LETTERS + 3) if any(columns) else 0
    canvas = Image.new(sheet.mode, (sheet.width + left, sheet.height + top), "white")
    canvas.paste(sheet, (left, top))
    draw = ImageDraw.Draw(canvas)
    tile, count = (sheet.width - 2) // across, math.ceil(len(images) / across)
    for position, name in enumerate(short):
        draw.text((left - 8, top + (position + 0.5) * (sheet.height - 2) / count), name, "black", font, anchor="rm")
    for position, name in enumerate(columns):
        for line, part in enumerate(reversed(name.split("\n"))):
            place = left + 1 + (position + 0.5) * tile, top - 4 - line * (LETTERS + 3)
            draw.text(place, part, "black", font, anchor="ms")
    return canvas


CAPTION = 14
"""Height of the strip above a picture, in px, with its caption."""
CAPTIONED = "tasvir captioned"
"""Key of the text in a PNG that says how its captioned grid is laid out: px of a pixel, rows of the strip, and how many
neighbours belong together."""
SET_NAMES = "tasvir names"
"""Key of the names, in JSON, of neighbours that belong together."""


def save_captioned(images: np.ndarray, captions: Sequence[str], columns: int, out: Path, group: int = 1) -> None:
    """A PNG grid, `columns` wide, with its caption above each picture; what is too long for a picture is cut short.

    `report.sheets.cut` finds the pictures in it again.
    """
    factor = max(1, math.ceil(NAMED / images.shape[1]))
    width = images.shape[2] * factor
    strip = np.full((len(images), CAPTION, images.shape[2] * factor, images.shape[3]), 255, np.uint8)
    images = np.concatenate([strip, images.repeat(factor, axis=1).repeat(factor, axis=2)], axis=1)
    sheet, font = grid(images, columns), letters(CAPTION - 4)
    draw = ImageDraw.Draw(sheet)
    short = {caption: _fitting(caption, width, font) for caption in set(captions)}
    for position, caption in enumerate(captions):
        row, column = divmod(position, columns)
        place = (2 + column * (width + 2) + width / 2, 2 + row * (images.shape[1] + 2) + CAPTION - 3)
        draw.text(place, short[caption], "black", font, anchor="ms")
    layout = PngInfo()
    layout.add_text(CAPTIONED, f"{factor} {CAPTION} {group}")
    if group > 1:
        layout.add_text(SET_NAMES, json.dumps(list(captions[:group])))
    sheet.save(out, pnginfo=layout)


def _fitting(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As many letters of a caption as are at most so many px wide."""
    for kept in range(len(caption), 0, -1):
        short = caption if kept == len(caption) else f"{caption[:kept].rstrip()}…"
        if font.getlength(short) <= width:
            return short
    return ""


def sheets(
    frames: np.ndarray, columns: int | None = None, rows: Sequence[str] = (), names: Sequence[str] = ()
) -> np.ndarray:
    """The pictures of each frame, [F,N,H,W,C], as one grid: [F,H',W',C] for a film. `rows` and `names` stand beside
    the rows and above the columns.
    """
    if rows or names:
        made = [named_grid(images, rows, names, columns or 0) for images in frames]
    else:
        made = [grid(images, columns, least=NAMED) for images in frames]
    return np.stack([np.asarray(one).reshape(one.height, one.width, -1) for one in made])


@lru_cache(8)
def letters(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most scripts, or else Pillow's own."""
    try:
        from matplotlib import get_data_path

        return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def to_pil(image: np.ndarray) -> Image.Image:
    """[H,W,C] uint8 to a Pillow picture, grey or RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def interleave(*sets: np.ndarray) -> np.ndarray:
    """Sets of N pictures each: the first of every set, then the second …; [N·sets,H,W,C]."""
    return np.stack(sets, axis=1).reshape(-1, *sets[0].shape[1:])


def alike(*sets: np.ndarray) -> list[np.ndarray]:
    """Sets of pictures [N,H,W,1 or 3] with the channels and the size of the largest; what is enlarged keeps its pixels
    as squares, or nearly, where the sizes are no multiples.
    """
    channels = max(images.shape[3] for images in sets)
    height, width = (max(images.shape[axis] for images in sets) for axis in (1, 2))
    found = []
    for images in sets:
        old = images.shape[1:3]
        rows, columns = (np.arange(new) * size // new for new, size in zip((height, width), old, strict=True))
        wide = images if images.shape[3] == channels else np.repeat(images, channels, axis=3)
        found.append(wide if old == (height, width) else wide[:, rows][:, :, columns])
    return found


FILMS = {".gif": "GIF", ".webp": "WEBP"}


def check_out(out: Path) -> None:
    """Raise `Refused` if `out` is neither a known kind of file nor a folder, or cannot be written."""
    known = (".png", ".npz", *FILMS, ".mp4")
    if out.suffix and out.suffix.lower() not in known and not out.is_dir():
        raise Refused(
            f"--out {out} ends in {out.suffix}; pictures are written as {', '.join(known)}, or into a folder."
        )
    if out.suffix.lower() == ".mp4" and not shutil.which("ffmpeg"):
        raise Refused(f"--out {out} needs the program ffmpeg, which is not installed; .gif and .webp need nothing.")
    if out.suffix and out.is_dir():
        raise Refused(f"--out {out} is a folder.")
    if not out.suffix and out.is_file():
        raise Refused(f"--out {out} is a file; name a folder, or a file that ends in {', '.join(known)}.")


def write(
    images: np.ndarray,
    out: Path,
    *,
    columns: int | None = None,
    labels: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    classes: Sequence[str] = (),
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    rate: int = 10,
) -> str:
    """Write pictures by the ending of `out`: .png one grid, .npz arrays, .gif .webp .mp4 a film, else a folder.

    Names stand beside the rows and above the columns of a grid. `rate` is the pictures a second of a film.

    Returns a sentence about what was written. Raises `Refused` if it cannot be.
    """
    check_out(out)
    kind = out.suffix.lower()
    try:
        (out.parent if kind else out).mkdir(parents=True, exist_ok=True)
        if kind == ".png":
            if row_names or column_names:
                named_grid(images, row_names, column_names, columns or 0).save(out)
            else:
                grid(images, columns).save(out)
        elif kind == ".npz":
            extra = {} if labels is None else {"labels": np.asarray(labels, np.int64)}
            write_arrays(out, {"images": images, **extra})
        elif kind in FILMS:
            frames = [to_pil(image) for image in images]
            frames[0].save(out, FILMS[kind], save_all=True, append_images=frames[1:], duration=1000 // rate, loop=0)
        elif kind == ".mp4":
            _write_mp4(images, out, rate)
        else:
            with (out / "index.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["file", "label", "seed"])
                for position, image in enumerate(images):
                    name = f"{position:06d}.png"
                    to_pil(image).save(out / name)
                    label = "" if labels is None else (classes[labels[position]] if classes else labels[position])
                    table.writerow([name, label, "" if seeds is None else seeds[position]])
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None
    return f"{counted(len(images))} of {images.shape[2]}×{images.shape[1]} px in {out}"


def counted(number: int) -> str:
    """So many pictures, in words."""
    return f"{number} picture{'' if number == 1 else 's'}"


def write_sheets(sheets: "Sequence[Walked]", out: Path) -> str:
    """Named grids one below another in a .png; in any other form, all their pictures one after another.

    Returns a sentence about what was written. Raises `Refused` if it cannot be.
    """
    images = np.concatenate([sheet.images for sheet in sheets])
    if out.suffix.lower() != ".png":
        return write(images, out)
    drawn = [named_grid(sheet.images, sheet.rows, sheet.columns) for sheet in sheets]
    gap = 2 * LETTERS
    size = max(one.width for one in drawn), sum(one.height + gap for one in drawn) - gap
    canvas, top = Image.new(drawn[0].mode, size, "white"), 0
    for one in drawn:
        canvas.paste(one, (size[0] - one.width, top))
        top += one.height + gap
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(out)
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None
    return f"{counted(len(images))} of {images.shape[2]}×{images.shape[1]} px in {out}"


def write_arrays(out: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz under exactly this name. Raises `Refused` if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None


def _write_mp4(images: np.ndarray, out: Path, rate: int) -> None:
    """A film of so many pictures a second, through ffmpeg; sides are made even, as its codec wants."""
    _, height, width, channels = images.shape
    layout = "gray" if channels == 1 else "rgb24"
    words = ["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", layout, "-s", f"{width}x{height}"]
    words += ["-r", str(rate), "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(out)]
    done = subprocess.run(words, input=np.ascontiguousarray(images).tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise Refused(f"ffmpeg could not write {out}: {done.stderr.decode(errors='replace').strip()[:200]}.")
