"""Precision, recall, density and coverage by nearest neighbours among features.

Kynkäänniemi et al. 2019, arXiv 1904.06991 (precision, recall); Naeem et al. 2020, arXiv 2002.09797 (density, coverage).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, of_each

NEIGHBOURS = 3
"""k of precision and recall."""
WIDE_NEIGHBOURS = 5
"""k of density and coverage."""
BLOCK = 1024
"""Rows and columns of the distance matrix that are there at one time."""
FEW = 1000
"""Pictures on either side below which the numbers are rough."""


@dataclass(frozen=True)
class Cross:
    """What one pass over the distances between N samples and M real pictures tells."""

    inside: np.ndarray
    """[N] bool: the sample lies within the radius of a real picture (precision: its share)."""
    reached: np.ndarray
    """[M] bool: the real picture lies within the radius of a sample (recall)."""
    around: np.ndarray
    """[N] in how many wide radii of real pictures the sample lies (density: its mean over k)."""
    covered: np.ndarray
    """[M] bool: a sample lies within the real picture's wide radius (coverage)."""


def cross(
    samples: np.ndarray,
    reference: np.ndarray,
    sample_radii: np.ndarray,
    reference_radii: np.ndarray,
    wide_radii: np.ndarray,
) -> Cross:
    """Holds float32 features [N,D] against [M,D], given radii [N], and two radii [M] of the reference.

    A picture on the border is within a radius (1904.06991, eq. 1) and not within a wide one (as in the authors' code of
    2002.09797).
    """
    within, near, wide = (
        torch.from_numpy(np.square(radii).astype(np.float32)) for radii in (sample_radii, reference_radii, wide_radii)
    )
    inside, around = torch.zeros(len(samples), dtype=torch.bool), torch.zeros(len(samples), dtype=torch.int64)
    reached, least = torch.zeros(len(reference), dtype=torch.bool), torch.full((len(reference),), torch.inf)
    centre = middle(reference)
    for rows in blocks(len(samples)):
        for columns in blocks(len(reference)):
            squared = squared_distances(samples[rows], reference[columns], centre)
            inside[rows] |= (squared <= near[columns]).any(1)
            around[rows] += (squared < wide[columns]).sum(1)
            reached[columns] |= (squared <= within[rows, None]).any(0)
            least[columns] = torch.minimum(least[columns], squared.amin(0))
    return Cross(inside.numpy(), reached.numpy(), around.numpy(), (least < wide).numpy())


def neighbour_distances(features: np.ndarray, number: int) -> np.ndarray:
    """[N,number] distances to the nearest others of the same set [N,D], ascending. Each pair is looked at once.

    Raises `Refused` if there are not so many others.
    """
    if len(features) <= number:
        raise Refused(
            f"{len(features)} pictures are too few: {number} neighbours of each are asked for.\nMeasure with more."
        )
    nearest, centre = torch.full((len(features), number), torch.inf), middle(features)
    for rows in blocks(len(features)):
        for columns in blocks(len(features), rows.start):
            squared = squared_distances(features[rows], features[columns], centre)
            if rows == columns:
                squared.fill_diagonal_(torch.inf)
            else:
                nearest[columns] = _smaller(nearest[columns], squared.T)
            nearest[rows] = _smaller(nearest[rows], squared)
    return nearest.double().sqrt().numpy()


def radii(features: np.ndarray, k: int) -> np.ndarray:
    """[N] distance of each of [N,D] to its k-th nearest other. Raises `Refused` if there is none."""
    return neighbour_distances(features, k)[:, -1]


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Which samples [N,D] look real, and which real pictures [M,D] are within reach: bool [N] and [M].

    Their shares are precision and recall (1904.06991, eq. 1 and 2). Raises `Refused` at too few pictures.
    """
    around = radii(reference, k)
    found = cross(samples, reference, radii(samples, k), around, around)
    return found.inside, found.reached


def density_coverage(
    samples: np.ndarray, reference: np.ndarray, k: int = WIDE_NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """The density at each sample [N,D], and which real pictures [M,D] have a sample near: float [N] and bool [M].

    Their means are density and coverage (2002.09797, section 3). Raises `Refused` at too few pictures.
    """
    around = radii(reference, k)
    found = cross(samples, reference, np.zeros(len(samples)), around, around)
    return found.around / k, found.covered


def squared_distances(x: np.ndarray, y: np.ndarray, centre: np.ndarray) -> Tensor:
    """Squared distances [A,B] of [A,D] from [B,D]: ||x||² + ||y||² - 2xy about `centre` [D] in float64, then float32.

    Rounded so late, they do not depend on how the rows were cut, and equal ones compare as equal. What is within the
    rounding of the product is 0: the same picture twice.
    """
    first, second = (torch.from_numpy(np.subtract(part, centre, dtype=np.float64)) for part in (x, y))
    length = first.square().sum(1)[:, None]
    squared = torch.addmm(second.square().sum(1), first, second.T, alpha=-2).add_(length)
    return squared.masked_fill_(squared <= 2e-12 * length, 0).float()


def middle(features: np.ndarray) -> np.ndarray:
    """The mean [D] of features [N,D], in float64."""
    return features.mean(0, dtype=np.float64)


def blocks(number: int, start: int = 0) -> Iterator[slice]:
    """Rows from `start` to `number`, in order, `BLOCK` at a time."""
    return (slice(place, min(place + BLOCK, number)) for place in range(start, number, BLOCK))


def _smaller(known: Tensor, more: Tensor) -> Tensor:
    """The least of known [A,k] and more values [A,B], in each row: [A,k] ascending."""
    number = known.shape[1]
    least = more.topk(min(number, more.shape[1]), largest=False).values
    return torch.cat([known, least], 1).topk(number, largest=False).values


FIGURES: dict[str, tuple[int, Callable[[Cross], np.ndarray]]] = {
    "precision": (NEIGHBOURS, lambda found: found.inside),
    "recall": (NEIGHBOURS, lambda found: found.reached),
    "density": (WIDE_NEIGHBOURS, lambda found: found.around / WIDE_NEIGHBOURS),
    "coverage": (WIDE_NEIGHBOURS, lambda found: found.covered),
}
"""By metric, its k and what it is the mean of."""


def manifold(subject: Subject) -> list[Value]:
    """Precision (are samples among the real ones?), recall (are the real ones among the samples?), density and coverage
    (the same, less swayed by outliers). Raises `Refused` at five pictures or fewer."""
    samples, reference = subject.sample_features.vectors, subject.reference_features.vectors
    distances = neighbour_distances(reference, WIDE_NEIGHBOURS)
    near, wide = distances[:, NEIGHBOURS - 1], distances[:, -1]
    found = cross(samples, reference, radii(samples, NEIGHBOURS), near, wide)
    truth = None
    if len(subject.real) > NEIGHBOURS:
        real = subject.real_features.vectors
        truth = cross(real, reference, radii(real, NEIGHBOURS), near, wide)
    values = [
        of_each(
            metric,
            each(found),
            real=None if truth is None else float(each(truth).mean()),
            passport={"k": k},
            note=_note(len(samples), len(reference)),
        )
        for metric, (k, each) in FIGURES.items()
    ]
    return [replace(value, number=len(samples)) for value in values]


def _note(samples: int, reference: int) -> str | None:
    if min(samples, reference) < FEW:
        return f"{samples} samples against {reference} real pictures: rough below {FEW} on either side."
    if max(samples, reference) > 1.5 * min(samples, reference):
        return (
            f"{samples} samples against {reference} real pictures: recall and coverage depend on these numbers. "
            "Compare at equal ones."
        )
    return None
