"""Pictures going out: grids, files and films. Pictures are uint8 [N,H,W,C] with one or three channels here."""

import csv
import math
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasvir.config import Refused


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
    """A grid, `across` pictures wide, with a name before each row and above each column; either may be left out."""
    across = across or len(columns) or max(1, len(images) // max(1, len(rows)))
    sheet = grid(images, across, least=NAMED)
    font = letters(LETTERS)
    short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in rows]
    left = max((math.ceil(font.getlength(name)) + 12 for name in short), default=0)
    top = LETTERS + 10 if any(columns) else 0
    canvas = Image.new(sheet.mode, (sheet.width + left, sheet.height + top), "white")
    canvas.paste(sheet, (left, top))
    draw = ImageDraw.Draw(canvas)
    tile, count = (sheet.width - 2) // across, math.ceil(len(images) / across)
    for position, name in enumerate(short):
        draw.text((left - 8, top + (position + 0.5) * (sheet.height - 2) / count), name, "black", font, anchor="rm")
    for position, name in enumerate(columns):
        draw.text((left + 1 + (position + 0.5) * tile, top - 4), name, "black", font, anchor="ms")
    return canvas


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
) -> str:
    """Write pictures by the ending of `out`: .png one grid, .npz arrays, .gif .webp .mp4 a film, else a folder.

    Names stand beside the rows and above the columns of a grid.

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
            frames[0].save(out, FILMS[kind], save_all=True, append_images=frames[1:], duration=100, loop=0)
        elif kind == ".mp4":
            _write_mp4(images, out)
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
    return f"{len(images)} pictures of {images.shape[2]}×{images.shape[1]} px in {out}"


def write_arrays(out: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz under exactly this name. Raises `Refused` if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None


def _write_mp4(images: np.ndarray, out: Path) -> None:
    """A film of ten pictures a second, through ffmpeg; sides are made even, as its codec wants."""
    _, height, width, channels = images.shape
    layout = "gray" if channels == 1 else "rgb24"
    words = ["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", layout, "-s", f"{width}x{height}"]
    words += ["-r", "10", "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(out)]
    done = subprocess.run(words, input=np.ascontiguousarray(images).tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise Refused(f"ffmpeg could not write {out}: {done.stderr.decode(errors='replace').strip()[:200]}.")
