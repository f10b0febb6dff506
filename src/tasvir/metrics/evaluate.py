"""Measuring a run: a table of metrics, and the passport that every number carries."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasvir import __version__
from tasvir.config import Refused, nearest
from tasvir.core import ABILITIES, Noise
from tasvir.drawing import BATCH, Opened
from tasvir.losses.likelihoods import LIKELIHOODS
from tasvir.metrics import neighbours
from tasvir.runs import append
from tasvir.training.health import relative_diversity


@dataclass(frozen=True)
class Value:
    """One number, with half the width of its 95 % interval where that is known."""

    metric: str
    value: float
    margin: float | None
    number: int
    real: float | None = None
    """What real pictures reach by the same protocol."""
    passport: dict[str, Any] = field(default_factory=dict)
    """What else must agree before two such numbers may be compared."""


LARGEST = 64 * 64 * 3
"""Pixel values of a picture up to which nearest neighbours in pixels mean something."""


class Subject:
    """A run being measured; pictures drawn for one metric serve the next."""

    def __init__(self, opened: Opened, number: int, seed: int):
        self.opened, self.number, self.seed = opened, number, seed
        self.test = np.asarray(opened.held_out[:number])
        labels = opened.dataset.test.labels
        self.test_labels = None if labels is None else np.asarray(labels[:number])

    @cached_property
    def samples(self) -> np.ndarray:
        return self.opened.samples(range(self.seed, self.seed + self.number))


def reconstruction_error(subject: Subject) -> list[Value]:
    """Squared error of each pixel in [0,1], averaged; and the absolute error."""
    squared, absolute = [], []
    for start in range(0, len(subject.test), BATCH):
        real = subject.test[start : start + BATCH]
        difference = (subject.opened.reconstructions(real).astype(np.float32) - real).reshape(len(real), -1) / 255
        squared.append(np.square(difference).mean(1))
        absolute.append(np.abs(difference).mean(1))
    return [
        _mean("reconstruction_mse", np.concatenate(squared)),
        _mean("reconstruction_mae", np.concatenate(absolute)),
    ]


@torch.no_grad()
def bound(subject: Subject) -> list[Value]:
    """The evidence lower bound in nats for each picture, and its two parts."""
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(subject.test), BATCH):
        image = subject.opened.tensor(subject.test[start : start + BATCH])
        seeds = range(subject.seed + start, subject.seed + start + len(image))
        for name, nats in subject.opened.model.bound(image, Noise(seeds)).items():
            parts.setdefault(name, []).append(nats.double().cpu().numpy())
    config = subject.opened.run.config.model
    scale = config.scale or LIKELIHOODS[config.reconstruction].scale
    passport = {"likelihood": config.reconstruction, "scale": scale, "unit": "nats, pixels in [0,1]", "draws": 1}
    return [replace(_mean(name, np.concatenate(nats)), passport=passport) for name, nats in parts.items()]


def nearest_class(subject: Subject) -> list[Value]:
    """Whether samples look like one class, cover all classes, and would teach a nearest-neighbour classifier."""
    if subject.test_labels is None or subject.test[0].size > LARGEST:
        return []
    train = subject.opened.dataset.train
    if not len(train):  # streamed: there are no training pictures at hand
        return []
    assert train.labels is not None
    names = ("nearest_class_accuracy", "class_agreement", "class_coverage")
    found = neighbours.judge(subject.samples, train.images, train.labels, subject.test, subject.test_labels)
    real = neighbours.judge(
        np.asarray(train.images[: len(subject.samples)]), train.images, train.labels, subject.test, subject.test_labels
    )
    agreement_of_test = neighbours.agreement(subject.test, train.images, train.labels)
    ceilings = (real[0], agreement_of_test, real[2])
    sizes = (len(subject.test), len(subject.samples), len(subject.samples))
    return [
        Value(name, value, 1.96 * math.sqrt(value * (1 - value) / size) if name != names[2] else None, size, ceiling)
        for name, value, size, ceiling in zip(names, found, sizes, ceilings, strict=True)
    ]


def diversity(subject: Subject) -> list[Value]:
    """Mean distance between two samples over that between two real pictures, in pixels."""
    most = min(2000, 20_000_000 // subject.test[0].size)
    samples, real = subject.samples[:most], subject.test[:most]
    if len(real) < 2 or len(samples) < 2:
        return []
    return [Value("diversity", relative_diversity(samples, real), None, len(samples), 1.0)]


def _mean(name: str, values: np.ndarray) -> Value:
    margin = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Value(name, float(values.mean()), margin, len(values))


METRICS: dict[str, tuple[str, Callable[[Subject], list[Value]]]] = {
    "reconstruction": ("reconstruct", reconstruction_error),
    "bound": ("bound", bound),
    "nearest-class": ("sample", nearest_class),
    "diversity": ("sample", diversity),
}
"""Metric → (ability that the model needs, function)."""


def evaluate(folder: Path, metrics: tuple[str, ...], number: int, seed: int, step: int | None) -> list[dict[str, Any]]:
    """Measure a run on its held-out pictures, append every number to measurements.jsonl, and return them.

    Raises `Refused` for a metric that does not exist or that the model cannot be measured by.
    """
    for name in metrics:
        if name not in METRICS:
            raise Refused(f"There is no metric {name!r}.{nearest(name, METRICS)}\nThere are {', '.join(METRICS)}.")
    opened = Opened(folder, step=step)
    able = [name for name, (ability, _) in METRICS.items() if isinstance(opened.model, ABILITIES[ability])]
    for name in metrics:
        if name not in able:
            raise Refused(f"{opened.run.config.recipe} cannot be measured by {name}; it can by {', '.join(able)}.")
    subject = Subject(opened, number, seed)
    passport = _passport(opened, seed)
    lines = []
    for name in metrics or able:
        for value in METRICS[name][1](subject):
            line = {
                "metric": value.metric,
                "value": value.value,
                "interval": None if value.margin is None else [value.value - value.margin, value.value + value.margin],
                "n": value.number,
                **({} if value.real is None else {"real": value.real}),
                "passport": {**passport, **value.passport, "pictures": value.number},
            }
            append(opened.run.folder / "measurements.jsonl", line)
            lines.append(line)
    return lines


def _passport(opened: Opened, seed: int) -> dict[str, Any]:
    data, settings = opened.dataset, opened.run.config.train
    return {
        "reference": data.name,
        "split": "test",
        "hash": data.test.hash,
        "size": data.pictures.size,
        "channels": data.pictures.channels,
        "extractor": "pixels in [0,1]",
        "resize": data.description.get("resize", "none"),
        "averaged": settings.average > 0,
        "recipe": opened.run.config.recipe,
        "step": opened.step,
        "seed": seed,
        "tasvir": __version__,
        "torch": torch.__version__,
    }


def sentence(line: dict[str, Any]) -> str:
    """A measurement in one line for a person."""
    margin = "" if line["interval"] is None else f" ± {line['interval'][1] - line['value']:.2g}"
    real = f" (real pictures: {line['real']:.4g})" if "real" in line else ""
    passport = line["passport"]
    return (
        f"{line['metric']:<24}{line['value']:.5g}{margin}{real}   "
        f"{line['n']} pictures, {passport['reference']} {passport['split']}, step {passport['step']}"
    )
