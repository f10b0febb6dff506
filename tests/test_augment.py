"""Augmentation: against slow loops over single pictures, and the same draws on every machine and rank."""

import numpy as np
import pytest
import torch
from PIL import Image

from tasvir.data import augment
from tasvir.data.augment import Augmentation, appearance, apply, draw, geometry

ALL = Augmentation(flip=True, translate=0.125, jitter=24, cutout=0.5, color=0.4)
SIZE, COUNT = 20, 16
KINDS = {
    "flip": Augmentation(flip=True),
    "translate": Augmentation(translate=0.3),
    "far": Augmentation(translate=1.0),
    "flip and translate": Augmentation(flip=True, translate=0.2),
    "jitter": Augmentation(jitter=23),
    "jitter to the same size": Augmentation(jitter=SIZE),
    "all that moves": Augmentation(flip=True, translate=0.15, jitter=27),
    "cutout": Augmentation(cutout=0.4),
    "odd cutout": Augmentation(cutout=0.45),
    "color": Augmentation(color=0.5),
    "all": ALL,
}


def pixels(channels: int = 3, seed: int = 0) -> np.ndarray:
    """[COUNT,SIZE,SIZE,channels] uint8: noise, and blocks whose edges overshoot when interpolated."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (COUNT // 2, SIZE, SIZE, channels), np.uint8)
    blocks = random.integers(0, 2, (COUNT // 2, SIZE // 5, SIZE // 5, channels), np.uint8) * 255
    return np.concatenate([noise, blocks.repeat(5, 1).repeat(5, 2)])


def floats(values: np.ndarray) -> torch.Tensor:
    """[N,H,W,C] uint8 to [N,C,H,W] in [-1,1], channels innermost in memory."""
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1


def moved(augmentation: Augmentation, draws: augment.Draws, image: np.ndarray, number: int) -> np.ndarray:
    """What `geometry` should make of one [H,W,C] picture (uint8, or float in [-1,1]), by Pillow and numpy."""
    size = len(image)
    if augmentation.jitter is not None:
        planes = [
            Image.fromarray(plane).resize((augmentation.jitter,) * 2, Image.Resampling.BICUBIC)
            for plane in np.moveaxis(image, 2, 0)
        ]
        image = np.stack([np.asarray(plane) for plane in planes], 2)
        if image.dtype != np.uint8:
            image = image.clip(-1, 1)
        top, left = draws.corner[number].tolist()
        image = image[top : top + size, left : left + size]
    if draws.mirrored[number]:
        image = image[:, ::-1]
    down, right = draws.shift[number].tolist()
    wide = np.pad(image, ((size, size), (size, size), (0, 0)), mode="edge")
    return wide[size - down : 2 * size - down, size - right : 2 * size - right]


def painted(augmentation: Augmentation, draws: augment.Draws, image: np.ndarray, number: int) -> np.ndarray:
    """What `appearance` should make of one [H,W,C] picture in [-1,1], one change after another."""
    image = image.astype(np.float64)
    if augmentation.color:
        shift, saturation, contrast = draws.colors[number].tolist()
        image = image + shift
        mean = image.mean(2, keepdims=True)
        image = mean + (image - mean) * saturation
        image = image.mean() + (image - image.mean()) * contrast
        image = image.clip(-1, 1)
    if augmentation.cutout:
        top, left, side = draws.hole[number].tolist()
        for row in range(top, top + side):
            for column in range(left, left + side):
                if 0 <= row < len(image) and 0 <= column < len(image):
                    image[row, column] = 0
    return image


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_moved_as_by_pillow_and_numpy(name, channels):
    augmentation, images = KINDS[name], pixels(channels)
    for step in range(3):
        draws = draw(augmentation, SIZE, seed=5, step=step, batch_size=COUNT)
        found = geometry(augmentation, draws, torch.from_numpy(images)).numpy()
        assert found.dtype == np.uint8
        for number, image in enumerate(images):
            expected = moved(augmentation, draws, image, number).astype(int)
            if augmentation.jitter is None:
                assert np.array_equal(found[number], expected), number
            else:  # torch's weights have fewer bits than Pillow's
                assert np.abs(found[number] - expected).max() <= 1 and np.mean(found[number] == expected) > 0.97, number


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_floats_are_moved_and_painted_as_one_by_one(name, channels, layout):
    augmentation, images = KINDS[name], floats(pixels(channels)).contiguous(memory_format=layout)
    before = images.clone()
    draws = draw(augmentation, SIZE, seed=6, step=1, batch_size=COUNT)
    found, source = apply(augmentation, draws, images)
    assert source is None and found.is_contiguous(memory_format=layout) and found.dtype == torch.float32
    assert found.abs().max() <= 1
    assert torch.equal(images, before)
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        expected = painted(augmentation, draws, moved(augmentation, draws, image, number), number)
        np.testing.assert_allclose(found[number].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_where_bytes_cannot_be_interpolated_the_result_is_nearly_the_same(monkeypatch):
    augmentation, images = Augmentation(jitter=31), pixels()
    draws = draw(augmentation, SIZE, seed=0, step=0, batch_size=COUNT)
    monkeypatch.setattr(augment, "INTERPOLATE_BYTES", ())
    found = geometry(augmentation, draws, torch.from_numpy(images)).numpy()
    assert found.dtype == np.uint8
    for number, image in enumerate(images):
        expected = moved(augmentation, draws, image, number).astype(int)
        assert np.abs(found[number] - expected).max() <= 2 and np.mean(found[number] == expected) > 0.97, number


def test_part_of_a_larger_array_is_moved_like_a_copy():
    augmentation, images = Augmentation(flip=True, translate=0.2), torch.from_numpy(pixels())
    draws = draw(augmentation, SIZE, seed=0, step=0, batch_size=6)
    assert torch.equal(geometry(augmentation, draws, images[5:11]), geometry(augmentation, draws, images[5:11].clone()))


def test_before_and_after_floats_are_the_same():
    """Moving 8 bits and painting floats is what `apply` does to floats."""
    augmentation = Augmentation(flip=True, translate=0.2, cutout=0.3, color=0.3)
    images = torch.from_numpy(pixels())
    draws = draw(augmentation, SIZE, seed=0, step=0, batch_size=COUNT)
    late, _ = apply(augmentation, draws, floats(images.numpy()))
    assert torch.equal(appearance(augmentation, draws, floats(geometry(augmentation, draws, images).numpy())), late)


@pytest.mark.parametrize("name", KINDS)
def test_pairs_stay_aligned(name):
    augmentation, images = KINDS[name], floats(pixels())
    draws = draw(augmentation, SIZE, seed=2, step=3, batch_size=COUNT)
    found, source = apply(augmentation, draws, images, images.clone())
    assert torch.equal(found, source)

    across = torch.arange(SIZE).float().div(SIZE).expand(COUNT, 1, SIZE, SIZE)
    places = torch.cat([across, across.mT, across * across.mT], 1)
    still = Augmentation(augmentation.flip, augmentation.translate, augmentation.jitter, augmentation.cutout)
    for channel in range(3):  # a source of one channel goes where the same channel of a coloured picture goes
        found, source = apply(still, draws, places, places[:, channel : channel + 1])
        torch.testing.assert_close(source[:, 0], found[:, channel], rtol=0, atol=1e-6)


def test_colours_of_a_grey_source_follow_brightness_and_contrast_only():
    augmentation = Augmentation(color=0.5)
    draws = draw(augmentation, SIZE, seed=2, step=3, batch_size=COUNT)
    grey = floats(pixels(1)) / 2
    found, source = apply(augmentation, draws, grey.expand(-1, 3, -1, -1).contiguous(), grey)
    torch.testing.assert_close(found, source.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    assert not torch.allclose(source, grey, atol=0.05)


def test_what_is_off_leaves_every_bit():
    nothing, images = Augmentation(), floats(pixels())
    draws = draw(nothing, SIZE, seed=1, step=1, batch_size=COUNT)
    found, source = apply(nothing, draws, images, images[:, :1])
    assert torch.equal(found, images) and torch.equal(source, images[:, :1])
    assert torch.equal(geometry(nothing, draws, torch.from_numpy(pixels())), torch.from_numpy(pixels()))
    assert not (nothing.moves or nothing.paints or nothing.beyond_flip)
    assert Augmentation(flip=True).moves and not Augmentation(flip=True).beyond_flip
    for name, kind in KINDS.items():
        assert kind.beyond_flip == (name != "flip"), name
        neutral = draw(nothing, SIZE, seed=1, step=1, batch_size=COUNT)
        if kind.jitter is None and not kind.cutout:  # the draws of `nothing` change nothing whatever is on
            torch.testing.assert_close(apply(kind, neutral, images)[0], images, rtol=0, atol=1e-6)


def test_no_gradients_and_no_values_are_asked_for():
    images = floats(pixels()).requires_grad_()
    draws = draw(ALL, SIZE, seed=1, step=1, batch_size=COUNT)
    found, _ = apply(ALL, draws, images)
    assert not found.requires_grad
    # Tensors of the meta device have no values: whatever waited for some on a GPU would fail here.
    found, source = apply(ALL, draws, images.to("meta"), images[:, :1].to("meta"))
    assert found.shape == images.shape and source.shape == images[:, :1].shape
    assert geometry(ALL, draws, torch.from_numpy(pixels()).to("meta")).dtype == torch.uint8


def same(first: augment.Draws, second: augment.Draws) -> bool:
    return torch.equal(first.places, second.places) and torch.equal(first.colors, second.colors)


def test_draws_are_a_function_of_seed_and_step():
    def drawn(seed, step):
        return draw(ALL, SIZE, seed, step, COUNT)

    assert same(drawn(1, 2), drawn(1, 2))
    assert not same(drawn(1, 2), drawn(1, 3)) and not same(drawn(1, 2), drawn(2, 2))
    assert same(drawn(-1, 0), drawn(2**64 - 1, 0))


def test_two_processes_draw_what_one_with_twice_the_batch_draws():
    together = draw(ALL, SIZE, seed=3, step=7, batch_size=12)
    shares = [draw(ALL, SIZE, seed=3, step=7, batch_size=4, rank=rank, processes=3) for rank in range(3)]
    assert torch.equal(torch.cat([share.places for share in shares]), together.places)
    assert torch.equal(torch.cat([share.colors for share in shares]), together.colors)


def test_turning_one_kind_on_leaves_the_others():
    together = draw(ALL, SIZE, seed=3, step=7, batch_size=COUNT)
    for alone, columns in (
        (Augmentation(flip=True), slice(0, 1)),
        (Augmentation(translate=ALL.translate), slice(1, 3)),
        (Augmentation(jitter=ALL.jitter), slice(3, 5)),
        (Augmentation(cutout=ALL.cutout), slice(5, 8)),
    ):
        places = draw(alone, SIZE, seed=3, step=7, batch_size=COUNT).places
        assert torch.equal(places[:, columns], together.places[:, columns])
        assert places.count_nonzero() == places[:, columns].count_nonzero() > 0
    assert torch.equal(draw(Augmentation(color=ALL.color), SIZE, 3, 7, COUNT).colors, together.colors)
    kinds = draw(Augmentation(translate=0.5, jitter=2 * SIZE), SIZE, 3, 7, COUNT)
    assert not torch.equal(kinds.shift + SIZE // 2, kinds.corner)  # the same range, another stream


def test_mirroring_is_decided_as_it_always_was():
    """Runs begun before there was other augmentation go on as they were."""
    for step in range(4):
        expected = np.random.default_rng((1, 9, step)).random(24)[8:16] < 0.5
        draws = draw(Augmentation(flip=True), SIZE, seed=9, step=step, batch_size=8, rank=1, processes=3)
        assert draws.mirrored.bool().tolist() == expected.tolist()


def test_draws_fill_their_ranges_evenly():
    count = 20_000
    draws = draw(ALL, SIZE, seed=0, step=0, batch_size=count)
    furthest = round(ALL.translate * SIZE)
    sides = {
        "mirrored": (draws.mirrored, 0, 1),
        "down": (draws.shift[:, 0], -furthest, furthest),
        "right": (draws.shift[:, 1], -furthest, furthest),
        "top": (draws.corner[:, 0], 0, ALL.jitter - SIZE),
        "left": (draws.corner[:, 1], 0, ALL.jitter - SIZE),
        "hole's middle, down": (draws.hole[:, 0] + 5, 0, SIZE - 1),
        "hole's middle, across": (draws.hole[:, 1] + 5, 0, SIZE - 1),
    }
    for name, (values, low, high) in sides.items():
        shares = np.bincount((values - low).numpy(), minlength=high - low + 1) / count
        assert len(shares) == high - low + 1, name
        expected = 1 / len(shares)
        assert np.abs(shares - expected).max() < 5 * (expected * (1 - expected) / count) ** 0.5, name
    assert set(draws.hole[:, 2].tolist()) == {10}
    assert abs(np.corrcoef(draws.shift.T.numpy())[0, 1]) < 0.04
    changes = draws.colors - torch.tensor([0.0, 1.0, 1.0])
    assert changes.abs().max() <= 0.4 + 1e-6 and changes.abs().amax(0).min() > 0.399
    assert changes.mean(0).abs().max() < 5 * 0.4 / (3 * count) ** 0.5
