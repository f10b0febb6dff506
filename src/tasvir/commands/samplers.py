"""Quality against steps and seconds, of one run drawn in many ways."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tasvir.commands.words import Folder, Number, Step
from tasvir.config import Count, NonNegative, Refused, SamplerName, Seed


@dataclass(frozen=True)
class Samplers:
    """Draw the same seeds by several samplers in several numbers of steps, and measure quality, work and seconds.

    Every number is also appended to the run's measurements.jsonl; `tasvir report` shows them.
    """

    run: Folder
    samplers: tuple[SamplerName, ...] = ()
    """Which; left out, the run's own, one of first order, dpm-solver++ and heun."""
    steps: tuple[Count, ...] | None = None
    """How many; left out, 2, 5, 10, 20 and 50, of these as many as it was trained on."""
    guidance: tuple[NonNegative, ...] | None = None
    """Of runs that know classes: one or several; left out, the run's own."""
    number: Number = 1000
    """Pictures for each row of the table."""
    metrics: tuple[str, ...] = ()
    """Which, of samples, as in `tasvir evaluate`; left out, frechet, and of runs that know classes label-agreement."""
    features: str | None = None
    """In which features distances are measured, as in `tasvir evaluate`."""
    weights: Path | None = None
    """File with the weights of the features inception, where they cannot be fetched."""
    seed: Seed = 0
    """Of the first picture."""
    step: Step = None
    out: Annotated[
        Path | None, tyro.conf.arg(help="x.png, x.pdf or x.svg a figure, x.csv the table, x.html a page of charts.")
    ] = None
    json: bool = False
    """For programs."""

    def __call__(self) -> None:
        from tasvir.metrics.evaluate import Protocol
        from tasvir.metrics.samplers import quality
        from tasvir.report import samplers

        if self.out is not None and self.out.suffix.lower() not in samplers.ENDINGS:
            raise Refused(f"--out {self.out} must end in {', '.join(samplers.ENDINGS[:-1])}.")
        protocol = Protocol(self.metrics, self.features, self.weights, self.number, self.seed)
        lines = quality(self.run, protocol, self.samplers, self.steps or (), self.guidance or (), self.step)
        name = f"{lines[0]['passport']['recipe']} of {self.run}"
        said = "" if self.out is None else samplers.export(lines, name, self.out)
        if self.json:
            print(json.dumps(samplers.rows(samplers.ways(lines)), indent=1))
        else:
            print("\n".join(filter(None, [samplers.told(lines, name), said])))
