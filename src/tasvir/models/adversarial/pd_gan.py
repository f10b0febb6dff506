"""Projection discriminator (Miyato and Koyama 2018, arXiv 1802.05637): D(x, y) = ψ(φ(x)) + ⟨V_y, φ(x)⟩.

SN-GAN's networks and game, and as many steps; the generator is told the class by its batch norm.
"""

from dataclasses import replace

from tasvir.core import Recipe, measured
from tasvir.models.adversarial.gan import ADVERSARIAL, ONE_THREAD
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
        expect=measured(
            "tasvir train pd-gan --data mnist --model.width 32 --model.game.discriminator-steps 2 --train.steps 6000",
            ONE_THREAD,
            label_agreement=0.193,
            frechet=10.1,
            precision=0.680,
            recall=0.683,
            rarest_class_share=0.0448,
        ),
    )
}
