"""Projection discriminator (Miyato and Koyama 2018, arXiv 1802.05637): D(x, y) = ψ(φ(x)) + ⟨V_y, φ(x)⟩.

SN-GAN's networks and game, and as many steps; the generator is told the class by its batch norm.
"""

from dataclasses import replace

from tasvir.core import Recipe
from tasvir.models.adversarial.gan import ADVERSARIAL
from tasvir.models.adversarial.sngan import TINY, ResidualConfig, ResidualGAN


class ProjectionGAN(ResidualGAN):
    conditional = True
    needs = ("labels",)


RECIPES = {
    "pd-gan": Recipe(
        summary="Projection discriminator: SN-GAN for classes.",
        model=ProjectionGAN,
        config=ResidualConfig(),
        tiny=TINY,
        train=replace(ADVERSARIAL, steps=500_000),
    )
}
