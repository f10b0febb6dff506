"""Walks through a run's latent space: rows of pictures from one latent to another, and films that come back to where
they began."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused, SamplingConfig
from tasvir.core import Noise
from tasvir.spaces import PATHS, PathName, Space, SpaceName, loop, space_of

if TYPE_CHECKING:
    from tasvir.drawing import Opened

EACH = "each"
"""In the place of a class: all of them, along the same latents."""
HELD_OUT = "held-out"
"""In the place of pictures: those that the run was not trained on."""


@dataclass(frozen=True)
class Route:
    """What walks go through, and how."""

    source: str | tuple[str, ...] | None = None
    """Pictures to walk between, where the model encodes, or `held-out`; left out, held-out ones, or of models that draw
    in steps random latents."""
    number: int = 8
    """Walks."""
    stops: int = 2
    """Latents that each goes through."""
    label: str | None = None
    """Class to keep to, by name or number; `each` walks in every one along the same latents. Left out, each class of
    held-out pictures in its turn, or simply each in its turn where the model does not encode."""
    seed: int = 0
    """Of the first random latent."""
    space: SpaceName | None = None
    """Left out, w where the model has it."""
    path: PathName | None = None
    """Left out, the space's own."""
    truncation: float | None = None
    """As of `sample`; of models that draw latents at random."""
    how: SamplingConfig | None = None
    """Of models that draw in steps: how they do."""


@dataclass(frozen=True)
class Stops:
    """Where walks go through."""

    space: Space
    path: PathName
    latents: Tensor
    """[R,K,D] in the space, on the CPU: R walks through K latents."""
    classes: list[int] | None
    """[R] the class that each walk keeps to."""
    names: list[str]
    """[R] class names where they are asked for with `each`, else empty."""
    number: int
    """Walks of each class."""


def stops(opened: "Opened", route: Route) -> Stops:
    """Raises `Refused` where the model cannot encode the pictures asked for, or knows no such space or class."""
    model, recipe, each = opened.model, opened.run.config.recipe, _is_each(opened, route)
    space = space_of(model, recipe, route.space, route.truncation, route.how)
    if each and not opened.conditional:
        raise Refused(f"{recipe} does not know classes, so --label each has no meaning.")
    told = None if each else opened.labels(route.label, route.number)
    asked = route.source is not None
    if asked and space.encode is None:
        raise Refused(f"{recipe} cannot encode pictures; leave them out to walk between random latents.")
    route = replace(route, source=None) if route.source == HELD_OUT else route
    if space.encode is not None and (asked or (not model.stepwise and len(opened.held_out) > 1)):
        latents, classes = _encoded(opened, space, route, None if told is None else told[0], each)
    else:
        seeds = range(route.seed, route.seed + route.stops * route.number)
        latents = space.draw(Noise(seeds)).view(route.number, route.stops, -1)
        classes = opened.classes_in_turn(route.number) if told is None else told
    number, names = len(latents), []
    if each:
        count = len(opened.run.pictures.classes)
        names = [name for name in opened.run.pictures.classes for _ in range(number)]
        latents, classes = latents.repeat(count, 1, 1), np.repeat(np.arange(count), number).tolist()
    flat = latents.flatten(0, 1)
    label = None if classes is None else np.repeat(classes, latents.shape[1])
    entered = opened.in_space(space.enter, flat, label)
    return Stops(space, route.path or space.path, entered.view(*latents.shape[:2], -1), classes, names, number)


def rows(opened: "Opened", at: Stops, steps: int) -> np.ndarray:
    """uint8 [R·steps,H,W,C]: every walk from its first latent to its second, one after another."""
    part = torch.linspace(0, 1, steps)[:, None]
    walked = torch.cat([PATHS[at.path](one[:1], one[1:2], part) for one in at.latents])
    return opened.pictured(at.space, walked, None if at.classes is None else np.repeat(at.classes, steps))


def films(opened: "Opened", at: Stops, frames: int, eased: bool = True) -> np.ndarray:
    """uint8 [frames,R,H,W,C]: every walk through all its latents and back to the first (see `spaces.loop`)."""
    walked = torch.cat([loop(one, frames, at.path, eased) for one in at.latents])
    images = opened.pictured(at.space, walked, None if at.classes is None else np.repeat(at.classes, frames))
    return images.reshape(len(at.latents), frames, *images.shape[1:]).swapaxes(0, 1)


def _is_each(opened: "Opened", route: Route) -> bool:
    return route.label == EACH and EACH not in opened.run.pictures.classes


def _encoded(
    opened: "Opened", space: Space, route: Route, told: int | None, each: bool
) -> tuple[Tensor, list[int] | None]:
    """Latents [R,K,D] of pictures, and the class of each walk: that which is `told`, else of the pictures of one walk;
    models that draw in steps may be told none.

    Fewer walks where there are fewer pictures, and at least one, through as many as there are.
    """
    wanted = route.number * route.stops
    known: list[int] | None
    if route.source is None and opened.conditional and not each:
        real, known, size = _of_one_class(opened, route, told)
    else:
        real = _real(opened, route.source, wanted)
        size = min(route.stops, len(real))
        if size < 2:
            source = _named(route.source) or opened.run.data_words
            raise Refused(f"A walk needs at least two pictures; {source} has one.")
        real = real[: len(real) // size * size]
        known = [told] * len(real) if told is not None else opened.labels_beside(_named(route.source), len(real))
        if opened.conditional and known is None and not each and not opened.model.stepwise:
            raise Refused(f"{opened.run.config.recipe} walks within one class: say which with --label.")
        known = known if opened.model.stepwise else opened.classes_of(real, known)
    classes = None if known is None else known[::size]
    assert space.encode is not None
    latents = opened.in_space(space.encode, opened.tensor(real), known)
    return latents.view(len(real) // size, size, -1), classes


def _named(source: str | tuple[str, ...] | None) -> str | None:
    return " ".join(source) if isinstance(source, tuple) else source


def _real(opened: "Opened", source: str | tuple[str, ...] | None, number: int) -> np.ndarray:
    """The first pictures of each source in its turn, `number` in all at most."""
    if not isinstance(source, tuple):
        return opened.real(source, number)
    return np.concatenate([opened.real(one, number) for one in source])[:number]


def _of_one_class(opened: "Opened", route: Route, told: int | None) -> tuple[np.ndarray, list[int], int]:
    """Held-out pictures, so many of one class after another as a walk goes through, the class of each picture, and how
    many that is. Raises `Refused` if there are not two of any class.
    """
    labels = np.asarray(opened.dataset.test.labels)
    wanted = range(len(opened.run.pictures.classes)) if told is None else [told]
    members = [np.flatnonzero(labels == one) for one in wanted]
    most = max(map(len, members))
    size = min(route.stops, most)
    if size < 2:
        raise Refused(f"{opened.run.data_words} has no two held-out pictures of the class to walk between.")
    places = [rows[start : start + size] for start in range(0, most - size + 1, size) for rows in members]
    chosen = np.concatenate([group for group in places if len(group) == size][: route.number])
    return np.stack([opened.held_out[place] for place in chosen]), [int(one) for one in labels[chosen]], size
