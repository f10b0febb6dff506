"""Features: what distances between sets of pictures are measured in. Pictures uint8 in, vectors float32 out, each kind
with a name, a hash of its weights and a resize rule, because numbers in different features cannot be compared."""

from collections.abc import Callable
from pathlib import Path

from tasvir.config import Refused, nearest
from tasvir.data import Dataset
from tasvir.metrics.features import classifier, inception, networks, pixels
from tasvir.metrics.features.extraction import Extractor, Features, cached, extract
from tasvir.metrics.features.networks import LIBRARIES

__all__ = ["EXTRACTORS", "Extractor", "Features", "build", "cached", "default", "extract", "names"]

SIMPLE = ("cartoons", "digits", "fashion-mnist", "kmnist", "mnist", "usps")
"""Sets by name that are drawn or written: a network for photographs means little there, a classifier much."""

EXTRACTORS: dict[str, Callable[[Dataset, Path | None], Extractor]] = {
    "inception": lambda dataset, weights: inception.extractor(weights),
    "classifier": lambda dataset, weights: classifier.extractor(dataset),
    "pixels": lambda dataset, weights: pixels.extractor(dataset),
    "dinov2": lambda dataset, weights: networks.dinov2(),
    "clip": lambda dataset, weights: networks.clip(),
}
"""Name → function of the reference set and a file of weights, if one was given."""


def names() -> list[str]:
    """What `--features` takes; after a colon comes any of a library's names."""
    return [*EXTRACTORS, *(f"{library}:NAME" for library in LIBRARIES)]


def default(dataset: Dataset) -> str:
    """The features that mean something for a set: its own classifier's where it is drawn or written and has classes and
    training pictures at hand, else those of the FID network."""
    own = dataset.name in SIMPLE and len(dataset.pictures.classes) > 1 and len(dataset.train) > 0
    return "classifier" if own else "inception"


def build(name: str, dataset: Dataset, weights: Path | None = None) -> Extractor:
    """The extractor called `name`, ready to be used, for pictures that are held against `dataset`.

    `weights` is a file to take the FID network's weights from. Raises `Refused` for a name that there is not, weights
    that cannot be had, a library that is not there, and a set that no classifier can be trained on.
    """
    library, _, network = name.partition(":")
    if weights is not None and name != "inception":
        raise Refused(f"--weights is a file for the features inception, and not for {name}; leave it out.")
    if name in EXTRACTORS:
        return EXTRACTORS[name](dataset, weights)
    if network and library in LIBRARIES:
        return LIBRARIES[library](network)
    raise Refused(f"There are no features {name!r}.{nearest(name, EXTRACTORS)}\nThere are {', '.join(names())}.")
