"""The U-Net of diffusion models (Ho et al. 2020, arXiv 2006.11239, appendix B), for pictures of any size."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from tasvir.config import Count, CountOrZero, Range, Refused
from tasvir.nn.norms import GroupNorm


@dataclass(frozen=True)
class UNetConfig:
    width: Count = 128
    """Channels at the pictures' own size."""
    multipliers: tuple[Count, ...] = (1, 2, 2, 2)
    """Of the width, at each size; each size is half of the one before."""
    blocks: Count = 2
    """Residual blocks at each size on the way in; on the way out there is one more."""
    attention: tuple[int, ...] = (16,)
    """Sizes in px at which blocks have attention; the middle always has it."""
    heads: CountOrZero = 1
    """Of attention; 0 takes heads of 64 channels."""
    dropout: Annotated[float, Range(low=0.0, high=0.99)] = 0.1
    told: Literal["added", "scale-shift"] = "added"
    """How blocks are told noise level and class: added between the convolutions, or as scale and shift of the second
    norm (Nichol and Dhariwal 2021)."""
    patch: Literal[1, 2, 4, 8] = 1
    """Squares of so many px become channels first, and channels squares again at the end: less work, less detail."""


class DenoisingUNet(nn.Module):
    """[B,inputs,H,W], a number from 0 to 1000 or so [B], and classes [B] → [B,outputs,H,W] float32.

    Class `classes` means none is told. `conditions` [B,conditions] are any further numbers, 0 meaning nothing.
    """

    def __init__(self, config: UNetConfig, channels: int, size: int, classes: int = 0, conditions: int = 0):
        super().__init__()
        self.patch = config.patch
        if size % config.patch:
            raise Refused(
                f"Pictures of {size} px cannot be divided into squares of {config.patch} px: set --data.size, or "
                "--model.network.patch 1."
            )
        self.waves = Waves(config.width)
        known = 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, known), nn.SiLU(), nn.Linear(known, known))
        self.label = nn.Embedding(classes + 1, known) if classes else None
        self.condition = nn.Linear(conditions, known, bias=False) if conditions else None
        outer = channels * config.patch**2
        size //= config.patch
        widths = [config.width * multiplier for multiplier in config.multipliers]

        def block(before: int, after: int, size: int) -> nn.Module:
            return Block(before, after, known, config, attends=size in config.attention)

        self.first = nn.Conv2d(outer, config.width, 3, padding=1)
        self.down, kept, before = nn.ModuleList(), [config.width], config.width
        sizes = []
        for level, width in enumerate(widths):
            sizes.append(size)
            for _ in range(config.blocks):
                self.down.append(block(before, width, size))
                before = width
                kept.append(before)
            if level < len(widths) - 1:
                self.down.append(Halve(before))
                kept.append(before)
                size = (size + 1) // 2
        self.middle = nn.ModuleList(
            [Block(before, before, known, config, attends=True), Block(before, before, known, config)]
        )
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(before + kept.pop(), width, sizes[level]))
                before = width
            if level:
                self.up.append(Double(before))
        self.norm = GroupNorm(groups(before), before, active=True)
        self.last = zeroed(nn.Conv2d(before, outer, 3, padding=1))

    def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None, conditions: Tensor | None = None) -> Tensor:
        known = self.time(self.waves(told))
        if self.label is not None:
            nothing = torch.full_like(told, self.label.num_embeddings - 1, dtype=torch.int64)
            known = known + self.label(nothing if label is None else label)
        if self.condition is not None and conditions is not None:
            known = known + self.condition(conditions)
        known = silu(known)
        x = self.first(pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        kept = [x]
        for layer in self.down:
            x = layer(x, known)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, known)
        for layer in self.up:
            x = (
                layer(x, kept[-1].shape[-2:])
                if isinstance(layer, Double)
                else layer(torch.cat([x, kept.pop()], 1), known)
            )
        x = self.last(self.norm(x))
        return (pixel_shuffle(x, self.patch) if self.patch > 1 else x).float()


class Waves(nn.Module):
    """Numbers [B] as sines and cosines of geometrically falling frequencies, 1 to 1e-4, [B,width] float32."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        half = max(1, (width + 1) // 2)
        self.width = width
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        angles = numbers.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)[:, : self.width]


class Block(nn.Module):
    """[B,before,H,W] and what is known [B,K] → [B,after,H,W]: a residual block, with attention behind it if asked."""

    def __init__(self, before: int, after: int, known: int, config: UNetConfig, attends: bool = False):
        super().__init__()
        self.scales = config.told == "scale-shift"
        self.norms = nn.ModuleList([GroupNorm(groups(channels), channels, active=True) for channels in (before, after)])
        self.convolution = nn.Conv2d(before, after, 3, padding=1)
        self.told = nn.Linear(known, 2 * after if self.scales else after)
        self.dropout = nn.Dropout(config.dropout)
        self.second = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.attention = Attention(after, config.heads) if attends else None

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        told = self.told(known)
        made = self.convolution(self.norms[0](x))
        if self.scales:
            scale, shift = told.chunk(2, 1)
            made = self.norms[1](made, scale=1 + scale, shift=shift)
        else:
            made = self.norms[1](made, added=told)
        x = self.skip(x) + self.second(self.dropout(made))
        return x if self.attention is None else self.attention(x)


class Attention(nn.Module):
    """[B,C,H,W] to the same: every place looks at every other."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads or max(1, channels // 64)
        if channels % self.heads:
            raise Refused(f"{channels} channels cannot be divided among {self.heads} heads of attention.")
        self.norm = GroupNorm(groups(channels), channels)
        self.inputs = nn.Conv2d(channels, 3 * channels, 1)
        self.output = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        parts = self.inputs(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        seen = attended(*parts)  # [B,heads,H·W,C/heads]
        return x + self.output(seen.transpose(-1, -2).flatten(1, 2).unflatten(2, size))


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query·keyᵀ / √D)·value of [B,heads,N,D], by the fastest of torch's kernels.

    On a CPU, in bfloat16, matrix products over all places at once take half the time of the kernel that goes through
    them in parts, as long as the places are few; the products accumulate in float32, as those of convolutions do.
    """
    few = query.shape[-2] <= 1024
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or not few or torch.compiler.is_compiling():
        return scaled_dot_product_attention(query, key, value)
    settings = torch.backends.cuda
    before = settings.fp16_bf16_reduction_math_sdp_allowed()
    settings.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(query, key, value)
    finally:
        settings.allow_fp16_bf16_reduction_math_sdp(before)


class Halve(nn.Conv2d):
    """[B,C,H,W] → [B,C,⌈H/2⌉,⌈W/2⌉]."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Double(nn.Conv2d):
    """[B,C,h,w] → [B,C,H,W]: the nearest pixel, then a convolution; H and W are those of what was halved."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:  # type: ignore[override]
        return super().forward(interpolate(x, size=tuple(size), mode="nearest"))


def groups(channels: int) -> int:
    """The paper's 32 groups of channels, fewer where each would have less than 4."""
    return math.gcd(32, max(1, channels // 4)) if channels < 128 else math.gcd(32, channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of 0, so that what it is added to passes unchanged at first."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
