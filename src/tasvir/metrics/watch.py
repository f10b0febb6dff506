"""Measuring a run while it is trained, and keeping its best checkpoint."""

from typing import Any

from tasvir.config import Refused
from tasvir.data import Dataset
from tasvir.drawing import Opened
from tasvir.metrics import evaluate
from tasvir.metrics.directions import better, loss
from tasvir.metrics.table import METRICS
from tasvir.models import recipe
from tasvir.runs import Run

DRAWS = 5
"""Of the importance-weighted bound: to tell checkpoints apart, few are enough."""


class Watch:
    """Called with the step of a checkpoint: measures it once, and lets `best` name it if none was better."""

    def __init__(self, run: Run, dataset: Dataset):
        """Raises `Refused` at once for what could not be measured later, or would tell no better from worse."""
        settings = run.config.train
        self.run, self.dataset = run, dataset
        metrics = settings.evaluate_metrics or (recipe(run.config.recipe).best,)
        self.protocol = evaluate.Protocol(
            metrics, settings.evaluate_features, number=settings.evaluate_number, draws=DRAWS
        )
        evaluate.check(recipe(run.config.recipe).model, dataset, self.protocol)
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
        if all(line["passport"]["step"] != step for line in self.lines()):
            opened = Opened(self.run, step=step)
            opened.dataset = self.dataset
            try:
                found = evaluate.of_run(self.run.folder, self.protocol, opened=opened, training=True)
            except (Refused, OSError) as error:  # training goes on
                return [f"Step {step} was not measured: {error}"]
        best = self.best()
        if best in checkpoints and self.run.best() != checkpoints[best]:
            self.run.keep_as_best(checkpoints[best])
        if not found:
            return []
        numbers = ", ".join(f"{line['metric']} {line['value']:.4g}" for line in found)
        return [f"Step {step}: {numbers}{' (the best so far)' if best == step else f'; best was step {best}'}."]

    def lines(self) -> list[dict[str, Any]]:
        """What was measured while training."""
        return [line for line in self.run.lines("measurements.jsonl") if line.get("during") == "training"]

    def best(self) -> int | None:
        """The step whose checkpoint is best by the first metric; the first of several equal ones."""
        lines = [line for line in self.lines() if self._decides(line["metric"])]
        first = lines[0]["metric"] if lines else ""  # of the numbers of one row
        losses = {
            line["passport"]["step"]: loss(better(first), line["value"], line.get("real"))
            for line in lines
            if line["metric"] == first
        }
        known = {step: value for step, value in losses.items() if value is not None}
        return min(known, key=known.__getitem__, default=None)

    def _decides(self, metric: str) -> bool:
        wanted, plain = (word.removeprefix("reconstruction_") for word in (self.decisive, metric))
        if self.decisive in METRICS:
            return plain in METRICS[self.decisive].gives or metric in METRICS[self.decisive].gives
        return plain == wanted
