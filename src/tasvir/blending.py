"""Pictures of any size through a network that takes pieces: overlapping tiles, blended, a band of rows at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasvir.data.batches import to_uint8

Make = Callable[[np.ndarray, list[int]], Tensor]
"""Tiles uint8 [N,h,w,C'] and their numbers → what becomes of them, float [N,C,scale·h,scale·w] in [-1,1]."""


@dataclass(frozen=True)
class Axis:
    """How the height or the width of a picture is cut into tiles."""

    length: int
    """Pixels of the picture."""
    padded: int
    """Pixels after reflection beyond its end."""
    tile: int
    """Pixels of each tile; the network's stride divides it."""
    overlap: int
    """Pixels at least that neighbours share."""
    starts: tuple[int, ...]
    """First pixel of each tile; the last tile ends with the padded picture."""

    def weights(self, scale: int) -> Tensor:
        """[tiles, scale·tile] float32: how much each tile says at each of its pixels, enlarged; wherever tiles overlap,
        these sum to one.

        A tile rises from 0, at a quarter of the overlap from its edge, to 1 at three quarters, as a squared sine: what
        the network had to guess beyond the edge is not seen. At the picture's own borders a tile has all the weight.
        """
        place = np.arange(scale * self.tile) + 0.5
        edge, far = self.overlap * scale / 4, self.tile * scale
        rising, falling = (
            np.sin(np.clip((distance - edge) / max(2 * edge, 1), 0, 1) * np.pi / 2) ** 2
            for distance in (place, far - place)
        )
        first, last = 0, len(self.starts) - 1
        sums = np.zeros(scale * self.padded)
        found = np.ones((len(self.starts), far))
        for number, start in enumerate(self.starts):
            found[number] *= (1 if number == first else rising) * (1 if number == last else falling)
            sums[scale * start : scale * start + far] += found[number]
        for number, start in enumerate(self.starts):
            found[number] /= sums[scale * start : scale * start + far]
        return torch.from_numpy(found).float()


def axis(length: int, tile: int, overlap: int, stride: int = 1, least: int = 1) -> Axis:
    """Tiles of at most `tile` pixels, a multiple of `stride`, that share at least `overlap` with the next.

    Where strides allow it they begin at multiples of it, so that a network gives all of them the same answer. What is
    no longer than a tile is one, padded to a multiple of the stride, and to `least` at least.
    """
    if length <= tile:
        padded = -(-max(length, least) // stride) * stride
        return Axis(length, padded, padded, 0, (0,))
    step = stride if 2 * stride <= overlap else 1
    padded = -(-length // step) * step
    units, reach = (padded - tile) // step, max(1, (tile - overlap) // step)
    gaps = -(-units // reach)
    starts = tuple(number * units // gaps * step for number in range(gaps + 1))
    return Axis(length, padded, tile, overlap, starts)


def blended(
    source: np.ndarray,
    make: Make,
    down: Axis,
    across: Axis,
    *,
    channels: int,
    scale: int = 1,
    batch: int = 1,
    done: Callable[[int], None] = lambda tiles: None,
) -> np.ndarray:
    """What `make` makes of a picture uint8 [H,W,C'], `batch` tiles at a time: uint8 [scale·H,scale·W,channels].

    Only the rows that the next tiles reach are kept as sums in float32, the others are rounded at once. `done` is told
    how many more tiles there are.
    """
    height, width = source.shape[:2]
    beyond = (0, down.padded - height), (0, across.padded - width), (0, 0)
    padded = np.pad(source, beyond, "reflect") if any(after for _, after in beyond) else source
    rows, columns = down.weights(scale), across.weights(scale)
    high, wide = scale * down.tile, scale * across.tile
    found = np.empty((scale * height, scale * width, channels), np.uint8)
    still_open = torch.zeros(channels, high, scale * across.padded)
    count = len(across.starts)
    for band, top in enumerate(down.starts):
        for first in range(0, count, batch):
            lefts = across.starts[first : first + batch]
            tiles = np.stack([padded[top : top + down.tile, left : left + across.tile] for left in lefts])
            numbers = [band * count + first + place for place in range(len(lefts))]
            for left, column, answer in zip(lefts, columns[first : first + batch], make(tiles, numbers), strict=True):
                weighted = answer.float().cpu() * rows[band][:, None] * column
                still_open[:, :, scale * left : scale * left + wide] += weighted
            done(len(lefts))
        begin, end = scale * top, scale * (down.starts[band + 1] if top != down.starts[-1] else down.padded)
        rest = high - (end - begin)
        kept = still_open[:, : min(end, len(found)) - begin, : scale * width]
        found[begin:end] = to_uint8(kept[None])[0]
        if rest:
            still_open[:, :rest] = still_open[:, high - rest :].clone()
        still_open[:, rest:] = 0
    return found
