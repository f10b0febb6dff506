"""What is measured of translations alone: errors of colour, colourfulness, what is lost on the way there and back."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tasvir.data.batches import to_uint8
from tasvir.data.colors import rgb_to_lab
from tasvir.metrics.similarity import absolute_error, of_pairs, unit
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, of_each

CHUNK = 64
"""Pictures that are looked at together."""


def ab_error(made: Tensor, real: Tensor) -> Tensor:
    """[N] mean over the pixels of the Euclidean distance in the plane of a and b of CIE Lab; [N,3,H,W] in [0,1]."""
    plane, other = (rgb_to_lab(images * 2 - 1)[:, 1:] for images in (made, real))
    return (plane - other).double().square().sum(1).sqrt().flatten(1).mean(1)


def colorfulness(images: Tensor) -> Tensor:
    """[N] of pictures [N,3,H,W] in [0,1], on the scale of 255 levels: 0 is grey, above 100 very colourful.

    Hasler and Süsstrunk 2003 (doi 10.1117/12.477378): spread and mean of red - green and of yellow - blue.
    """
    red, green, blue = (images * 255).flatten(2).unbind(1)
    planes = torch.stack([red - green, (red + green) / 2 - blue])
    spread, mean = planes.std(2, correction=0), planes.mean(2)
    return torch.linalg.vector_norm(spread, dim=0) + 0.3 * torch.linalg.vector_norm(mean, dim=0)


# ---- what evaluate asks for


def color_errors(subject: Subject) -> list[Value]:
    """`ab_error`, the mean over those pictures that have colour."""
    colored = [pair for pair in subject.pairs if pair[1].shape[-1] == 3]
    found = of_pairs(colored, {"ab_error": ab_error})
    return [of_each(f"{subject.prefix}ab_error", found["ab_error"])]


def colorfulnesses(subject: Subject) -> list[Value]:
    """`colorfulness` of samples, beside that of the reference."""
    made, real = (
        np.concatenate([colorfulness(unit(images[start : start + CHUNK])).numpy() for start in _starts(images)])
        for images in (subject.samples, subject.reference)
    )
    return [of_each("colorfulness", made, real=float(real.mean()))]


def cycle_errors(subject: Subject) -> list[Value]:
    """`cycle_mae`, source → picture → source, and `back_cycle_mae`, picture → source → picture: absolute errors of
    pixels in [0,1]. What is between is of 8 bits, as it would be on disk, so that little can be hidden in it.
    """
    from tasvir.metrics.translated import TranslatedSubject

    assert isinstance(subject, TranslatedSubject)
    model = subject.opened.model

    def there(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        source = subject.sources(places)
        image = to_uint8(model.translate(source))
        return to_uint8(model.translate_back(subject.opened.tensor(image))), to_uint8(source)

    def back(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = subject.reference[places]
        source = to_uint8(model.translate_back(subject.opened.tensor(image)))
        return to_uint8(model.translate(subject.opened.tensor(source))), image

    def errors(cycle: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return np.concatenate([absolute_error(unit(made), unit(real)).numpy() for made, real in cycle])

    with torch.no_grad():
        found = {
            "cycle_mae": errors(there(places) for places in subject.batches(subject.source_places)),
            "back_cycle_mae": errors(back(places) for places in subject.batches(np.arange(len(subject.reference)))),
        }
    return [of_each(name, values) for name, values in found.items()]


def _starts(images: np.ndarray) -> range:
    return range(0, len(images), CHUNK)
