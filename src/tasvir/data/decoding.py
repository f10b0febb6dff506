"""From a picture file's bytes to pixels: upright, on white, 8 bits, square. One way for every source."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST = 89_478_485
"""Pixels: Pillow's own limit, beyond which it suspects a decompression bomb."""
LARGEST_FILE = 256 << 20
"""Bytes of one file."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
FILTER = "centre crop to a square, then Lanczos, antialiased (Pillow); large JPEGs are first reduced by whole factors"


class Unreadable(Exception):
    """One file is no picture that can be used; the message is the reason in a few words."""


def decode(data: bytes, size: int) -> tuple[np.ndarray, int]:
    """Bytes of a file to ([size,size,1 or 3] uint8, the shorter side that the picture had). Raises `Unreadable`.

    EXIF orientation is applied, transparency is laid on white, 16 bits become 8, other colour spaces become RGB
    (ICC profiles are ignored), and of an animation the first picture is taken.
    """
    if not data:
        raise Unreadable("empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > LARGEST:
            raise Unreadable(f"{width}x{height} pixels: perhaps a decompression bomb")
        image.draft(None, (2 * size, 2 * size))  # JPEG: decoded at 1/2, 1/4 or 1/8, at least twice the size
        image.load()
        return fit(flat(upright(image)), size), min(width, height)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise Unreadable("too many pixels: perhaps a decompression bomb") from None
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        raise Unreadable(" ".join(str(error).split())[:120] or type(error).__name__) from None


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is when that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # malformed EXIF: the pixels are still good
        return image


def flat(image: Image.Image) -> Image.Image:
    """Any mode to L or RGB of 8 bits, transparency on white."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable("values outside 16 bits")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise Unreadable("floating-point values of unknown range")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def fit(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """The centre square, resized by Lanczos with antialiasing: [size,size,1 or 3] uint8."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    side = min(image.size)
    if image.size != (side, side):
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """[H,W,1 or 3] to [H,W,channels]; grey is the luma of ITU-R 601, as in Pillow."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]
