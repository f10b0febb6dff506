"""How varied pictures are: MS-SSIM of random pairs of one class, as in AC-GAN (Odena et al. 2017, arXiv 1610.09585),
and the mean distance of two pictures. Samples that are more alike than real pictures have lost variety."""

from dataclasses import dataclass, replace

import numpy as np

from tasvir.metrics.similarity import CHUNK, ms_ssim, scales, unit, window
from tasvir.metrics.subject import Subject, chosen, rows
from tasvir.metrics.values import Value, of_each
from tasvir.training.health import mean_distances

PAIRS = 1000
"""Pairs in all, spread evenly over the classes."""
EXCESS = 0.1
"""A class is named if its mean MS-SSIM is above that of real pictures by more than this …"""
FEWEST = 20
"""… and at least so many pairs of it were compared, so that chance is an unlikely reason."""
PREDICTED = "predicted by the classifier"
"""Where labels come from, where nobody asked for them."""


def random_pairs(labels: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """[P,2] places of two different pictures of one class, no pair twice, for labels [N].

    Each class that has two pictures gives pairs / classes of them, or as many as it has; of more classes than `pairs`,
    a random `pairs` give one each.
    """
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts > 1]
    if len(classes) > pairs:
        classes = np.sort(generator.choice(classes, pairs, replace=False))
    found = [np.empty((0, 2), np.int64)]
    for label in classes:
        places = np.flatnonzero(labels == label)
        possible = len(places) * (len(places) - 1) // 2
        found.append(places[_pair(generator.choice(possible, min(pairs // len(classes), possible), replace=False))])
    return np.concatenate(found)


def _pair(number: np.ndarray) -> np.ndarray:
    """The pairs (i, j), i > j ≥ 0, of these numbers [P], when all are numbered row by row: i (i - 1) / 2 + j."""
    larger = ((1 + np.sqrt(1 + 8.0 * number)) // 2).astype(np.int64)
    larger -= larger * (larger - 1) // 2 > number  # the root may be rounded up
    return np.stack([larger, number - larger * (larger - 1) // 2], axis=1)


def likeness(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[P] MS-SSIM of pairs [P,2] of the pictures uint8 [N,H,W,C], a few at a time."""
    step = max(1, CHUNK // images[0].size)
    parts = (pairs[start : start + step] for start in range(0, len(pairs), step))
    return np.concatenate([ms_ssim(unit(images[part[:, 0]]), unit(images[part[:, 1]])).numpy() for part in parts])


# ---- what evaluate asks for


def diversity(subject: Subject) -> list[Value]:
    """`diversity`: mean distance between two samples over that between two reference pictures, in pixels.

    The interval is of the samples: each is in many pairs, so the mean of all pairs varies by twice what the mean of as
    many single values would (Hoeffding 1948, a U-statistic of two).
    """
    most = min(2000, 20_000_000 // subject.reference[0].size)
    samples, real = (rows(images, chosen(len(images), most)) for images in (subject.samples, subject.reference))
    if len(real) < 2 or len(samples) < 2:
        return []
    distances, usual = mean_distances(samples), max(mean_distances(real).mean(), 1e-12)
    value = float(distances.mean() / usual)
    margin = 1.96 * 2 * float(distances.std(ddof=1)) / len(samples) ** 0.5 / usual
    return [Value("diversity", value, (value - margin, value + margin), len(samples), 1.0)]


def ms_ssim_diversity(subject: Subject) -> list[Value]:
    """`ms_ssim_diversity`: mean MS-SSIM of pairs of samples of one class; `real` is that of reference pictures.

    Classes are those that were asked for, else those that the classifier sees if its features are used (in the
    reference too), else all pictures are one class. Lower is more varied; the note names classes that have collapsed.
    """
    made_labels, real_labels, words = _labels(subject)
    made = _compared(subject.samples, made_labels, subject.seed)
    real = _compared(subject.reference, real_labels, subject.seed)
    if not len(made.likeness) or not len(real.likeness):
        return []
    side = min(subject.samples.shape[1:3])
    passport = {"labels": words, "pairs": len(made.likeness), "scales": scales(side), "window": window(side)}
    if words == PREDICTED:
        passport["classifier"] = subject.extractor.hash
    value = of_each("ms_ssim_diversity", made.likeness, real=float(real.likeness.mean()), passport=passport)
    note = None if words == "none" else _collapsed(made, real, subject.classes)
    return [replace(value, number=len(subject.samples), note=note)]


@dataclass(frozen=True)
class _Compared:
    likeness: np.ndarray
    """[P] MS-SSIM of pairs."""
    label: np.ndarray
    """[P] their class."""

    def of(self, label: int) -> np.ndarray:
        return self.likeness[self.label == label]


def _compared(images: np.ndarray, labels: np.ndarray, seed: int) -> _Compared:
    pairs = random_pairs(labels, PAIRS, seed)
    return _Compared(likeness(images, pairs) if len(pairs) else np.empty(0), labels[pairs[:, 0]])


def _labels(subject: Subject) -> tuple[np.ndarray, np.ndarray, str]:
    """Labels of the samples and of the reference, and where they come from."""
    if subject.sample_labels is not None and subject.reference_labels is not None:
        return subject.sample_labels, subject.reference_labels, "asked for"
    if subject.classes and subject.extractor.name == "classifier":
        logits = subject.sample_features.logits, subject.reference_features.logits
        assert logits[0] is not None and logits[1] is not None
        return logits[0].argmax(1), logits[1].argmax(1), PREDICTED
    return np.zeros(len(subject.samples), int), np.zeros(len(subject.reference), int), "none"


def _collapsed(made: _Compared, real: _Compared, classes: tuple[str, ...]) -> str | None:
    """In a sentence, the classes whose samples are much more alike than real pictures of them, or are missing."""
    alike, missing = [], []
    for label in np.unique(real.label):
        ours, theirs = made.of(label), real.of(label)
        name = classes[label] if classes else str(label)
        if not len(ours):
            missing.append(name)
        elif len(ours) >= FEWEST and ours.mean() > theirs.mean() + EXCESS:
            alike.append(f"{name} ({ours.mean():.2f}, real ones {theirs.mean():.2f})")
    sentences = []
    if alike:
        sentences.append(f"Samples are much more alike than real pictures in {_listed(alike)}.")
    if missing:
        sentences.append(f"There are no two samples of {_listed(missing)}.")
    return " ".join(sentences) or None


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
