"""Augmentation in whole batches on the device: every decision is a pure function of (seed, step).

A batch is enlarged and cut, mirrored, shifted; then its colours change, and a square of it is painted over. What moves
pixels works on 8 bits and channels innermost, before they become floats, because that is several times cheaper.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasvir.data.derive import masked, sent

FLIP, TRANSLATE, JITTER, CUTOUT, COLOR = 1, 2, 3, 4, 5
"""Streams of random numbers, so that turning one kind on leaves the others as they were; 0 and 6 belong to others."""

INTERPOLATE_BYTES = ("cpu",)
"""Kinds of device on which torch interpolates 8 bits as they are; elsewhere a value may differ by a level or two."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a picture while training; by default nothing."""

    flip: bool = False
    """Half of the pictures are mirrored left to right."""
    translate: float = 0.0
    """Largest shift each way, down and across by themselves, as a part of the size; edge pixels are repeated."""
    jitter: int | None = None
    """Enlarged to this height and width (bicubic), then a random square of the old size is cut out (pix2pix: 286)."""
    cutout: float = 0.0
    """Side of a square set to mid grey as a part of the size; it may hang over the border (DeVries & Taylor 2017)."""
    color: float = 0.0
    """Strength of changes in brightness, saturation and contrast."""

    @property
    def moves(self) -> bool:
        """Whether `geometry` has anything to do."""
        return self.flip or self.translate > 0 or self.jitter is not None

    @property
    def paints(self) -> bool:
        """Whether `appearance` has anything to do."""
        return self.cutout > 0 or self.color > 0

    @property
    def beyond_flip(self) -> bool:
        """Whether anything but mirroring is on."""
        return self.paints or replace(self, flip=False).moves


@dataclass(frozen=True)
class Draws:
    """The decisions for a batch; for what is off, those that change nothing."""

    places: Tensor
    """[B,8] int64: mirrored (0 or 1); shift down, right; top, left of the cut; top, left, side of the grey square."""
    colors: Tensor
    """[B,3] float32: what is added to the values, and the factors of saturation and of contrast."""

    def to(self, device: torch.device | str) -> "Draws":
        """The same on another device; nothing waits for the copies."""
        device = torch.device(device)
        return Draws(sent(self.places, device), sent(self.colors, device))

    @property
    def mirrored(self) -> Tensor:
        return self.places[:, 0]

    @property
    def shift(self) -> Tensor:
        return self.places[:, 1:3]

    @property
    def corner(self) -> Tensor:
        return self.places[:, 3:5]

    @property
    def hole(self) -> Tensor:
        return self.places[:, 5:8]


def draw(
    augmentation: Augmentation,
    size: int,
    seed: int,
    step: int,
    batch_size: int,
    rank: int = 0,
    processes: int = 1,
) -> Draws:
    """The decisions for the `batch_size` pictures that are the share of `rank`, on the CPU.

    They are drawn for all processes together, so that two see what one with twice the batch sees.
    """
    count = batch_size * processes
    places = np.zeros((count, 8), np.int64)
    colors = np.tile(np.array([0, 1, 1], np.float32), (count, 1))

    def stream(kind: int) -> np.random.Generator:
        return np.random.default_rng((kind, seed % 2**64, step))

    if augmentation.flip:
        places[:, 0] = stream(FLIP).random(count) < 0.5
    if furthest := reach(augmentation, size):
        places[:, 1:3] = stream(TRANSLATE).integers(-furthest, furthest + 1, (count, 2))
    if augmentation.jitter is not None:
        places[:, 3:5] = stream(JITTER).integers(0, augmentation.jitter - size + 1, (count, 2))
    if side := round(augmentation.cutout * size):
        places[:, 5:7] = stream(CUTOUT).integers(0, size, (count, 2)) - side // 2
        places[:, 7] = side
    if augmentation.color:
        colors += augmentation.color * stream(COLOR).uniform(-1, 1, (count, 3)).astype(np.float32)
    share = slice(rank * batch_size, (rank + 1) * batch_size)
    return Draws(torch.from_numpy(places[share]), torch.from_numpy(colors[share]))


def reach(augmentation: Augmentation, size: int) -> int:
    """The largest shift, in pixels."""
    return round(augmentation.translate * size)


@torch.no_grad()
def apply(
    augmentation: Augmentation, draws: Draws, image: Tensor, source: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Pictures and their sources (None where there are none), [B,C,H,W] float in [-1,1], changed alike.

    The two may differ in channels, not in size; memory layout and device stay. Where the pictures are still 8 bits,
    `geometry`, and `appearance` once they are floats, do the same at less cost.
    """

    def changed(pictures: Tensor) -> Tensor:
        if augmentation.moves:
            moved = geometry(augmentation, draws, pictures.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            pictures = moved.contiguous() if pictures.is_contiguous() else moved
        return appearance(augmentation, draws, pictures)

    return changed(image), None if source is None else changed(source)


@torch.no_grad()
def geometry(augmentation: Augmentation, draws: Draws, pixels: Tensor) -> Tensor:
    """[B,H,W,C] uint8, or float in [-1,1], to the same: enlarged and cut, mirrored, then shifted.

    Give a picture and its source the same draws. Without `moves`, `pixels` itself.
    """
    draws = draws.to(pixels.device)
    count, size = pixels.shape[:2]
    first = torch.arange(count, device=pixels.device)[:, None]
    offset = torch.arange(size, device=pixels.device)
    if augmentation.jitter is not None:
        top, left = draws.corner[:, :1], draws.corner[:, 1:]
        pixels = _windows(
            _enlarged(pixels, augmentation.jitter), first * augmentation.jitter + top + offset, left, size
        )
    furthest = reach(augmentation, size)
    if furthest:
        before, after = pixels[:, :, :1], pixels[:, :, -1:]
        pixels = torch.cat([before.repeat(1, 1, furthest, 1), pixels, after.repeat(1, 1, furthest, 1)], 2)
    if augmentation.flip:
        pixels = torch.cat([pixels, pixels.flip(2)])  # a mirrored picture is then only another row number
        first = first + count * draws.mirrored[:, None]
    if furthest or augmentation.flip:
        down, right = draws.shift[:, :1], draws.shift[:, 1:]
        pixels = _windows(pixels, first * size + (offset - down).clamp(0, size - 1), furthest - right, size)
    return pixels


def _windows(pixels: Tensor, rows: Tensor, left: Tensor, size: int) -> Tensor:
    """[B,size,size,C]: from rows number [B,size] of [N,H,W,C], the `size` pixels that begin at `left` [B,1].

    Each row is copied as one piece, by counting every run of `size` pixels, wherever it begins, as a row of a table.
    """
    flat = pixels.reshape(-1)
    width, channels = pixels.shape[2:]
    table = flat.as_strided((flat.numel() // channels - size + 1, size * channels), (channels, 1))
    return table.index_select(0, (rows * width + left).flatten()).view(-1, size, size, channels)


def _enlarged(pixels: Tensor, size: int) -> Tensor:
    """[B,H,W,C] to [B,size,size,C] by cubic convolution with a = -0.5, as Pillow's BICUBIC."""
    image = pixels.permute(0, 3, 1, 2)
    if pixels.dtype != torch.uint8:
        larger = _bicubic(image, size, size).clamp_(-1, 1)
    elif pixels.device.type in INTERPOLATE_BYTES:
        larger = _bicubic(image, size, size)
    else:  # 8 bits between the passes, too, as there
        wider = _bicubic(image.float(), image.shape[2], size).round_().clamp_(0, 255)
        larger = _bicubic(wider, size, size).round_().clamp_(0, 255).to(torch.uint8)
    return larger.permute(0, 2, 3, 1).contiguous()


def _bicubic(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiasing changes nothing where pictures grow, except that torch's a is -0.75 without it."""
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True)


@torch.no_grad()
def appearance(augmentation: Augmentation, draws: Draws, image: Tensor) -> Tensor:
    """[B,C,H,W] float in [-1,1] to the same: other colours, then a square set to 0; without `paints`, `image` itself.

    Values are shifted by b, uniform in ±s; moved away from or towards each pixel's mean over the channels by a factor
    in 1±s (saturation, which does nothing to one channel), and then from or towards the picture's mean by another
    (contrast); then clamped. s is `augmentation.color`. Order and means are DiffAugment's (Zhao et al. 2020).
    """
    draws = draws.to(image.device)
    if augmentation.color:
        image = _colored(image, draws.colors)
    if augmentation.cutout:
        image = masked(image, draws.hole)
    return image


def _colored(image: Tensor, colors: Tensor) -> Tensor:
    """The three changes are linear in the pixel, its mean and the picture's mean, and are made as one."""
    shift, saturation, contrast = colors[:, :, None, None].unbind(1)
    planes = image.unbind(1)
    rest = image.mean((1, 2, 3))[:, None, None] * (1 - contrast) + shift
    if len(planes) > 1:
        rest = torch.addcmul(rest, sum(planes[1:], planes[0]), contrast * (1 - saturation) / len(planes))
        contrast = contrast * saturation
    changed = torch.empty_like(image)
    for plane, into in zip(planes, changed.unbind(1), strict=True):
        torch.addcmul(rest, plane, contrast, out=into)
    return changed.clamp_(-1, 1)
