"""Precision and recall of distributions, as a curve. Sajjadi et al. 2018, arXiv 1806.00035."""

import numpy as np

from tasvir.metrics.subject import Subject, chosen, spool
from tasvir.metrics.values import Value, bootstrap

ANGLES = 1001
CLUSTERS = 20
RUNS = 10
BETA = 8
"""F8 weights recall, F1/8 weights precision."""
REPLICATES = 200
FEW = 1000
"""Pictures below which clusters hold too few to compare their shares."""


def curve(samples: np.ndarray, reference: np.ndarray, angles: int = ANGLES) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall [angles] of one discrete distribution [K] against another, in [0,1].

    alpha(lambda) = sum min(lambda p, q) and beta(lambda) = sum min(p, q / lambda), with p the reference and q the
    samples, for lambda = tan(i/(angles+1) pi/2), i = 1 … angles (section 3.3).
    """
    slopes = np.tan(np.arange(1, angles + 1) / (angles + 1) * np.pi / 2)
    precision = np.minimum(slopes[:, None] * reference, samples).sum(1)
    return precision.clip(0, 1), (precision / slopes).clip(0, 1)


def f_beta(precision: np.ndarray, recall: np.ndarray, beta: float) -> float:
    """The highest F_beta along a curve, in [0,1]; 0 where both are 0."""
    below = beta**2 * precision + recall
    found = (1 + beta**2) * precision * recall / np.where(below > 0, below, 1)
    return float(found.max())


def clustered(samples: np.ndarray, reference: np.ndarray, clusters: int, runs: int, seed: int) -> np.ndarray:
    """[runs,2,n] clusters of samples and of real pictures, by k-means on both together; n is the lesser number of rows.

    Of the larger set as many are taken: the shares of two sets of different size could not be compared (section 4).
    """
    from sklearn.cluster import MiniBatchKMeans

    number = min(len(samples), len(reference))
    union = spool((2 * number, samples.shape[1]), np.float32)
    union[:number] = samples[chosen(len(samples), number)]
    union[number:] = reference[chosen(len(reference), number)]
    found = [
        MiniBatchKMeans(min(clusters, len(union)), n_init=10, random_state=seed + run).fit(union).labels_
        for run in range(runs)
    ]
    return np.stack(found).reshape(runs, 2, number)


def averaged(labels: np.ndarray, angles: int = ANGLES) -> tuple[np.ndarray, np.ndarray]:
    """The mean curve of several clusterings [runs,2,n] of samples and real pictures."""
    bins, number = int(labels.max()) + 1, labels.shape[2]
    shares = [[np.bincount(side, minlength=bins) / number for side in run] for run in labels]
    precision, recall = np.mean([curve(samples, reference, angles) for samples, reference in shares], axis=0)
    return precision, recall


def of_features(
    samples: np.ndarray, reference: np.ndarray, clusters: int = CLUSTERS, runs: int = RUNS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall [angles] of float32 features [N,D] against [M,D], averaged over clusterings."""
    return averaged(clustered(samples, reference, clusters, runs, seed))


def prd(subject: Subject) -> list[Value]:
    """F8 (is everything real also made?) and F1/8 (is everything made real?), with the curve.

    The interval is the spread of resamples of pictures and clusterings, laid around the value: a resample repeats
    pictures, so its shares differ more, and its own percentiles lie too low.
    """
    reference = subject.reference_features.vectors
    labels = clustered(subject.sample_features.vectors, reference, CLUSTERS, RUNS, subject.seed)
    precision, recall = averaged(labels)
    truth = None
    if len(subject.real):
        truth = of_features(subject.real_features.vectors, reference, CLUSTERS, RUNS, subject.seed)
    number = labels.shape[2]
    note = None
    if number < FEW:
        note = f"{number} pictures on either side in {CLUSTERS} clusters: too low by chance alone below {FEW}."

    def value(metric: str, beta: float) -> Value:
        generator = np.random.default_rng(0)

        def resampled(places: np.ndarray) -> float:
            runs = generator.integers(0, RUNS, RUNS)
            others = generator.integers(0, number, number)
            return f_beta(*averaged(np.stack([labels[runs, 0][:, places], labels[runs, 1][:, others]], 1), 101), beta)

        low, high = bootstrap(resampled, number, REPLICATES)
        found, half = f_beta(precision, recall, beta), (high - low) / 2
        return Value(
            metric,
            found,
            (max(found - half, 0.0), min(found + half, 1.0)),
            number,
            real=None if truth is None else f_beta(*truth, beta),
            passport={"clusters": CLUSTERS, "runs": RUNS},
            note=note,
            curve={"recall": recall[::10].tolist(), "precision": precision[::10].tolist()} if beta > 1 else None,
        )

    return [value("prd_f8", BETA), value("prd_f1_8", 1 / BETA)]
