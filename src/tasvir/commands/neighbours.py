"""Samples beside the training pictures that are nearest to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasvir.commands.words import Folder, Label, Number, Step
from tasvir.config import Count, Positive, Refused, Seed

MOST = 100
"""Training pictures beside a sample, at most."""


@dataclass(frozen=True)
class Neighbours:
    """Samples, each beside the training pictures nearest to it in pixels, with their distances.

    They should be alike and not the same: a model that copies has memorized. `tasvir evaluate --metrics memorization`
    tells how likely that is, in features.
    """

    run: Folder
    out: Path = Path("neighbours.png")
    """x.png a row for each sample, with the distance of its nearest; else what stands there: .npz, .gif, .webp, .mp4, a
    folder."""
    number: Number = 8
    """Samples."""
    nearest: Count = 5
    """Training pictures beside each."""
    worst: bool = False
    """Of 1000 samples, those that are nearest to a training picture, the nearest first."""
    label: Label = None
    """Class of the samples, for recipes that know classes."""
    prior: Literal["model", "mixture"] = "model"
    """Where latents come from, as in `tasvir sample`."""
    truncation: Positive | None = None
    """Less variety for better pictures, in GANs, as in `tasvir sample`."""
    seed: Seed = 0
    """Of the first sample."""
    step: Step = None

    def __call__(self) -> None:
        import numpy as np

        from tasvir import drawing, pictures
        from tasvir.metrics import neighbours

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "sample" if self.prior == "model" else None, self.step)
        known = opened.dataset.train.images
        if not len(known):
            raise Refused(f"{opened.run.data_words} is streamed: its training pictures are not at hand to be compared.")
        if self.nearest > min(len(known), MOST):
            there = f"there are {len(known)} training pictures" if len(known) < MOST else f"a row has {MOST} at most"
            raise Refused(f"--nearest is {self.nearest}, and {there}: give fewer.")
        number = max(1000, self.number) if self.worst else self.number
        seeds = range(self.seed, self.seed + number)
        labels = opened.labels(self.label, number)
        samples = opened.samples(seeds, labels=labels, prior=self.prior, truncation=self.truncation)
        distances, places = neighbours.nearest_pictures(samples, known, self.nearest)
        if self.worst:
            chosen = np.argsort(distances[:, 0], kind="stable")[: self.number]
            samples, distances, places = samples[chosen], distances[chosen], places[chosen]
        rows = [np.concatenate([samples[[row]], known[places[row]]]) for row in range(len(samples))]
        columns = ["sample", *(str(place + 1) for place in range(places.shape[1]))]
        names = [f"{one:.3f}" for one in distances[:, 0]]
        said = pictures.write(
            np.concatenate(rows), self.out, columns=len(columns), row_names=names, column_names=columns
        )
        print(
            f"{said}\nMean distance to the nearest of {len(known)} training pictures: {distances[:, 0].mean():.3f} "
            f"(root mean square of the differences of pixels in [0,1]); the least {distances.min():.3f}"
        )
