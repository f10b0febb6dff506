"""R3GAN, a minimal modern baseline (Huang et al. 2024, arXiv 2501.05441): relativistic pairs with R1 and R2.

Residual networks without normalization, zero at the start of every branch, in place of all tricks but the penalties.

Left out are the authors' schedules of gamma, of Adam's beta2, of augmentation and of the learning rate (here
`--model.*.schedule cosine` falls to zero). Widths and gamma are this recipe's; they were not checked against theirs.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu

from tasvir.config import Count, OptimizerConfig, Pictures, Refused
from tasvir.core import Recipe
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, GAN, AdversarialConfig
from tasvir.nn.convolutional import halvings

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""What keeps the variance through the leaky ReLU (He et al. 2015, arXiv 1502.01852)."""
ADAM = OptimizerConfig(learning_rate=2e-4, betas=(0.0, 0.99))


@dataclass(frozen=True)
class R3GANConfig(AdversarialConfig):
    latent_size: Count = 64
    game: GameConfig = GameConfig("relativistic", r1=2.0, r2=2.0, r1_every=1)
    generator: OptimizerConfig = ADAM
    discriminator: OptimizerConfig = ADAM
    widths: tuple[Count, ...] = (768, 768, 768, 768, 384, 192, 96)
    """Channels at each resolution of both networks from 4 px up; sizes beyond have the last one."""
    blocks: Count = 2
    """Residual blocks at each resolution."""
    expansion: Count = 2
    """How many times wider a block is inside."""
    group_width: Count = 16
    """Channels in each group of a block's 3×3 convolution."""


class R3GAN(GAN):
    sizes = "8, 16, 32, 64, 128, 256, 512, 1024 px, and 28 or 56"

    @staticmethod
    def accepts(size: int) -> bool:
        return size in (8, 16, 32, 64, 128, 256, 512, 1024, 28, 56)

    def networks(self, config: R3GANConfig, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        for _, width in stages(config, pictures):
            if width * config.expansion % config.group_width:
                raise Refused(
                    f"A block {width} × {config.expansion} channels wide cannot be divided into groups of "
                    f"{config.group_width}: change --model.widths, --model.expansion or --model.group-width."
                )
        return generator(config, pictures), discriminator(config, pictures)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return super().decode(latent, label).clamp(-1, 1)


class Convolution(nn.Module):
    """Without a bias; with weights from N(0, gain² / inputs of a unit)."""

    def __init__(self, before: int, after: int, kernel: int = 1, groups: int = 1, gain: float = 1.0):
        super().__init__()
        self.groups, self.padding = groups, kernel // 2
        deviation = gain / math.sqrt(before // groups * kernel**2)
        self.weight = nn.Parameter(torch.randn(after, before // groups, kernel, kernel) * deviation)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, padding=self.padding, groups=self.groups)


class Activation(nn.Module):
    """A bias for each channel, then leaky ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x + self.bias[:, None, None].to(x.dtype), SLOPE)


class Block(nn.Module):
    """[B,width,H,W] to the same: x + 1×1(a(grouped 3×3(a(1×1(x))))), wider inside; a biased leaky ReLU is a.

    Initialized as in Fixup (Zhang et al. 2019, arXiv 1901.09321): the last convolution is zero, the others
    are smaller by the number of blocks to the power of -1/4.
    """

    def __init__(self, config: R3GANConfig, width: int, blocks: int):
        super().__init__()
        wide, gain = width * config.expansion, GAIN * blocks**-0.25
        self.branch = nn.Sequential(
            Convolution(width, wide, gain=gain),
            Activation(wide),
            Convolution(wide, wide, 3, wide // config.group_width, gain),
            Activation(wide),
            Convolution(wide, width, gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Resampling(nn.Module):
    """Twice or half the size [1,2,1]-bilinearly, to `size`; an odd one is 2n-1 for n."""

    kernel: Tensor

    def __init__(self, width: int, size: int, larger: bool):
        super().__init__()
        self.size, self.larger = size, larger
        line = torch.tensor([1.0, 2.0, 1.0]) / (2 if larger else 4)
        self.register_buffer("kernel", (line[:, None] * line).expand(width, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype)
        if not self.larger:
            return conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])
        return conv_transpose2d(x, kernel, stride=2, padding=1, output_padding=1 - self.size % 2, groups=x.shape[1])


class FirstMaps(nn.Module):
    """Latents [B,D] → [B,width,s,s]: learned maps, each multiplied by its own function of the latent."""

    def __init__(self, latent_size: int, width: int, size: int):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, size, size))
        self.weight = nn.Parameter(torch.randn(width, latent_size) / math.sqrt(latent_size))

    def forward(self, latent: Tensor) -> Tensor:
        return self.basis * (latent @ self.weight.T)[:, :, None, None]


class LastMaps(nn.Module):
    """[B,width,s,s] → scores [B]: each map's product with its own learned one, then their weighted sum."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, size, size) / size)
        self.weight = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.basis).sum((2, 3)) @ self.weight


def stages(config: R3GANConfig, pictures: Pictures) -> list[tuple[int, int]]:
    """Size and channels at each resolution, from 4 px up."""
    sizes = halvings(pictures.size)[::-1]
    return [(size, config.widths[min(place, len(config.widths) - 1)]) for place, size in enumerate(sizes)]


def generator(config: R3GANConfig, pictures: Pictures) -> nn.Module:
    """[B,D] → [B,C,S,S]; values are not bounded by the network, so a sample is clamped to [-1,1]."""
    (smallest, before), *_ = every = stages(config, pictures)
    blocks = config.blocks * len(every)
    layers: list[nn.Module] = [FirstMaps(config.latent_size, before, smallest)]
    for size, width in every:
        layers += [Convolution(before, width)] if width != before else []
        layers += [Resampling(width, size, larger=True)] if size != smallest else []
        layers += [Block(config, width, blocks) for _ in range(config.blocks)]
        before = width
    return nn.Sequential(*layers, Convolution(before, pictures.channels))


def discriminator(config: R3GANConfig, pictures: Pictures) -> nn.Module:
    """[B,C,S,S] → scores [B]."""
    *larger, (smallest, last) = every = stages(config, pictures)[::-1]
    blocks = config.blocks * len(every)
    layers: list[nn.Module] = [Convolution(pictures.channels, every[0][1])]
    for (_, width), (size, after) in zip(larger, every[1:], strict=True):
        layers += [Block(config, width, blocks) for _ in range(config.blocks)]
        layers += [Resampling(width, size, larger=False)]
        layers += [Convolution(width, after)] if width != after else []
    layers += [Block(config, last, blocks) for _ in range(config.blocks)]
    return nn.Sequential(*layers, LastMaps(last, smallest))


RECIPES = {
    "r3gan": Recipe(
        summary="R3GAN: relativistic pairs with R1 and R2, residual networks without normalization.",
        model=R3GAN,
        config=R3GANConfig(),
        tiny=R3GANConfig(latent_size=4, widths=(8,), blocks=1, group_width=8),
        train=replace(ADVERSARIAL, steps=20_000),
    )
}
