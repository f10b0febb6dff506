"""Judging pictures by the real ones nearest to them, in pixels. For small pictures with classes, such as digits."""

from dataclasses import dataclass

import numpy as np
import torch

from tasvir.metrics.features.extraction import channels_first
from tasvir.metrics.features.pixels import flattened
from tasvir.metrics.subject import Subject, chosen
from tasvir.metrics.values import Value, bootstrap, of_share

NEIGHBOURS = 5
KNOWN = 60_000
"""Most training pictures that neighbours are looked for among."""
LARGEST = 64 * 64 * 3
"""Pixel values of a picture up to which nearest neighbours in pixels mean something."""


def nearest_class(subject: Subject) -> list[Value]:
    """Whether samples look like one class, cover all classes, and would teach a nearest-neighbour classifier."""
    if subject.train[0].size > LARGEST or subject.reference_labels is None or subject.train_labels is None:
        return []
    places = chosen(len(subject.train), KNOWN)
    train, train_labels = subject.train[places], subject.train_labels[places]
    real = np.asarray(subject.train[: len(subject.samples)])
    found, ceilings = (
        _judged(images, train, train_labels, subject.reference, subject.reference_labels)
        for images in (subject.samples, real)
    )
    unanimous = agreement(subject.reference, train, train_labels)  # `real` is among the training pictures
    known = {"known": subject.dataset.train.hash, "known_pictures": len(places)}
    coverage = bootstrap(lambda chosen: _coverage(found.classes[chosen], train_labels), len(found.classes), 200)
    return [
        of_share("nearest_class_accuracy", found.right, real=float(ceilings.right.mean()), passport=known),
        of_share("class_agreement", found.unanimous, real=unanimous, passport=known),
        Value(
            "class_coverage",
            _coverage(found.classes, train_labels),
            coverage,
            len(found.classes),
            _coverage(ceilings.classes, train_labels),
            known,
        ),
    ]


@dataclass(frozen=True)
class Judged:
    """What nearest neighbours say of samples."""

    right: np.ndarray
    """[M] whether each test picture has the class of its nearest sample."""
    unanimous: np.ndarray
    """[N] whether the five nearest training pictures of each sample are of one class."""
    classes: np.ndarray
    """[N] class of each sample's nearest training picture."""


def judge(
    samples: np.ndarray, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[float, float, float]:
    """Three shares in [0,1] for pictures uint8 [N,H,W,C] without labels of their own.

    Accuracy: samples take the class of their nearest training picture, and then real test pictures take that of their
    nearest sample; the share that comes out right. Low if samples are poor or miss a part of the data.
    Agreement: the share of samples whose five nearest training pictures are all of one class.
    Coverage: exp(entropy) of the samples' classes over the number of classes; 1 if all are equally frequent.
    """
    found = _judged(samples, train, train_labels, test, test_labels)
    return float(found.right.mean()), float(found.unanimous.mean()), _coverage(found.classes, train_labels)


def _judged(
    samples: np.ndarray, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Judged:
    votes = _votes(samples, train, train_labels)
    taught = _votes(test, samples, votes[:, 0], neighbours=1)[:, 0]
    return Judged(taught == test_labels, _unanimous(votes), votes[:, 0])


def _coverage(classes: np.ndarray, labels: np.ndarray) -> float:
    share = np.bincount(classes) / len(classes)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return float(np.exp(entropy) / len(np.unique(labels)))


def agreement(images: np.ndarray, train: np.ndarray, train_labels: np.ndarray) -> float:
    """The share of pictures whose five nearest training pictures are all of one class."""
    return float(_unanimous(_votes(images, train, train_labels)).mean())


def _unanimous(votes: np.ndarray) -> np.ndarray:
    return (votes == votes[:, :1]).all(1)


def _votes(images: np.ndarray, known: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """[N,neighbours] classes of the nearest known pictures, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(neighbours, len(known)), algorithm="brute").fit(_flat(known))
    return np.asarray(labels)[index.kneighbors(_flat(images), return_distance=False)]


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255


PIECE = 1 << 22
"""Pixel values of known pictures that are compared at a time."""


def nearest_pictures(images: np.ndarray, known: np.ndarray, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The known pictures nearest to each in pixels: distances and places [N,number], nearest first, both uint8
    [·,H,W,C].

    The distance is the root mean square of the differences of pixels in [0,1], in pictures that are averaged down to 64
    px where they are larger. Read in pieces, so that memory does not grow with the known ones.
    """
    number = min(number, len(known))
    ours = _pixels(images)
    least, places = torch.full((len(ours), number), torch.inf), torch.zeros((len(ours), number), dtype=torch.int64)
    step = max(1, PIECE // int(np.prod(known.shape[1:])))
    for start in range(0, len(known), step):
        theirs = _pixels(known[start : start + step])
        squared = torch.addmm(theirs.square().sum(1), ours, theirs.T, alpha=-2) + ours.square().sum(1)[:, None]
        found, here = squared.topk(min(number, len(theirs)), largest=False)
        least, best = torch.cat([least, found], 1).topk(number, largest=False)
        places = torch.cat([places, here + start], 1).gather(1, best)
    chosen = [_pixels(known[row]) for row in places.numpy()]
    exact = torch.stack([(one - row).double().square().mean(1).sqrt() for one, row in zip(ours, chosen, strict=True)])
    exact, order = exact.sort(dim=1, stable=True)
    return exact.numpy(), places.gather(1, order).numpy()


def _pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [N,H,W,C] to float32 [N,D] in [0,1], averaged down where they are larger than 64 px."""
    return flattened(channels_first(np.asarray(images), images.shape[-1]))
