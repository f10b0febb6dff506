"""The U-Net of pix2pix (Isola et al. 2017, arXiv 1611.07004, appendix 6.1.1)."""

import torch
from torch import Tensor, nn

from tasvir.nn.convolutional import NORMS
from tasvir.nn.dropout import NoiseDropout

WIDEST = 8
"""How many times wider than at the first halving the network becomes."""
NOISY = 3
"""Of the innermost layers of the way back, how many have dropout."""


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
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1)]
            layers += [NORMS[norm](after)] if 0 < level < depth - 1 else []  # the innermost maps are of one pixel
            self.down.append(nn.Sequential(*layers))
            before = after
        for level, after in enumerate([*widths[-2::-1], outputs]):
            last = level == depth - 1
            layers = [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
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
