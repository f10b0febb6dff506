"""Models that classify: accuracy on pictures whose classes are known, and of categories found without labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tasvir.core import Noise
from tasvir.drawing import BATCH
from tasvir.metrics.features.extraction import extract
from tasvir.metrics.subject import Subject, spool
from tasvir.metrics.values import Value, of_share
from tasvir.spaces import random_latents


def accuracy(subject: Subject) -> list[Value]:
    """The share of reference pictures whose class the run's model tells."""
    known, logits = subject.reference_labels, _logits(subject, "classify")
    if known is None or logits is None:
        return []
    hits = logits.argmax(1) == known
    labelled = subject.dataset.settings.labelled
    return [
        of_share(
            "test_accuracy",
            hits,
            passport={"labelled": "all" if labelled is None else labelled},
            note=least_told(hits, known, subject.classes),
        )
    ]


def least_told(hits: np.ndarray, known: np.ndarray, names: tuple[str, ...]) -> str | None:
    """A sentence about the class with the smallest share of hits [N], if that is under nine tenths of the mean."""
    present = np.unique(known)
    shares = np.array([hits[known == label].mean() for label in present])
    worst = int(shares.argmin())
    if shares[worst] >= 0.9 * hits.mean():
        return None
    return f"Least often right is {names[present[worst]]}: {shares[worst]:.2g} of its pictures."


def code_accuracy(subject: Subject) -> list[Value]:
    """The share of reference pictures whose class is the one that their category stands for.

    Each category stands for one class at most, and each class for one category, so that as many pictures as can be are
    right; the model saw no labels.
    """
    known, logits = subject.reference_labels, _logits(subject, "categorize")
    if known is None or logits is None:
        return []
    category = logits.argmax(1)
    meaning = assigned(category, known, logits.shape[1], len(subject.classes))
    passport = {"categories": logits.shape[1], "assignment": "best one to one, on the same pictures"}
    return [
        of_share("code_accuracy", meaning[category] == known, passport=passport, note=told(meaning, subject.classes))
    ]


def code_agreement(subject: Subject) -> list[Value]:
    """The share of samples in which a classifier sees the class that their category stands for, by the assignment of
    `code_accuracy`. Raises `Refused` where the classifier is too weak to judge."""
    known, logits = subject.reference_labels, _logits(subject, "categorize")
    if known is None or logits is None or subject.prior != "model":
        return []
    assert subject.opened is not None
    meaning = assigned(logits.argmax(1), known, logits.shape[1], len(subject.classes))
    asked = categories_of(subject.opened.model, range(subject.seed, subject.seed + len(subject.samples)))
    classifier = subject.classifier
    same = classifier is subject.extractor
    made = subject.sample_features if same else extract(classifier, subject.samples, spool)
    assert made.logits is not None
    hits = made.logits.argmax(1) == meaning[asked]
    return [of_share("code_agreement", hits, passport={"classifier": classifier.hash, "categories": logits.shape[1]})]


def categories_of(model: Any, seeds: Sequence[int]) -> np.ndarray:
    """[N] int64: the category of the sample of each seed, of the model's first code that has categories."""
    code = next(code for code in model.latent_codes if code.size > 1)
    return random_latents(model, Noise(seeds))[:, code.start : code.start + code.size].argmax(1).numpy()


def assigned(category: np.ndarray, label: np.ndarray, categories: int, classes: int) -> np.ndarray:
    """[categories]: the class that each category stands for, -1 for none, so that the most of N pictures with these
    categories and classes [N] agree (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    together = np.bincount(category * classes + label, minlength=categories * classes).reshape(categories, classes)
    rows, columns = linear_sum_assignment(together, maximize=True)
    meaning = np.full(categories, -1)
    meaning[rows] = columns
    return meaning


def told(meaning: np.ndarray, names: tuple[str, ...]) -> str:
    """What each category stands for, in a sentence."""
    pairs = [f"{place} is {names[one]}" for place, one in enumerate(meaning[:20]) if one >= 0]
    more = " …" if len(meaning) > 20 else ""
    return f"Categories: {', '.join(pairs)}{more}."


def _logits(subject: Subject, ability: str) -> np.ndarray | None:
    """What the run's model says of the reference, [N,K]; None where it knows no categories."""
    opened: Any = subject.opened
    parts = []
    with torch.no_grad():
        for start in range(0, len(subject.reference), BATCH):
            images = opened.tensor(subject.reference[start : start + BATCH])
            parts.append(getattr(opened.model, ability)(images).float().cpu().numpy())
    found = np.concatenate(parts)
    return found if found.shape[1] else None
