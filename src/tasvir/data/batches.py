"""Batches from a packed set: an endless shuffled stream, each batch a pure function of (seed, step, rank)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tasvir.core import Batch
from tasvir.data.packing import Dataset, Split

RESIDENT = 1 << 30
"""Bytes up to which a training split (and its mirror image) is put on the device once; else read as needed."""
SHUFFLE, FLIP = 0, 1  # so that the two never draw the same random numbers


def to_float(images: Tensor) -> Tensor:
    """[N,H,W,C] uint8 to [N,C,H,W] float32 in [-1,1], channels innermost in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """[N,C,H,W] in [-1,1] (what is outside is clamped) to [N,H,W,C] uint8, rounded; undoes `to_float` exactly."""
    scaled = images.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def pictures_of(split: Split, indices: Sequence[int] | np.ndarray, device: torch.device | str) -> Batch:
    """The pictures at `indices`, in that order and as they are."""
    numbers = np.asarray(indices, dtype=np.int64)
    label = None if split.labels is None else torch.from_numpy(split.labels[numbers]).to(device)
    return Batch(to_float(torch.from_numpy(_gathered(split.images, numbers)).to(device)), label)


def _gathered(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """`images[indices]`, read in the order in which they lie on disk."""
    order = np.argsort(indices, kind="stable")
    found = np.empty((len(indices), *images.shape[1:]), images.dtype)
    found[order] = images[indices[order]]
    return found


class Batches:
    """Batch number `step` of an endless shuffled stream: a pure function of (seed, step, rank).

    The stream is one permutation of the training pictures after another. Step `s` takes the `batch_size * processes`
    pictures from position `s * batch_size * processes` on, and each rank its share: two processes together see what
    one with twice the batch sees, mirrored pictures included.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        *,
        flip: bool = False,
        channels_last: bool = True,
        rank: int = 0,
        processes: int = 1,
    ):
        self.split, self.batch_size, self.seed, self.device = dataset.train, batch_size, seed, torch.device(device)
        self.flip, self.channels_last, self.rank, self.processes = flip, channels_last, rank, processes
        self.images: Tensor | None = None
        if self.split.images.nbytes * (2 if flip else 1) <= RESIDENT:
            images = torch.from_numpy(np.array(self.split.images)).to(self.device)
            self.images = torch.cat([images, images.flip(2)]) if flip else images  # mirroring is then only a number
        self._permutations: dict[int, np.ndarray] = {}

    def __getitem__(self, step: int) -> Batch:
        return self._finished(self._read(step))

    def iterate(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for the steps from `start` up to and without `stop`; what must be read is read one ahead."""
        if self.images is not None:
            for step in range(start, stop):
                yield step, self[step]
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, start)
            for step in range(start, stop):
                read = ahead.result()
                if step + 1 < stop:
                    ahead = reader.submit(self._read, step + 1)
                yield step, self._finished(read)

    def indices(self, step: int) -> np.ndarray:
        """[batch_size] int64: which training pictures are in the batch."""
        count = len(self.split)
        first = (step * self.processes + self.rank) * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs = positions // count
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        permutations = {epoch: self._permutation(epoch) for epoch in needed}
        self._permutations = permutations
        return np.concatenate([permutations[epoch][positions[epochs == epoch] % count] for epoch in needed])

    def _permutation(self, epoch: int) -> np.ndarray:
        known = self._permutations.get(epoch)
        if known is not None:
            return known
        return np.random.default_rng((SHUFFLE, self.seed % 2**64, epoch)).permutation(len(self.split))

    def mirrored(self, step: int) -> np.ndarray:
        """[batch_size] bool: which of the batch are shown mirrored left to right."""
        if not self.flip:
            return np.zeros(self.batch_size, bool)
        draws = np.random.default_rng((FLIP, self.seed % 2**64, step)).random(self.batch_size * self.processes)
        return draws[self.rank * self.batch_size : (self.rank + 1) * self.batch_size] < 0.5

    def _read(self, step: int) -> Batch:
        """The batch with `image` still [batch_size,H,W,C] uint8: on the device if the set is, or ready to go."""
        indices, mirrored = self.indices(step), self.mirrored(step)
        labels = self.split.labels
        label = None if labels is None else self._ready(labels[indices])
        if self.images is not None:
            numbers = self._ready(indices + len(self.split) * mirrored).to(self.device, non_blocking=True)
            return Batch(self.images.index_select(0, numbers), label)
        pixels = _gathered(self.split.images, indices)
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        return Batch(self._ready(pixels), label)

    def _ready(self, values: np.ndarray) -> Tensor:
        """As a tensor on the CPU; in pinned memory if a GPU will copy it, so that nothing waits for the copy."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _finished(self, read: Batch) -> Batch:
        image = to_float(read.image.to(self.device, non_blocking=True))
        label = None if read.label is None else read.label.to(self.device, non_blocking=True)
        return Batch(image if self.channels_last else image.contiguous(), label)
