"""What a run folder has to tell, read so that a run that has only just begun or lost its data still tells the rest."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tasvir.config import Refused, to_plain
from tasvir.core import Batch, Recipe, abilities
from tasvir.data import Dataset
from tasvir.data.batches import pictures_of, to_uint8
from tasvir.drawing import PIXELS, Opened
from tasvir.models import recipe
from tasvir.report.charts import count
from tasvir.report.content import reason
from tasvir.report.sheets import SETS, Sheet, bounded, cut, in_sets
from tasvir.report.table import is_measurement
from tasvir.runs import Run
from tasvir.training.foundation import changed
from tasvir.training.state import summary

FAILURES = (Refused, OSError, RuntimeError)
"""What may go wrong when a model is loaded or draws; the page then says so in words."""
FIRST_SEED = 1000
"""Of the fresh samples; the timeline's begin at 0."""
FRAMES = 24
"""Most pictures of a timeline."""
HELD_OUT = (128, SETS), (512, 8), (math.inf, 4)
"""Sizes in px up to which so many held-out pictures are translated."""


class Story:
    """One run, each part read once, when it is asked for."""

    def __init__(self, folder: Path):
        self.run = Run.open(folder)
        self.name = self.run.name

    @property
    def recipe(self) -> Recipe:
        return recipe(self.run.config.recipe)

    @cached_property
    def abilities(self) -> list[str]:
        """What its models can do; `stepwise` for those that draw in steps."""
        kind = self.recipe.model
        return abilities(kind) + (["stepwise"] if kind.stepwise else [])

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return [line for line in self.run.lines() if isinstance(line.get("step"), int)]

    @cached_property
    def step(self) -> int:
        """The last step that left a trace: a checkpoint, a log line or a picture."""
        steps = [checkpoint.step for checkpoint in self.run.checkpoints()]
        return max([*steps, *(line["step"] for line in self.lines), *self.shown], default=0)

    @cached_property
    def before(self) -> str | None:
        """Where the stage before this run's own is, in words, while that is not finished (see `Run.before`)."""
        return self.run.before()

    @cached_property
    def notes(self) -> list[str]:
        """What is not trouble, but to be known."""
        return list(filter(None, [changed(self.run)]))

    @property
    def steps(self) -> int:
        return self.run.config.train.steps

    @cached_property
    def series(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name → (steps, values); where training went back to a checkpoint, what came after it the second time."""
        found: dict[str, list[tuple[int, float]]] = {}
        for line in self.lines:
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    points = found.setdefault(name, [])
                    while points and points[-1][0] >= line["step"]:
                        points.pop()
                    points.append((line["step"], float(value)))
        return {name: tuple(np.array(points, float).T) for name, points in found.items()}

    @cached_property
    def losses(self) -> dict[str, list[str]]:
        """Player → its terms, in the order of the log."""
        players: dict[str, list[str]] = {}
        for name in summary({name: 0.0 for name in self.series if "/" in name}):
            player, _, term = name.rpartition("/")
            players.setdefault(player, []).append(term)
        return players

    @cached_property
    def watched(self) -> list[str]:
        """Names of the series that are not losses; skipped updates only if there were any."""
        losses = {f"{player}/{term}" for player, terms in self.losses.items() for term in terms}
        idle = {"skipped"} if not self.series.get("skipped", ((), np.zeros(1)))[1].any() else set()
        return [name for name in self.series if name not in losses | idle]

    @cached_property
    def health(self) -> list[tuple[str, list[int]]]:
        """Each sentence of trouble with the steps it was said at; damaged checkpoints come last."""
        said: dict[str, list[int]] = {}
        for line in self.lines:
            for sentence in line.get("health", []):
                said.setdefault(str(sentence), []).append(line["step"])
        return [*said.items(), *((sentence, []) for sentence in self.run.damaged())]

    @cached_property
    def measurements(self) -> list[dict[str, Any]]:
        """Lines of measurements.jsonl, oldest first."""
        return [line for line in self.run.lines("measurements.jsonl") if is_measurement(line)]

    @cached_property
    def best(self) -> int | None:
        """The step of the checkpoint kept as `best`; None if there is none."""
        checkpoint = self.run.best()
        return None if checkpoint is None else checkpoint.step

    @cached_property
    def seconds(self) -> float | None:
        """Time spent training, from the logged speed; None if there is none."""
        if "pictures_per_second" not in self.series:
            return None
        steps, speeds = self.series["pictures_per_second"]
        pictures = np.diff(steps, prepend=0) * self.run.config.train.batch_size
        return float((pictures[speeds > 0] / speeds[speeds > 0]).sum())

    @cached_property
    def shown(self) -> dict[int, Path]:
        """Step → the picture of samples drawn then (pairs, where the model cannot sample)."""
        files = (self.run.folder / "samples").glob("*.png")
        return {int(file.stem): file for file in sorted(files) if file.stem.isdigit()}

    def frames(self, most: int = FRAMES) -> dict[int, Sheet]:
        """At most so many of `shown`, evenly spaced, the first and the last among them, without unreadable ones."""
        steps = list(self.shown)
        chosen = dict.fromkeys(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
        sheets = {steps[i]: self._read(self.shown[steps[i]], 1 if "sample" in self.abilities else 2) for i in chosen}
        return {step: sheet for step, sheet in sheets.items() if sheet}

    def last_pairs(self) -> tuple[int, Sheet] | None:
        """The newest picture of inputs beside reconstructions in the folder, and its step."""
        ending = "-reconstructions" if "sample" in self.abilities else ""
        for file in sorted((self.run.folder / "samples").glob(f"*{ending}.png"), reverse=True):
            sheet = self._read(file, 2)
            if sheet:
                return int(file.stem.removesuffix(ending)), sheet
        return None

    def drawn_before(self, error: Exception) -> tuple[Sheet, str]:
        """The last kept ones in the place of what cannot be drawn now, with words; raises the error if none are."""
        found = self.last_pairs()
        if found is None:
            raise error
        step, sheet = found
        return sheet, f"as drawn while training, at step {count(step)}. New ones could not be made. {reason(error)}"

    def _read(self, file: Path, group: int) -> Sheet | None:
        try:
            with Image.open(file) as picture:
                sheet = cut(picture, self.run.pictures.size, group)
            return bounded(in_sets(sheet) if "translate" in self.abilities else sheet)
        except (OSError, ValueError):
            return None

    @cached_property
    def _attempt(self) -> Opened | Exception:
        try:
            return Opened(self.run, tells=False)
        except FAILURES as error:
            return error

    @property
    def opened(self) -> Opened:
        """The run's model, to draw with. Raises what went wrong, the same every time."""
        if isinstance(self._attempt, Exception):
            raise self._attempt
        return self._attempt

    @cached_property
    def _data_attempt(self) -> Dataset | Exception:
        try:
            dataset = self.opened.dataset
        except FAILURES as error:
            return error
        if dataset.test.hash != self.run.dataset.get("hash", {}).get("test", dataset.test.hash):
            return Refused(f"The pictures of {self.run.data_words} have changed since the run was trained.")
        if not len(dataset.test.images):
            return Refused(f"{dataset.name} has no held-out pictures.")
        return dataset

    @property
    def dataset(self) -> Dataset:
        """The pictures the run was trained on. Raises what went wrong, also if they are other ones now."""
        if isinstance(self._data_attempt, Exception):
            raise self._data_attempt
        return self._data_attempt

    @cached_property
    def held_out(self) -> Batch:
        """The first held-out pictures with their sources, on the model's device."""
        size, number = self.run.pictures.size, len(self.dataset.test.images)
        numbers = range(min(number, next(some for largest, some in HELD_OUT if size <= largest)))
        return pictures_of(self.dataset, self.dataset.test, numbers, self.opened.device)

    @cached_property
    def compared(self) -> dict[str, np.ndarray]:
        """Held-out pictures and what the model makes of them, by what each set is; uint8, [N,H,W,C] each."""
        batch = self.held_out
        found: dict[str, list[np.ndarray]] = {}
        beside = max(1, PIXELS // batch.image.shape[-1] ** 2)
        with torch.no_grad():
            for start in range(0, len(batch), beside):
                rows = slice(start, start + beside)
                label = None if batch.label is None else batch.label[rows]
                some = Batch(batch.image[rows], label, None if batch.source is None else batch.source[rows])
                for name, images in self.opened.model.compared(some).items():
                    found.setdefault(name, []).append(to_uint8(images))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    @cached_property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """Path of each setting → (its value, the recipe's default)."""
        config, default = self.run.config, self.recipe
        found: dict[str, tuple[Any, Any]] = {"seed": (config.seed, 0)}
        for section, ours, theirs in (
            ("data", config.data, default.data),
            ("train", config.train, default.train),
            ("model", config.model, default.config),
        ):
            usual = _flat(section, to_plain(theirs))
            found |= {path: (value, usual[path]) for path, value in _flat(section, to_plain(ours)).items()}
        return found

    def weights(self) -> str:
        """Which weights pictures are drawn with, in words."""
        averaged = "averaged weights" if self.run.config.train.average else "weights"
        return f"the {averaged} of step {count(self.opened.step)}"


def _flat(path: str, value: Any) -> dict[str, Any]:
    """Settings below `path`, each by its full path."""
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, inner in value.items() for name, leaf in _flat(f"{path}.{key}", inner).items()}
