"""Residual generators and discriminators of Gulrajani et al. 2017 (arXiv 1704.00028) and Miyato et al. 2018 (arXiv
1802.05957): pre-activation blocks that double or halve the picture.

Enlarging and then convolving is one transposed convolution with a wider kernel, convolving and then averaging is one
strided convolution: so they are computed, with 16 products where the papers' order takes 36.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, relu

from tasvir.nn.convolutional import NORMS
from tasvir.nn.spectral import spectral

Resampling = Literal["none", "up", "down"]


def widened(kernel: Tensor) -> Tensor:
    """A kernel [O,I,3,3] convolved with a 2×2 square of ones, [O,I,4,4]."""
    rows = nn.functional.pad(kernel, (0, 0, 0, 1)) + nn.functional.pad(kernel, (0, 0, 1, 0))
    return nn.functional.pad(rows, (0, 1)) + nn.functional.pad(rows, (1, 0))


class Convolution(nn.Conv2d):
    """3×3; of maps enlarged twice before by repetition ("up"), or averaged after over squares of 2×2 ("down")."""

    def __init__(self, before: int, after: int, resampling: Resampling = "none", gain: float = 2**0.5):
        super().__init__(before, after, 3, padding=1)
        self.resampling = resampling
        _initialize(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.resampling == "up":
            kernel = widened(self.weight).flip(2, 3).transpose(0, 1)
            return conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
        if self.resampling == "down" and x.shape[2] % 2 == 0:
            return conv2d(x, widened(self.weight) / 4, self.bias, stride=2, padding=1)
        convolved = conv2d(x, self.weight, self.bias, padding=1)
        return avg_pool2d(convolved, 2) if self.resampling == "down" else convolved


class ClassBatchNorm(nn.Module):
    """Batch norm of [B,C,H,W] whose scale and shift [C] are of the class [B] (Dumoulin et al., arXiv 1610.07629)."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = (values[label][:, :, None, None].to(x.dtype) for values in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(x), scale)


class UpBlock(nn.Module):
    """[B,before,H,W] → [B,after,2H,2W]; batch norm of the class, where there are classes."""

    def __init__(self, before: int, after: int, classes: int = 0):
        super().__init__()
        self.classes = classes
        self.first_norm, self.second_norm = (
            ClassBatchNorm(width, classes) if classes else nn.BatchNorm2d(width) for width in (before, after)
        )
        self.first = Convolution(before, after, "up")
        self.second = Convolution(after, after)
        self.shortcut = _initialize(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        told = (label,) if self.classes else ()
        inner = relu(self.second_norm(self.first(relu(self.first_norm(x, *told))), *told))
        # a 1×1 convolution gives the same before repetition as after, on a quarter of the pixels
        return self.second(inner) + interpolate(self.shortcut(x), scale_factor=2, mode="nearest")


class DownBlock(nn.Module):
    """[B,before,H,W] → [B,after,H/2,W/2], or of the same size; the first block starts without an activation."""

    def __init__(self, before: int, after: int, down: bool = True, sees_picture: bool = False, norm: str = "none"):
        super().__init__()
        between = after if sees_picture else before
        wrap = spectral if norm == "spectral" else _same
        make = NORMS["layer" if norm == "layer" else "none"]
        self.down, self.sees_picture = down, sees_picture
        self.first_norm = nn.Identity() if sees_picture else make(before)
        self.second_norm = make(between)
        self.first = wrap(Convolution(before, between))
        self.second = wrap(Convolution(between, after, "down" if down else "none"))
        changes = down or before != after
        self.shortcut = wrap(_initialize(nn.Conv2d(before, after, 1))) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.sees_picture else relu(self.first_norm(x))
        inner = self.second(relu(self.second_norm(self.first(inner))))
        return inner + self.shortcut(avg_pool2d(x, 2) if self.down else x)


class ResidualGenerator(nn.Module):
    """Latents [B,D], and classes [B] where there are any, to pictures [B,C,S,S] in [-1,1]; a block doubles the size."""

    def __init__(self, latent: int, widths: list[int], smallest: int, channels: int, classes: int = 0):
        """`widths` are the channels of the smallest maps and after each block."""
        super().__init__()
        self.shape = (widths[0], smallest, smallest)
        self.dense = _initialize(nn.Linear(latent, widths[0] * smallest**2))
        self.blocks = nn.ModuleList(UpBlock(before, after, classes) for before, after in pairwise(widths))
        self.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), Convolution(widths[-1], channels, gain=1.0))

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.dense(latent).unflatten(1, self.shape)
        for block in self.blocks:
            x = block(x, label)
        return self.last(x).tanh()


class ResidualDiscriminator(nn.Module):
    """Pictures [B,C,S,S], and classes [B] where there are any, to scores [B].

    ψ(φ(x)), and with classes ⟨V_y, φ(x)⟩ besides: a projection discriminator (Miyato and Koyama 2018, arXiv
    1802.05637), φ(x) being the last maps, summed or averaged over pixels.
    """

    def __init__(
        self,
        channels: int,
        blocks: list[tuple[int, bool]],
        norm: str = "spectral",
        pooling: Literal["sum", "mean"] = "sum",
        classes: int = 0,
    ):
        """`blocks`: channels after each, and whether it halves the size; `norm`: spectral, layer or none."""
        super().__init__()
        self.pooling = pooling
        widths = [channels, *(width for width, _ in blocks)]
        self.blocks = nn.Sequential(
            *(
                DownBlock(before, after, down, sees_picture=position == 0, norm=norm)
                for position, (before, (after, down)) in enumerate(zip(widths, blocks, strict=False))
            )
        )
        wrap = spectral if norm == "spectral" else _same
        self.score = wrap(_initialize(nn.Linear(widths[-1], 1)))
        self.projection = wrap(_initialize(nn.Embedding(classes, widths[-1]))) if classes else None

    def features(self, image: Tensor) -> Tensor:
        """φ(x), [B,D] float32."""
        maps = relu(self.blocks(image)).float().flatten(2)
        return maps.sum(2) if self.pooling == "sum" else maps.mean(2)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        features = self.features(image)
        score = self.score(features).flatten()
        if self.projection is None or label is None:
            return score
        return score + (self.projection(label) * features).sum(1)


def _initialize(layer, gain: float = 1.0):  # type: ignore[no-untyped-def]
    """Glorot's uniform weights, and no bias, as in both papers' code."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _same(layer: nn.Module) -> nn.Module:
    return layer
