"""Batches from a packed set: an endless shuffled stream, each batch a pure function of (seed, step, rank)."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasvir.config import DataConfig
from tasvir.core import Batch
from tasvir.data import augment, binarizing, derive
from tasvir.data.augment import Augmentation
from tasvir.data.packing import Dataset, Split

RESIDENT = 1 << 30
"""Bytes up to which a training split (and its mirror image) is put on the device once; else read as needed."""
LARGE = 1 << 16
"""Values of a picture from which it is worth a copy of its own."""
BLOCK = 256
"""Pictures that are copied at a time."""
SHUFFLE, SHUFFLE_SOURCES, SHUFFLE_LABELLED, LABELLED = 0, 7, 8, 9
"""Streams of random numbers; 1 to 6, 11 and 12 belong to augmentation and derivation."""
OTHER_SEED = 0x9E3779B97F4A7C15
"""What is added to the seed for the sources of unmatched sets, so that they are augmented on their own; twice for the
pictures that keep their class."""


def to_float(images: Tensor) -> Tensor:
    """[N,H,W,C] uint8 to [N,C,H,W] float32 in [-1,1], channels innermost in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """[N,C,H,W] in [-1,1] (what is outside is clamped) to [N,H,W,C] uint8, rounded; undoes `to_float` exactly."""
    scaled = images.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def augmentation(settings: DataConfig) -> Augmentation:
    """What the settings ask to happen to pictures while training."""
    return Augmentation(settings.flip, settings.translate, settings.jitter, settings.cutout, settings.color_jitter)


def pictures_of(
    dataset: Dataset, split: Split, indices: Sequence[int] | np.ndarray, device: torch.device | str
) -> Batch:
    """The pictures of a split at `indices`, in that order and as they are, with their sources.

    Of unmatched sources, those at the same places stand beside them, from the first again where there are fewer.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    label = None if split.labels is None else torch.from_numpy(split.labels[numbers]).to(device)
    image = to_float(torch.from_numpy(_gathered(split.images, numbers)).to(device))
    source = None
    if split.sources is not None:
        beside = numbers % len(split.sources)
        source = to_float(torch.from_numpy(_gathered(split.sources, beside)).to(device))
    elif _is_derived(dataset.settings):
        drawn = derive.held_out(dataset.settings, image.shape, numbers.tolist())
        source = derive.derived(dataset.settings, image, drawn)
    return Batch(image, label, source)


def labelled_places(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Which of the pictures with these classes [N] keep theirs, ascending: `number` of them, or all if there are fewer.

    Every class has as many as any other, or all that there are of it, and one more or less where that must be.
    """
    order = np.random.default_rng((LABELLED, seed)).permutation(len(labels))
    own = labels[order]
    turn = np.empty(len(own), np.int64)  # each picture's place among those of its class
    for one in np.unique(own):
        members = np.flatnonzero(own == one)
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn, kind="stable")[:number]])


def _is_derived(settings: DataConfig) -> bool:
    """Whether sources are made in batches."""
    return settings.derive != "none" and not derive.DERIVATIONS[settings.derive].packed


def _gathered(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """`images[indices]`, read in the order in which they lie on disk."""
    order = np.argsort(indices, kind="stable")
    found = np.empty((len(indices), *images.shape[1:]), images.dtype)
    found[order] = images[indices[order]]
    return found


def _resident(images: np.ndarray, device: torch.device, mirrored: bool = False) -> Tensor:
    """All pictures on the device, and behind them all mirrored ones if asked: mirroring is then only a number."""
    count = len(images)
    found = torch.empty((2 * count if mirrored else count, *images.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, count, BLOCK):
        block = torch.from_numpy(np.array(images[start : start + BLOCK])).to(device)
        found[start : start + len(block)] = block
        if mirrored:
            found[count + start : count + start + len(block)] = block.flip(2)
    return found


def _picked(images: Tensor, numbers: np.ndarray) -> Tensor:
    """The same as gathering and then `to_float`, with one pass less over memory: 1.4 times faster if they are large."""
    found = torch.empty((len(numbers), *images.shape[1:]))
    for into, number in zip(found, numbers.tolist(), strict=True):
        into.copy_(images[number])
    return found.div_(127.5).sub_(1).permute(0, 3, 1, 2)


def stream(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    *,
    channels_last: bool = True,
    rank: int = 0,
    processes: int = 1,
    say: Callable[[str], None] | None = None,
) -> "Batches | FromShards":
    """The batches of a set, from its pack or from shards; `say` is told what goes wrong on the way."""
    if dataset.stream is None:
        return Batches(dataset, batch_size, seed, device, channels_last=channels_last, rank=rank, processes=processes)
    return FromShards(dataset, batch_size, seed, device, channels_last, rank, processes, say)


@dataclass
class FromShards:
    """Like `Batches`, for sets that are read from shards as training goes.

    Where sources and pictures are to be two sets, sources are still made of the pictures beside them.
    """

    dataset: Dataset
    batch_size: int
    seed: int
    device: torch.device | str
    channels_last: bool
    rank: int
    processes: int
    say: Callable[[str], None] | None

    def iterate(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for the steps from `start` up to and without `stop`."""
        from tasvir.data.streams import Stream

        assert self.dataset.stream is not None
        changes, settings = augmentation(self.dataset.settings), self.dataset.settings
        size, share = self.dataset.pictures.size, (self.batch_size, self.rank, self.processes)
        shards = Stream(
            self.dataset.stream,
            self.batch_size,
            self.seed,
            self.device,
            channels_last=self.channels_last,
            rank=self.rank,
            processes=self.processes,
            say=self.say,
        )
        for step, batch in shards.iterate(start, stop):
            if changes.moves or changes.paints:
                draws = augment.draw(changes, size, self.seed, step, *share)
                batch.image, _ = augment.apply(changes, draws, batch.image)
            if _is_derived(settings):
                drawn = derive.draws(settings, batch.image.shape, self.seed, step, self.rank, self.processes)
                batch.source = derive.derived(settings, batch.image, drawn)
            yield step, batch


@dataclass
class _Read:
    """A batch on its way, still of 8 bits: on the device if the set is, or ready to go."""

    pixels: Tensor
    """[batch_size,H,W,C] uint8; or already [batch_size,C,H,W] float in [-1,1], where nothing moves them."""
    label: Tensor | None
    source: Tensor | None
    """The same; of unmatched sets whose sources are made in batches, the pictures that they are made of."""
    labelled: tuple[Tensor, Tensor] | None = None
    """8-bit pictures [batch_size,H,W,C] that keep their class, and that."""


class Batches:
    """Batch number `step` of an endless shuffled stream: a pure function of (seed, step, rank).

    The stream is one permutation of the training pictures after another. Step `s` takes the `batch_size * processes`
    pictures from position `s * batch_size * processes` on, and each rank its share: two processes together see what
    one with twice the batch sees, augmentation and dynamic binarization included. Sources of unmatched sets have a
    stream of their own, also those that are made of pictures, and so have the pictures that keep their class where
    only some do.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        *,
        channels_last: bool = True,
        rank: int = 0,
        processes: int = 1,
    ):
        self.split, self.batch_size, self.seed, self.device = dataset.train, batch_size, seed, torch.device(device)
        self.settings, self.matched = dataset.settings, dataset.pictures.matched
        self.channels_last, self.rank, self.processes = channels_last, rank, processes
        self.augmentation = augmentation(dataset.settings)
        self.size = dataset.pictures.size
        sources = self.split.sources
        self.shown = self.split.images if self.split.grey is None else self.split.grey
        self.images: Tensor | None = None
        self.sources: Tensor | None = None
        only_flip = self.augmentation.flip and not self.augmentation.beyond_flip and sources is None
        needed = self.shown.nbytes * (2 if only_flip else 1) + (0 if sources is None else sources.nbytes)
        if needed <= RESIDENT:
            self.images = _resident(self.shown, self.device, mirrored=only_flip)
            self.sources = None if sources is None else _resident(sources, self.device)
        self.only_flip = only_flip and self.images is not None
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        self.labelled: np.ndarray | None = None
        """[L] int64: which training pictures keep their class, where only some do."""
        if self.settings.labelled is not None and self.split.labels is not None:
            self.labelled = labelled_places(self.split.labels, self.settings.labelled, self.settings.choice_seed)

    def __getitem__(self, step: int) -> Batch:
        return self._finished(self._read(step), step)

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
                yield step, self._finished(read, step)

    def indices(self, step: int) -> np.ndarray:
        """[batch_size] int64: which training pictures are in the batch."""
        return self._shuffled(step, len(self.split), SHUFFLE)

    def source_indices(self, step: int) -> np.ndarray:
        """[batch_size] int64: which sources are in the batch; where these are made of pictures, of which."""
        if self.matched:
            return self.indices(step)
        stored = self.split.sources
        return self._shuffled(step, len(self.split if stored is None else stored), SHUFFLE_SOURCES)

    def labelled_indices(self, step: int) -> np.ndarray:
        """[batch_size] int64: which of the training pictures that keep their class stand beside the batch."""
        assert self.labelled is not None
        return self.labelled[self._shuffled(step, len(self.labelled), SHUFFLE_LABELLED)]

    def _shuffled(self, step: int, count: int, stream: int) -> np.ndarray:
        first = (step * self.processes + self.rank) * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs = positions // count
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        permutations = {(stream, epoch): self._permutation(stream, epoch, count) for epoch in needed}
        kept = {key: order for key, order in self._permutations.items() if key[0] != stream}
        self._permutations = {**kept, **permutations}
        return np.concatenate([permutations[stream, epoch][positions[epochs == epoch] % count] for epoch in needed])

    def _permutation(self, stream: int, epoch: int, count: int) -> np.ndarray:
        known = self._permutations.get((stream, epoch))
        if known is not None:
            return known
        return np.random.default_rng((stream, self.seed % 2**64, epoch)).permutation(count)

    def draws(self, step: int, seed: int | None = None) -> augment.Draws:
        """What happens to each picture of the batch."""
        seed = self.seed if seed is None else seed
        return augment.draw(self.augmentation, self.size, seed, step, self.batch_size, self.rank, self.processes)

    def _read(self, step: int) -> _Read:
        numbers = self.indices(step)
        labels = self.split.labels
        label, known = None, None
        if labels is not None and self.labelled is None:
            label = self._ready(labels[numbers])
        elif labels is not None:
            few = self.labelled_indices(step)
            known = self._ready(_gathered(self.shown, few)), self._ready(labels[few])
        apart = not self.matched and _is_derived(self.settings)
        if self.images is None:
            source = self.shown if apart else self.split.sources
            pixels = self._ready(_gathered(self.shown, numbers))
            beside = None if source is None else self._ready(_gathered(source, self.source_indices(step)))
            return _Read(pixels, label, beside, known)
        if self.only_flip:
            numbers = numbers + len(self.split) * self.draws(step).mirrored.numpy()
        still = (self.only_flip or not self.augmentation.moves) and self.split.grey is None
        if still and self.device.type == "cpu" and self.images[0].numel() >= LARGE:
            pixels = _picked(self.images, numbers)
        else:
            pixels = self.images.index_select(0, self._there(numbers))
        beside = None
        if self.sources is not None:
            beside = self.sources.index_select(0, self._there(self.source_indices(step)))
        elif apart:
            others = self.source_indices(step)
            if self.only_flip:
                others = others + len(self.split) * self.draws(step, self.seed + OTHER_SEED).mirrored.numpy()
            beside = self.images.index_select(0, self._there(others))
        return _Read(pixels, label, beside, known)

    def _ready(self, values: np.ndarray) -> Tensor:
        """As a tensor on the CPU; in pinned memory if a GPU will copy it, so that nothing waits for the copy."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _there(self, values: np.ndarray) -> Tensor:
        return self._ready(values).to(self.device, non_blocking=True)

    def _finished(self, read: _Read, step: int) -> Batch:
        """On the device, augmented, as floats, with the source that is made of the picture."""
        draws = None
        if self.augmentation.paints or (self.augmentation.moves and not self.only_flip):
            draws = self.draws(step).to(self.device)
        chances = None
        if self.split.grey is not None:
            chances = binarizing.draws(read.pixels.shape[1:], self.seed, step, self.batch_size, self.rank)
        image = self._floats(read.pixels, draws, chances)
        source = None
        if read.source is not None:
            if draws is not None and not self.matched:
                draws = self.draws(step, self.seed + OTHER_SEED).to(self.device)
            source = self._floats(read.source, draws)
        if _is_derived(self.settings):
            drawn = derive.draws(self.settings, image.shape, self.seed, step, self.rank, self.processes)
            source = derive.derived(self.settings, image if source is None else source, drawn)
        label = None if read.label is None else read.label.to(self.device, non_blocking=True)
        prepared = None
        if self.split.prepared is not None:
            values = _gathered(self.split.prepared, self.indices(step))
            prepared = self._there(values if values.dtype.kind == "f" else values.astype(np.int64))
        known = None if read.labelled is None else self._known(*read.labelled, step)
        return Batch(image, label, source, prepared, known)

    def _known(self, pixels: Tensor, label: Tensor, step: int) -> Batch:
        """Pictures that keep their class, augmented and binarized on their own."""
        seed, draws, chances = self.seed + 2 * OTHER_SEED, None, None
        if self.augmentation.paints or self.augmentation.moves:
            draws = self.draws(step, seed).to(self.device)
        if draws is not None and self.only_flip:  # the others were mirrored as they were gathered
            pixels = augment.geometry(self.augmentation, draws, pixels.to(self.device, non_blocking=True))
        if self.split.grey is not None:
            chances = binarizing.draws(pixels.shape[1:], seed, step, self.batch_size, self.rank)
        return Batch(self._floats(pixels, draws, chances), label.to(self.device, non_blocking=True))

    def _floats(self, pixels: Tensor, draws: augment.Draws | None, chances: Tensor | None = None) -> Tensor:
        """[B,H,W,C] uint8 to [B,C,H,W] in [-1,1], augmented if there are draws, binarized if there are chances."""
        pixels = pixels.to(self.device, non_blocking=True)
        if draws is not None and self.augmentation.moves and not self.only_flip:
            pixels = augment.geometry(self.augmentation, draws, pixels)
        if chances is not None:
            image = binarizing.drawn(pixels, chances)
        else:
            image = to_float(pixels) if pixels.dtype == torch.uint8 else pixels
        if draws is not None:
            image = augment.appearance(self.augmentation, draws, image)
        return image if self.channels_last else image.contiguous()
