"""Real digits in the place of samples, whose classes are known: with their own labels, with shuffled ones, without some
classes."""

from functools import partial

import numpy as np
import pytest

from tasvir.config import DataConfig
from tasvir.data import Dataset, load
from tasvir.metrics import conditional, features
from tasvir.metrics.conditional import (
    class_shares,
    classification_accuracy,
    evenness,
    label_agreement,
    least_obeyed,
    missing,
)
from tasvir.metrics.subject import MadeSubject
from tasvir.metrics.values import Value

NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataConfig(source=("digits",)))


@pytest.fixture(scope="module")
def classifier(digits: Dataset) -> features.Extractor:
    return features.build("classifier", digits)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "fit", partial(conditional.fit, steps=50))


def subject(digits: Dataset, extractor: features.Extractor, images: np.ndarray, labels: np.ndarray) -> MadeSubject:
    return MadeSubject(images, labels, digits, "test", 10_000, 0, lambda dataset: extractor)


def only(values: list[Value]) -> Value:
    (value,) = values
    return value


def held_out(digits: Dataset) -> tuple[np.ndarray, np.ndarray]:
    assert digits.test.labels is not None
    return np.asarray(digits.test.images), np.asarray(digits.test.labels)


def learned(digits: Dataset) -> tuple[np.ndarray, np.ndarray]:
    assert digits.train.labels is not None
    return np.asarray(digits.train.images[:800]), np.asarray(digits.train.labels[:800])


def test_real_digits_are_what_they_are_asked_to_be(digits: Dataset, classifier: features.Extractor) -> None:
    images, labels = held_out(digits)
    found = only(label_agreement(subject(digits, classifier, images, labels)))
    # samples are the reference itself, so that they and real pictures are judged alike
    assert found.value == found.real == pytest.approx(classifier.facts["accuracy"])
    assert found.value > 0.9 and found.note is None and found.number == len(images)
    low, high = found.interval or (1, 0)
    assert low <= found.value <= high
    assert found.passport["classifier"] == classifier.hash


def test_shuffled_labels_are_obeyed_by_chance(digits: Dataset, classifier: features.Extractor) -> None:
    images, labels = learned(digits)
    shuffled = np.random.default_rng(0).permutation(labels)
    found = only(label_agreement(subject(digits, classifier, images, shuffled)))
    assert found.value == pytest.approx(0.1, abs=0.04) and found.real and found.real > 0.9


def test_the_class_that_is_not_obeyed_is_named(digits: Dataset, classifier: features.Extractor) -> None:
    """Whoever asks for a three gets an eight."""
    images, labels = held_out(digits)
    asked = np.where(labels == 8, 3, labels)
    keep = labels != 3
    found = only(label_agreement(subject(digits, classifier, images[keep], asked[keep])))
    assert found.note and "Least obeyed is 3: 0" in found.note


def test_agreement_does_not_depend_on_what_else_is_measured(digits: Dataset, classifier: features.Extractor) -> None:
    """In other features, the classifier is built for it."""
    images, labels = held_out(digits)
    own = only(label_agreement(subject(digits, classifier, images, labels)))
    other = only(label_agreement(subject(digits, features.build("pixels", digits), images, labels)))
    assert other.value == own.value and other.real == own.real


@pytest.mark.usefixtures("quick")
def test_a_classifier_learns_from_real_digits_and_not_from_shuffled_labels(
    digits: Dataset, classifier: features.Extractor
) -> None:
    images, labels = learned(digits)
    found = only(classification_accuracy(subject(digits, classifier, images, labels)))
    assert found.real and found.real > 0.85
    assert found.value == pytest.approx(found.real, abs=0.06)
    assert found.number == len(digits.test) and found.passport["taught_with"] == 800
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = only(classification_accuracy(subject(digits, classifier, images, shuffled)))
    assert chance.value < 0.3 and chance.real == found.real, "measured twice, the same to the bit"


def test_classes_of_real_digits_are_all_there(digits: Dataset, classifier: features.Extractor) -> None:
    images, labels = learned(digits)
    whole, rarest = class_shares(subject(digits, classifier, images, labels))
    assert rarest.metric == "rarest_class_share" and 0.07 < rarest.value <= 0.1
    assert whole.value > 0.98 and whole.real and whole.real > 0.98 and whole.note is None
    half, rarest = class_shares(subject(digits, classifier, images[labels < 5], labels[labels < 5]))
    assert rarest.value < 0.02
    assert half.value == pytest.approx(0.5, abs=0.05)
    assert half.note and half.note.endswith("5, 6, 7, 8, 9.")
    low, high = half.interval or (1, 0)
    assert low <= half.value <= high


def test_without_labels_or_a_classifier_there_is_nothing_to_say(digits: Dataset) -> None:
    images, labels = held_out(digits)
    pixels = features.build("pixels", digits)
    assert class_shares(subject(digits, pixels, images, labels)) == []
    unasked = MadeSubject(images, None, digits, "test", 10_000, 0, lambda dataset: pixels)
    assert label_agreement(unasked) == [] and classification_accuracy(unasked) == []


def test_evenness_by_hand() -> None:
    assert evenness(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert evenness(np.array([0, 7, 0, 0])) == pytest.approx(0.25)
    assert evenness(np.array([3, 3, 0, 0])) == pytest.approx(0.5)
    assert evenness(np.array([2, 1, 1])) == pytest.approx(2**1.5 / 3)  # entropy: 1.5 bits


def test_missing_classes_are_named_where_that_is_no_chance() -> None:
    assert missing(np.array([60, 50, 9]), np.array([40, 40, 40]), NAMES) is not None
    assert "two" in str(missing(np.array([60, 50, 9]), np.array([40, 40, 40]), NAMES))
    assert missing(np.array([50, 50, 20]), np.array([40, 40, 40]), NAMES) is None
    assert missing(np.array([9, 9, 0]), np.array([40, 40, 40]), NAMES) is None, (
        "six were to be expected: too few to say"
    )
    assert missing(np.array([500, 500, 9]), np.array([500, 500, 9]), NAMES) is None, "as rare as among real pictures"


def test_least_obeyed_is_named_only_if_it_stands_out() -> None:
    asked = np.repeat([0, 1, 2], 10)
    even = np.tile([True] * 9 + [False], 3)
    assert least_obeyed(even, asked, NAMES) is None
    assert "Least obeyed is one: 0.2" in str(least_obeyed(np.where(asked == 1, np.arange(30) < 12, True), asked, NAMES))
    assert least_obeyed(even[asked != 1], asked[asked != 1], NAMES) is None, "a class that nobody asked for"
