"""Judging pictures by the real ones nearest to them, in pixels. For small pictures with classes, such as digits."""

import numpy as np

NEIGHBOURS = 5


def judge(
    samples: np.ndarray, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[float, float, float]:
    """Three shares in [0,1] for pictures uint8 [N,H,W,C] without labels of their own.

    Accuracy: samples take the class of their nearest training picture, and then real test pictures take that of their
    nearest sample; the share that comes out right. Low if samples are poor or miss a part of the data.
    Agreement: the share of samples whose five nearest training pictures are all of one class.
    Coverage: exp(entropy) of the samples' classes over the number of classes; 1 if all are equally frequent.
    """
    classes = _votes(samples, train, train_labels)
    taught = _votes(test, samples, classes[:, 0], neighbours=1)[:, 0]
    share = np.bincount(classes[:, 0], minlength=int(train_labels.max()) + 1) / len(classes)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    coverage = float(np.exp(entropy) / len(np.unique(train_labels)))
    return float((taught == test_labels).mean()), _unanimous(classes), coverage


def agreement(images: np.ndarray, train: np.ndarray, train_labels: np.ndarray) -> float:
    """The share of pictures whose five nearest training pictures are all of one class."""
    return _unanimous(_votes(images, train, train_labels))


def _unanimous(classes: np.ndarray) -> float:
    return float((classes == classes[:, :1]).all(1).mean())


def _votes(images: np.ndarray, known: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """[N,neighbours] classes of the nearest known pictures, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(neighbours, len(known)), algorithm="brute").fit(_flat(known))
    return np.asarray(labels)[index.kneighbors(_flat(images), return_distance=False)]


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255
