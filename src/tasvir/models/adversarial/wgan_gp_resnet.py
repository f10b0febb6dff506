"""WGAN-GP with residual networks (Gulrajani et al. 2017, arXiv 1704.00028; its networks for CIFAR-10).

Batch norm in the generator alone: the gradient penalty is of single pictures, so the critic has none (layer norm is a
setting). Steps count the critic's updates: the default of 500,000 makes 100,000 of the generator, as in the authors'
code.
"""

from dataclasses import replace
from typing import Any

from tasvir.core import Recipe
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL
from tasvir.models.adversarial.sngan import TINY, ResidualConfig, ResidualGAN


class ResidualWGAN(ResidualGAN):
    small_widths = (128, 128)


PENALIZED: dict[str, Any] = {
    "discriminator_norm": "none",
    "pooling": "mean",
    "game": GameConfig("wasserstein-penalty", discriminator_steps=5),
}

RECIPES = {
    "wgan-gp-resnet": Recipe(
        summary="WGAN-GP with residual networks.",
        model=ResidualWGAN,
        config=replace(ResidualConfig(), **PENALIZED),
        tiny=replace(TINY, **PENALIZED),
        train=replace(ADVERSARIAL, steps=500_000),
    )
}
