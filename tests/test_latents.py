"""Mutual information against scikit-learn, gaps and disentanglement against closed forms, and a run on cartoons."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from conftest import tiny_model
from tasvir.config import DataConfig
from tasvir.data import load
from tasvir.data.batches import to_float
from tasvir.data.cartoons import ATTRIBUTES, attributes
from tasvir.data.decoding import Frame
from tasvir.data.named import DATASETS
from tasvir.metrics.latents import (
    binned,
    dci,
    disentangled,
    disentanglement,
    gaps,
    mutual_information,
    mutual_information_gap,
)
from tasvir.metrics.latents import factors as factors_of


def known(number: int) -> np.ndarray:
    """Three independent factors of 2, 4 and 5 values, [N,3]."""
    generator = np.random.default_rng(0)
    return np.stack([generator.integers(0, values, number) for values in (2, 4, 5)], axis=1)


def noise(number: int, size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, size))


def test_mutual_information_is_scikit_learns() -> None:
    factors = known(500)
    latents = factors @ noise(3, 4) + 0.3 * noise(500, 4, 2)
    codes = binned(latents)
    for factor in factors.T:
        expected = [mutual_info_score(code, factor) for code in codes.T]
        assert mutual_information(codes, factor) == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions() -> None:
    factors, codes = known(200), binned(noise(200, 3))
    times = np.random.default_rng(3).integers(0, 4, 200)
    repeated = gaps(np.repeat(codes, times, axis=0), np.repeat(factors, times, axis=0))
    assert gaps(codes, factors, times.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_bins_are_equal_parts_of_the_range() -> None:
    latents = np.array([[0.0, 5.0], [0.04, 5.0], [0.06, 5.0], [0.96, 5.0], [1.0, 5.0]])
    assert binned(latents)[:, 0].tolist() == [0, 0, 1, 19, 19]
    assert binned(latents)[:, 1].tolist() == [0] * 5, "a dimension that never changes tells nothing"


def test_gap_of_one_dimension_for_each_factor_is_one() -> None:
    """I = H(factor) for its own dimension and about 0 for the others, of which the counts make (B-1)(V-1)/2N nats."""
    factors = known(20_000)
    assert mutual_information_gap(factors * [1.0, -2.0, 3.0], factors) == pytest.approx([1, 1, 1], abs=2e-3)


def test_gap_is_the_difference_to_the_second() -> None:
    """A factor of 4 equally frequent values, and a dimension that tells halves apart: (log 4 - log 2) / log 4."""
    factor = np.tile(np.arange(4), 50)
    latents = np.stack([factor, factor // 2], axis=1).astype(float)
    assert mutual_information_gap(latents, factor[:, None]) == pytest.approx([0.5])
    assert mutual_information_gap(latents[:, :1], factor[:, None]) == pytest.approx([1.0]), (
        "of one dimension, all of it"
    )


def test_gap_of_copies_and_of_noise_is_none() -> None:
    factors = known(5000)
    doubled = np.concatenate([factors, factors], axis=1).astype(float)
    assert mutual_information_gap(doubled, factors) == pytest.approx([0, 0, 0], abs=1e-12)
    shuffled = np.random.default_rng(5).permutation(factors).astype(float)
    assert mutual_information_gap(shuffled, factors).max() < 0.01
    assert mutual_information_gap(noise(50, 2), np.zeros((50, 1), int)) == pytest.approx([0]), (
        "one value: nothing to say"
    )


def test_disentangled_by_hand() -> None:
    """Rows and columns of known entropy (Eastwood and Williams 2018, section 2)."""
    assert disentangled(np.eye(4)) == pytest.approx((1, 1))
    assert disentangled(np.ones((5, 3))) == pytest.approx((0, 0))
    # two dimensions for each of two factors: each cares for one factor, each factor lies in two of four dimensions
    assert disentangled(np.array([[1, 0], [1, 0], [0, 1], [0, 1]]) / 2) == pytest.approx((1, 0.5))
    # one dimension for two factors, and one for neither: its row has no share
    assert disentangled(np.array([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx((0, 1))
    # rows weigh by their importance: 3/4 · 1 + 1/4 · 0
    assert disentangled(np.array([[3.0, 0.0], [0.5, 0.5]]))[0] == pytest.approx(0.75)
    assert disentangled(np.zeros((2, 2))) == (0, 0)


def test_dci_of_one_to_one_codes_and_of_noise() -> None:
    factors = known(600)
    codes = factors * [1.0, -2.0, 3.0] + 0.01 * noise(600, 3)
    found = dci(np.concatenate([codes, noise(600, 3, 2)], axis=1), factors)
    assert [len(folds) for folds in found] == [5, 5, 5]
    assert min(map(np.min, found)) > 0.95
    disentanglement, completeness, informativeness = dci(noise(600, 6), factors)
    assert disentanglement.mean() < 0.05 and completeness.mean() < 0.05
    assert informativeness.mean() == pytest.approx(np.mean([1 / 2, 1 / 4, 1 / 5]), abs=0.06)


def test_dci_of_turned_codes_is_low_though_they_tell_all() -> None:
    factors = known(600)
    apart = (factors - factors.mean(0)) / factors.std(0)
    turned = apart @ np.linalg.qr(noise(3, 3))[0]
    disentanglement, completeness, informativeness = dci(turned, factors)
    assert informativeness.mean() > 0.9
    assert disentanglement.mean() < 0.6 and completeness.mean() < 0.6


class Reads:
    """An encoder that reads a face's attributes out of a table, in the order in which faces come."""

    latent_size = len(ATTRIBUTES)

    def __init__(self) -> None:
        self.place = 0

    def encode(self, image: Tensor) -> Tensor:
        rows = [attributes(11 * (self.place + row) + 10) for row in range(len(image))]
        self.place += len(image)
        return torch.tensor([list(row.values()) for row in rows]).float()


def subject(model: object, name: str, number: int, **more: object) -> SimpleNamespace:
    data = load(DataConfig(source=(name,), **more))  # type: ignore[arg-type]
    opened = SimpleNamespace(model=model, tensor=lambda images: to_float(torch.from_numpy(np.array(images))))
    return SimpleNamespace(opened=opened, dataset=data, number=number, seed=0)


def test_factors_of_cartoons_are_those_that_were_drawn() -> None:
    """Latents and attributes are of the set's own held-out faces, in their order."""
    seen: list[Tensor] = []

    def encode(image: Tensor) -> Tensor:
        seen.append(image)
        return image.flatten(1)

    asked = subject(SimpleNamespace(encode=encode), "cartoons", 70, size=32, limit=80)
    found = factors_of(asked)  # type: ignore[arg-type]
    assert found is not None
    latents, factors = found
    items = DATASETS["cartoons"](DataConfig(source=("cartoons",))).read()
    assert items.splits is not None and items.labels is not None
    first = items.splits.index("test")
    assert factors.shape == (70, 13) and factors[:, 0].tolist() == list(items.labels[first : first + 70])
    assert torch.cat(seen).shape == (70, 3, 32, 32)
    for place in (0, 69):
        face = asked.opened.tensor(items.picture(first + place, Frame(32)).image[None])
        assert torch.equal(torch.from_numpy(latents[place]), face.flatten())


def test_a_perfect_encoder_of_cartoons() -> None:
    found = disentanglement(subject(Reads(), "cartoons", 300, size=32, limit=80))  # type: ignore[arg-type]
    values = {value.metric: value for value in found}
    assert list(values) == ["mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"]
    assert values["mig"].value > 0.85, "less what 300 faces make of chance"
    assert values["dci_informativeness"].value > 0.97
    assert values["dci_disentanglement"].value > 0.9 and values["dci_completeness"].value > 0.9
    for value in found:
        low, high = value.interval or (1, 0)
        assert 0 <= low <= value.value <= high <= 1 and value.number == 300
        assert value.passport["factors"] == 13 and value.note and "300" in value.note
    assert 0.2 < values["dci_informativeness"].passport["guessing"] < 0.4


def test_a_run_of_grey_cartoons_is_measured_twice_the_same() -> None:
    asked = subject(tiny_model("vae", 32).eval(), "cartoons", 16, size=32, limit=80, color="grey")
    first, second = (disentanglement(asked) for _ in range(2))  # type: ignore[arg-type]
    assert first == second and len(first) == 4


def test_sets_of_unknown_factors_have_no_numbers() -> None:
    assert disentanglement(subject(Reads(), "digits", 50)) == []  # type: ignore[arg-type]
