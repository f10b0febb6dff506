"""Are samples copies of training pictures? They are, if they lie nearer to them than unseen real pictures do.

Meehan et al. 2020, arXiv 2004.05675: a three-sample test with samples, training and held-out pictures.
"""

from collections.abc import Callable

import numpy as np
import torch

from tasvir.metrics.manifolds import blocks, middle, squared_distances
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, bootstrap

NEAR = 0.01
"""Share of real test pictures that count as near to a training picture."""
FEW = 1000
"""Samples or test pictures below which the numbers are rough."""


def nearest(x: np.ndarray, known: np.ndarray, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances and places [N,number] of the known features [M,D] nearest to each of [N,D], nearest first.

    `number` is at most M.
    """
    squared, places = torch.full((len(x), number), torch.inf), torch.zeros((len(x), number), dtype=torch.int64)
    centre = middle(known)
    for rows in blocks(len(x)):
        for columns in blocks(len(known)):
            found = squared_distances(x[rows], known[columns], centre)
            least, here = found.topk(min(number, found.shape[1]), largest=False)
            squared[rows], best = torch.cat([squared[rows], least], 1).topk(number, largest=False)
            places[rows] = torch.cat([places[rows], here + columns.start], 1).gather(1, best)
    return squared.double().sqrt().numpy(), places.numpy()


def nearer(samples: np.ndarray, test: np.ndarray) -> float:
    """Probability in [0,1] that a sample's distance [N] is less than a test picture's [M]; equal ones count half.

    Mann and Whitney's U over NM (2004.05675, section 3).
    """
    test = np.sort(test)
    below = np.searchsorted(test, samples, "left") + np.searchsorted(test, samples, "right")
    return float(1 - below.mean() / (2 * len(test)))


def near_share(samples: np.ndarray, test: np.ndarray) -> float:
    """The share of samples whose distance [N] is less than all but `NEAR` of the test pictures' [M], in [0,1]."""
    return float((samples < np.quantile(test, NEAR)).mean())


def memorization(subject: Subject) -> list[Value]:
    """Memorization: the probability that a sample is nearer to its nearest training picture than an unseen real picture
    is to its own. 0.5 as for real ones; towards 1 where training pictures are copied, but also where samples are
    smoother than real pictures and so nearer to everything. And the share of near copies."""
    train = subject.train_features.vectors
    samples, test = (
        nearest(features.vectors, train)[0][:, 0] for features in (subject.sample_features, subject.test_features)
    )
    passport = {
        "known": subject.dataset.train.hash,
        "known_pictures": len(train),
        "unseen": subject.dataset.test.hash,
        "unseen_pictures": len(test),
    }
    note = None
    if min(len(samples), len(test)) < FEW:
        note = f"{len(samples)} samples against {len(test)} test pictures: rough below {FEW} of either."

    def value(metric: str, statistic: Callable[[np.ndarray, np.ndarray], float], real: float) -> Value:
        generator = np.random.default_rng(1)

        def resampled(places: np.ndarray) -> float:
            return statistic(samples[places], test[generator.integers(0, len(test), len(test))])

        interval = bootstrap(resampled, len(samples))
        return Value(metric, statistic(samples, test), interval, len(samples), real, passport, note)

    return [value("memorization", nearer, 0.5), value("near_copies", near_share, NEAR)]


def nearest_pictures(subject: Subject, rows: int = 8, columns: int = 5) -> np.ndarray:
    """The samples that are nearest to training pictures, each followed by its nearest ones: uint8 [rows*columns,H,W,C].

    The worst offender first; fewer rows or columns if there are fewer pictures.
    """
    samples, train = subject.sample_features.vectors, subject.train_features.vectors
    distances, _ = nearest(samples, train)
    worst = np.argsort(distances[:, 0], kind="stable")[:rows]
    _, places = nearest(samples[worst], train, min(columns - 1, len(train)))
    lines = [
        np.concatenate([subject.samples[[one]], subject.train[row]]) for one, row in zip(worst, places, strict=True)
    ]
    return np.concatenate(lines)
