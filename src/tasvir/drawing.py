"""What a trained run can draw: samples, reconstructions, walks, manifolds, scatters. uint8 [N,H,W,C] comes out."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasvir import walks
from tasvir.config import Refused, SamplingConfig, nearest
from tasvir.core import ABILITIES, Noise, NoiseKind, Tokenizes
from tasvir.data import Dataset, load, look
from tasvir.data.batches import to_float, to_uint8
from tasvir.data.sources import ENDINGS
from tasvir.models import RECIPES, recipe
from tasvir.runs import Run
from tasvir.spaces import PathName, Space
from tasvir.training import foundation
from tasvir.training.precision import autocast, choose_device, choose_dtype

if TYPE_CHECKING:
    from tasvir.density import Mixture

BATCH = 64
PIXELS = 1 << 18
"""Of sources that are translated at a time."""
STEPWISE = "\nThese commands take it too: samplers, edit, inpaint, interpolate, noising and unfold."
"""Of what models that draw in steps can do besides."""
PriorName = Literal["model", "mixture"]
Labels = Sequence[int] | np.ndarray | None
"""[N] class of each picture, for models that draw, encode and decode for one; None leaves the choice to the model."""


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
    """A run with its model loaded, in evaluation mode with averaged weights, to draw with.

    `tells` says on stderr where the newest checkpoint, which is taken where no `step` is named, is not the best.
    """

    def __init__(
        self,
        folder: Path | str | Run,
        ability: str | None = None,
        step: int | str | None = None,
        tells: bool = True,
    ):
        self.run = folder if isinstance(folder, Run) else Run.open(folder)
        self.device = choose_device("auto")
        self.model: Any
        self.model, self.step = self.run.load_model(step, device=self.device)
        self.require(*filter(None, [ability]))
        changed = foundation.changed(self.run)
        better = self.run.better(self.step) if tells and step is None else ""
        for sentence in filter(None, [changed, better]):
            print(sentence, file=sys.stderr)

    def require(self, *names: str) -> None:
        """Raise `Refused` if the model lacks one of these abilities."""
        can = [name for name in ABILITIES if isinstance(self.model, ABILITIES[name])]
        for name in names:
            if name not in can:
                if isinstance(self.model, Tokenizes) or isinstance(getattr(self.model, "foundation", None), Tokenizes):
                    raise Refused(_of_codes(self.run, name, can))
                if name == "sample" and {"encode", "decode"} <= set(can):
                    can.append("sample with --prior mixture")
                how = f"\n`tasvir translate {self.run.folder} PICTURES --out DIR` does." if "translate" in can else ""
                how = STEPWISE if getattr(self.model, "stepwise", False) else how
                raise Refused(f"{self.run.config.recipe} cannot {name}; it can {', '.join(can)}.{how}")

    @property
    def conditional(self) -> bool:
        """Whether the model draws, encodes and decodes for a class."""
        return bool(getattr(self.model, "conditional", False))

    @cached_property
    def dataset(self) -> Dataset:
        """The pictures the run was trained on, as they are now, in its own colours; says so where they have changed.

        Raises `Refused` for a model that knows classes if there are others now.
        """
        data, pictures = self.run.config.data, self.run.pictures
        found = load(replace(data, size=pictures.size))
        if found.changed_since(self.run.dataset):
            unlike = self.run.unlike(found.pictures)
            said = f"The pictures of {self.run.data_words} have changed since {self.run.name} was trained"
            said += unlike and f": {unlike}"
            if self.conditional and found.pictures.classes != pictures.classes:
                raise Refused(f"{said}.\nPut them back as they were, or train anew.")
            print(f"{said}.", file=sys.stderr)
        if found.pictures.channels != pictures.channels:
            found = load(replace(data, size=pictures.size, color="grey" if pictures.channels == 1 else "rgb"))
        return found

    @property
    def held_out(self) -> np.ndarray:
        return self.dataset.test.images

    def real(self, source: str | None, number: int) -> np.ndarray:
        """The first `number` held-out pictures, or those of a file, folder, zip or set."""
        if source is None:
            return np.asarray(self.held_out[:number])
        if not Path(source).exists() and (len(Path(source).parts) > 1 or Path(source).suffix[1:].lower() in ENDINGS):
            raise Refused(f"There is no file {source}.")
        wanted = self.run.pictures
        found, skipped = look(source, number, self.run.config.data, wanted.size, wanted.channels)
        for file, reason in skipped:
            print(f"{file} is left out: {reason}.", file=sys.stderr)
        return found

    def labels(self, label: str | None, number: int) -> list[int] | None:
        """`number` times the class of that name or number. Raises `Refused` if the run knows no such class."""
        if label is None:
            return None
        if not self.conditional:
            raise Refused(f"{self.run.config.recipe} does not know classes, so --label {label} has no meaning.")
        return [class_number(label, self.run.pictures.classes)] * number

    def labels_beside(self, source: str | None, number: int, label: str | None = None) -> list[int] | None:
        """Classes of the pictures that `real` gives, for models that know classes: that of `label`, else of the
        held-out pictures their own; None where they are not known.
        """
        asked = self.labels(label, number)
        own = self.dataset.test.labels if self.conditional and source is None and asked is None else None
        return asked if own is None else [int(one) for one in own[:number]]

    def classes_of(self, images: np.ndarray, labels: list[int] | None) -> list[int] | None:
        """The labels, or for models that know classes and were told none, the likeliest class of each picture.

        Raises `Refused` if the model cannot tell it.
        """
        if not self.conditional or labels is not None:
            return labels
        likeliest = getattr(self.model, "likeliest", None)
        if likeliest is None:
            raise Refused(f"{self.run.config.recipe} decodes for a class: say which with --label.")
        found = _in_batches(
            lambda rows: likeliest(self.tensor(images[rows])),
            len(images),
            convert=lambda classes: classes.cpu().numpy(),
        )
        return [int(one) for one in found]

    def classes_in_turn(self, number: int) -> list[int] | None:
        """One class after another, so many in all, for models that know classes."""
        classes = len(self.run.pictures.classes)
        return [position % classes for position in range(number)] if self.conditional and classes else None

    @cached_property
    def mixture(self) -> "Mixture":
        """The mixture of Gaussians over the latents of training pictures (see `density`)."""
        from tasvir.density import mixture_of

        return mixture_of(self)

    def samples(
        self,
        seeds: Sequence[int],
        kind: NoiseKind | None = None,
        labels: Labels = None,
        prior: PriorName = "model",
        truncation: float | None = None,
        how: SamplingConfig | None = None,
    ) -> np.ndarray:
        """One picture for each seed, its latent from the model's own prior or from the mixture fitted after training.

        `how` is for models that draw in steps. Raises `Refused` where the model does not encode and decode,
        which a mixture needs, or cannot be truncated.
        """
        if truncation is not None and (prior == "mixture" or not self.model.truncates):
            raise Refused(f"{self.run.config.recipe} draws nothing that could be truncated; leave --truncation out.")
        if kind not in (None, "normal") and self.model.stepwise:
            raise Refused(f"{self.run.config.recipe} takes normal noise away; leave --noise out.")
        more: dict[str, Any] = {} if truncation is None else {"truncation": truncation}
        more |= {} if how is None else {"how": how}
        classes = self._classes(labels)
        if prior == "mixture":
            self.require("encode", "decode")
            latents, groups = self.mixture.draw(Noise(seeds, kind), classes)
            return self.decoded(latents.numpy(), groups.numpy() if self.conditional else None)

        def draw(rows: slice) -> Tensor:
            with self.precision:
                return self.model.sample(Noise(seeds[rows], kind), None if classes is None else classes[rows], **more)

        return _in_batches(draw, len(seeds))

    @property
    def precision(self) -> AbstractContextManager:
        """The precision it was trained in for models that draw in steps, whose networks are asked many times for a
        picture; float32 for all others."""
        return autocast(self.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What that precision is here."""
        wanted = self.run.config.train.precision if self.model.stepwise else "float32"
        return choose_dtype(wanted, self.device)

    def sampling(self, **asked: Any) -> SamplingConfig | None:
        """How a model that draws in steps is to do so: its own settings with those of `asked` that are not None.

        None for other models. Raises `Refused` for settings that mean nothing to the model, or that it cannot follow.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        if self.model.stepwise:
            return self.model.sampling(**given)
        if given:
            words = " and ".join(f"--{name}" for name in given)
            raise Refused(f"{self.run.config.recipe} draws a picture at once; {words} is for diffusion models.")
        return None

    def reconstructions(self, real: np.ndarray, labels: Labels = None) -> np.ndarray:
        chosen = self._chosen(labels)
        return _in_batches(lambda rows: self.model.reconstruct(self.tensor(real[rows]), **chosen(rows)), len(real))

    def translations(self, sources: np.ndarray, seeds: Sequence[int] | None = None) -> np.ndarray:
        """What becomes of sources uint8 [N,H,W,C']; each seed is one of the answers, without them the best guess.

        uint8 [N,scale·H,scale·W,C]; the model's `stride` must divide H and W.
        """

        def translated(rows: slice) -> Tensor:
            noise = None if seeds is None else Noise(seeds[rows])
            return self.model.translate(self.tensor(sources[rows]), noise)

        return _in_batches(translated, len(sources), batch=max(1, PIXELS // (sources.shape[1] * sources.shape[2])))

    def latents(self, source: str | None, number: int, labels: Labels = None) -> np.ndarray:
        """[N,D] float32 latents of pictures (see `real`); held-out ones are encoded with their own classes."""
        return self.encoded(self.real(source, number), self.labels_beside(source, number) if labels is None else labels)

    def encoded(self, images: np.ndarray, labels: Labels = None) -> np.ndarray:
        """[N,D] float32 latents of pictures uint8 [N,H,W,C], which are read a batch at a time."""
        chosen = self._chosen(labels)
        return _in_batches(
            lambda rows: self.model.encode(self.tensor(images[rows]), **chosen(rows)), len(images), convert=_as_float
        )

    def decoded(self, latents: np.ndarray, labels: Labels = None) -> np.ndarray:
        latent, chosen = torch.from_numpy(latents).float().to(self.device), self._chosen(labels)
        return _in_batches(lambda rows: self.model.decode(latent[rows], **chosen(rows)), len(latent))

    def tokenized(self, images: np.ndarray) -> np.ndarray:
        """[N,T] int64 codes of pictures."""
        return _in_batches(
            lambda rows: self.model.tokenize(self.tensor(images[rows])),
            len(images),
            convert=_as_whole,
        )

    def detokenized(self, codes: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(codes).to(self.device)
        return _in_batches(lambda rows: self.model.detokenize(values[rows]), len(values))

    def _classes(self, labels: Labels) -> Tensor | None:
        return None if labels is None else torch.as_tensor(np.asarray(labels, np.int64), device=self.device)

    def _chosen(self, labels: Labels) -> Callable[[slice], dict[str, Tensor]]:
        """What the model is told of classes, for the pictures of a slice."""
        classes = self._classes(labels) if self.conditional else None
        return lambda rows: {} if classes is None else {"label": classes[rows]}

    def walks(
        self, source: str | None, number: int, steps: int, path: PathName, seed: int, label: str | None = None
    ) -> np.ndarray:
        """`number` walks of `steps` pictures, one after another; between pictures if the model encodes.

        Models that know classes walk within one: that of `label`, else each class of held-out pictures in its turn.
        """
        route = walks.Route(source, number, 2, label, seed, "z", path)
        return walks.rows(self, walks.stops(self, route), steps)

    def in_space(self, make: Callable[[Tensor, Tensor | None], Tensor], latent: Tensor, labels: Labels) -> Tensor:
        """What a function of a `Space` makes of latents [N,D] of these classes, on the CPU."""
        there, classes = latent.to(self.device), self._classes(labels)
        parts = [slice(start, start + BATCH) for start in range(0, len(there), BATCH)]
        with torch.no_grad():
            made = [make(there[rows], None if classes is None else classes[rows]).float().cpu() for rows in parts]
        return torch.cat(made)

    def pictured(self, space: Space, latent: Tensor, labels: Labels = None) -> np.ndarray:
        """Latents [N,D] of a space as pictures."""
        there, classes = latent.to(self.device), self._classes(labels)
        return _in_batches(
            lambda rows: space.decode(there[rows], None if classes is None else classes[rows]), len(there)
        )

    def manifold(self, side: int, label: str | None = None) -> np.ndarray:
        """side² pictures, rows from the top: latent coordinates at even quantiles of the standard normal prior.

        Models that know classes show the one of `label`, or else the first.
        """
        if self.model.latent_size != 2:
            raise Refused(
                f"A manifold is of two latent dimensions; {self.run.folder} has {self.model.latent_size}.\n"
                "Train vae-2d, or any recipe with --model.latent-size 2."
            )
        from scipy.stats import norm

        axis = norm.ppf((np.arange(side) + 0.5) / side)
        across, down = np.meshgrid(axis, axis[::-1])
        return self.decoded(np.stack([across.ravel(), down.ravel()], axis=1), self.labels(label, side**2))

    def scatter(self, number: int, method: str = "pca") -> Points:
        """Held-out pictures' latents; more than two dimensions are brought into the plane by a row of `PLANES`."""
        from tasvir.latent_space import in_plane

        latents = self.latents(None, number)
        plane, axes = in_plane(latents, method)
        labels = self.dataset.test.labels
        return Points(plane, None if labels is None else np.asarray(labels[:number]), self.run.pictures.classes, axes)

    def tensor(self, images: np.ndarray) -> Tensor:
        """[N,H,W,C] uint8 to what the model takes, on its device."""
        return to_float(torch.from_numpy(np.array(images)).to(self.device))


def _of_codes(run: Run, ability: str, can: list[str]) -> str:
    """Why a model of codes lacks an ability, and what has it."""
    name = run.config.recipe
    if ability in ("encode", "decode"):
        return f"{name} has codes and no continuous latents to walk in; it can {', '.join(can)}."
    on_it = [other for other in RECIPES if recipe(other).foundation == name] if ability == "sample" else []
    if not on_it:
        return f"{name} cannot {ability}; it can {', '.join(can)}."
    return (
        f"{name} cannot {ability} by itself: train what draws its codes.\n"
        f"`tasvir train {on_it[0]} --on {run.folder} --data {run.data_words}`"
    )


def class_number(label: str, classes: Sequence[str]) -> int:
    """The number of the class of that name or number. Raises `Refused`, naming the nearest ones, if there is none."""
    if label in classes:
        return list(classes).index(label)
    if label.isdigit() and int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:40]) + (" …" if len(classes) > 40 else "")
    if label.lstrip("-").isdigit():
        raise Refused(f"There is no label {label}; classes are numbered from 0 to {len(classes) - 1}: {shown}.")
    raise Refused(f"There is no label {label!r}.{nearest(label, classes)}\nThere are {shown}.")


def _as_whole(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _as_float(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


@torch.no_grad()
def _in_batches(
    draw: Callable[[slice], Tensor],
    number: int,
    convert: Callable[[Tensor], np.ndarray] = to_uint8,
    batch: int = BATCH,
) -> np.ndarray:
    rows: Iterable[slice] = (slice(start, min(start + batch, number)) for start in range(0, number, batch))
    return np.concatenate([convert(draw(row)) for row in rows])
