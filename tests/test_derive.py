"""Colour spaces and derived sources: against scikit-image, Pillow and closed forms."""

import io
import typing
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color

from conftest import REAL
from tasvir.config import DataConfig, Refused
from tasvir.data import derive
from tasvir.data.colors import lab_to_rgb, lightness, rgb_to_lab
from tasvir.data.derive import DERIVATIONS, boxes, centre, check, derived, edges, low_resolution, masked, source_shape


def noise(count: int = 4, size: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def floats(pixels: np.ndarray) -> torch.Tensor:
    """[N,H,W,C] uint8 to [N,C,H,W] in [-1,1], channels innermost in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def levels(image: torch.Tensor) -> np.ndarray:
    """[N,C,H,W] in [-1,1] to [N,H,W,C]; exact, so that a value off the grid of 8 bits shows."""
    return ((image.double() + 1) * 127.5).permute(0, 2, 3, 1).numpy()


# Colours


def every_colour(step: int = 15) -> np.ndarray:
    """[1,H,W,3] uint8: a lattice of sRGB with its corners, and all greys."""
    axis = np.arange(0, 256, step, np.uint8)
    lattice = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, axis.size, 3)
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, -1, 16, 3)
    return np.concatenate([lattice.reshape(1, -1, 1, 3), greys.reshape(1, -1, 1, 3)], 1)


def test_lab_is_that_of_scikit_image():
    pixels = every_colour()
    expected = color.rgb2lab(pixels)
    found = rgb_to_lab(floats(pixels)).permute(0, 2, 3, 1).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(lightness(floats(pixels)).numpy()[:, 0], expected[..., 0], atol=1e-3)


def test_rgb_is_that_of_scikit_image_and_clamped():
    lab = np.random.default_rng(0).uniform((0, -80, -80), (100, 80, 80), (1, 400, 20, 3))
    with pytest.warns(UserWarning, match="negative Z"):
        expected = color.lab2rgb(lab)  # scikit-image clamps, too
    found = lab_to_rgb(torch.from_numpy(lab).float().permute(0, 3, 1, 2))
    assert found.min() == -1 and found.max() == 1
    possible = (np.abs(expected - 0.5) < 0.5).all(-1)  # where no channel is cut, the two must agree
    assert possible.mean() > 0.2
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy()[possible], expected[possible] * 2 - 1, atol=1e-3)


def test_to_lab_and_back():
    images = floats(every_colour())
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(images)), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["black", "white", "grey", "random"])
def test_colours_have_the_slopes_of_finite_differences(name):
    values = {"black": -1.0, "white": 1.0, "grey": 0.1}
    images = torch.full((1, 3, 2, 2), values.get(name, 0.0))
    images = (torch.rand(1, 3, 4, 4, generator=torch.manual_seed(0)) * 1.9 - 0.95) if name == "random" else images
    images.requires_grad_()
    rgb_to_lab(images).sum().backward()
    assert images.grad.isfinite().all() and (images.grad != 0).any()

    exact = color.rgb2lab
    middle = images.detach().double().permute(0, 2, 3, 1).numpy()
    if name == "random":
        difference = 1e-5 * np.eye(3)
        slopes = [(exact((middle + by + 1) / 2) - exact((middle - by + 1) / 2)).sum(-1) / 2e-5 for by in difference]
        np.testing.assert_allclose(images.grad.numpy(), np.stack(slopes, 1), rtol=2e-3, atol=0.05)
    lab = rgb_to_lab(images.detach()).requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert lab.grad.isfinite().all()


def test_colours_keep_their_precision_under_autocast():
    images = floats(every_colour())
    with torch.autocast("cpu", torch.bfloat16):
        found, light, reduced = rgb_to_lab(images), lightness(images), low_resolution(floats(noise()), 2)
        assert torch.equal(lab_to_rgb(found), lab_to_rgb(rgb_to_lab(images)))
    assert found.dtype == light.dtype == reduced.dtype == torch.float32
    assert torch.equal(found, rgb_to_lab(images)) and torch.equal(light, lightness(images))
    assert torch.equal(reduced, low_resolution(floats(noise()), 2))


# Low resolution


def by_pillow(pixels: np.ndarray, factor: int) -> np.ndarray:
    """[N,H,W,C] uint8, reduced by Pillow's own BICUBIC."""
    reduced = []
    for image in pixels:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        smaller = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.BICUBIC)
        reduced.append(np.asarray(smaller).reshape(smaller.height, smaller.width, -1))
    return np.stack(reduced)


def agrees(found: torch.Tensor, expected: np.ndarray, share: float = 0.999) -> None:
    """All values within one level, and at least a `share` of them equal."""
    values = levels(found)
    np.testing.assert_allclose(values, values.round(), atol=1e-4)  # a saved picture's
    off = np.abs(values.round() - expected)
    assert off.max() <= 1 and (off == 0).mean() >= share, (off.max(), (off == 0).mean())


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [12, 48, 96])
def test_low_resolution_is_pillows(factor, channels, size):
    pixels = noise(6, size, channels, seed=size)
    pixels[0] = np.kron(pixels[0, :3, :3, :1] // 128 * 255, np.ones((size // 3, size // 3, 1)))  # it overshoots here
    pixels[1] = 255 * (np.indices((size, size)).sum(0) % 2)[..., None]  # the finest there is
    found = low_resolution(floats(pixels), factor)
    assert found.shape == (6, channels, size // factor, size // factor)
    share = 0.98 if size == 12 else 0.999  # halves, of which the checkerboard has some, may be rounded either way
    agrees(found, by_pillow(pixels, factor), share)
    agrees(low_resolution(floats(pixels).contiguous(), factor), by_pillow(pixels, factor), share)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_low_resolution_of_real_pictures_is_pillows(factor):
    if not (REAL / "t91_png.zip").exists():
        pytest.skip("no real pictures: ../shared/data/t91_png.zip is not there")
    with zipfile.ZipFile(REAL / "t91_png.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[::6]
        for name in names:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            height, width = (side - side % factor for side in pixels.shape[:2])
            pixels = pixels[None, :height, :width].copy()
            agrees(low_resolution(floats(pixels), factor), by_pillow(pixels, factor))
    assert len(names) > 10


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_weights_have_their_closed_form(factor):
    size = 24 * factor
    weights = derive.reduction(size, factor, torch.device("cpu")).double().numpy()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)
    constant = torch.full((1, 1, size, size), 77 / 127.5 - 1)
    np.testing.assert_allclose(levels(low_resolution(constant, factor)), 77, atol=1e-4)
    inside = slice(3, -3)
    assert np.allclose(
        (weights @ np.arange(size))[inside], (np.arange(24) * factor + (factor - 1) / 2)[inside], atol=1e-3
    )
    # Keys's kernel interpolates quadratics without error; stretched by a factor it blurs them by a constant.
    blur = (weights @ np.arange(size) ** 2)[inside] - (weights @ np.arange(size))[inside] ** 2
    np.testing.assert_allclose(blur, blur.mean(), atol=0.05)


def test_the_kernel_has_its_closed_form():
    np.testing.assert_allclose(derive.cubic(np.array([0.0, 0.5, 1, 1.5, 2])), [1, 0.5625, 0, -0.0625, 0], atol=1e-12)
    fractions = np.linspace(0, 1, 11)
    taps = np.stack([1 + fractions, fractions, 1 - fractions, 2 - fractions])
    weights = derive.cubic(taps)
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-12)
    for power in (1, 2):  # interpolation by cubic convolution reproduces polynomials of degree 2
        samples = np.arange(-1, 3)[:, None] ** power
        np.testing.assert_allclose((weights * samples).sum(0), fractions**power, atol=1e-12)


def test_pictures_off_the_grid_are_reduced_as_saved():
    images = floats(noise())
    shifted = images + 0.3 / 127.5
    assert torch.equal(low_resolution(shifted.clamp(-1, 1), 2), low_resolution(images, 2))


# Grey, masked, edges


def test_grey_is_lightness_between_minus_one_and_one():
    pixels = every_colour()
    found = derived(DataConfig(derive="grey"), floats(pixels))
    assert found.shape == (1, 1, pixels.shape[1], 1)
    np.testing.assert_allclose(found[:, 0].numpy(), color.rgb2lab(pixels)[..., 0] / 50 - 1, atol=1e-4)
    white = derived(DataConfig(derive="grey"), torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(-1, 3, 8, 8))
    torch.testing.assert_close(white[:, 0, 0, 0], torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels", [1, 3])
def test_masked_is_grey_in_the_hole_and_untouched_around_it(layout, channels):
    images = floats(noise(5, 16, channels)).contiguous(memory_format=layout)
    places = torch.tensor([[0, 0, 4], [12, 12, 4], [-3, 5, 6], [10, 14, 9], [3, 2, 0]])
    expected = images.clone()
    for image, (top, left, side) in zip(expected, places.tolist(), strict=True):
        image[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
    found = masked(images, places)
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=layout)
    assert torch.equal(derived(DataConfig(derive="masked"), images, places), expected)


@pytest.mark.parametrize(("size", "mask", "side"), [(16, 0.5, 8), (15, 0.5, 8), (9, 1.0, 9), (32, 0.1, 3)])
def test_holes(size, mask, side):
    held_out = derived(DataConfig(derive="masked", mask=mask), torch.ones(2, 3, size, size))
    rows = (held_out[0, 0] == 0).any(1).nonzero().flatten().tolist()
    before, after = rows[0], size - 1 - rows[-1]
    assert len(rows) == side and 0 <= after - before <= 1
    assert torch.equal(held_out[0], held_out[1]) and torch.equal(held_out, held_out.mT)
    assert centre(2, size, mask).tolist() == [[before, before, side]] * 2

    drawn = boxes(3, 4, 5000, size, mask)
    assert drawn.dtype == torch.int64 and set(drawn[:, 2].tolist()) == {side}
    for corner in drawn[:, :2].T:
        assert set(corner.tolist()) == set(range(size - side + 1))
    assert torch.equal(drawn, boxes(3, 4, 5000, size, mask))
    if side < size:
        assert not torch.equal(drawn, boxes(3, 5, 5000, size, mask))
        assert not torch.equal(drawn, boxes(4, 4, 5000, size, mask))
        assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_edges_are_thin_black_lines_where_the_picture_changes():
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[8:24, 8:24] = (20, 40, 60)
    found = edges(pixels)
    assert found.shape == (32, 32, 1) and found.dtype == np.uint8 and set(np.unique(found)) == {0, 255}
    rows, columns = np.nonzero(found[..., 0] == 0)
    inner = np.maximum(np.abs(rows - 15.5), np.abs(columns - 15.5))  # 8 is the border of the square
    assert inner.min() >= 6.5 and inner.max() <= 9.5 and 50 <= len(rows) <= 80
    assert (edges(np.full((32, 32, 1), 9, np.uint8)) == 255).all()
    grey = noise(1, 32, 1)[0]
    assert np.array_equal(edges(grey), edges(grey.repeat(3, 2)))
    coloured = np.zeros((32, 32, 3), np.uint8)
    coloured[:, 16:, 1] = 255
    assert (edges(coloured)[4:-4, 14:18] == 0).any(1).all()


def test_more_blur_finds_fewer_edges_and_larger_pictures_are_blurred_more():
    detailed = noise(1, 128, 1)[0].repeat(2, 0).repeat(2, 1)
    dark = [(edges(detailed, sigma) == 0).mean() for sigma in (1, 2, 4)]
    assert dark[0] > dark[1] > dark[2]
    assert np.array_equal(edges(detailed), edges(detailed, 2.0))
    assert np.array_equal(edges(detailed[:64, :64]), edges(detailed[:64, :64], 1.0))
    assert np.array_equal(edges(detailed[:32, :32]), edges(detailed[:32, :32], 1.0))


# The table


def test_the_table_is_what_the_settings_offer():
    offered = typing.get_args(typing.get_type_hints(DataConfig)["derive"])
    assert {"none", *DERIVATIONS} == set(offered)
    assert [name for name, row in DERIVATIONS.items() if row.packed] == ["edges"]


@pytest.mark.parametrize("name", DERIVATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_sources_have_the_shape_that_is_said(name, channels):
    pixels = noise(2, 24, channels)
    if DERIVATIONS[name].color and channels == 1:
        return
    said = source_shape(name, channels, 24, 4)
    if DERIVATIONS[name].packed:
        made = floats(np.stack([edges(image) for image in pixels]))
    else:
        made = derived(DataConfig(derive=name), floats(pixels))
        if name != "low-resolution":  # autocast knows no meta device
            on_meta = derived(
                DataConfig(derive=name), floats(pixels).to("meta")
            )  # no values there: nothing may wait for one
            assert on_meta.shape == made.shape
    assert made.shape == (2, said[0], said[1], said[1]) and made.dtype == torch.float32
    assert made.min() >= -1 and made.max() <= 1


def test_what_cannot_be_derived_is_refused():
    def of(name, channels=3, size=64, scale=4, mask=0.5):
        check(name, channels=channels, size=size, scale=scale, mask=mask)

    for name in ("none", *DERIVATIONS):
        of(name)
    for name in ("none", "low-resolution", "edges", "masked"):
        of(name, channels=1)
    of("none", size=65)
    of("masked", size=65)
    with pytest.raises(Refused, match=r"grey needs colour"):
        of("grey", channels=1)
    with pytest.raises(Refused, match=r"--data\.size is 65.*--data\.scale 4.*--data\.size 64"):
        of("low-resolution", size=65)
    with pytest.raises(Refused, match=r"--data\.scale 3"):
        of("low-resolution", scale=3)
    with pytest.raises(Refused, match=r"--data\.mask 0\.001"):
        of("masked", mask=0.001)
