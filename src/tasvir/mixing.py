"""Style mixing (Karras et al. 2019, arXiv 1812.04948, section 3.1): pictures with the coarse styles of one and the
fine styles of another, of any model with `map(z)` → w, `synthesize(w)` and `styles`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.core import Noise
from tasvir.data.batches import to_uint8
from tasvir.drawing import Opened

BATCH = 64


@dataclass(frozen=True)
class Mixed:
    """A table of pictures whose first row and first column are the sources."""

    images: np.ndarray
    """uint8 [(R+1)·(C+1),H,W,ch], row by row; the corner is white."""
    rows: list[str]
    columns: list[str]
    layers: tuple[int, int]
    """First and last style, counted from 0, that come from the source of the row."""


def layers_of(part: str, styles: int) -> tuple[int, int]:
    """First and last style, counted from 0, of `coarse`, `middle` or `fine`, or of two numbers as in `0-3`.

    There are two styles at each size from 4 px on. Coarse is up to 8 px, middle up to 32 px, fine the rest, as
    published; small pictures have less of each. Raises `Refused` for what there is not.
    """
    sizes = styles // 2
    coarse, fine = min(2, sizes // 2), max(1, sizes - 4)
    bounds = {
        "coarse": (0, 2 * coarse - 1),
        "middle": (2 * coarse, 2 * (sizes - fine) - 1),
        "fine": (2 * (sizes - fine), styles - 1),
    }
    if part in bounds:
        first, last = bounds[part]
        if first > last:
            raise Refused(f"So small a picture has no {part} styles; name them by number: --layers 0-{styles - 1}.")
        return first, last
    words = part.split("-")
    if not (1 <= len(words) <= 2 and all(word.isdecimal() for word in words)):
        raise Refused(f"--layers {part} must be two numbers such as 0-3, or one.")
    first, last = int(words[0]), int(words[-1])
    if not first <= last < styles:
        raise Refused(f"There are no styles {part}: they are numbered from 0 to {styles - 1}, coarsest first.")
    return first, last


def table(opened: Opened, rows: Sequence[int], columns: Sequence[int], part: str, truncation: float | None) -> Mixed:
    """Pictures with the styles `part` (see `layers_of`) of the row's seed and all others of the column's.

    Raises `Refused` if the model has no styles.
    """
    model: Any = opened.model
    if not all(hasattr(model, name) for name in ("map", "synthesize", "styles")):
        raise Refused(f"{opened.run.config.recipe} has no styles to mix; train stylegan2.")
    first, last = layers_of(part, model.styles)
    across, down = (_mapped(model, seeds, truncation) for seeds in (columns, rows))
    mixed = across[None].repeat(len(rows), 1, 1, 1)
    mixed[:, :, first : last + 1] = down[:, None, first : last + 1]
    made = [_drawn(model, w) for w in (across, down, mixed.flatten(0, 1))]
    top, left, inside = made[0], made[1], made[2].reshape(len(rows), len(columns), *made[2].shape[1:])
    corner = np.full_like(top[:1], 255)
    lines = [np.concatenate([corner, top])]
    lines += [np.concatenate([one[None], others]) for one, others in zip(left, inside, strict=True)]
    names = [""] + [f"seed {seed}" for seed in rows], [""] + [f"seed {seed}" for seed in columns]
    return Mixed(np.concatenate(lines), *names, (first, last))


@torch.no_grad()
def _mapped(model: Any, seeds: Sequence[int], truncation: float | None) -> Tensor:
    """[N,L,W] of the pictures that `sample` draws for these seeds."""
    w = model.map(model.latents(Noise(seeds)))
    w = w if truncation is None else model.truncate(w, truncation)
    return w[:, None].expand(-1, model.styles, -1)


@torch.no_grad()
def _drawn(model: Any, w: Tensor) -> np.ndarray:
    return np.concatenate([to_uint8(model.synthesize(part)) for part in w.split(BATCH)])
