"""The stages of a run: built and checked before anything is written, then trained one after another."""

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from tasvir.config import Refused
from tasvir.models import FOUNDATION

if TYPE_CHECKING:
    from tasvir.core import Model
    from tasvir.data import Dataset
    from tasvir.runs import Run


def built(run: "Run", section: str = "train") -> "Model":
    """The untrained model of a run, whose loop is set up by `--SECTION.*`.

    Raises `Refused` if it cannot be built or trained with these settings.
    """
    import torch

    from tasvir.training import processes
    from tasvir.training.state import mixed_seed

    torch.manual_seed(mixed_seed(run.config.seed))
    try:
        model = run.build()
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise Refused(
            f"{run.config.recipe} cannot be built with these settings: {str(error).splitlines()[0]}"
        ) from None
    if run.config.data.labelled is not None and not model.few_labels:
        why = "needs the class of every picture" if "labels" in model.needs or model.conditional else "uses no classes"
        raise Refused(f"{run.config.recipe} {why}, so --data.labelled has no meaning; leave it out.")
    size = run.config.train.batch_size
    if size == 1 and any(isinstance(layer, torch.nn.BatchNorm1d) for layer in model.modules()):
        raise Refused(f"--{section}.batch-size is 1; {run.config.recipe} has batch norm and needs at least 2.")
    least, why = model.least_batch()
    if size * processes.count() < least and steps_done(run) == 0:
        each = math.ceil(least / processes.count())
        raise Refused(f"--{section}.batch-size is {size}; {run.config.recipe} needs at least {each}: {why}.")
    model.fetch()
    return model


def steps_done(run: "Run") -> int:
    """The step of the newest whole checkpoint, or 0."""
    kept = run.checkpoints()
    return kept[-1].step if kept else 0


def _training_sentence(run: "Run", dataset: "Dataset") -> str:
    shape = f"{dataset.pictures.size}×{dataset.pictures.size} {'grey' if dataset.pictures.channels == 1 else 'colour'}"
    if dataset.pictures.source is not None:
        shape += f", with {'' if dataset.pictures.matched else 'unmatched '}sources"
    many = f"{len(dataset.train)} pictures" if dataset.stream is None else f"{len(dataset.stream.shards)} shards"
    return (
        f"Training {run.config.recipe} on {dataset.name} ({many}, {shape}; "
        f"{len(dataset.test.images)} held out) for {run.config.train.steps} steps in {run.folder}."
    )


def train_all(stages: "list[tuple[Run, Model]]", dataset: "Dataset", begin: Callable[[], None]) -> int:
    """Train runs that stand on one another, with all their folders held; `begin` is called once they are.

    Returns the exit code.
    """
    from tasvir.runs import OutOfSpace
    from tasvir.training import processes
    from tasvir.training.loop import Stopped, train

    last, writer = stages[-1][0], processes.is_writer()
    measures = [_watch(run, dataset) if writer else None for run, _ in stages]
    run, outcome = last, "failed"
    try:
        with ExitStack() as held:
            if writer:
                for stage, _ in reversed(stages):  # the last one's folder holds the others
                    held.enter_context(stage.locked())
                begin()
            processes.wait()
            for number, ((run, model), measure) in enumerate(zip(stages, measures, strict=True), 1):
                if number > 1:
                    run = last = _standing(run)
                which = f"Stage {number} of {len(stages)}: " if len(stages) > 1 else ""
                if writer and not run.checkpoints():
                    print(f"{which}{_training_sentence(run, dataset)}", file=sys.stderr)
                outcome = train(run, dataset, model, measure)
                if outcome != "done":
                    break
    except (Stopped, OutOfSpace) as error:
        print(f"tasvir: {error}", file=sys.stderr)
    except OSError as error:
        kept = run.checkpoints()
        on = f"\nCheckpoint {kept[-1].step} is whole; `tasvir resume {last.folder}` goes on from it." if kept else ""
        print(f"tasvir: {run.folder} cannot be written: {error.strerror or error}.{on}", file=sys.stderr)
    finally:
        processes.stop()
    if outcome == "failed":
        return 1
    if writer:
        step = run.latest().step
        if outcome == "interrupted":
            print(f"Interrupted; all is saved at step {step}. `tasvir resume {last.folder}` goes on.", file=sys.stderr)
        else:
            drawn = run.folder / "samples" / f"{step:08d}.png"
            latest = f" {drawn} are its latest pictures." if drawn.exists() else ""
            said = f"Done: {step} steps in {run.folder}.{latest} `tasvir report {run.folder}` shows it."
            print(said, file=sys.stderr)
    return 130 if outcome == "interrupted" else 0


def _standing(run: "Run") -> "Run":
    """The run, with its config naming the weights that the stage before has reached."""
    from tasvir.runs import Run
    from tasvir.training import foundation, processes

    assert run.foundation is not None
    found = foundation.described(Run.open(run.foundation), FOUNDATION)
    run = replace(run, config=replace(run.config, foundation=found))
    if processes.is_writer():
        run.write_config()
    return run


def _watch(run: "Run", dataset: "Dataset") -> Callable[[int], list[str]] | None:
    """What measures the run while it is trained, if that was asked for or is the recipe's habit.

    Raises `Refused` if it was asked for and cannot be done.
    """
    if not run.config.train.evaluate_every:
        return None
    from tasvir.metrics.watch import Watch, is_habit

    try:
        return Watch(run, dataset)
    except Refused as error:
        if not is_habit(run):
            raise
        why = str(error).splitlines()[0].rstrip(".")
        print(f"No best checkpoint will be kept: {why}.", file=sys.stderr)
        return None
