"""Quality against steps and seconds: one run drawn in many ways, each measured in the same features."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tasvir.config import Refused, SamplingConfig
from tasvir.diffusion.forward import Discrete
from tasvir.diffusion.samplers import SAMPLERS
from tasvir.diffusion.telling import in_words, told
from tasvir.drawing import BATCH, Opened
from tasvir.metrics import evaluate
from tasvir.metrics.subject import RunSubject
from tasvir.metrics.table import METRICS
from tasvir.runs import append

STEPS = (2, 5, 10, 20, 50)
"""Where none are asked for."""
USUAL = ("dpm-solver++", "heun", "consistency")
"""Samplers that are measured unasked where they suit, beside the run's own and one of first order."""
TABLE = "samplers"
"""What a line of measurements.jsonl says it belongs to."""
BESIDE = "label-agreement"
"""What is measured besides, unasked, of runs that know classes."""


def quality(
    folder: Path,
    protocol: evaluate.Protocol,
    samplers: Sequence[str] = (),
    steps: Sequence[int] = (),
    guidance: Sequence[float] = (),
    step: int | str | None = None,
) -> list[dict[str, Any]]:
    """Draw the same seeds in every way that is asked for, measure each, and append all to measurements.jsonl.

    Lines as of `evaluate.of_run`, with `table` "samplers", `drawn` (the settings of sampling), `evaluations` (how often
    the network was asked for a picture) and `seconds` (for a picture). Raises `Refused` for a run that draws pictures
    at once, and for ways in which it cannot draw.
    """
    evaluate.rows_named(protocol.metrics)  # what does not exist is said before anything is read
    opened = Opened(folder, "sample", step)
    ways = list(ways_of(opened, samplers, steps, guidance))
    subject = evaluate.subject_of(opened, protocol, None)
    if not isinstance(subject, RunSubject):
        raise Refused(f"{opened.run.config.recipe} draws no pictures from noise alone.")
    rows = evaluate.rows_named(protocol.metrics or ("frechet",), subject.has())
    for name in rows:
        if "samples" not in METRICS[name].needs:
            raise Refused(f"{name} is not measured of samples, so it is the same however they are drawn: leave it out.")
    whose = f"{opened.run.config.recipe} of {folder}"
    evaluate.able_by(rows, subject.has(), whose)
    beside = not protocol.metrics and set(METRICS[BESIDE].needs) <= subject.has()
    if beside:
        rows.append(BESIDE)
    passport = evaluate.passport_of(opened)
    opened.samples(range(min(BATCH, protocol.number)), how=replace(ways[0], steps=1))  # so that the first is no slower
    found: list[dict[str, Any]] = []
    for place, how in enumerate(ways):
        subject.redraw(how, f"{in_words(how)} ({place + 1} of {len(ways)})")
        drawn = _draw(subject)
        try:
            lines = evaluate.measured(subject, rows, protocol, passport, whose, None, None, baselines=False)
        except Refused as error:
            if not beside or not str(error).startswith(f"{BESIDE}: "):
                raise
            print(f"Not measured by {error}", file=sys.stderr)
            rows, beside = rows[:-1], False
            lines = evaluate.measured(subject, rows, protocol, passport, whose, None, None, baselines=False)
        lines = [{**line, "table": TABLE, "drawn": asdict(how), **drawn} for line in lines]
        append(opened.run.folder / "measurements.jsonl", *lines)
        found += lines
    return found


def ways_of(
    opened: Opened, samplers: Sequence[str] = (), steps: Sequence[int] = (), guidance: Sequence[float] = ()
) -> Iterator[SamplingConfig]:
    """Every sampler with every number of steps and every guidance. Raises `Refused` for what is asked and cannot be;
    what is not asked for is left out where it cannot be.
    """
    own = opened.sampling()
    if own is None:
        raise Refused(f"{opened.run.config.recipe} draws a picture at once; `tasvir samplers` is for diffusion models.")
    by = list(samplers) or [name for name in usual(opened) if _can(opened, sampler=name)]
    numbers = list(steps) or [number for number in STEPS if _can(opened, steps=number)] or [own.steps]
    weights: list[float | None] = list(guidance) or [None]
    ways = [
        opened.sampling(sampler=sampler, steps=number, guidance=weight)
        for weight in weights
        for sampler in by
        for number in sorted(numbers)
    ]
    yield from dict.fromkeys(way for way in ways if way is not None)


def usual(opened: Opened) -> list[str]:
    """The run's own sampler, one of first order, and better ones, in the order of SAMPLERS."""
    first = "ddim" if isinstance(opened.model.process, Discrete) else "euler"
    return [name for name in SAMPLERS if name in (opened.sampling().sampler, first, *USUAL)]  # type: ignore[union-attr]


def _can(opened: Opened, **asked: Any) -> bool:
    try:
        opened.sampling(**asked)
    except Refused:
        return False
    return True


def _draw(subject: RunSubject) -> dict[str, float]:
    """Draw the samples; how often the network was asked, and how long it took, for each."""
    asked = 0

    def count(number: int) -> None:
        nonlocal asked
        asked += number

    began = time.perf_counter()
    with told(subject.opened.model.network, count):
        number = len(subject.samples)
    return {"evaluations": asked / number, "seconds": (time.perf_counter() - began) / number}
