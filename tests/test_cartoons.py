"""The drawn faces: the same everywhere, every attribute visible, smooth edges, independent factors."""

from dataclasses import fields

import numpy as np
import pytest

from tasvir.data.cartoons import (
    ATTRIBUTES,
    LARGEST,
    PROBABILITIES,
    SMALLEST,
    SPREAD,
    Variation,
    attributes,
    cartoon,
    draw,
    variation,
)

BASES = [attributes(index, seed=7) for index in range(4)]
FACES = 4000
VARIATIONS = [field.name for field in fields(Variation)]
FIRST_FACES = [[6, 2, 0, 0, 2, 3, 2, 2, 2, 3, 2, 0, 5], [8, 4, 4, 3, 0, 0, 3, 0, 3, 0, 0, 0, 0]]


def reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every factor x factor block, as float."""
    side = picture.shape[0] // factor
    return picture.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))


@pytest.fixture(scope="module")
def drawn_values() -> np.ndarray:
    """[FACES, attributes] values' indices."""
    return np.array([list(attributes(index).values()) for index in range(FACES)])


def test_a_face_depends_only_on_seed_and_index():
    first, values = cartoon(5, 64, seed=1)
    cartoon(6, 64, seed=1)
    again, values_again = cartoon(5, 64, seed=1)
    assert np.array_equal(first, again) and values == values_again == attributes(5, seed=1)
    assert not np.array_equal(first, cartoon(5, 64, seed=2)[0])
    assert not np.array_equal(first, cartoon(6, 64, seed=1)[0])
    assert not np.array_equal(cartoon(1, 64, seed=2)[0], cartoon(2, 64, seed=1)[0])


def test_the_set_stays_what_it_was():
    """A change in the order of the attributes or in their shares would make another set under the same seed."""
    assert [list(attributes(index).values()) for index in range(2)] == FIRST_FACES


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize(("size", "least"), [(32, 12), (64, 20)])
def test_each_value_of_each_attribute_is_seen(name: str, size: int, least: int):
    """Any two values differ by at least `least` of 255 somewhere, whatever the other attributes are."""
    for base in BASES:
        pictures = [draw(base | {name: value}, size).astype(int) for value in range(len(ATTRIBUTES[name]))]
        for first in range(len(pictures)):
            for second in range(first):
                words = ATTRIBUTES[name][first], ATTRIBUTES[name][second]
                assert np.abs(pictures[first] - pictures[second]).max() >= least, words


@pytest.mark.parametrize("field", VARIATIONS)
def test_each_variation_is_seen_and_small(field: str):
    varied_by = Variation(**{field: getattr(Variation(), field) + getattr(SPREAD, field)})
    for base in BASES:
        plain, varied = draw(base, 64).astype(int), draw(base, 64, varied_by).astype(int)
        assert np.abs(plain - varied).max() >= 3
        assert np.abs(plain - varied).mean() < 16


def test_variations_move_the_picture_as_named():
    base = BASES[0]
    size, plain = 200, draw(BASES[0], 200)
    assert np.array_equal(draw(base, size, Variation(right=2))[:, 4:], plain[:, :-4])
    lower = draw(base, size, Variation(down=2))
    assert np.array_equal(lower[4:], plain[:-4])


def test_variations_lie_within_the_spread_and_differ():
    all_varied = [variation(index) for index in range(200)]
    for field in VARIATIONS:
        offsets = np.array([getattr(varied, field) - getattr(Variation(), field) for varied in all_varied])
        reach = getattr(SPREAD, field)
        assert np.abs(offsets).max() <= reach + 1e-12
        assert offsets.min() < -0.8 * reach and offsets.max() > 0.8 * reach


@pytest.mark.parametrize("size", [SMALLEST, 33, 48, 64, 100, 128, LARGEST])
def test_pictures_are_square_bytes_of_any_size(size: int):
    picture, _ = cartoon(3, size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert picture.flags.writeable and picture.flags.c_contiguous


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_small_picture_is_the_large_one_reduced(size: int):
    for index in range(12):
        small, large = cartoon(index, size)[0], cartoon(index, 256)[0]
        difference = np.abs(small - reduced(large, 256 // size))
        assert difference.mean() < 2, index
        assert np.quantile(difference, 0.99) < 30, index


@pytest.mark.parametrize("size", [32, 64, 256])
def test_edges_are_smooth(size: int):
    """Without anti-aliasing a picture has no more colors than the thirty or so tones of its parts."""
    picture = draw(BASES[0] | {"glasses": 0}, size)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 150


def test_marginals_are_the_stated_ones(drawn_values: np.ndarray):
    """Chi-squared per attribute: its mean is the degrees of freedom, and mean + 5 standard deviations bounds it."""
    for column, (name, shares) in enumerate(PROBABILITIES.items()):
        expected = np.array(shares) * FACES
        observed = np.bincount(drawn_values[:, column], minlength=len(shares))
        freedom = len(shares) - 1
        assert np.sum((observed - expected) ** 2 / expected) < freedom + 5 * np.sqrt(2 * freedom), name
        assert observed.min() > 0
    assert [PROBABILITIES[name][0] for name in ("glasses", "beard")] == pytest.approx([0.7, 0.7])
    assert all(sum(shares) == pytest.approx(1) for shares in PROBABILITIES.values())


def test_attributes_are_independent(drawn_values: np.ndarray):
    """Chi-squared of each pair's table of counts, bounded like the marginals'."""
    names = list(ATTRIBUTES)
    for first in range(len(names)):
        for second in range(first):
            joint = np.zeros((len(ATTRIBUTES[names[first]]), len(ATTRIBUTES[names[second]])))
            np.add.at(joint, (drawn_values[:, first], drawn_values[:, second]), 1)
            expected = joint.sum(1, keepdims=True) * joint.sum(0) / FACES
            freedom = (joint.shape[0] - 1) * (joint.shape[1] - 1)
            statistic = np.sum((joint - expected) ** 2 / expected)
            assert statistic < freedom + 5 * np.sqrt(2 * freedom), (names[first], names[second])


@pytest.mark.parametrize("size", [0, SMALLEST - 1, LARGEST + 1])
def test_a_size_out_of_range_is_refused(size: int):
    with pytest.raises(ValueError, match=f"from 32 to 256 px, not {size}"):
        cartoon(0, size)


def test_values_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no attribute 'hat'; it has hair_style, "):
        draw(BASES[0] | {"hat": 0}, 64)
    with pytest.raises(ValueError, match="skin must be from 0 to 5, not 6"):
        draw(BASES[0] | {"skin": 6}, 64)
    with pytest.raises(ValueError, match="skin must be from 0 to 5, not -1"):
        draw(BASES[0] | {"skin": -1}, 64)
    with pytest.raises(ValueError, match="skin is missing"):
        draw({name: value for name, value in BASES[0].items() if name != "skin"}, 64)
    with pytest.raises(ValueError, match="must be 0 or more, not -1 and 0"):
        cartoon(-1)
