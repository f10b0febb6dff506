"""Networks that enlarge pictures: SRResNet (Ledig et al. 2017, arXiv 1609.04802, section 2.1 and figure 4) and the
residual-in-residual dense network of ESRGAN (Wang et al. 2018, arXiv 1809.00219, section 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tasvir.nn.convolutional import NORMS

SHRUNK = 0.1
"""By how much the weights of dense blocks begin smaller than usual (arXiv 1809.00219, section 3.1)."""


def factors(scale: int) -> list[int]:
    """The prime factors of `scale`, smallest first: each is one stage."""
    found, divisor = [], 2
    while scale > 1:
        while scale % divisor == 0:
            found.append(divisor)
            scale //= divisor
        divisor += 1
    return found


def bicubic(image: Tensor, scale: int) -> Tensor:
    """[N,C,H,W] to [N,C,scale·H,scale·W] float32: cubic convolution with a = -0.5 (Keys 1981), as Pillow and MATLAB
    have it, not rounded; only `antialias` has this a in torch, and where pictures grow it does nothing else."""
    return interpolate(image.float(), scale_factor=scale, mode="bicubic", antialias=True)


class Residual(nn.Module):
    """[B,width,H,W] to the same: two convolutions beside the identity."""

    def __init__(self, width: int, norm: str):
        super().__init__()
        self.layers = nn.Sequential(
            *normed(width, width, norm),
            nn.PReLU(),
            *normed(width, width, norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Dense(nn.Module):
    """[B,width,H,W] to the same: five convolutions, each of all that came before, beside the identity."""

    def __init__(self, width: int, growth: int, strength: float):
        super().__init__()
        self.strength = strength
        self.grown = nn.ModuleList([convolution(width + number * growth, growth) for number in range(4)])
        self.last = convolution(width + 4 * growth, width)
        for layer in (*self.grown, self.last):
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data.mul_(SHRUNK)
            nn.init.zeros_(layer.bias)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in self.grown:
            seen = torch.cat([seen, self.activation(layer(seen))], 1)
        return x + self.strength * self.last(seen)


class DenseBlocks(nn.Module):
    """[B,width,H,W] to the same: three dense blocks beside the identity."""

    def __init__(self, width: int, growth: int, strength: float):
        super().__init__()
        self.strength = strength
        self.blocks = nn.Sequential(*(Dense(width, growth, strength) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * self.blocks(x)


class Enlarger(nn.Module):
    """[B,channels,H,W] to [B,channels,scale·H,scale·W], not bounded: `first`, `body` beside the identity, `enlarge`,
    `last`. With `from_bicubic` it adds to the picture enlarged by cubic convolution, and begins as that."""

    def __init__(self, first: nn.Module, body: nn.Module, enlarge: nn.Module, last: nn.Conv2d, scale: int, skip: bool):
        super().__init__()
        self.first, self.body, self.enlarge, self.last = first, body, enlarge, last
        self.scale, self.from_bicubic = scale, skip
        if skip:
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        made = self.last(self.enlarge(x + self.body(x)))
        return made + bicubic(image, self.scale) if self.from_bicubic else made


def srresnet(
    channels: int, width: int, blocks: int, scale: int, norm: str = "batch", kernel: int = 9, from_bicubic: bool = False
) -> Enlarger:
    """Residual blocks at the size of the source, then a pixel shuffle for each factor of the scale.

    `kernel` is the side of the first and the last convolution.
    """
    body = [*(Residual(width, norm) for _ in range(blocks)), *normed(width, width, norm)]
    enlarge: list[nn.Module] = []
    for factor in factors(scale):
        enlarge += [convolution(width, width * factor**2), nn.PixelShuffle(factor), nn.PReLU()]
    return Enlarger(
        nn.Sequential(convolution(channels, width, kernel), nn.PReLU()),
        nn.Sequential(*body),
        nn.Sequential(*enlarge),
        convolution(width, channels, kernel),
        scale,
        from_bicubic,
    )


def rrdb(
    channels: int,
    width: int,
    blocks: int,
    scale: int,
    growth: int = 32,
    strength: float = 0.2,
    from_bicubic: bool = False,
) -> Enlarger:
    """Dense blocks at the size of the source, then for each factor of the scale its pixels repeated, and a convolution.

    `strength` is what every block's own part is multiplied by; `growth` how many channels each convolution adds.
    """
    body = [*(DenseBlocks(width, growth, strength) for _ in range(blocks)), convolution(width, width)]
    enlarge: list[nn.Module] = []
    for factor in factors(scale):
        enlarge += [nn.Upsample(scale_factor=factor), convolution(width, width), nn.LeakyReLU(0.2)]
    return Enlarger(
        convolution(channels, width),
        nn.Sequential(*body),
        nn.Sequential(*enlarge, convolution(width, width), nn.LeakyReLU(0.2)),
        convolution(width, channels),
        scale,
        from_bicubic,
    )


def convolution(before: int, after: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """`kernel` is odd; with stride 1 the size stays."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=bias)


def normed(before: int, after: int, norm: str, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution of 3×3 and its norm, a row of `NORMS`; a bias before a norm would do nothing."""
    return convolution(before, after, stride=stride, bias=norm == "none"), NORMS[norm](after)
