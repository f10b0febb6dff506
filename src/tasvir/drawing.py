"""What a trained run can draw: samples, reconstructions, walks, manifolds, scatters. uint8 [N,H,W,C] comes out."""

import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused, nearest
from tasvir.core import ABILITIES, Encodes, Noise, NoiseKind, abilities
from tasvir.data import Dataset, load, look
from tasvir.data.batches import to_float, to_uint8
from tasvir.runs import Run
from tasvir.training.precision import choose_device

BATCH = 64


@dataclass(frozen=True)
class Points:
    """Latents of pictures in the plane."""

    position: np.ndarray
    """[N,2]"""
    label: np.ndarray | None
    """[N] int64 class"""
    classes: tuple[str, ...]
    axes: tuple[str, str]


class Opened:
    """A run with its model loaded, in evaluation mode with averaged weights, to draw with."""

    def __init__(self, folder: Path | str | Run, ability: str | None = None, step: int | str | None = None):
        self.run = folder if isinstance(folder, Run) else Run.open(folder)
        self.device = choose_device("auto")
        self.model: Any
        self.model, self.step = self.run.load_model(step, device=self.device)
        if ability and not isinstance(self.model, ABILITIES[ability]):
            can = ", ".join(abilities(self.model))
            raise Refused(f"{self.run.config.recipe} cannot {ability}; it can {can}.")

    @cached_property
    def dataset(self) -> Dataset:
        """The pictures the run was trained on, as they are now; says so where they are no longer the same."""
        found = load(replace(self.run.config.data, size=self.run.pictures.size))
        if found.changed_since(self.run.dataset):
            print(
                f"The pictures of {self.run.data_words} have changed since {self.run.name} was trained.",
                file=sys.stderr,
            )
        return found

    @property
    def held_out(self) -> np.ndarray:
        return self.dataset.test.images

    def real(self, source: str | None, number: int) -> np.ndarray:
        """The first `number` held-out pictures, or those of a file, folder, zip or set."""
        if source is None:
            return np.asarray(self.held_out[:number])
        wanted = self.run.pictures
        found, skipped = look(source, number, self.run.config.data, wanted.size, wanted.channels)
        for file, reason in skipped:
            print(f"{file} is left out: {reason}.", file=sys.stderr)
        return found

    def labels(self, label: str | None, number: int) -> list[int] | None:
        """`number` times the class of that name or number. Raises `Refused` if the run knows no such class."""
        if label is None:
            return None
        classes = self.run.pictures.classes
        if not getattr(self.model, "conditional", False):
            raise Refused(f"{self.run.config.recipe} does not know classes, so --label {label} has no meaning.")
        if label in classes:
            return [classes.index(label)] * number
        if label.isdigit() and int(label) < len(classes):
            return [int(label)] * number
        raise Refused(f"There is no label {label!r}.{nearest(label, classes)}\nThere are {', '.join(classes)}.")

    def samples(self, seeds: Sequence[int], kind: NoiseKind = "normal", labels: list[int] | None = None) -> np.ndarray:
        """One picture for each seed."""
        classes = None if labels is None else torch.tensor(labels, device=self.device)

        def draw(rows: slice) -> Tensor:
            return self.model.sample(Noise(seeds[rows], kind), None if classes is None else classes[rows])

        return _in_batches(draw, len(seeds))

    def reconstructions(self, real: np.ndarray) -> np.ndarray:
        return _in_batches(lambda rows: self.model.reconstruct(self.tensor(real[rows])), len(real))

    def latents(self, source: str | None, number: int) -> np.ndarray:
        """[N,D] float32 latents of pictures (see `real`)."""
        return self._encode(self.real(source, number))

    def decoded(self, latents: np.ndarray) -> np.ndarray:
        latent = torch.from_numpy(latents).float().to(self.device)
        return _in_batches(lambda rows: self.model.decode(latent[rows]), len(latent))

    def walks(self, source: str | None, number: int, steps: int, path: str, seed: int) -> np.ndarray:
        """`number` walks of `steps` pictures, one after another; between pictures if the model encodes."""
        real = self.real(source, 2 * number) if isinstance(self.model, Encodes) else None
        if real is not None and len(real) > 1:
            ends = torch.from_numpy(self._encode(real[: len(real) // 2 * 2]))
        elif real is not None and source is not None:
            raise Refused(f"A walk needs at least two pictures; {source} has one.")
        elif source is not None:
            raise Refused(
                f"{self.run.config.recipe} cannot encode pictures; leave them out to walk between random latents."
            )
        else:
            ends = Noise(range(seed, seed + 2 * number)).draw(self.model.latent_size)
        part = torch.linspace(0, 1, steps)[:, None]
        pairs = zip(ends[::2, None], ends[1::2, None], strict=True)
        walked = [PATHS[path](start, end, part) for start, end in pairs]
        return self.decoded(torch.cat(walked).numpy())

    def manifold(self, side: int) -> np.ndarray:
        """side² pictures, rows from the top: latent coordinates at even quantiles of the standard normal prior."""
        if self.model.latent_size != 2:
            raise Refused(
                f"A manifold is of two latent dimensions; {self.run.folder} has {self.model.latent_size}.\n"
                "Train vae-2d, or any recipe with --model.latent-size 2."
            )
        from scipy.stats import norm

        axis = norm.ppf((np.arange(side) + 0.5) / side)
        across, down = np.meshgrid(axis, axis[::-1])
        return self.decoded(np.stack([across.ravel(), down.ravel()], axis=1))

    def scatter(self, number: int) -> Points:
        """Held-out pictures' latents; more than two dimensions are projected onto their two principal components."""
        latents = self._encode(np.asarray(self.held_out[:number]))
        axes = ("first latent dimension", "second latent dimension")
        if latents.shape[1] != 2:
            centred = latents - latents.mean(0)
            directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
            plane = centred @ directions.T
            plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))  # of one latent dimension, or one picture
            latents, axes = plane, ("first principal component", "second principal component")
        labels = self.dataset.test.labels
        return Points(latents, None if labels is None else np.asarray(labels[:number]), self.run.pictures.classes, axes)

    def _encode(self, images: np.ndarray) -> np.ndarray:
        return _in_batches(lambda rows: self.model.encode(self.tensor(images[rows])), len(images), convert=_as_float)

    def tensor(self, images: np.ndarray) -> Tensor:
        """[N,H,W,C] uint8 to what the model takes, on its device."""
        return to_float(torch.from_numpy(np.array(images)).to(self.device))


def linear(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Points [N,D] on the straight lines between latents [N,D] at `part` [N,1], from 0 to 1; any N may be 1."""
    return start + (end - start) * part


def spherical(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Points [N,D] between latents [N,D] at `part` [N,1] of the angle between them (Shoemake 1985; White 2016, arXiv
    1609.04468); any N may be 1.

    Straight where the two point the same or opposite ways and the angle leaves the plane of turning open.
    """
    lengths = (start.norm(dim=1, keepdim=True) * end.norm(dim=1, keepdim=True)).clamp_min(1e-12)
    angle = ((start * end).sum(1, keepdim=True) / lengths).clamp(-1, 1).arccos()
    sine = angle.sin()
    turned = (((1 - part) * angle).sin() * start + (part * angle).sin() * end) / sine
    return torch.where(sine < 1e-4, linear(start, end, part), turned)


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}


def read_latents(path: Path, size: int) -> np.ndarray:
    """`latents` [N,size] of an .npz. Raises `Refused` if there are none of that size."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            latents = np.asarray(arrays["latents"], np.float32)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{path} cannot be read as an .npz with `latents`: {str(error).splitlines()[0]}.") from None
    if latents.ndim != 2 or latents.shape[1] != size or not len(latents):
        raise Refused(f"{path} has latents of shape {latents.shape}; this run wants (N, {size}).")
    if not np.isfinite(latents).all():
        raise Refused(f"{path} has latents that are not finite.")
    return latents


def _as_float(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


@torch.no_grad()
def _in_batches(
    draw: Callable[[slice], Tensor], number: int, convert: Callable[[Tensor], np.ndarray] = to_uint8
) -> np.ndarray:
    rows: Iterable[slice] = (slice(start, min(start + BATCH, number)) for start in range(0, number, BATCH))
    return np.concatenate([convert(draw(row)) for row in rows])
