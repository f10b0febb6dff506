"""From a picture file's bytes to pixels: upright, sRGB, opaque, 8 bits, square. One way for every source."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from tasvir.config import Refused

LARGEST = 89_478_485
"""Pixels: Pillow's own limit, beyond which it suspects a decompression bomb."""
LONGEST = 1_000_000
"""Pixels of one side: a picture one pixel wide needs many times the memory that its pixels do."""
LARGEST_FILE = 256 << 20
"""Bytes of one file."""
LARGEST_PROFILE = 4 << 20
"""Bytes of a colour profile; larger ones are ignored."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}

FitName = Literal["crop", "pad", "squash", "tiles"]
FITS: dict[FitName, str] = {
    "crop": "centre crop to a square",
    "pad": "the whole picture on a {background} square",
    "squash": "the whole picture squashed to a square",
    "tiles": "cut into squares at its own resolution",
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (JEITA CP-3451, tag 0x0112)."""
_EXIF = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_BAND = 1 << 22  # pixels whose colours are converted at once: copies of a large picture would not fit in memory
_FAR = 64  # from this ratio on Lanczos would need more memory for its weights than the picture has pixels

# What Pillow has to say of a damaged file is said by Unreadable, or does not touch the pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


SAME_SHAPE = 1.02
"""How far the ratios of width to height may be apart for two pictures to be of one shape."""


OTHER_SHAPE, TILES_OF_PAIRS = "another shape", "tiles need pairs of one size"
"""Why the two files of a pair do not go together."""


class Met(IntFlag):
    """What decoding came upon that is worth a word, though the picture can be used."""

    ANIMATED = 1
    ODD_WIDTH = 2  # of two pictures side by side
    OTHER_SIZE = 4  # of the two files of a pair


class Unreadable(Exception):
    """One file is no picture that can be used; the message is the reason in a few words."""


@dataclass(frozen=True)
class Frame:
    """How a picture of any shape becomes a square."""

    size: int
    """Height and width in pixels."""
    fit: FitName = "crop"
    """Its centre; the whole, centred on the background; the whole, out of proportion. For `tiles` it stays as it is,
    and `tasvir.data.tiling` cuts squares out of it."""
    background: tuple[int, int, int] = COLORS["white"]
    """Red, green and blue, 0 to 255, under transparency and around a padded picture."""


@dataclass(frozen=True)
class Decoded:
    """A picture as a set holds it."""

    image: np.ndarray
    """[size,size,1 or 3] uint8; [H,W,1 or 3] where the frame's fit is `tiles`."""
    side: int
    """The shorter side that the picture had; of its half, for a pair in one file."""
    shape: tuple[int, int] = (0, 0)
    """Upright width and height of the file, where that is known."""
    met: Met = Met(0)
    source: np.ndarray | None = None
    """[size,size,1 or 3] uint8: what a pair's picture is made from; [H,W,1 or 3] for `tiles`."""


def parse_color(text: str) -> tuple[int, int, int]:
    """White, black, grey or #rrggbb as red, green and blue, 0 to 255. Raises `Refused` for anything else."""
    word = text.strip().lower()
    if word in COLORS:
        return COLORS[word]
    if not re.fullmatch(r"#[0-9a-f]{6}", word):
        raise Refused(f"'{text[:40]}' is no colour tasvir knows.\nGive white, black, grey, or #rrggbb such as #f0e0d0.")
    red, green, blue = bytes.fromhex(word[1:])
    return red, green, blue


def squaring(fit: FitName) -> FitName:
    """How one square is made of a picture, where a set may be cut into several: of tiles, the centre."""
    return "crop" if fit == "tiles" else fit


def described(frame: Frame) -> str:
    """What `decode` does, in a sentence for a passport."""
    names = {color: name for name, color in reversed(COLORS.items())}
    background = names.get(frame.background) or "#{:02x}{:02x}{:02x}".format(*frame.background)
    squared = FITS[frame.fit].format(background=background)
    if frame.fit != "tiles":
        squared += ", then Lanczos, antialiased (Pillow); large JPEGs are first reduced by whole factors"
    return f"upright as EXIF says; ICC profiles to sRGB; transparency on {background}; {squared}"


def opened(data: bytes) -> Image.Image:
    """Bytes of a file to a picture whose size, mode and EXIF are known and whose pixels are not decoded yet.

    Raises `Unreadable` for what is empty, of no known format, or so large that it may be a decompression bomb.
    """
    with _plainly():
        return _opened(data)


def decode(data: bytes, frame: Frame) -> Decoded:
    """Bytes of a file to its picture. Raises `Unreadable`.

    EXIF orientation is applied, ICC profiles are followed to sRGB (those that are broken or of another kind of colour
    are ignored), transparency is laid on the background, 16 bits and floats in [0,1] become 8 bits, other colour
    spaces become RGB, and of an animation the first picture is taken.
    """
    with _plainly():
        image = _opened(data)
        side, shape = min(image.size), upright_size(image)
        met = Met.ANIMATED * animated(image)
        return Decoded(fit(_pixels(image, frame), frame), side, shape, Met(met))


def whole(data: bytes, background: tuple[int, int, int] = COLORS["white"]) -> np.ndarray:
    """Bytes of a file to its picture at its own height and width, uint8 [H,W,1 or 3]. Raises `Unreadable`."""
    with _plainly():
        image = _opened(data)
        image.load()
        pixels = np.asarray(flat(upright(image), background))
        return pixels[..., None] if pixels.ndim == 2 else pixels


def decode_halves(data: bytes, frame: Frame, alike: bool = False) -> Decoded:
    """Bytes of a file with two pictures side by side: the right half, and the left half as its source.

    The upright picture is split in the middle; of an odd width the middle column belongs to neither. Each half is
    fitted by itself. Raises `Unreadable`; with `alike`, also for a picture that is not twice as wide as high, give or
    take one column.
    """
    with _plainly():
        image = _opened(data)
        width, height = upright_size(image)
        if alike and abs(width - 2 * height) > 1:
            raise Unreadable("not twice as wide as high, as the other pairs are")
        met = Met.ANIMATED * animated(image) | Met.ODD_WIDTH * (width % 2)
        pair = _pixels(image, frame, halves=2)
        half = pair.width // 2
        if not half:
            raise Unreadable("one pixel wide: it has no two halves")
        left = pair.crop((0, 0, half, pair.height))
        right = pair.crop((pair.width - half, 0, pair.width, pair.height))
        return Decoded(fit(right, frame), min(width // 2, height), (width, height), Met(met), fit(left, frame))


def check_shapes(shape: tuple[int, int], other: tuple[int, int], tiles: bool = False) -> None:
    """Raise `Unreadable` where the two files of a pair, by width and height, differ in shape; for tiles, in size."""
    ratio = shape[0] * other[1] / (shape[1] * other[0])
    if (tiles and shape != other) or not 1 / SAME_SHAPE <= ratio <= SAME_SHAPE:
        what = TILES_OF_PAIRS if tiles else OTHER_SHAPE
        raise Unreadable(f"{shape[0]}x{shape[1]} px, and its partner {other[0]}x{other[1]}: {what}")


def animated(image: Image.Image) -> bool:
    """Whether an opened file holds more than one picture."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first picture is damaged: there is more than one
        return True


def still(data: bytes, background: tuple[int, int, int] = COLORS["white"]) -> tuple[np.ndarray, np.ndarray | None]:
    """Bytes of a file to its picture, as `whole` gives it, and its opacity, uint8 [H,W], where it may be transparent.

    Raises `Unreadable`, also for a film or a file of several pictures.
    """
    with _plainly():
        image = _opened(data)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # beside the picture of an MPO are only its previews
            raise Unreadable(f"an animation, or a file of {frames} pictures: take them out of it first")
        image = upright(image)
        opacity = None
        if image.has_transparency_data:
            plain = _eight_bits(image) if image.mode.startswith("I") or image.mode == "F" else image
            whole = plain.convert("LA" if plain.mode in ("1", "L", "LA", "La") else "RGBA")
            opacity = np.asarray(whole.getchannel("A"))
        pixels = np.asarray(flat(image, background))
        return pixels[..., None] if pixels.ndim == 2 else pixels, opacity


@contextmanager
def _plainly() -> Iterator[None]:
    """Whatever goes wrong with a file becomes `Unreadable` with a reason of a few words."""
    try:
        yield
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise Unreadable("too many pixels: perhaps a decompression bomb") from None
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        raise Unreadable(" ".join(str(error).split())[:120] or type(error).__name__) from None


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise Unreadable("empty file")
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > LARGEST or max(width, height) > LONGEST:
        raise Unreadable(f"{width}x{height} pixels: perhaps a decompression bomb")
    if not width or not height:
        raise Unreadable("no pixels")
    return image


def _pixels(image: Image.Image, frame: Frame, halves: int = 1) -> Image.Image:
    """An opened picture decoded, upright and flat. A JPEG of which less is enough is decoded at 1/2, 1/4 or 1/8."""
    if image.format in ("JPEG", "MPO") and frame.fit != "tiles":
        enough = 2 * frame.size * halves, 2 * frame.size  # at least twice the size, so that Lanczos decides
        if orientation(image) > 4:
            enough = enough[1], enough[0]
        if frame.fit == "pad":  # only the longer side has to suffice
            width, height = image.size
            factor = max(1, max(width // enough[0], height // enough[1]))
            enough = max(1, width // factor), max(1, height // factor)
        image.draft(None, enough)
    image.load()
    return flat(upright(image), frame.background)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; from 5 on, height and width are exchanged. 1 where it is not said or not legible.

    A TIFF is turned by Pillow: its size is the upright one from the beginning, and once loaded it has no orientation.
    """
    if image.format != "TIFF" and not any(key in image.info for key in _EXIF):
        return 1  # reading none would cost as much as decoding a small picture
    try:
        found = image.getexif().get(0x0112, 1)
        return found if found in TURNS else 1
    except Exception:  # malformed EXIF: the pixels are still good
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture once it is turned as its EXIF orientation says."""
    return image.size[::-1] if orientation(image) > 4 and image.format != "TIFF" else image.size


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    image.load()
    method = TURNS.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for key in _EXIF:
        turned.info.pop(key, None)
    return turned


def flat(image: Image.Image, background: tuple[int, int, int] = COLORS["white"]) -> Image.Image:
    """Any mode to L or RGB: 8 bits, sRGB, transparency on the background. Raises `Unreadable` for values out of range.

    16 bits are divided by 257; floats have to be in [0,1].
    """
    if image.mode in ("L", "RGB") and not ("icc_profile" in image.info or "transparency" in image.info):
        return image
    if image.width * image.height <= _BAND:
        return _flat(image, background)
    canvas: Image.Image | None = None
    for box in _bands(image.size):
        band = _flat(image.crop(box), background)
        canvas = canvas or Image.new(band.mode, image.size)
        canvas.paste(band, box[:2])
    assert canvas is not None
    return canvas


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most `_BAND` pixels that cover a picture, across its longer side."""
    width, height = size
    step = max(1, _BAND // min(size))
    for start in range(0, max(size), step):
        end = min(start + step, max(size))
        yield (start, 0, end, height) if width > height else (0, start, width, end)


def _flat(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return _srgb(image, profile)
    whole = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    picture = _srgb(whole.convert(whole.mode[:-1]), profile)
    if picture.mode == "L" and len(set(background)) == 1:
        canvas = Image.new("L", picture.size, background[0])
    else:
        canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture, mask=whole.getchannel("A"))
    return canvas


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers of 16 bits or floats in [0,1] to L, or to LA where one value stands for transparency."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also when they are no numbers
            raise Unreadable(f"floating-point values from {low:.3g} to {high:.3g}: only 0 to 1 is sure to be meant")
        return Image.fromarray(np.round(values * np.float32(255)).astype(np.uint8))
    if low < 0 or high > 65535:
        raise Unreadable(f"whole numbers from {low:.0f} to {high:.0f}: only 16 bits, 0 to 65535, are read")
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # 65535/255 = 257
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture of any 8-bit mode to L or RGB, by its profile if that fits."""
    if image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode == "LAB":  # no device's colours, whatever profile is beside them
        return image.convert("RGB")
    elif image.mode not in ("CMYK", "RGB"):
        image = image.convert("RGB")
    conversion = _conversion(profile, image.mode) if profile and len(profile) <= LARGEST_PROFILE else None
    if conversion is not None:
        return conversion(image)
    return image.convert("RGB") if image.mode == "CMYK" else image


@lru_cache(16)
def _conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """What takes a picture of the mode L, RGB or CMYK from the profile's colours to sRGB by its perceptual intent.

    None where nothing would change, and where the profile is broken or made for another mode.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        table = transform.apply(ramp).convert("L").tobytes()
        return None if table == ramp.tobytes() else lambda image: image.point(list(table))
    if mode == "RGB":
        steps = np.r_[0:256:32, 255]
        probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3).astype(np.uint8)
        there = np.asarray(transform.apply(Image.fromarray(probe)))
        if np.abs(there.astype(int) - probe).max() <= 1:  # sRGB by any name
            return None
    return transform.apply


def fit(image: Image.Image | np.ndarray, frame: Frame) -> np.ndarray:
    """An L or RGB picture, or uint8 [H,W,1 or 3], made square by antialiased Lanczos: [size,size,1 or 3] uint8.

    Where the frame's fit is `tiles`, it stays as it is: [H,W,1 or 3].
    """
    if frame.fit == "tiles":
        pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    width, height = image.size
    size = frame.size
    if frame.fit == "crop" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if frame.fit == "pad" and width != height:
        longer = max(width, height)
        inside = max(1, round(width * size / longer)), max(1, round(height * size / longer))
        picture = _resized(image, inside)
        grey = picture.mode == "L" and len(set(frame.background)) == 1
        image = Image.new("L" if grey else "RGB", (size, size), frame.background[0] if grey else frame.background)
        image.paste(picture, ((size - inside[0]) // 2, (size - inside[1]) // 2))
    pixels = np.asarray(_resized(image, (size, size)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    far = image.width > _FAR * size[0] or image.height > _FAR * size[1]
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=8.0 if far else None)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """[H,W,1 or 3] to [H,W,channels]; grey is the luma of ITU-R 601, as in Pillow."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def is_grey(image: np.ndarray) -> bool:
    """Whether all channels of a picture are the same."""
    if image.shape[-1] == 1:
        return True
    some = image[:: max(1, len(image) // 8)]  # colour mostly shows in a few rows
    return all(bool((part[..., 0] == part[..., other]).all()) for part in (some, image) for other in (1, 2))
