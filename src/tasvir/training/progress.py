"""What a person sees while training runs: a live line in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LAZY = ("/r1", "/r2", "/path_penalty")
"""Endings of the terms that come in some steps only: they stand last, so that the others keep their places."""


class Reporter:
    """Steps per second, pictures per second, time left and the losses. Silent in all processes but the writer."""

    def __init__(self, start: int, steps: int, batch_size: int, loud: bool):
        self.step, self.steps, self.batch_size, self.loud = start, steps, batch_size, loud
        self.console = Console(stderr=True)
        self.mark = (start, time.monotonic())
        self.rate = 0.0
        self.terms: list[str] = []
        """What is told of, in the order in which it first came."""
        self.last: dict[str, float] = {}
        self.bar: Progress | None = None
        if loud and self.console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("first step …", total=steps, completed=start)
            self.bar.start()

    def update(self, step: int, values: Mapping[str, float], verdict: str = "") -> float:
        """After `step` steps, with the mean losses since the last call, and how training goes in a word or two.

        Returns pictures per second since then.
        """
        now = time.monotonic()
        since, then = self.mark
        self.rate = (step - since) / max(now - then, 1e-9)
        self.mark = (step, now)
        left = (self.steps - step) / self.rate if self.rate > 0 else 0
        self.terms += [name for name in values if name not in self.terms]
        self.last |= values  # terms of some steps only stay, as they were
        told = sorted(self.terms, key=lambda name: name.endswith(LAZY))
        losses = "  ".join(f"{name} {self.last[name]:.4g}" for name in told) + (f"  {verdict}" if verdict else "")
        speed = f"{self.rate:.3g} steps/s  {self.rate * self.batch_size:.4g} pictures/s  {_duration(left)} left"
        if self.bar:
            self.bar.update(self.task, completed=step, description=f"step {step}/{self.steps}  {speed}\n{losses}")
        elif self.loud:
            print(f"step {step}/{self.steps}  {speed}  {losses}", file=sys.stderr, flush=True)
        return self.rate * self.batch_size

    def restart(self, step: int) -> None:
        self.mark = (step, time.monotonic())

    def say(self, sentence: str) -> None:
        if self.loud:
            self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
