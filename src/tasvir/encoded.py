"""What `tasvir encode` writes, read back and checked."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasvir.config import Refused
from tasvir.core import Grid


@dataclass(frozen=True)
class Encoded:
    """What `tasvir encode` writes, read back; `latents` or `codes`, or both."""

    latents: np.ndarray | None
    """[N,D] float32"""
    codes: np.ndarray | None
    """[N,T] int64"""
    labels: np.ndarray | None
    """[N] int64"""
    w: np.ndarray | None = None
    """[N,W] float32, as `tasvir project --space w` writes them; read where there are no latents."""


def read_encoded(path: Path, size: int | None, grids: Sequence[Grid], classes: int, styles: bool = False) -> Encoded:
    """The arrays of an .npz: `latents` [N,size], or `codes` [N,T] of these grids, and `labels` in 0..classes-1.

    `size` is None for a model that takes no latents, `grids` are empty for one that takes no codes; where it has
    `styles`, `w` [N,W] will do. Raises `Refused` if there is none of these, or they do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in ("latents", "codes", "labels", "w") if name in arrays}
            latents = np.asarray(found["latents"], np.float32) if "latents" in found and size is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{path} cannot be read as an .npz with `latents`: {str(error).splitlines()[0]}.") from None
    codes = found.get("codes") if grids else None
    if latents is None and codes is None and styles and "w" in found:
        w = found["w"]
        if w.ndim != 2 or not len(w) or w.dtype.kind != "f" or not np.isfinite(w).all():
            raise Refused(f"{path} has w of shape {w.shape}; there are to be finite numbers (N, W).")
        return Encoded(None, None, None, w.astype(np.float32))
    if latents is None and codes is None:
        wanted = " or ".join(["`latents`"] * (size is not None) + ["`codes`"] * bool(grids))
        raise Refused(f"{path} has no {wanted}; `tasvir encode` writes them.")
    if latents is not None:
        if latents.ndim != 2 or latents.shape[1] != size or not len(latents):
            raise Refused(f"{path} has latents of shape {latents.shape}; this run wants (N, {size}).")
        if not np.isfinite(latents).all():
            raise Refused(f"{path} has latents that are not finite.")
    if codes is not None:
        _check_codes(path, codes, grids)
    labels = found.get("labels")
    if labels is not None:
        given = latents if latents is not None else codes
        if labels.shape != (len(given) if given is not None else 0,) or labels.dtype.kind not in "iu":
            raise Refused(f"{path} has labels of shape {labels.shape}; there is to be one whole number for each row.")
        if classes and not ((labels >= 0) & (labels < classes)).all():
            raise Refused(f"{path} has labels outside 0 to {classes - 1}, the classes of this run.")
    return Encoded(latents, None if codes is None else codes.astype(np.int64), labels)


def _check_codes(path: Path, codes: np.ndarray, grids: Sequence[Grid]) -> None:
    """Raise `Refused` if codes are not whole numbers [N,T] that each grid has."""
    wanted = sum(grid.side**2 for grid in grids)
    if codes.ndim != 2 or codes.shape[1] != wanted or not len(codes) or codes.dtype.kind not in "iu":
        raise Refused(f"{path} has codes of shape {codes.shape}; this run wants whole numbers (N, {wanted}).")
    start = 0
    for grid in grids:
        part = codes[:, start : start + grid.side**2]
        start += grid.side**2
        if part.min() < 0 or part.max() >= grid.codes:
            raise Refused(
                f"{path} has codes from {part.min()} to {part.max()}; this run's {grid.side}×{grid.side} grid has 0 "
                f"to {grid.codes - 1}."
            )
