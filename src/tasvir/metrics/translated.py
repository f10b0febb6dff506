"""A run that translates, as a subject: its answers to held-out sources beside what they should be, and beside what they
should beat: the source itself, and the mean picture."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasvir.config import DataConfig
from tasvir.data.batches import pictures_of, to_float, to_uint8
from tasvir.data.colors import lab_to_rgb
from tasvir.data.decoding import with_channels
from tasvir.drawing import BATCH, PIXELS
from tasvir.metrics.directions import ENLARGED, MEAN, SOURCE
from tasvir.metrics.subject import PairsSubject, RunSubject, Subject, chosen, rows, spooled

MEAN_OF = 1000
"""Training pictures, at most, of which the mean picture is."""
Pair = tuple[np.ndarray, np.ndarray]


class TranslatedSubject(RunSubject):
    """A translating run, measured on the pictures it was trained on; its samples are its answers to their sources."""

    @property
    def prefix(self) -> str:
        return ""

    @cached_property
    def source_places(self) -> np.ndarray:
        """Which sources of the split are translated: at most `number`, where they are pairs those of the reference."""
        sources = self.side.sources
        return chosen(len(self.side if sources is None else sources), self.number)

    def sources(self, places: np.ndarray) -> Tensor:
        """The split's sources at `places`, [N,C',H,W] in [-1,1]."""
        if self.side.sources is not None:
            return to_float(torch.from_numpy(np.array(self.side.sources[places])).to(self.opened.device))
        source = pictures_of(self.dataset, self.side, places, self.opened.device).source
        assert source is not None
        return source

    def batches(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """As many at a time as are translated together."""
        source = self.dataset.pictures.source
        assert source is not None
        step = max(1, min(BATCH, PIXELS // source.size**2))
        return (places[start : start + step] for start in range(0, len(places), step))

    @cached_property
    def samples(self) -> np.ndarray:
        model, places = self.opened.model, self.source_places
        with torch.no_grad():
            made = (to_uint8(model.translate(self.sources(some))) for some in self.batches(places))
            return spooled(made, len(places), "translating")

    @property
    def sample_labels(self) -> None:
        return None

    @cached_property
    def pairs(self) -> list[Pair]:
        """Translations of the reference's sources, and the reference."""
        return [(self.samples, self.reference)]

    @cached_property
    def baselines(self) -> list[Subject]:  # type: ignore[override]
        """The sources as they are, and the mean of training pictures, in the place of translations."""
        if "pairs" not in self.has():
            return []
        settings, like = self.dataset.settings, self.reference[0]
        copies = (copied(to_uint8(self.sources(some)), like, settings) for some in self.batches(self.source_places))
        found: list[Subject] = [Baseline(self, [(spooled(copies, len(self.reference)), self.reference)])]
        train = self.dataset.train.images
        if len(train):
            mean = np.broadcast_to(mean_picture(rows(train, chosen(len(train), MEAN_OF))), self.reference.shape)
            found.append(Baseline(self, [(mean, self.reference)], MEAN))
        return found


class Baseline(PairsSubject):
    """Other pictures in the place of a subject's translations."""

    def __init__(self, of: Subject, pairs: list[Pair], prefix: str | None = None):
        super().__init__(pairs, of.dataset.name, "", of.seed)
        self.border, self.device = of.border, of.device
        self._prefix = prefix or (ENLARGED if "enlarging" in of.has() else SOURCE)

    @property
    def prefix(self) -> str:
        return self._prefix


def copied(sources: np.ndarray, like: np.ndarray, settings: DataConfig) -> np.ndarray:
    """Sources uint8 [N,h,w,C'] as they are, uint8 [N,H,W,C] like a picture [H,W,C]: grey repeated or colour made
    luma, enlarged by Pillow's bicubic interpolation where they are smaller; a lightness is the grey that has it.
    """
    if settings.derive == "grey":
        light = (to_float(torch.from_numpy(np.array(sources))) + 1) * 50
        sources = to_uint8(lab_to_rgb(torch.cat([light, torch.zeros_like(light), torch.zeros_like(light)], 1)))
    height, width, channels = like.shape
    found = [with_channels(image, channels) for image in sources]
    return np.stack([_enlarged(image, height, width) for image in found])


def _enlarged(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h,w,C] uint8 to [height,width,C]."""
    if image.shape[:2] == (height, width):
        return image
    whole = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)


def mean_picture(images: np.ndarray) -> np.ndarray:
    """uint8 [N,H,W,C] to their mean [H,W,C], rounded."""
    total = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), BATCH):
        total += images[start : start + BATCH].sum(0, dtype=np.int64)
    return np.round(total / len(images)).astype(np.uint8)
