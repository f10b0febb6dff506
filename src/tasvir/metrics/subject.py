"""What is measured: pictures that were made, the real ones they are held against, and the run, if one made them."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasvir.config import Pictures, Refused, SamplingConfig
from tasvir.core import abilities
from tasvir.data import Dataset, Split
from tasvir.data.workers import progress
from tasvir.diffusion.forward import Discrete
from tasvir.diffusion.telling import in_words
from tasvir.drawing import BATCH, Opened, PriorName

if TYPE_CHECKING:
    from torch import Tensor

    from tasvir.metrics.features import Extractor, Features


class Subject:
    """Pictures being measured. Each part is made when the first metric asks for it, and serves the others.

    All pictures are uint8 [N,H,W,C], all labels int64 [N]; large arrays lie on disk and are mapped, so read them in
    chunks and never change them.
    """

    opened: Opened | None = None
    """The run, with its model; None for pictures made by other software."""
    dataset: Dataset
    """The reference set."""
    split: str
    """The part of it that pictures are held against: `test`, `train` or `all`."""
    number: int
    """Most pictures to measure with."""
    seed: int
    """Of the first sample; whatever else a metric draws at random comes from it too."""
    draws: int = 50
    """Draws K of the importance-weighted bound."""
    prior: PriorName = "model"
    """Whence a run's latents are drawn for samples: its `model`'s own prior, or a `mixture` fitted to its encodings."""
    how: SamplingConfig | None = None
    """How models that draw in steps do so; None for all others."""
    border: int = 0
    """Pixels cut from every side before super-resolution is judged: the scale factor."""
    device: str = "auto"
    baselines: "Sequence[Subject]" = ()
    """Measured beside the pairs by the same rows, under a prefix of their own: pairs that a model should beat."""

    def __init__(self, dataset: Dataset, split: str, number: int, seed: int, extractor: "Callable[[], Extractor]"):
        self.dataset, self.split, self.number, self.seed = dataset, split, number, seed
        self._extractor = extractor

    # ---- what was made

    @cached_property
    def samples(self) -> np.ndarray:
        """Pictures that were made from nothing."""
        raise NotImplementedError

    @property
    def sample_labels(self) -> np.ndarray | None:
        """The class that each sample was asked to be; None if nobody asked."""
        return None

    @property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pictures made from or for a real one, and those real ones in the same order: (made, real) of each size."""
        raise NotImplementedError

    @property
    def prefix(self) -> str:
        """What the names of metrics of pairs begin with: `reconstruction_` for reconstructions, nothing for
        translations; baselines have one of their own (`directions.PREFIXES`)."""
        return ""

    @property
    def drawn(self) -> dict[str, str]:
        """What a passport says of how samples were drawn; `own_sampling` is as the run does unasked."""
        return {}

    def has(self) -> set[str]:
        """What metrics may ask for: `samples`, `pairs`, the `reference` with its `labels` and known `factors`, `asked`
        (labels of the samples), `train` and `test` (pictures at hand), `color` (of the reference), what becomes of
        sources (`enlarging`, `coloring`), the abilities of the run's model, and if it takes noise out of pixels, its
        `process`, and whether that has fixed `steps`.
        """
        return given_by_set(self.dataset)

    # ---- what it is held against

    @cached_property
    def side(self) -> Split:
        """The whole part of the reference set that pictures are held against."""
        if self.split == "all":
            return _joined(self.dataset.train, self.dataset.test)
        return self.dataset.test if self.split == "test" else self.dataset.train

    @property
    def _other(self) -> Split:
        """What is not in the reference: nothing, where that is all."""
        if self.split == "all":
            return Split(self.dataset.test.images[:0], None, "")
        return self.dataset.train if self.split == "test" else self.dataset.test

    @cached_property
    def reference(self) -> np.ndarray:
        """Real pictures that the made ones are held against: at most `number`, the same ones for every seed."""
        return rows(self.side.images, chosen(len(self.side), self.number))

    @cached_property
    def reference_labels(self) -> np.ndarray | None:
        return _labels(self.side, self.number)

    @cached_property
    def real(self) -> np.ndarray:
        """Real pictures in the place of samples: as many, or as there are, from the other split (none where all are the
        reference). What they reach is what a perfect model would."""
        return rows(self._other.images, chosen(len(self._other), len(self.samples)))

    @cached_property
    def real_labels(self) -> np.ndarray | None:
        return _labels(self._other, len(self.samples))

    @property
    def train(self) -> np.ndarray:
        """All training pictures of the reference set; empty for streamed sets."""
        return self.dataset.train.images

    @property
    def train_labels(self) -> np.ndarray | None:
        return self.dataset.train.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the reference set's classes; empty if it has none."""
        return self.dataset.pictures.classes

    # ---- their features

    @cached_property
    def extractor(self) -> "Extractor":
        """The network (or projection) whose features distances are measured in. Raises `Refused`."""
        return self._extractor()

    @cached_property
    def sample_features(self) -> "Features":
        return self._features(self.samples)

    @cached_property
    def reference_features(self) -> "Features":
        return self._cached(self.side, self.number)

    @cached_property
    def real_features(self) -> "Features":
        """Of `real`."""
        return self._cached(self._other, len(self.samples))

    @cached_property
    def train_features(self) -> "Features":
        """Of `train`."""
        return self._cached(self.dataset.train, len(self.dataset.train))

    @cached_property
    def test_features(self) -> "Features":
        """Of the held-out pictures, at most `number`, whatever the reference split is."""
        return self._cached(self.dataset.test, self.number)

    def _features(self, images: np.ndarray) -> "Features":
        from tasvir.metrics.features import extract

        return extract(self.extractor, images, spool)

    def _cached(self, split: Split, number: int) -> "Features":
        from tasvir.metrics.features import cached

        places = chosen(len(split), number)
        size, channels = self.dataset.pictures.size, self.dataset.pictures.channels
        key = f"{split.hash} {size} {channels} {len(places)}"
        return cached(self.extractor, lambda: rows(split.images, places), key)

    @cached_property
    def classifier(self) -> "Extractor":
        """A classifier of the reference set's classes, whatever the features are. Raises `Refused` if it is weak."""
        if self.extractor.name == "classifier":
            return self.extractor
        from tasvir.metrics.features import build

        return build("classifier", self.dataset)


class RunSubject(Subject):
    """A run, measured on the pictures it was trained to imitate."""

    opened: Opened
    drawing = "drawing samples"
    """What is said on a terminal while samples are drawn."""

    def __init__(
        self,
        opened: Opened,
        split: str,
        number: int,
        seed: int,
        extractor: "Callable[[Dataset], Extractor]",
        prior: PriorName = "model",
    ):
        super().__init__(opened.dataset, split, number, seed, lambda: extractor(self.dataset))
        self.opened, self.prior = opened, prior

    @property
    def conditional(self) -> bool:
        return bool(getattr(self.opened.model, "conditional", False))

    @property
    def prefix(self) -> str:
        return "reconstruction_"

    def has(self) -> set[str]:
        given = super().has() | given_by(self.opened.model, self.dataset)
        return given | {"samples"} if self.prior == "mixture" and {"encode", "decode"} <= given else given

    @cached_property
    def samples(self) -> np.ndarray:
        seeds = range(self.seed, self.seed + self.number)
        labels = None if self.sample_labels is None else self.sample_labels.tolist()

        def drawn() -> Iterator[np.ndarray]:
            for start in range(0, self.number, BATCH):
                part = slice(start, start + BATCH)
                told = None if labels is None else labels[part]
                yield self.opened.samples(seeds[part], labels=told, prior=self.prior, how=self.how)

        return spooled(drawn(), self.number, self.drawing)

    @property
    def drawn(self) -> dict[str, str]:
        facts: dict[str, str] = {} if self.prior == "model" else {"prior": self.prior}
        if self.how is not None:
            name = "own_sampling" if self.how == self.opened.sampling() else "sampling"
            facts[name] = in_words(self.how, self.opened.dtype)
        return facts

    def redraw(self, how: SamplingConfig, what: str) -> None:
        """Draw the samples anew, in another way, when they are next asked for; all else is kept."""
        self.how, self.drawing = how, what
        for made in ("samples", "sample_features"):
            self.__dict__.pop(made, None)

    @cached_property
    def sample_labels(self) -> np.ndarray | None:
        """As frequent as in the reference."""
        if not self.conditional or self.reference_labels is None:
            return None
        return np.resize(self.reference_labels, self.number)

    @cached_property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Reconstructions of the reference, told its classes where the model takes them, and the reference."""
        real, known = self.reference, self.reference_labels if self.conditional else None

        def made() -> Iterator[np.ndarray]:
            for start in range(0, len(real), BATCH):
                part = slice(start, start + BATCH)
                told = {} if known is None else {"labels": known[part].tolist()}
                yield self.opened.reconstructions(real[part], **told)

        return [(spooled(made(), len(real), "reconstructing"), real)]


class MadeSubject(Subject):
    """Pictures made by any software, held against a reference set."""

    def __init__(
        self,
        made: np.ndarray,
        labels: np.ndarray | None,
        dataset: Dataset,
        split: str,
        number: int,
        seed: int,
        extractor: "Callable[[Dataset], Extractor]",
    ):
        super().__init__(dataset, split, number, seed, lambda: extractor(dataset))
        self._made, self._made_labels = made, labels

    def has(self) -> set[str]:
        return super().has() | {"samples"} | ({"asked"} if self._made_labels is not None else set())

    @cached_property
    def samples(self) -> np.ndarray:
        return self._made

    @property
    def sample_labels(self) -> np.ndarray | None:
        return self._made_labels


class PairsSubject(Subject):
    """Pictures made by any software, each held against a real one, at their own sizes."""

    def __init__(self, pairs: list[tuple[np.ndarray, np.ndarray]], name: str, digest: str, seed: int):
        """`pairs` are (made, real) for each size; `digest` is the sha256 of the real pixels."""
        real = pairs[0][1]
        pictures = Pictures(real.shape[-1], real.shape[1])
        dataset = Dataset(name, pictures, Split(real[:0], None, ""), Split(real, None, digest), (), (), {})
        super().__init__(dataset, "test", sum(len(group) for group, _ in pairs), seed, _no_extractor)
        self._pairs = pairs

    def has(self) -> set[str]:
        return {"pairs"} | ({"color"} if any(real.shape[-1] == 3 for _, real in self._pairs) else set())

    @property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._pairs


def known_classes(subject: Subject, part: slice | np.ndarray) -> "dict[str, Tensor]":
    """What a conditional model is told of that part of the reference: `label`, [N] int64; others are told nothing."""
    assert subject.opened is not None
    model = subject.opened.model
    if not getattr(model, "conditional", False) or subject.reference_labels is None:
        return {}
    return {"label": torch.from_numpy(np.array(subject.reference_labels[part])).to(model.device)}


def _no_extractor() -> "Extractor":
    raise Refused("Pairs are measured without features.")


def _joined(train: Split, test: Split) -> Split:
    """Both splits as one."""
    parts = (
        part[start : start + BATCH] for part in (train.images, test.images) for start in range(0, len(part), BATCH)
    )
    labels = None if train.labels is None or test.labels is None else np.concatenate([train.labels, test.labels])
    digest = hashlib.sha256(f"{train.hash} {test.hash}".encode()).hexdigest()
    sources = None
    if train.sources is not None and test.sources is not None:
        both = (
            part[start : start + BATCH]
            for part in (train.sources, test.sources)
            for start in range(0, len(part), BATCH)
        )
        sources = spooled(both, len(train.sources) + len(test.sources))
    return Split(spooled(parts, len(train) + len(test)), labels, digest, sources)


def given_by_set(dataset: Dataset) -> set[str]:
    """What a reference set gives, in the words of `Subject.has`."""
    there = {name for name, split in (("train", dataset.train), ("test", dataset.test)) if len(split)}
    there |= {"factors"} if factors_known(dataset) else set()
    there |= {"color"} if dataset.pictures.channels == 3 else set()
    return there | {"reference"} | ({"labels"} if dataset.pictures.classes else set())


def factors_known(dataset: Dataset) -> bool:
    """Whether it is the built-in set, of whose pictures all factors of variation are known."""
    return dataset.name == "cartoons" and dataset.description.get("layout") == "named"


def given_by(model: Any, dataset: Dataset) -> set[str]:
    """What a model (or its class) gives to be measured, in the words of `Subject.has`."""
    able = set(abilities(model))
    given = able | {word for name, word in (("sample", "samples"), ("reconstruct", "pairs")) if name in able}
    if getattr(model, "conditional", False) and dataset.pictures.classes:
        given.add("asked")
    if "denoise" in able and getattr(model, "stepwise", False):
        given |= {"process"} | ({"steps"} if isinstance(getattr(model, "process", None), Discrete) else set())
    if "translate" in able and dataset.pictures.source is not None:
        given |= {"samples"} | ({"pairs"} if dataset.pictures.matched else set()) | becoming(dataset.pictures)
    return given


def becoming(pictures: Pictures) -> set[str]:
    """What becomes of sources on their way to pictures: `enlarging`, `coloring`."""
    source = pictures.source
    if source is None:
        return set()
    larger = {"enlarging"} if source.size < pictures.size else set()
    return larger | ({"coloring"} if source.channels < pictures.channels else set())


def chosen(count: int, number: int) -> np.ndarray:
    """[min(count, number)] places, ascending: all, or the same random ones every time. Neighbours in a pack may be of
    one class, so the first ones would not do."""
    if number >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:number])


def rows(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Pictures at ascending places; not copied if these are all, and on disk where they are many."""
    if len(places) == len(images):
        return images
    parts = (images[places[start : start + BATCH]] for start in range(0, len(places), BATCH))
    return spooled(parts, len(places))


def _labels(split: Split, number: int) -> np.ndarray | None:
    return None if split.labels is None else np.asarray(split.labels[chosen(len(split), number)])


SPOOL = 64 << 20
"""Bytes of an array from which on it lies on disk."""


def spool(shape: tuple[int, ...], kind: type) -> np.ndarray:
    """An array to fill: in memory if small, else in a temporary file that goes when the array does."""
    if int(np.prod(shape)) * np.dtype(kind).itemsize < SPOOL:
        return np.empty(shape, kind)
    try:
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, kind, "w+", shape=shape)
    except OSError as error:
        raise Refused(
            f"{tempfile.gettempdir()} has no room for the pictures being measured ({error.strerror or error}).\n"
            "Make room, name another folder with TMPDIR, or measure fewer with -n."
        ) from None


def spooled(parts: Iterator[np.ndarray], number: int, what: str = "") -> np.ndarray:
    """Parts of an array, one after the other, as one; `number` is their rows together. `what` is said on a terminal."""
    found: np.ndarray | None = None
    place = 0
    with progress(number, what) if what else nullcontext(lambda count: None) as advance:
        for part in parts:
            if found is None:
                found = spool((number, *part.shape[1:]), part.dtype.type)
            found[place : place + len(part)] = part
            place += len(part)
            advance(len(part))
    if found is None:
        raise Refused("There are no pictures to measure.")
    return found
