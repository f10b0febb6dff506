"""Measuring a run while it is trained, and keeping its best checkpoint."""

from tasvir.data import Dataset
from tasvir.drawing import Opened
from tasvir.metrics import evaluate
from tasvir.metrics.directions import better, loss
from tasvir.models import recipe
from tasvir.runs import Run

DRAWS = 5
"""Of the importance-weighted bound: to tell checkpoints apart, few are enough."""


class Watch:
    """Called with the step of a checkpoint: measures it once, and lets `best` name it if none was better."""

    def __init__(self, run: Run, dataset: Dataset):
        """Raises `Refused` at once for what could not be measured later."""
        settings = run.config.train
        self.run, self.dataset = run, dataset
        metrics = settings.evaluate_metrics or (recipe(run.config.recipe).best,)
        self.protocol = evaluate.Protocol(
            metrics, settings.evaluate_features, number=settings.evaluate_number, draws=DRAWS
        )
        evaluate.check(recipe(run.config.recipe).model, dataset, self.protocol)

    def __call__(self, step: int) -> list[str]:
        """Measure the checkpoint of `step`; returns a sentence about it, or nothing if there is nothing to measure."""
        checkpoint = next((found for found in self.run.checkpoints() if found.step == step), None)
        if checkpoint is None or any(line["passport"]["step"] == step for line in self.lines()):
            return []
        opened = Opened(self.run, step=step)
        opened.dataset = self.dataset
        found = evaluate.of_run(self.run.folder, self.protocol, opened=opened, during="training")
        if not found:
            return []
        first = found[0]["metric"]
        best = self.best(first)
        if best == step:
            self.run.keep_as_best(checkpoint)
        numbers = ", ".join(f"{line['metric']} {line['value']:.4g}" for line in found)
        return [f"Step {step}: {numbers}{' (the best so far)' if best == step else f'; best was step {best}'}."]

    def lines(self) -> list[dict]:
        """What was measured while training."""
        return [line for line in self.run.lines("measurements.jsonl") if line.get("during") == "training"]

    def best(self, metric: str) -> int:
        """The step whose checkpoint has the best value of `metric`; the first of several equal ones."""
        lines = [line for line in self.lines() if line["metric"] == metric]
        losses = {
            line["passport"]["step"]: loss(better(metric), line["value"], line.get("real")) or 0.0 for line in lines
        }
        return min(losses, key=losses.__getitem__)
