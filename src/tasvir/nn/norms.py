"""Group norm (Wu and He 2018, arXiv 1803.08494) with what stands around it in residual blocks, in either layout."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu


class GroupNorm(nn.GroupNorm):
    """[B,C,H,W] to the same: torch's group norm, with the same weights, and SiLU behind it if `active`.

    `added` [B,C] is added to x before it; the normed x is then multiplied by `scale` [B,C], and `shift` [B,C] added.
    On a CPU torch's own is slow where channels are innermost; there `Fused` stands in, and keeps them so.
    """

    def __init__(self, groups: int, channels: int, active: bool = False):
        super().__init__(groups, channels)
        self.active = active

    def forward(
        self, x: Tensor, added: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        if fuses(x):
            weight, bias = (value.expand(len(x), -1) for value in (self.weight, self.bias))
            if scale is not None:
                weight, bias = weight * scale, bias * scale
            bias = bias if shift is None else bias + shift
            return Fused.apply(x, weight, bias, added, self.num_groups, self.eps, self.active)
        x = super().forward(x if added is None else x + added[:, :, None, None])
        x = x if scale is None else x * scale[:, :, None, None]
        x = x if shift is None else x + shift[:, :, None, None]
        return silu(x) if self.active else x


def fuses(x: Tensor) -> bool:
    """Whether `Fused` is the faster one: on a CPU, with channels innermost, not compiled."""
    innermost = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return x.device.type == "cpu" and innermost and not torch.compiler.is_compiling()


class Fused(torch.autograd.Function):
    """Group norm of x + added, with a weight and bias for each picture and channel, and SiLU, for channels innermost.

    Some pictures at a time, so that what is between x and the result, in float32, stays in the processor's cache.
    Only x is kept for the gradient. x is centred before it is squared, so that a mean far from 0 costs no precision.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, groups: int, eps: float, active: bool
    ) -> Tensor:
        rows = by_rows(x)
        batch, places, channels = rows.shape
        kind = torch.promote_types(x.dtype, torch.float32)
        weight, bias = weight.to(kind), bias.to(kind)
        added = None if added is None else added.to(kind)
        made = torch.empty_like(rows)
        total, center, spread = (torch.empty(batch, channels, dtype=kind) for _ in range(3))
        slope = torch.empty(batch, 1, channels, dtype=kind)
        spaces = [torch.empty(pieces(rows)[0].stop, places, channels, dtype=kind) for _ in range(2)]
        for piece in pieces(rows):
            wide, other = (space[: piece.stop - piece.start] for space in spaces)
            wide.copy_(rows[piece])
            sums = wide.sum(1)
            shifted = sums if added is None else sums + places * added[piece]
            mean = over_groups(shifted, groups) / places
            center[piece] = mean if added is None else mean - added[piece]
            total[piece] = sums - places * center[piece]
            wide.sub_(center[piece, None])
            squares = torch.mul(wide, wide, out=other).sum(1)
            spread[piece] = (over_groups(squares, groups) / places + eps).rsqrt()
            slope[piece, 0] = spread[piece] * weight[piece]
            torch.addcmul(bias[piece, None], wide, slope[piece], out=other)
            made[piece].copy_(torch.ops.aten.silu.out(other, out=wide) if active else other)
        ctx.save_for_backward(rows, weight, bias, total, center, spread, slope)
        ctx.size, ctx.groups, ctx.active, ctx.told = x.shape[2:], groups, active, added is not None
        return by_channels(made, ctx.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, total, center, spread, slope = ctx.saved_tensors
        _, places, channels = rows.shape
        given = by_rows(gradient)
        of_x = torch.empty_like(rows)
        of_weight, of_bias, of_added = (torch.empty_like(total) for _ in range(3))
        spaces = [torch.empty(pieces(rows)[0].stop, places, channels, dtype=total.dtype) for _ in range(3)]
        for piece in pieces(rows):
            wide, of_normed, other = (space[: piece.stop - piece.start] for space in spaces)
            wide.copy_(rows[piece]).sub_(center[piece, None])
            of_normed.copy_(given[piece])
            if ctx.active:
                torch.addcmul(bias[piece, None], wide, slope[piece], out=other)
                torch.ops.aten.silu_backward.grad_input(of_normed, other, grad_input=of_normed)
            of_bias[piece] = alike = of_normed.sum(1)
            along = torch.mul(of_normed, wide, out=other).sum(1)
            of_weight[piece] = along = along * spread[piece]
            # dx = slope·(dy - mean(dy)) - x̂·mean(dy·x̂), the means over a group and weighted: slope·dy + part·x + rest
            mean = over_groups(alike * weight[piece], ctx.groups) / places
            part = -over_groups(along * weight[piece], ctx.groups) / places * spread[piece].square()
            rest = -spread[piece] * mean
            of_added[piece] = slope[piece, 0] * alike + part * total[piece] + places * rest
            torch.addcmul(rest[:, None], wide, part[:, None], out=other).addcmul_(of_normed, slope[piece])
            of_x[piece].copy_(other)
        return by_channels(of_x, ctx.size), of_weight, of_bias, of_added if ctx.told else None, None, None, None


CACHED = 2**18
"""Values of a piece that each thread has."""


def pieces(rows: Tensor) -> list[slice]:
    """Which of the pictures [B,N,C] are taken at a time; the first piece is the largest."""
    number = max(1, CACHED * torch.get_num_threads() // max(1, rows[0].numel()))
    return [slice(start, min(start + number, len(rows))) for start in range(0, len(rows), number)]


def over_groups(values: Tensor, groups: int) -> Tensor:
    """[B,C] to the mean of each one's group of channels, [B,C]."""
    grouped = values.unflatten(1, (groups, -1))
    return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1)


def by_rows(x: Tensor) -> Tensor:
    """[B,C,H,W] as [B,H·W,C], without a copy where channels are innermost."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def by_channels(rows: Tensor, size: torch.Size) -> Tensor:
    """[B,H·W,C] as [B,C,H,W], without a copy."""
    return rows.unflatten(1, tuple(size)).permute(0, 3, 1, 2)
