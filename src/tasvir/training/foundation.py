"""What a run stands on: a trained model, frozen, whose weights move into the run's own checkpoints.

What it makes of the training pictures is computed once, before the first step, and read from then on.
"""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tasvir.config import Foundation, Refused
from tasvir.core import Model, abilities
from tasvir.data.batches import augmentation, pictures_of
from tasvir.data.workers import progress
from tasvir.models import RECIPES, recipe
from tasvir.runs import Run
from tasvir.training import processes

if TYPE_CHECKING:
    from tasvir.data import Dataset

BATCH = 64


def weights_hash(model: torch.nn.Module) -> str:
    """sha256 of all weights and buffers, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def described(below: Run, name: str) -> Foundation:
    """A trained run, as what another one stands on; `name` is how that one's config names its folder."""
    model, step = below.load_model()
    return Foundation(below.config.recipe, below.config.model, name, step, weights_hash(model))


def check(name: str, below: Run) -> None:
    """Raise `Refused` unless the recipe `name` can stand on that run."""
    kind = recipe(name).model
    if kind.stands_on is None:
        raise Refused(f"{name} stands on no other run; leave --on out.")
    if not _can(below.config.recipe, kind.stands_on):
        able = ", ".join(row for row in RECIPES if _can(row, kind.stands_on))
        alone = recipe(below.config.recipe).model.stands_on is None
        why = f"cannot {kind.stands_on}" if alone else "stands on another run itself"
        raise Refused(
            f"{below.folder} {why}: it was trained as {below.config.recipe}.\n{name} stands on a run of {able}."
        )
    below.latest()


def _can(name: str, ability: str) -> bool:
    """Whether models of that recipe have the ability, and stand on no other model themselves."""
    kind = recipe(name).model
    return ability in abilities(kind) and kind.stands_on is None


def changed(run: Run) -> str | None:
    """A sentence if the run's foundation has been trained further, or is gone; its own weights stay as they were."""
    folder, below = run.foundation, run.config.foundation
    if folder is None or below is None or not below.weights or not (folder / "config.yaml").exists():
        return None
    try:
        model, step = Run.open(folder).load_model()
    except Refused:
        return None
    if weights_hash(model) == below.weights:
        return None
    return (
        f"{folder} was trained further since, from step {below.step} to {step}: "
        f"this run keeps the weights of step {below.step} that it began with."
    )


def settle(model: Model, run: Run) -> None:
    """Give a model that has not been trained yet the weights of its foundation's run.

    Raises `Refused` if that run is gone, or is not at the weights that the config names.
    """
    below, folder = run.config.foundation, run.foundation
    if below is None or folder is None or model.foundation is None:
        return
    found, step = Run.open(folder).load_model(below.step or None)
    if below.weights and weights_hash(found) != below.weights:
        raise Refused(
            f"{folder} at step {step} does not have the weights that {run.folder} was begun on.\nTrain anew on it."
        )
    model.foundation.load_state_dict(found.state_dict())
    model.begin()


def prepared(
    model: Model, run: Run, dataset: "Dataset", device: torch.device, say: Callable[[str], None]
) -> np.ndarray | None:
    """What the model's foundation makes of every training picture, [N,...], computed once and kept in the run folder.

    None where it makes nothing of them, and where pictures are different every time they are shown (augmented,
    binarized anew, streamed): then it is computed batch by batch. All processes must call it.
    """
    below, settings = run.config.foundation, dataset.settings
    if type(model).prepare is Model.prepare:
        return None
    if below is None or dataset.stream is not None or settings.binarize == "dynamic":
        return None
    changes = augmentation(settings)
    if changes.moves or changes.paints:
        say("Training pictures change as they are shown, so their codes are computed anew in every step.")
        return None
    folder = run.folder / "prepared"
    file = folder / f"{hashlib.sha256(f'{below.weights} {dataset.train.hash}'.encode()).hexdigest()[:16]}.npy"
    if processes.any_of(not file.exists(), device):
        _write(model, dataset, device, file)
    return np.load(file, mmap_mode="r", allow_pickle=False)


@torch.no_grad()
def _write(model: Model, dataset: "Dataset", device: torch.device, file: Path) -> None:
    """Compute, each process its share of the batches, write aside, rename: a kill leaves nothing half done."""
    number, partial = len(dataset.train), file.with_suffix(".partial")

    def made(numbers: np.ndarray) -> np.ndarray:
        return model.prepare(pictures_of(dataset, dataset.train, numbers, device).image).cpu().numpy()

    if processes.is_writer():
        file.parent.mkdir(exist_ok=True)
        first = made(np.arange(1))
        np.lib.format.open_memmap(partial, "w+", _smallest(model, first), (number, *first.shape[1:]))
    processes.wait()
    found = np.lib.format.open_memmap(partial, "r+")
    starts = range(processes.rank() * BATCH, number, processes.count() * BATCH)
    share = [np.arange(start, min(start + BATCH, number)) for start in starts]
    shown = progress(sum(map(len, share)), "encoding the pictures once") if processes.is_writer() else None
    with shown or nullcontext(lambda count: None) as advance:
        for numbers in share:
            found[numbers] = made(numbers)
            advance(len(numbers))
    found.flush()
    processes.wait()
    if processes.is_writer():
        partial.rename(file)
    processes.wait()


def _smallest(model: Model, part: np.ndarray) -> np.dtype:
    """Codes are kept as the smallest whole numbers that hold the greatest, latents as they are."""
    grids = getattr(model, "grids", ())
    if part.dtype != np.int64 or not grids:
        return part.dtype
    greatest = max(grid.codes for grid in grids) - 1
    return next(np.dtype(kind) for kind in (np.uint8, np.uint16, np.int32) if greatest <= np.iinfo(kind).max)


def extended(dataset: "Dataset", found: np.ndarray | None) -> "Dataset":
    """The set with `prepared` beside its training pictures."""
    return dataset if found is None else replace(dataset, train=replace(dataset.train, prepared=found))
