"""Whole pictures of any set, at their own sizes, translated by a run and held against what they should be: PSNR on
Set5, for example."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.config import DataConfig, Layout, Pictures, Refused
from tasvir.data import Dataset, Split
from tasvir.data.decoding import Frame, Unreadable, is_grey, with_channels
from tasvir.data.derive import DERIVATIONS
from tasvir.data.items import Items
from tasvir.data.sources import find
from tasvir.drawing import Opened
from tasvir.metrics.subject import Subject, becoming, chosen, spooled
from tasvir.metrics.translated import Baseline, Pair, copied
from tasvir.translating import Translator

OWN_SIZE = Frame(8, "tiles")
"""Pictures as they are."""
Shape = tuple[int, int, int]


class WholeSubject(Subject):
    """A translating run, measured on whole pictures; their sources are made as for training, or stand beside them."""

    opened: Opened

    def __init__(self, opened: Opened, reference: str, number: int, seed: int):
        """Raises `Refused` if there are no pictures, or no pairs for a run that was trained on such."""
        self.opened, self.settings, self.trained = opened, opened.run.config.data, opened.run.pictures
        self.translator = Translator(opened)
        self.items = _items(reference, self.settings)
        self.groups: dict[Shape, list[int]] = {}
        digest = hashlib.sha256()
        for place in chosen(len(self.items), number).tolist():
            try:
                real = self._pair(place)[1]
            except Unreadable as error:
                print(f"{self.items.names[place]} is left out: {error}.", file=sys.stderr)
                continue
            digest.update(real.tobytes())
            self.groups.setdefault(real.shape, []).append(place)
        if not self.groups:
            raise Refused(f"No picture of --reference {reference} could be translated.")
        name = Path(reference).name or reference
        empty = np.empty((0, 1, 1, self.trained.channels), np.uint8)
        pictures = Pictures(self.trained.channels, self.trained.size)
        whole = Dataset(name, pictures, Split(empty, None, ""), Split(empty, None, digest.hexdigest()), (), (), {})
        super().__init__(whole, "test", number, seed, _no_extractor)

    def has(self) -> set[str]:
        color = {"color"} if any(channels == 3 for *_, channels in self.groups) else set()
        return {"pairs"} | color | becoming(self.trained)

    @property
    def facts(self) -> dict[str, Any]:
        """For the passport: what these pictures are."""
        sizes = {f"{width}×{height}" for height, width, _ in self.groups}
        channels = {channels for *_, channels in self.groups}
        return {
            "split": "all",
            "size": sizes.pop() if len(sizes) == 1 else "various",
            "channels": channels.pop() if len(channels) == 1 else "various",
            "reference_pictures": sum(map(len, self.groups.values())),
        }

    @cached_property
    def pairs(self) -> list[Pair]:
        return self._held(lambda source, real: self.translator.answer(source), "translating whole pictures")

    @cached_property
    def baselines(self) -> list[Subject]:  # type: ignore[override]
        """The sources as they are."""
        return [Baseline(self, self._held(lambda source, real: copied(source[None], real, self.settings)[0]))]

    def _held(self, make: Callable[[np.ndarray, np.ndarray], np.ndarray], what: str = "") -> list[Pair]:
        """What is made of the sources, and the pictures, of each size."""

        def each(places: list[int], side: int) -> Iterator[np.ndarray]:
            for place in places:
                source, real = self._pair(place)
                made = (make(source, real), real)[side]
                yield with_channels(made, real.shape[-1])[None]

        return [
            (spooled(each(places, 0), len(places), what), spooled(each(places, 1), len(places)))
            for places in self.groups.values()
        ]

    def _pair(self, place: int) -> Pair:
        """The source of a picture, uint8 [h,w,C'], and the picture, uint8 [H,W,C]. Raises `Unreadable`.

        Where a run is in colour, a grey picture is translated in colour and compared as grey: C is then 1.
        """
        found = self.items.picture(place, OWN_SIZE)
        scale, channels = self.opened.model.scale, self.trained.channels
        if self.settings.derive == "none":
            assert found.source is not None
            wanted = tuple(scale * side for side in found.source.shape[:2])
            if found.image.shape[:2] != wanted:
                have, want = (f"{width}×{height}" for height, width in (found.image.shape[:2], wanted))
                raise Unreadable(f"it is {have} px and must be {want} px for its source")
            return self.translator.source(found.source), with_channels(found.image, channels)
        height, width = (side // scale * scale for side in found.image.shape[:2])
        whole = np.ascontiguousarray(found.image[:height, :width])
        grey = channels == 3 and is_grey(whole)
        if grey and DERIVATIONS[self.settings.derive].color:
            raise Unreadable("it has no colour")
        real = with_channels(whole, channels)
        return self.translator.source(real, derived=True), whole[..., :1] if grey else real


def _items(reference: str, settings: DataConfig) -> Items:
    """The pictures of a set, with their sources where the run was trained on pairs. Raises `Refused`."""
    layout: Layout = "side-by-side" if settings.layout == "side-by-side" else "auto"
    source = find(DataConfig(source=(reference,), layout=layout, direction=settings.direction))
    if settings.derive != "none" and (source.paired or source.beside is not None):
        source = find(DataConfig(source=(reference,), layout="flat"))
    if settings.derive == "none" and not source.paired:
        raise Refused(
            f"--reference {reference} has no pairs, and the run was trained on sources of their own.\n"
            "Give pairs: pictures side by side, or two folders with the same names in both."
        )
    for name, why in source.skipped:
        print(f"{name} is left out: {why}.", file=sys.stderr)
    return source.read()


def _no_extractor() -> Any:
    raise Refused("Whole pictures are measured in pairs, without features.")
