"""Classes of samples: whether each is the one that was asked for, whether all are drawn, and what a classifier learns
from samples alone (the classification accuracy score of Ravuri and Vinyals 2019, arXiv 1905.10887)."""

import numpy as np

from tasvir.metrics.features.classifier import fit, predict, usual_steps
from tasvir.metrics.features.extraction import extract
from tasvir.metrics.subject import Subject, spool
from tasvir.metrics.values import Value, bootstrap, of_share

DISOBEYED = 0.9
"""Share of the mean agreement below which the least obeyed class is named."""
OBEYED = 0.1
"""Part of the way from chance to 1 from which on a label agreement is more than chance."""
MISSING = 1 / 3
"""Share of its part among real pictures below which a class counts as missing ..."""
EXPECTED = 20
"""... where at least so many samples of it are to be expected: of fewer, chance takes as many away."""


def label_agreement(subject: Subject) -> list[Value]:
    """The share of samples in which the classifier sees the class that was asked for; for real pictures, its
    accuracy on the reference. Raises `Refused` where the classifier is too weak to judge."""
    asked, known = subject.sample_labels, subject.reference_labels
    if asked is None or known is None:
        return []
    classifier = subject.classifier
    if classifier is subject.extractor:
        made, real = subject.sample_features, subject.reference_features
    else:
        made, real = extract(classifier, subject.samples, spool), extract(classifier, subject.reference, spool)
    assert made.logits is not None and real.logits is not None
    hits = made.logits.argmax(1) == asked
    return [
        of_share(
            "label_agreement",
            hits,
            real=float((real.logits.argmax(1) == known).mean()),
            passport={"classifier": classifier.hash},
            note=least_obeyed(hits, asked, subject.classes),
        )
    ]


def at_chance(agreement: float, classes: int) -> bool:
    """Whether a `label_agreement` is about what a generator reaches that does not heed the class: 1/classes, and up to
    a tenth of the way from there to 1."""
    return classes > 1 and agreement < (1 + OBEYED * (classes - 1)) / classes


def least_obeyed(hits: np.ndarray, asked: np.ndarray, names: tuple[str, ...]) -> str | None:
    """A sentence about the class with the smallest share of hits [N], if that is well below the mean."""
    present = np.unique(asked)
    shares = np.array([hits[asked == label].mean() for label in present])
    worst = int(shares.argmin())
    if shares[worst] >= DISOBEYED * hits.mean():
        return None
    return f"Least obeyed is {names[present[worst]]}: {shares[worst]:.2g} of its samples look like it."


def classification_accuracy(subject: Subject) -> list[Value]:
    """The accuracy on the reference of a classifier that has seen only samples, with the labels they were asked for;
    for real pictures, that of one taught with as many of them. One training each: the interval is over the reference.
    """
    asked, known, labels = subject.sample_labels, subject.reference_labels, subject.real_labels
    if asked is None or known is None:
        return []

    def hits(images: np.ndarray, taught: np.ndarray, what: str) -> np.ndarray:
        network = fit(images, taught, len(subject.classes), seed=subject.seed, what=what)
        return predict(network, subject.reference) == known

    real, number = None, 0
    if labels is not None and len(labels):
        real, number = float(hits(subject.real, labels, "classifier of real pictures").mean()), len(labels)
    found = hits(subject.samples, asked, "classifier of samples")
    passport = {"steps": usual_steps(len(asked)), "taught_with": len(asked), "real_taught_with": number}
    return [of_share("classification_accuracy", found, real=real, passport=passport)]


def class_shares(subject: Subject) -> list[Value]:
    """How evenly samples fall into the classes that the classifier sees; nothing where features know no such classes.

    exp(H) / K of the shares of the K classes: 1 if all are as frequent, 1/K if there is but one; and the share of the
    rarest class.
    """
    names = subject.extractor.classes
    if not names:
        return []
    made, real = subject.sample_features.logits, subject.reference_features.logits
    assert made is not None and real is not None
    seen = made.argmax(1)

    def resampled(chosen: np.ndarray) -> float:
        return evenness(np.bincount(seen[chosen], minlength=len(names)))

    counts, among_real = (np.bincount(logits.argmax(1), minlength=len(names)) for logits in (made, real))
    return [
        Value(
            "predicted_class_coverage",
            evenness(counts),
            bootstrap(resampled, len(seen), seed=subject.seed),
            len(seen),
            real=evenness(among_real),
            passport={"classes": len(names)},
            note=missing(counts, among_real, names),
        ),
        of_share(
            "rarest_class_share",
            seen == counts.argmin(),
            real=float(among_real.min() / among_real.sum()),
            passport={"classes": len(names)},
            note=f"The rarest is {names[int(counts.argmin())]}.",
        ),
    ]


def evenness(counts: np.ndarray) -> float:
    """exp of the entropy of the shares of K classes, over K: from 1/K to 1."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()) / len(counts))


def missing(counts: np.ndarray, among_real: np.ndarray, names: tuple[str, ...]) -> str | None:
    """A sentence naming the classes [K] that are much rarer than among real pictures."""
    expected = among_real / among_real.sum() * counts.sum()
    few = [names[place] for place in np.flatnonzero((expected >= EXPECTED) & (counts < MISSING * expected))]
    return f"Hardly drawn, at under a third of their share among real pictures: {', '.join(few)}." if few else None
