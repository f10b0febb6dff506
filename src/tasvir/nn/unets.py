"""The U-Net of pix2pix (Isola et al. 2017, arXiv 1611.07004, appendix 6.1.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, unfold

from tasvir.nn.convolutional import NORMS
from tasvir.nn.dropout import NoiseDropout

WIDEST = 8
"""How many times wider than at the first halving the network becomes."""
NOISY = 3
"""Of the innermost layers of the way back, how many have dropout."""


FEW = 64
"""Pixels, of all pictures of a batch together, up to which a product of matrices is faster on a CPU than a convolution:
it reads the weights as they lie, and the innermost layers have many weights for few pixels."""


class Halving(nn.Conv2d):
    """A convolution of 4×4 with stride 2: [B,C,2h,2w] → [B,K,h,w]."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        if not _as_product(x, self.weight, len(x) * height * width):
            return super().forward(x)
        seen = unfold(x.float(), 4, padding=1, stride=2).transpose(0, 1).flatten(1)  # [16·C, B·h·w]
        made = self.weight.flatten(1) @ seen
        made = made.unflatten(1, (len(x), height, width)).transpose(0, 1)
        return made if self.bias is None else made + self.bias.to(made.dtype)[:, None, None]


class Doubling(nn.ConvTranspose2d):
    """Its transpose: [B,C,h,w] → [B,K,2h,2w]."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 4, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        height, width = x.shape[2:]
        if not _as_product(x, self.weight, len(x) * height * width):
            return super().forward(x, output_size)
        made = self.weight.flatten(1).T @ x.transpose(0, 1).flatten(1)  # [16·K, B·h·w]
        shares = made.float().unflatten(1, (len(x), height * width)).transpose(0, 1)
        made = fold(shares, (2 * height, 2 * width), 4, padding=1, stride=2).to(made.dtype)
        return made if self.bias is None else made + self.bias.to(made.dtype)[:, None, None]


def _as_product(x: Tensor, weight: Tensor, pixels: int) -> bool:
    return x.device.type == "cpu" and weight.is_contiguous() and pixels <= FEW


class UNet(nn.Module):
    """[B,inputs,H,W] → [B,outputs,H,W] in [-1,1]; H and W must be multiples of 2**depth.

    `depth` halvings, each a convolution of 4×4, and as many doublings, each given what the halving of the same size
    made, unless `skips` is off: then it is an encoder and a decoder with nothing between them but the smallest maps.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, depth: int, norm: str, dropout: float = 0.5, skips: bool = True
    ):
        super().__init__()
        self.skips = skips
        widths = [width * min(2**level, WIDEST) for level in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = inputs
        for level, after in enumerate(widths):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            layers += [Halving(before, after)]
            layers += [NORMS[norm](after)] if 0 < level < depth - 1 else []  # the innermost maps are of one pixel
            self.down.append(nn.Sequential(*layers))
            before = after
        for level, after in enumerate([*widths[-2::-1], outputs]):
            last = level == depth - 1
            layers = [nn.ReLU(), Doubling(before, after)]
            layers += [nn.Tanh()] if last else [NORMS[norm](after)]
            layers += [NoiseDropout(dropout)] if level < NOISY and not last else []
            self.up.append(nn.Sequential(*layers))
            before = 2 * after if skips else after

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for down in self.down:
            x = down(x)
            kept.append(x)
        for level, up in enumerate(self.up, start=1):
            x = up(torch.cat([x, kept[-level]], 1) if self.skips and level > 1 else x)
        return x
