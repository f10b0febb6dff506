"""Conditional generative adversarial nets (Mirza and Osindero 2014, arXiv 1411.1784), with convolutions.

The class is joined to the noise and, in the discriminator, to the features of the picture, as in figure 1 there; the
networks are those of Radford, Metz and Chintala 2016 (arXiv 1511.06434) with dense layers where the class comes in.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from tasvir.config import Count, OptimizerConfig, Pictures
from tasvir.core import Recipe, measured
from tasvir.models.adversarial.dcgan import DCGAN, DCGANConfig, discriminator_norm, initialize
from tasvir.models.adversarial.gan import ADVERSARIAL, ONE_THREAD
from tasvir.nn.classes import ClassBias, joined
from tasvir.nn.convolutional import NORMS, halvings


@dataclass(frozen=True)
class CGANConfig(DCGANConfig):
    width: Count = 512
    """Channels of the smallest maps, where both networks are widest; each doubling of the size halves them."""
    smallest: Literal[2, 4] = 4
    """Height and width of the smallest maps in px."""
    hidden: Count = 512
    """Units of the discriminator's dense layer, which sees a picture's features and its class."""


class CGAN(DCGAN):
    needs = ("labels",)
    conditional = True

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The generator, [B,D] and classes [B] → [B,C,S,S], and the discriminator, [B,C,S,S] and [B] → scores [B]."""
        return Generator(config, pictures).apply(initialize), Discriminator(config, pictures).apply(initialize)


LOUDNESS = 2.0
"""Of the class beside the noise: much louder, the noise is not heeded; much softer, the class is late."""


class Generator(nn.Module):
    """[B,D] and classes [B] → [B,C,S,S] in [-1,1]; a dense layer, then every layer doubles the size."""

    def __init__(self, config: CGANConfig, pictures: Pictures):
        super().__init__()
        self.classes = len(pictures.classes)
        sizes, widths = stages(config, pictures)
        shape = (widths[0], sizes[0], sizes[0])
        layers: list[nn.Module] = [
            nn.Linear(config.latent_size + self.classes, widths[0] * sizes[0] ** 2, bias=False),
            nn.Unflatten(1, shape),
        ]
        for size, before, after in zip(sizes[1:], widths, [*widths[1:], pictures.channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.ConvTranspose2d(before, after, 4 - size % 2, stride=2, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        return self.layers(joined(latent, label, self.classes, LOUDNESS))


class Discriminator(nn.Module):
    """[B,C,S,S] and classes [B] → scores [B]; every layer halves the size. No norm on the first layer.

    The class is joined to the maps before every convolution but the first (see `ClassBias`), and before the dense
    layer: told there alone, it is heeded only when the generator has long learned to do without it.
    """

    def __init__(self, config: CGANConfig, pictures: Pictures):
        super().__init__()
        self.classes = len(pictures.classes)
        sizes, widths = stages(config, pictures)
        norm, before = discriminator_norm(config), pictures.channels
        self.convolutions, self.rest, self.told = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for place, (size, after) in enumerate(zip(sizes[:0:-1], widths[::-1], strict=True)):
            self.convolutions.append(nn.Conv2d(before, after, 4 - size % 2, stride=2, padding=1, bias=False))
            after_it = [NORMS[norm](after)] if place else []
            self.rest.append(nn.Sequential(*after_it, nn.LeakyReLU(0.2, inplace=True)))
            if place:
                self.told.append(ClassBias(self.classes, after))
            before = after
        features = before * sizes[0] ** 2
        self.strength = features**0.5
        self.dense = nn.Linear(features + self.classes, config.hidden)
        self.score = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), nn.Linear(config.hidden, 1), nn.Flatten(0))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        maps = self.rest[0](self.convolutions[0](image))
        for convolution, told, rest in zip(self.convolutions[1:], self.told, self.rest[1:], strict=True):
            maps = rest(told(convolution(maps), label))
        return self.score(self.dense(joined(maps.flatten(1), label, self.classes, self.strength)))


def stages(config: CGANConfig, pictures: Pictures) -> tuple[list[int], list[int]]:
    """Picture sizes from the smallest maps up, and the channels at each size but the last."""
    sizes = halvings(pictures.size, config.smallest)[::-1]
    return sizes, [max(1, config.width >> doubling) for doubling in range(len(sizes) - 1)]


def _rate(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=learning_rate, betas=(0.5, 0.999))


CGAN_RECIPE = Recipe(
    summary="Conditional GAN: draws pictures of a class that is asked for.",
    model=CGAN,
    config=CGANConfig(),
    tiny=CGANConfig(latent_size=4, width=16, hidden=8),
    train=replace(ADVERSARIAL, steps=10_000),
    expect=measured(
        "tasvir train cgan --data mnist --model.width 128 --train.steps 7000",
        ONE_THREAD,
        label_agreement=0.989,
        frechet=0.173,
        kid=0.0015,
        precision=0.879,
        recall=0.799,
        coverage=0.877,
        rarest_class_share=0.0872,
        diversity=1.017,
    ),
)

RECIPES = {
    "cgan": CGAN_RECIPE,
    "cgan-cifar10": CGAN_RECIPE.preset(
        "Conditional GAN from 2×2×512 up, the generator learning twice as fast; for pictures of 32 px.",
        smallest=2,
        generator=_rate(4e-4),
        discriminator=_rate(2e-4),
        train={"steps": 50_000, "batch_size": 64},
    ),
}
