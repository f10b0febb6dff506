"""Measuring a run while it is trained, and keeping its best checkpoint."""

import time
from dataclasses import replace
from typing import Any

import torch

from tasvir.config import Refused
from tasvir.core import Model
from tasvir.data import Dataset
from tasvir.drawing import Opened
from tasvir.metrics import evaluate, features
from tasvir.metrics.conditional import at_chance
from tasvir.metrics.directions import better, loss
from tasvir.metrics.features import EXTRACTORS
from tasvir.metrics.subject import given_by, given_by_set
from tasvir.metrics.table import METRICS
from tasvir.models import recipe
from tasvir.runs import Run

DRAWS = 5
"""Of the importance-weighted bound: to tell checkpoints apart, few are enough."""
SHARE = 0.1
"""Most of the time since the last measurement that one may take, where measuring is the recipe's habit."""
FEWEST = 10
"""Held-out pictures that the recipe's habit needs."""
BESIDE = "label-agreement"
"""What is measured besides of a model that draws for a class, where the classifier is the features anyway: `best` names
no checkpoint in which the class is not heeded."""


def is_habit(run: Run) -> bool:
    """Whether a run is measured while it is trained because its recipe is, and not because someone asked for it."""
    settings, habit = run.config.train, recipe(run.config.recipe).train
    asked = settings.evaluate_metrics or settings.evaluate_features
    return not asked and settings.evaluate_every == habit.evaluate_every


class Watch:
    """Called with the step of a checkpoint: measures it once, and lets `best` name it if none was better.

    Where it is the recipe's habit and nobody asked (`usual`), nothing is made ready before the first measurement,
    checkpoints between the first and the last are passed over while measuring takes more than `SHARE` of the time, and
    it ends with the first measurement that cannot be made.
    """

    def __init__(self, run: Run, dataset: Dataset):
        """Raises `Refused` at once for what could not be measured later, or would tell no better from worse."""
        settings, self.usual = run.config.train, is_habit(run)
        self.over, self.took, self.ended = False, 0.0, 0.0
        self.run, self.dataset = run, dataset
        with torch.random.fork_rng(devices=[]):  # what it can do may hang on its settings
            model = run.build()
        metrics = settings.evaluate_metrics or (recipe(run.config.recipe).best, *_beside(run, model, dataset))
        self.protocol = evaluate.Protocol(
            metrics, settings.evaluate_features, number=settings.evaluate_number, draws=DRAWS
        )
        evaluate.check(model, dataset, self.protocol, ready=not self.usual)
        if self.usual and len(dataset.test) < FEWEST:
            there = f"there are {len(dataset.test) or 'no'} held-out pictures to measure with"
            raise Refused(f"{there}, and {FEWEST} are needed")
        self.decisive = metrics[0]
        number = METRICS[self.decisive].gives[0] if self.decisive in METRICS else self.decisive
        if better(number) is None:
            raise Refused(f"{number} cannot tell which checkpoint is best: neither more nor less of it is better.")

    def __call__(self, step: int) -> list[str]:
        """Measure the checkpoint of `step`, unless that was done; returns sentences about it."""
        checkpoints = {checkpoint.step: checkpoint for checkpoint in self.run.checkpoints()}
        if step not in checkpoints:  # its last update was skipped
            return []
        found: list[dict[str, Any]] = []
        before = self.lines()
        if all(line["passport"]["step"] != step for line in before) and not self._passed_over(step):
            opened = Opened(self.run, step=step)
            opened.dataset = self.dataset
            began = time.monotonic()
            try:
                found = self._measured(opened, before)
            except (Refused, OSError) as error:  # training goes on
                self.over = self.usual
                return [f"Step {step} was not measured: {error}"]
            self.ended = time.monotonic()
            self.took = self.ended - began
        best = self.best()
        if best in checkpoints and self.run.best() != checkpoints[best]:
            self.run.keep_as_best(checkpoints[best])
        if not found:
            return []
        numbers = ", ".join(f"{line['metric']} {line['value']:.4g}" for line in found)
        which = " (the best so far)" if best == step else "" if best is None else f"; best was step {best}"
        unheeded = "; the class is not heeded, so it is not kept as best" if step in self._unheeded() else ""
        return [f"Step {step}: {numbers}{which}{unheeded}."]

    def _measured(self, opened: Opened, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What was measured of a checkpoint; without what is measured beside it where the classifier is too weak."""
        protocol = self._protocol(before)
        try:
            return evaluate.of_run(self.run.folder, protocol, opened=opened, training=True)
        except Refused as error:
            if self.run.config.train.evaluate_metrics or not str(error).startswith(f"{BESIDE}: "):
                raise
            self.protocol = replace(self.protocol, metrics=(self.decisive,))
            protocol = replace(protocol, metrics=(self.decisive,))
            return evaluate.of_run(self.run.folder, protocol, opened=opened, training=True)

    def _passed_over(self, step: int) -> bool:
        """Whether the recipe's habit leaves this checkpoint out."""
        hurried = time.monotonic() - self.ended < (1 / SHARE - 1) * self.took
        return self.usual and (self.over or (hurried and step < self.run.config.train.steps))

    def _protocol(self, before: list[dict[str, Any]]) -> evaluate.Protocol:
        """In the features that the checkpoints before were measured in, also where others can be had by now."""
        known = [line["passport"].get("extractor", "none") for line in before if self._decides(line["metric"])]
        settled = known and known[0] in EXTRACTORS and self.protocol.features is None
        return replace(self.protocol, features=known[0]) if settled else self.protocol

    def lines(self) -> list[dict[str, Any]]:
        """What was measured while training."""
        return [line for line in self.run.lines("measurements.jsonl") if line.get("during") == "training"]

    def best(self) -> int | None:
        """The step whose checkpoint is best by the first metric, of those that heed the class; the first of several
        equal ones."""
        lines = [line for line in self.lines() if self._decides(line["metric"])]
        first = lines[0]["metric"] if lines else ""  # of the numbers of one row
        losses = {
            line["passport"]["step"]: loss(better(first), line["value"], line.get("real"))
            for line in lines
            if line["metric"] == first
        }
        unheeded = self._unheeded()
        known = {step: value for step, value in losses.items() if value is not None and step not in unheeded}
        return min(known, key=known.__getitem__, default=None)

    def _unheeded(self) -> set[int]:
        """Steps at which the class that was asked for was seen no more often than by chance."""
        classes = len(self.run.pictures.classes)
        return {
            line["passport"]["step"]
            for line in self.lines()
            if line["metric"] == "label_agreement" and at_chance(line["value"], classes)
        }

    def _decides(self, metric: str) -> bool:
        wanted, plain = (word.removeprefix("reconstruction_") for word in (self.decisive, metric))
        if self.decisive in METRICS:
            return plain in METRICS[self.decisive].gives or metric in METRICS[self.decisive].gives
        return plain == wanted


def _beside(run: Run, model: Model, dataset: Dataset) -> tuple[str, ...]:
    """What is measured beside the recipe's metric, unasked: only what costs next to nothing more."""
    best = recipe(run.config.recipe).best
    able = set(METRICS[BESIDE].needs) <= given_by(model, dataset) | given_by_set(dataset)
    own = (run.config.train.evaluate_features or features.default(dataset)) == "classifier"
    return (BESIDE,) if model.conditional and best == "frechet" and able and own else ()
