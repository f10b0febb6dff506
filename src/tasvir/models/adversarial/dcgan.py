"""DCGAN (Radford, Metz and Chintala 2016, arXiv 1511.06434), and its networks under other games.

lsgan: Mao et al. 2017, arXiv 1611.04076. wgan: Arjovsky et al. 2017, arXiv 1701.07875. wgan-gp: Gulrajani et al. 2017,
arXiv 1704.00028. The latent is normal here where the paper draws it uniformly (--model.noise uniform).
"""

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from tasvir.config import Count, OptimizerConfig, Pictures, Refused
from tasvir.core import Recipe, measured
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, FACES, GAN, MNIST, ONE_THREAD, AdversarialConfig
from tasvir.nn.convolutional import NORMS, halvings


@dataclass(frozen=True)
class DCGANConfig(AdversarialConfig):
    width: Count = 1024
    """Channels of the 4×4 maps, where both networks are widest; each doubling of the size halves them."""
    discriminator_norm: Literal["batch", "layer", "none"] | None = None
    """Left out, batch norm; layer norm where there is a gradient penalty, R1 or R2, which are of single pictures."""


class DCGAN(GAN):
    sizes = "8, 16, 32, 64, 128, 256 px, and 28 or 56"

    @staticmethod
    def accepts(size: int) -> bool:
        return size in (8, 16, 32, 64, 128, 256, 28, 56)

    def networks(self, config: DCGANConfig, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = (
            convolutional_generator(config, pictures),
            convolutional_discriminator(config, pictures),
        )
        for network in (generator, discriminator):
            network.apply(initialize)
        return generator, discriminator


def discriminator_norm(config: DCGANConfig) -> str:
    """The row of `NORMS` for the discriminator. Raises `Refused` for batch norm where gradients are penalized."""
    penalized = config.game.differentiates_twice
    if config.discriminator_norm == "batch" and penalized:
        raise Refused(
            "A gradient penalty, R1 and R2 are of single pictures: --model.discriminator-norm must be layer or none."
        )
    return config.discriminator_norm or ("layer" if penalized else "batch")


def stages(config: DCGANConfig, pictures: Pictures) -> tuple[list[int], list[int]]:
    """Picture sizes from 4 px up, and the channels at each size but the last."""
    sizes = halvings(pictures.size)[::-1]
    return sizes, [max(1, config.width >> doubling) for doubling in range(len(sizes) - 1)]


def convolutional_generator(config: DCGANConfig, pictures: Pictures) -> nn.Module:
    """[B,D] → [B,C,S,S] in [-1,1]; the latent becomes 4×4 maps, then every layer doubles the size."""
    sizes, widths = stages(config, pictures)
    layers: list[nn.Module] = [
        nn.Unflatten(1, (config.latent_size, 1, 1)),
        nn.ConvTranspose2d(config.latent_size, widths[0], sizes[0], bias=False),
    ]
    for size, before, after in zip(sizes[1:], widths, [*widths[1:], pictures.channels], strict=True):
        layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(before, after, 4 - size % 2, stride=2, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def convolutional_discriminator(config: DCGANConfig, pictures: Pictures) -> nn.Module:
    """[B,C,S,S] → scores [B]; every layer halves the size down to 4×4. No norm on the first layer, as published."""
    sizes, widths = stages(config, pictures)
    norm = discriminator_norm(config)
    layers: list[nn.Module] = []
    before = pictures.channels
    for size, after in zip(sizes[:0:-1], widths[::-1], strict=True):
        layers += [nn.Conv2d(before, after, 4 - size % 2, stride=2, padding=1, bias=False)]
        layers += [NORMS[norm](after)] if before != pictures.channels else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(before, 1, sizes[0], bias=False), nn.Flatten(0))


def initialize(layer: nn.Module) -> None:
    """Weights from N(0, 0.02²), norms' scales from N(1, 0.02²), as in the paper and the authors' code."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(layer.weight, 1.0, 0.02)


DCGAN_RECIPE = Recipe(
    summary="DCGAN: convolutional GAN with batch norm.",
    model=DCGAN,
    config=DCGANConfig(),
    tiny=DCGANConfig(latent_size=4, width=16),
    train=replace(ADVERSARIAL, steps=10_000),
    expect=measured(
        "tasvir train dcgan --data mnist --model.width 256 --train.steps 6000",
        MNIST,
        frechet=3.02,
        kid=0.0268,
        precision=0.764,
        recall=0.853,
        coverage=0.658,
        nearest_class_accuracy=0.839,
        class_agreement=0.640,
        class_coverage=0.974,
        rarest_class_share=0.0682,
        diversity=0.992,
    )
    + measured(
        "tasvir train dcgan --data faces --model.width 128 --model.augment.name diffaugment --train.steps 4000",
        FACES,
        frechet=131.0,
        precision=0.881,
        recall=0.020,
        sliced_wasserstein=20.3,
        diversity=0.830,
    ),
)

RMSPROP = OptimizerConfig(name="rmsprop", learning_rate=5e-5, betas=(0.0, 0.99))
PENALIZED = OptimizerConfig(learning_rate=1e-4, betas=(0.0, 0.9))

RECIPES = {
    "dcgan": DCGAN_RECIPE,
    "lsgan": DCGAN_RECIPE.preset(
        "DCGAN's networks, least-squares game.",
        game=GameConfig("least-squares"),
        expect=measured(
            "tasvir train lsgan --data mnist --model.width 256 --train.steps 6000",
            ONE_THREAD,
            frechet=3.25,
            kid=0.0288,
            precision=0.762,
            recall=0.866,
            coverage=0.625,
            rarest_class_share=0.0662,
            diversity=1.00,
        ),
    ),
    "wgan": DCGAN_RECIPE.preset(
        "DCGAN's networks, Wasserstein game with weight clipping.",
        game=GameConfig("wasserstein-clipping"),
        expect=measured(
            "tasvir train wgan --data mnist --model.width 256 --train.steps 3406",
            MNIST,
            frechet=21.5,
            kid=0.225,
            precision=0.722,
            recall=0.377,
            coverage=0.109,
            nearest_class_accuracy=0.652,
            class_agreement=0.323,
            class_coverage=0.911,
            diversity=0.914,
        ),
        generator=RMSPROP,
        discriminator=RMSPROP,
    ),
    "wgan-gp": DCGAN_RECIPE.preset(
        "DCGAN's networks, Wasserstein game with gradient penalty.",
        game=GameConfig("wasserstein-penalty"),
        expect=measured(
            "tasvir train wgan-gp --data mnist --model.width 256 --train.steps 5000",
            MNIST,
            frechet=11.5,
            kid=0.108,
            precision=0.716,
            recall=0.61,
            coverage=0.221,
            nearest_class_accuracy=0.757,
            class_agreement=0.506,
            class_coverage=0.970,
            rarest_class_share=0.0554,
            diversity=0.894,
        ),
        generator=PENALIZED,
        discriminator=PENALIZED,
    ),
}
