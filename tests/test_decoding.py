"""Decoding: every mode, orientation and profile to upright sRGB of 8 bits; framing; what is refused."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tasvir.config import Refused
from tasvir.data import decoding
from tasvir.data.decoding import Frame, Unreadable, decode, decode_halves, described, fit, flat, opened, parse_color

SHARED = Path(__file__).parents[2] / "shared" / "data"
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore::PIL.Image.DecompressionBombWarning")
LANCZOS = Image.Resampling.LANCZOS


def noise(seed: int, height: int = 24, width: int = 24, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def as_bytes(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes, size: int = 24, **options) -> np.ndarray:
    found = decode(content, Frame(size, **options))
    assert found.image.dtype == np.uint8 and found.image.shape[:2] == (size, size) and found.source is None
    return found.image


def near(image: np.ndarray, color: object, by: int = 1) -> bool:
    return bool(np.abs(image.astype(int) - np.asarray(color)).max() <= by)


def ramp(height: int, width: int) -> np.ndarray:
    """Smooth, and different at every place."""
    down, across = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.stack(np.broadcast_arrays(down, across, 128), -1).astype(np.uint8)


# EXIF

TURNED = {  # how a picture is stored, so that turning it as the orientation says gives it back
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def oriented(upright: np.ndarray, orientation: int, kind: str, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return as_bytes(np.ascontiguousarray(TURNED[orientation](upright)), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_every_orientation_is_turned_upright(kind, options, orientation):
    upright = noise(1)
    np.testing.assert_array_equal(decoded(oriented(upright, orientation, kind, **options)), upright)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("fit_name", ["crop", "pad", "squash"])
def test_a_reduced_jpeg_is_turned_upright_and_keeps_its_side(orientation, fit_name):
    upright = ramp(640, 360)
    found = decode(oriented(upright, orientation, "JPEG", quality=95), Frame(24, fit_name))
    assert found.side == 360
    assert near(found.image, fit(upright, Frame(24, fit_name)), 6)


def test_malformed_exif_costs_nothing_but_the_turn():
    content = as_bytes(noise(2), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    np.testing.assert_array_equal(decoded(content), noise(2))
    wrong = Image.Exif()
    wrong[0x0112] = 77
    np.testing.assert_array_equal(decoded(as_bytes(noise(2), "PNG", exif=wrong)), noise(2))


def test_upright_twice_is_upright_once():
    content = oriented(noise(3, 10, 20), 6, "PNG")
    once = decoding.upright(opened(content))
    assert once.size == (20, 10) and decoding.orientation(once) == 1
    np.testing.assert_array_equal(np.asarray(decoding.upright(once)), noise(3, 10, 20))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_is_known_before_the_pixels_are(kind):
    assert decoding.orientation(opened(oriented(noise(3), 6, kind))) == 6
    assert decoding.orientation(opened(as_bytes(noise(3), kind))) == 1


# Colour profiles


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2.4 with the given tags (ICC.1:2001-04)."""
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249), **tags}
    table, body, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = b"\0" * 4 + struct.pack(">I", 0x02400000) + kind + space + connection + b"\0" * 12 + b"acsp" + b"\0" * 28
    head += struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)  # the D50 of the connection space
    total = 4 + len(head) + (128 - 4 - len(head)) + len(table) + len(body)
    return (struct.pack(">I", total) + head).ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def power(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
GAMMA = 563 / 256


def wide() -> bytes:
    """The primaries of Display P3, adapted to D50, with a plain power curve."""
    tags = {name: xyz(*P3[:, column]) for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), power(GAMMA))})


def grey(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": power(gamma)})


def ink() -> bytes:
    """CMYK in which cyan is a grey of L* = 50, black is black, and the other inks cannot be seen."""
    straight = bytes(range(256))
    light = [0 if place & 1 else 128 if place & 8 else 255 for place in range(16)]  # cyan changes slowest
    corners = b"".join(bytes((value, 128, 128)) for value in light)  # L*, a*, b*
    identity = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + straight * 4 + corners + straight * 3
    return profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


def encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_wide_profile_is_followed_to_srgb():
    colors = np.array([[200, 80, 60], [60, 180, 90], [128, 128, 128], [90, 100, 200], [255, 255, 255], [230, 40, 30]])
    pixels = np.repeat(np.repeat(colors.astype(np.uint8)[None], 4, 1), 24, 0)
    expected = encoded((colors / 255) ** GAMMA @ P3.T @ np.linalg.inv(SRGB).T)
    found = decoded(as_bytes(pixels, icc_profile=wide()))
    assert near(found[12, 2::4], expected, 2)
    assert not near(found[12, 2::4], colors, 10)  # it is a real change
    with_alpha = Image.fromarray(pixels)
    with_alpha.putalpha(255)
    np.testing.assert_array_equal(decoded(as_bytes(with_alpha, icc_profile=wide())), found)


def test_a_profile_is_followed_before_transparency_is_laid_down():
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (200, 80, 60), 128
    own = encoded((np.array([200, 80, 60]) / 255) ** GAMMA @ P3.T @ np.linalg.inv(SRGB).T)
    found = decoded(as_bytes(pixels, icc_profile=wide()), background=(0, 0, 255))
    assert near(found[3, 3], own * 128 / 255 + np.array([0, 0, 255]) * 127 / 255, 2)


def test_a_palette_with_a_profile():
    palette = Image.new("P", (24, 24), 1)
    palette.putpalette([0, 0, 0, 200, 80, 60])
    expected = encoded((np.array([200, 80, 60]) / 255) ** GAMMA @ P3.T @ np.linalg.inv(SRGB).T)
    assert near(decoded(as_bytes(palette, icc_profile=wide())), expected, 2)


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_a_grey_profile_is_followed_and_stays_grey(gamma):
    values = np.arange(0, 240, 10, dtype=np.uint8)
    found = decoded(as_bytes(np.repeat(values[None], 24, 0), icc_profile=grey(gamma)))
    assert found.shape == (24, 24, 1)
    assert near(found[5, :, 0], encoded((values / 255) ** gamma), 2)


def test_cmyk_goes_through_its_profile():
    cyan = Image.new("CMYK", (24, 24), (255, 0, 0, 0))
    luminance = ((50.2 + 16) / 116) ** 3  # L* 128/255
    for kind in ("JPEG", "TIFF"):
        found = decoded(as_bytes(cyan, kind, icc_profile=ink()))
        assert found.shape == (24, 24, 3) and near(found, encoded(np.array(luminance)), 2)


@pytest.mark.parametrize("kind, options", [("JPEG", {"quality": 95}), ("TIFF", {})])
def test_cmyk_without_a_profile_becomes_rgb(kind, options):
    found = decoded(as_bytes(Image.new("CMYK", (24, 24), (255, 0, 0, 0)), kind, **options))
    assert found.shape == (24, 24, 3) and near(found, (0, 255, 255), 5)


def test_srgb_by_any_name_changes_nothing():
    named = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decoding._conversion(named, "RGB") is None
    for content in (named, profile(b"RGB ", {})):
        np.testing.assert_array_equal(decoded(as_bytes(noise(4), icc_profile=content)), noise(4))


@pytest.mark.parametrize(
    "content",
    [b"", b"no profile", grey(2.2), ink(), wide()[:200], wide() + b"\0" * (decoding.LARGEST_PROFILE)],
    ids=["empty", "words", "of grey", "of CMYK", "cut off", "too large"],
)
def test_a_broken_or_unfit_profile_is_ignored(content):
    picture = Image.fromarray(noise(5))
    picture.info["icc_profile"] = content
    np.testing.assert_array_equal(np.asarray(flat(picture)), noise(5))


def test_a_profile_shared_by_many_pictures_is_built_once(monkeypatch):
    built = []
    build = ImageCms.buildTransform
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *given: built.append(given) or build(*given))
    decoding._conversion.cache_clear()
    for seed in range(5):
        decoded(as_bytes(noise(seed), icc_profile=wide()))
    assert len(built) == 1


# Modes


def test_transparency_is_laid_on_the_background():
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, :8, 3], pixels[:, 8:16, 3], pixels[:, 16:, 3] = 0, 128, 255
    for background in ((255, 255, 255), (0, 0, 0), (10, 200, 30)):
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
            image = decoded(as_bytes(pixels, kind, **options), background=background)
            for column, alpha in zip((4, 12, 20), (0, 128 / 255, 1), strict=True):
                assert near(image[12, column], alpha * np.array([200, 0, 0]) + (1 - alpha) * np.array(background))


def test_transparency_of_grey_stays_grey_on_a_grey_background():
    pixels = np.stack([np.full((24, 24), 100, np.uint8), noise(6, channels=1)], -1)
    alpha = pixels[..., 1:] / 255
    on_white = decoded(as_bytes(Image.fromarray(pixels, "LA")))
    assert on_white.shape == (24, 24, 1) and near(on_white, 100 * alpha + 255 * (1 - alpha))
    on_red = decoded(as_bytes(Image.fromarray(pixels, "LA")), background=(255, 0, 0))
    assert on_red.shape == (24, 24, 3) and near(on_red, 100 * alpha + np.array([255, 0, 0]) * (1 - alpha))


def test_one_transparent_color():
    palette = Image.new("P", (24, 24), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(1, (12, 0, 24, 24))
    image = decoded(as_bytes(palette, transparency=0))
    assert image[5, 5].tolist() == [255, 255, 255] and image[5, 20].tolist() == [40, 50, 60]
    image = decoded(as_bytes(palette, transparency=bytes([255, 51])))  # alpha of every color of the palette
    assert image[5, 5].tolist() == [10, 20, 30] and near(image[5, 20], [212, 214, 216])
    assert decoded(as_bytes(palette, "GIF"))[5, 5].tolist() == [10, 20, 30]
    assert decoded(as_bytes(palette, "GIF", transparency=0))[5, 5].tolist() == [255, 255, 255]
    color = decoded(as_bytes(palette.convert("RGB"), transparency=(40, 50, 60)))
    assert color[5, 5].tolist() == [10, 20, 30] and color[5, 20].tolist() == [255, 255, 255]
    grey_levels = np.full((24, 24), 7, np.uint8)
    grey_levels[:, 12:] = 90
    image = decoded(as_bytes(grey_levels, transparency=90))
    assert image[5, 5].tolist() == [7] and image[5, 20].tolist() == [255]
    image = decoded(as_bytes(grey_levels.astype(np.uint16) * 257, transparency=90 * 257))
    assert image[5, 5].tolist() == [7] and image[5, 20].tolist() == [255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(kind):
    values = (np.arange(24 * 24) * 113).astype(np.uint16).reshape(24, 24)
    image = decoded(as_bytes(values, kind))
    assert image.shape == (24, 24, 1)
    np.testing.assert_array_equal(image[..., 0], np.round(values / 257))


def test_every_sixteen_bit_value_is_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for picture in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        np.testing.assert_array_equal(np.asarray(flat(picture)), np.round(values / 257))
    swapped = opened(b"MM" + tiff_big_endian(values)[2:])
    assert swapped.mode == "I;16B"
    np.testing.assert_array_equal(np.asarray(flat(swapped)), np.round(values / 257))


def tiff_big_endian(values: np.ndarray) -> bytes:
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    body = values.astype(">u2").tobytes()
    directory = struct.pack(">H", len(entries) + 1)
    directory += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    directory += struct.pack(">HHII", 279, 4, 1, len(body)) + b"\0\0\0\0"
    return b"MM\0*" + struct.pack(">I", 8 + len(body)) + body + directory


@pytest.mark.parametrize("low, high", [(-1, 100), (0, 65536)])
def test_whole_numbers_beyond_sixteen_bits_are_unreadable(low, high):
    values = np.linspace(low, high, 24 * 24).astype(np.int32).reshape(24, 24)
    with pytest.raises(Unreadable, match=f"{low} to {high}.*16 bits"):
        decoded(as_bytes(values, "TIFF"))


def test_floats_in_the_unit_range_are_scaled_and_others_unreadable():
    values = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)
    np.testing.assert_array_equal(decoded(as_bytes(values, "TIFF"))[..., 0], np.round(values * np.float32(255)))
    for wrong in (values * 2, values - 0.5, np.where(values > 0.5, np.nan, values), np.where(values > 0.5, np.inf, 0)):
        with pytest.raises(Unreadable, match="floating-point values"):
            decoded(as_bytes(wrong.astype(np.float32), "TIFF"))


def test_one_bit():
    values = noise(7, channels=1) > 127
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        np.testing.assert_array_equal(decoded(as_bytes(values, kind))[..., 0], values * 255)


def test_other_colour_spaces_become_rgb():
    red = Image.new("RGB", (24, 24), (255, 0, 0))
    assert near(np.asarray(flat(red.convert("YCbCr"))), (255, 0, 0), 2)
    lab = Image.new("LAB", (24, 24), (138, 209, 198))  # L* 54.3, a* 80.8, b* 69.9 under D50: the red of sRGB
    assert near(decoded(as_bytes(lab, "TIFF")), (255, 0, 0), 5)
    assert near(np.asarray(flat(red.convert("HSV"))), (255, 0, 0))
    assert near(np.asarray(flat(red.convert("RGBX"))), (255, 0, 0))
    premultiplied = Image.new("RGBA", (24, 24), (255, 0, 0, 51)).convert("RGBa")
    assert near(np.asarray(flat(premultiplied)), (255, 204, 204), 2)
    assert near(np.asarray(flat(Image.new("LA", (24, 24), (0, 51)).convert("La"))), 204, 2)
    both = Image.new("PA", (24, 24))
    both.putpalette([255, 0, 0])
    both.putalpha(51)
    assert near(np.asarray(flat(both)), (255, 204, 204), 2)


@pytest.mark.parametrize("kind, options", [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_an_animation_is_its_first_picture(kind, options):
    first, *rest = (Image.new("RGB", (24, 24), color) for color in ("#c81e1e", "#1ec81e", "#1e1ec8"))
    content = as_bytes(first, kind, save_all=True, append_images=rest, **options)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    assert near(decoded(content), (200, 30, 30))


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "CMYK", "LA"])
@pytest.mark.parametrize("size", [(31, 7), (7, 31)])
def test_a_large_picture_is_flattened_in_bands_to_the_same_pixels(monkeypatch, mode, size):
    if mode == "I;16":
        picture = Image.fromarray(noise(8, *size, 1).astype(np.uint16) * 250)
    else:
        picture = Image.fromarray(noise(8, *size, 4)).convert(mode)
    picture.info["icc_profile"] = {"CMYK": ink(), "RGBA": wide(), "P": wide()}.get(mode, b"")
    whole = flat(picture, (10, 20, 30))
    monkeypatch.setattr(decoding, "_BAND", 20)
    banded = flat(picture, (10, 20, 30))
    assert banded.mode == whole.mode and banded.size == whole.size
    np.testing.assert_array_equal(np.asarray(banded), np.asarray(whole))


# Framing


@pytest.mark.parametrize("height, width, size", [(60, 91, 24), (91, 60, 24), (64, 64, 24), (10, 13, 24), (24, 24, 24)])
def test_centre_crop_and_antialiased_lanczos_as_in_pillow(height, width, size):
    pixels = noise(3, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = np.asarray(square.resize((size, size), LANCZOS)) if side != size else np.asarray(square)
    np.testing.assert_array_equal(decoded(as_bytes(pixels), size), expected)


@pytest.mark.parametrize("height, width", [(60, 90), (90, 60), (24, 24), (6, 12)])
def test_padding_keeps_all_of_the_picture_in_the_middle(height, width):
    pixels = noise(4, height, width)
    across, down = (24, 24 * height // width) if width >= height else (24 * width // height, 24)
    inside = Image.fromarray(pixels)
    inside = inside if inside.size == (across, down) else inside.resize((across, down), LANCZOS)
    expected = np.full((24, 24, 3), (9, 8, 7), np.uint8)
    top, left = (24 - down) // 2, (24 - across) // 2
    expected[top : top + down, left : left + across] = np.asarray(inside)
    np.testing.assert_array_equal(decoded(as_bytes(pixels), fit="pad", background=(9, 8, 7)), expected)


def test_padding_grey_pictures():
    assert decoded(as_bytes(noise(4, 60, 90, 1)), fit="pad").shape == (24, 24, 1)
    colored = decoded(as_bytes(noise(4, 60, 90, 1)), fit="pad", background=(255, 0, 0))
    assert colored.shape == (24, 24, 3) and colored[0, 0].tolist() == [255, 0, 0]
    assert (colored[12, :, 0] == colored[12, :, 1]).all()


def test_squashing_as_in_pillow():
    pixels = noise(5, 60, 90)
    expected = np.asarray(Image.fromarray(pixels).resize((24, 24), LANCZOS))
    np.testing.assert_array_equal(decoded(as_bytes(pixels), fit="squash"), expected)


@pytest.mark.parametrize("fit_name", ["crop", "pad", "squash"])
@pytest.mark.parametrize("height, width", [(1, 5000), (5000, 1), (3, 900_000), (1, 1)])
def test_extreme_shapes(fit_name, height, width):
    content = as_bytes(np.full((height, width, 3), 77, np.uint8))
    found = decode(content, Frame(24, fit_name, (77, 77, 77)))
    assert found.side == min(height, width) and (found.image == 77).all()


@pytest.mark.parametrize("fit_name", ["crop", "pad", "squash"])
def test_arrays_are_framed_as_pictures_are(fit_name):
    frame = Frame(16, fit_name, (1, 1, 1))
    for channels in (1, 3):
        pixels = noise(6, 40, 30, 3)[..., :channels]
        picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        np.testing.assert_array_equal(fit(pixels, frame), fit(picture, frame))
        assert fit(pixels, frame).shape == (16, 16, channels)


def test_a_large_jpeg_is_reduced_on_the_way_without_visible_change():
    pixels = ramp(1600, 1600)
    content = as_bytes(pixels, "JPEG", quality=95)
    plain = np.asarray(Image.open(io.BytesIO(content)).resize((32, 32), LANCZOS))
    assert near(decoded(content, 32), plain, 3)
    assert decode(content, Frame(32)).side == 1600


@pytest.mark.parametrize("fit_name, size, expected", [("crop", 50, 200), ("pad", 50, 100), ("squash", 50, 200)])
def test_a_jpeg_is_never_reduced_below_twice_the_size(fit_name, size, expected):
    image = opened(as_bytes(ramp(400, 3200), "JPEG"))
    pixels = decoding._pixels(image, Frame(size, fit_name))
    assert max(pixels.size) // 8 == min(pixels.size)
    assert (max(pixels.size) if fit_name == "pad" else min(pixels.size)) >= 2 * size
    assert min(pixels.size) == (50 if fit_name == "pad" else expected // 2)  # and no larger than it need be


def test_grey_and_colour():
    pixels = noise(9)
    np.testing.assert_array_equal(decoding.with_channels(pixels[..., :1], 3), np.repeat(pixels[..., :1], 3, -1))
    luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert near(decoding.with_channels(pixels, 1)[..., 0], luma)
    assert decoding.with_channels(pixels, 3) is pixels


# Pairs in one picture


@pytest.mark.parametrize("width", [48, 49])
def test_halves_are_split_in_the_middle(width):
    pixels = noise(10, 24, width)
    found = decode_halves(as_bytes(pixels), Frame(24))
    np.testing.assert_array_equal(found.source, pixels[:, :24])
    np.testing.assert_array_equal(found.image, pixels[:, -24:])
    assert found.side == 24


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("fit_name", ["crop", "pad", "squash"])
def test_halves_of_a_reduced_and_turned_jpeg(orientation, fit_name):
    upright = np.concatenate([ramp(400, 300), 255 - ramp(400, 300)], 1)
    frame = Frame(24, fit_name)
    found = decode_halves(oriented(upright, orientation, "JPEG", quality=95), frame)
    assert found.side == 300
    assert near(found.source, fit(upright[:, :300], frame), 8) and near(found.image, fit(upright[:, 300:], frame), 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_halves_of_turned_pictures_of_other_kinds(kind):
    upright = noise(11, 24, 50)
    found = decode_halves(oriented(upright, 6, kind), Frame(24, "squash"))
    np.testing.assert_array_equal(found.source, fit(upright[:, :25], Frame(24, "squash")))
    assert found.side == 24


def test_halves_of_too_narrow_a_picture():
    with pytest.raises(Unreadable, match="no two halves"):
        decode_halves(as_bytes(noise(1, 24, 1)), Frame(24))
    assert decode_halves(as_bytes(noise(1, 24, 2)), Frame(24)).side == 1


# What is refused


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "read", [lambda data: decode(data, Frame(8)), lambda data: decode_halves(data, Frame(8)), opened]
)
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty file"),
        (b"just words", "not a picture"),
        (bomb(30_000, 30_000), "bomb"),
        (bomb(9_500, 9_500), "9500x9500"),
        (bomb(1, 1_000_001), "bomb"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
    ids=["empty", "words", "bomb", "large", "long", "only a beginning", "of a format that runs programs"],
)
def test_what_is_no_picture_is_unreadable_before_it_is_decoded(monkeypatch, read, content, reason):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(Unreadable, match=reason):
        read(content)


def test_too_large_a_file_is_unreadable(monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST_FILE", 100)
    with pytest.raises(Unreadable, match="larger than"):
        decoded(as_bytes(noise(1)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.8])
def test_a_truncated_file_is_unreadable(kind, part):
    content = as_bytes(noise(1, 100, 100), kind)
    assert decoded(content).shape == (24, 24, 3)
    with pytest.raises(Unreadable) as reason:
        decoded(content[: int(part * len(content))])
    assert str(reason.value) and len(str(reason.value)) < 130


def test_nothing_is_said_of_damaged_files_but_by_the_exception():
    program = (
        "import sys; from tasvir.data.decoding import Frame, Unreadable, decode\n"
        "whole = sys.stdin.buffer.read()\n"
        "for cut in range(0, 400, 7):\n"
        "    try: decode(whole[:cut] + bytes(cut) + whole[2 * cut:], Frame(8))\n"
        "    except Unreadable: print('.', end='')\n"
    )
    for content in (
        oriented(noise(1, 100, 100), 6, "JPEG"),
        oriented(noise(1, 100, 100), 6, "TIFF"),
        bomb(9_500, 9_500),
    ):
        done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, timeout=100)
        assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
        assert b"..." in done.stdout


# Words


def test_colors_by_name_and_number():
    assert parse_color("white") == (255, 255, 255) and parse_color("Black ") == (0, 0, 0)
    assert parse_color("grey") == parse_color("gray") == (128, 128, 128)
    assert parse_color("#0a1B2c") == (10, 27, 44)


@pytest.mark.parametrize("text", ["", "red-ish", "#12345", "#1234567", "#gggggg", "123456", "#½23456"])
def test_what_is_no_color_is_refused(text):
    with pytest.raises(Refused, match="white, black, grey"):
        parse_color(text)


def test_the_passport_says_what_is_done():
    crop, pad, squash = (described(Frame(8, name, (0, 0, 0))) for name in ("crop", "pad", "squash"))
    assert "centre crop" in crop and "black square" in pad and "squashed" in squash and "crop" not in pad + squash
    for sentence in (crop, pad, squash):
        assert "Lanczos" in sentence and "transparency on black" in sentence and "ICC profiles to sRGB" in sentence
    assert "#010203" in described(Frame(8, "pad", (1, 2, 3))) and "grey" in described(Frame(8, "pad", (128, 128, 128)))


@pytest.mark.skipif(
    not (SHARED / "maps_val_512x256.zip").exists(), reason=f"{SHARED}/maps_val_512x256.zip is not there"
)
def test_real_pairs():
    with zipfile.ZipFile(SHARED / "maps_val_512x256.zip") as archive:
        for name in archive.namelist()[1:6]:
            content = archive.read(name)
            whole = np.asarray(Image.open(io.BytesIO(content)))
            found = decode_halves(content, Frame(256))
            np.testing.assert_array_equal(found.source, whole[:, :256])
            np.testing.assert_array_equal(found.image, whole[:, 256:])
