"""The Inception Score: whether each picture is clearly of one class, and all classes occur (Salimans et al. 2016,
arXiv 1606.03498)."""

import numpy as np

from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value

SPLITS = 10
"""Parts that are scored apart (the authors' code)."""
ENOUGH = 5000
"""Pictures below which the score is visibly too low (section 4 of the paper asks for 50,000)."""


def inception_scores(logits: np.ndarray, splits: int = SPLITS, seed: int = 0) -> np.ndarray:
    """[splits] scores exp(E[KL(p(y|x) ‖ p(y))]) of random parts of equal size of logits [N,K], N ≥ splits, in float64.

    Each lies between 1 and K, and is at most the number of pictures in its part.
    """
    order = np.random.default_rng(seed).permutation(len(logits))
    places = [order[i * len(order) // splits : (i + 1) * len(order) // splits] for i in range(splits)]
    return np.array([_score(logits[np.sort(part)].astype(np.float64)) for part in places])


def _score(logits: np.ndarray) -> float:
    logits = logits - logits.max(1, keepdims=True)
    known = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # log p(y|x)
    top = known.max(0)
    overall = top + np.log(np.exp(known - top).mean(0))  # log p(y), also where p(y) is too small for a float
    return float(np.exp((np.exp(known) * (known - overall)).sum(1).mean()))


def inception_score(subject: Subject) -> list[Value]:
    """`inception_score`: the mean over ten splits, with the interval of that mean; higher is better.

    Nothing for features without classes, or fewer than two samples.
    """
    logits = subject.sample_features.logits
    if logits is None or len(logits) < 2:
        return []
    number, classes = logits.shape
    splits = min(SPLITS, number)
    found = inception_scores(logits, splits, subject.seed)
    value = float(found.mean())
    margin = 1.96 * float(found.std(ddof=1)) / splits**0.5
    reached = None
    if len(subject.real) >= splits:
        real = subject.real_features.logits
        assert real is not None
        reached = float(inception_scores(real, splits, subject.seed).mean())
    remarks = []
    if subject.extractor.name != "inception":
        remarks.append(f"By the classes of {subject.extractor.name}, not ImageNet's: from 1 to {classes:,}.")
    if number < ENOUGH:
        remarks.append(f"Lower than with {ENOUGH:,} pictures: each of {splits} parts holds {number // splits:,}.")
    note = " ".join(remarks) or None
    return [
        Value("inception_score", value, (value - margin, value + margin), number, reached, {"splits": splits}, note)
    ]
