"""Residual networks from picture to picture: CycleGAN's (Zhu et al. 2017, arXiv 1703.10593, appendix 7.2), after
Johnson et al. 2016 (arXiv 1603.08155), and pix2pixHD's two (Wang et al. 2018, arXiv 1711.11585, section 3.2)."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from tasvir.nn.convolutional import NORMS


def convolution(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution and its norm; what keeps the size is padded by reflection, so that no border shows."""
    padding: Literal["reflect", "zeros"] = "reflect" if stride == 1 else "zeros"
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False, padding_mode=padding)
    return [layer, NORMS["instance"](after)]


def halving(before: int) -> list[nn.Module]:
    """[B,before,H,W] → [B,2·before,H/2,W/2]."""
    return [*convolution(before, 2 * before, 3, stride=2), nn.ReLU()]


def doubling(before: int) -> list[nn.Module]:
    """[B,before,H,W] → [B,before/2,2·H,2·W]."""
    layer = nn.ConvTranspose2d(before, before // 2, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [layer, NORMS["instance"](before // 2), nn.ReLU()]


def drawn(width: int, outputs: int) -> nn.Sequential:
    """The last layers, [B,width,H,W] → pictures [B,outputs,H,W] in [-1,1]."""
    return nn.Sequential(nn.Conv2d(width, outputs, 7, padding=3, padding_mode="reflect"), nn.Tanh())


class Residual(nn.Module):
    """[B,width,H,W] to the same; H and W must be 2 or more."""

    def __init__(self, width: int):
        super().__init__()
        self.change = nn.Sequential(*convolution(width, width, 3), nn.ReLU(), *convolution(width, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def residual(inputs: int, width: int, halvings: int, blocks: int) -> nn.Sequential:
    """[B,inputs,H,W] → [B,width,H,W]: c7s1-width, so many halvings, residual blocks, and as many doublings.

    H and W must be multiples of 2**halvings, at least twice as large.
    """
    inner = width * 2**halvings
    layers: list[nn.Module] = [*convolution(inputs, width, 7), nn.ReLU()]
    for level in range(halvings):
        layers += halving(width * 2**level)
    layers += [Residual(inner) for _ in range(blocks)]
    for level in range(halvings):
        layers += doubling(inner // 2**level)
    return nn.Sequential(*layers)


class ResNetGenerator(nn.Module):
    """[B,inputs,H,W] → [B,outputs,H,W] in [-1,1]; sizes as `residual` takes them."""

    def __init__(self, inputs: int, outputs: int, width: int, halvings: int, blocks: int):
        super().__init__()
        self.features = residual(inputs, width, halvings, blocks)
        self.picture = drawn(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.picture(self.features(x))


def halved(x: Tensor) -> Tensor:
    """[B,C,H,W] → [B,C,H/2,W/2]: the mean of 3×3 around every other pixel, without what lies outside the picture."""
    return avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


class CoarseToFineGenerator(nn.Module):
    """[B,inputs,H,W] → [B,outputs,H,W] in [-1,1]; H and W must be multiples of 2**(halvings + 1), twice as large.

    The global network works at half the size; its last maps are added to those of the local enhancer, which works at
    the whole size with half the width.
    """

    def __init__(self, inputs: int, outputs: int, width: int, halvings: int, blocks: int, local_blocks: int):
        super().__init__()
        self.coarse = residual(inputs, width, halvings, blocks)
        self.enter = nn.Sequential(*convolution(inputs, width // 2, 7), nn.ReLU(), *halving(width // 2))
        self.leave = nn.Sequential(*(Residual(width) for _ in range(local_blocks)), *doubling(width))
        self.picture = drawn(width // 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.picture(self.leave(self.enter(x) + self.coarse(halved(x))))
