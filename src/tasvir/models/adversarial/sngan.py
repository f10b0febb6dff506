"""SN-GAN (Miyato et al. 2018, arXiv 1802.05957): residual networks, spectral normalization, hinge game.

The authors give the generator's turn twice the pictures of the discriminator's; here both have the batch. Steps count
the discriminator's updates, of which five go to one of the generator: papers count the generator's, and the default of
500,000 makes 100,000 of those, as WGAN-GP's code has them.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, OptimizerConfig, Pictures, Refused
from tasvir.core import Recipe, measured
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, GAN, ONE_THREAD, AdversarialConfig
from tasvir.nn.resnets import ResidualDiscriminator, ResidualGenerator

FALLING = OptimizerConfig(learning_rate=2e-4, betas=(0.0, 0.9), schedule="linear")
"""As in arXiv 1704.00028 and arXiv 1802.05957."""


@dataclass(frozen=True)
class ResidualConfig(AdversarialConfig):
    latent_size: Count = 128
    width: Count | None = None
    """Channels of the generator's smallest maps; left out, as published. Up to 32 px all maps have them, above they are
    halved until the whole picture has a sixteenth."""
    discriminator_width: Count | None = None
    """The same of the discriminator; left out, in the published proportion to `width`."""
    discriminator_norm: Literal["spectral", "layer", "none"] = "spectral"
    pooling: Literal["sum", "mean"] = "sum"
    """What the discriminator makes of its last maps."""
    game: GameConfig = GameConfig("hinge", discriminator_steps=5)
    generator: OptimizerConfig = FALLING
    discriminator: OptimizerConfig = FALLING


class ResidualGAN(GAN):
    sizes = "8, 16, 28, 32, 64 or 128 px"
    small_widths = (256, 128)
    """Of generator and discriminator up to 32 px, as in arXiv 1802.05957."""
    large_widths = (1024, 1024)
    """Above."""

    @staticmethod
    def accepts(size: int) -> bool:
        return size in (8, 16, 28, 32, 64, 128)

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        if config.discriminator_norm == "spectral" and config.game.played().weight_clip:
            raise Refused(
                "Spectral norm undoes what clipping does to weights: set --model.game.weight-clip 0, or "
                "--model.discriminator-norm layer or none."
            )
        classes = len(pictures.classes) if self.conditional else 0
        usual, other = self.small_widths if pictures.size <= 32 else self.large_widths
        width = config.width or usual
        opposite = config.discriminator_width or max(1, width * other // usual)
        widths = generator_widths(pictures.size, width)
        smallest = pictures.size >> (len(widths) - 1)
        generator = ResidualGenerator(config.latent_size, widths, smallest, pictures.channels, classes)
        blocks = discriminator_blocks(pictures.size, opposite)
        discriminator = ResidualDiscriminator(
            pictures.channels, blocks, config.discriminator_norm, config.pooling, classes
        )
        return generator, discriminator

    def judge_both(
        self, real: Tensor, fake: Tensor, label: Tensor | None
    ) -> tuple[tuple[Tensor, Any], tuple[Tensor, Any]]:
        """In one pass, since nothing in the discriminator is of the batch: weights are normalized once."""
        both = None if label is None else torch.cat([label, label])
        real_score, fake_score = self.judge(torch.cat([real, fake]), both)[0].chunk(2)
        return (real_score, None), (fake_score, None)


def generator_widths(size: int, width: int) -> list[int]:
    """Channels of the smallest maps, 4×4 (7×7 of 28 px), and after every doubling of their size."""
    doublings = (size // (7 if size % 7 == 0 else 4)).bit_length() - 1
    halvings = [max(0, 5 - doublings + done) if size > 32 else 0 for done in range(doublings)]
    return [width, *(max(1, width >> halving) for halving in halvings)]


def discriminator_blocks(size: int, width: int) -> list[tuple[int, bool]]:
    """Channels after each block, and whether it halves the size."""
    if size <= 32:
        return [(width, True), (width, True), (width, False), (width, False)]
    wider = [(max(1, width >> halving), True) for halving in (4, 3, 2, 1, 0)]
    return wider if size < 128 else [*wider, (width, False)]


STEADY = replace(FALLING, schedule="constant")
TINY = ResidualConfig(latent_size=4, width=8, discriminator_width=8, generator=STEADY, discriminator=STEADY)

RECIPES = {
    "sngan": Recipe(
        summary="SN-GAN: residual networks, spectral normalization, hinge game.",
        model=ResidualGAN,
        config=ResidualConfig(),
        tiny=TINY,
        train=replace(ADVERSARIAL, steps=500_000),
        expect=measured(
            "tasvir train sngan --data mnist --model.width 32 --model.game.discriminator-steps 2 --train.steps 5000",
            ONE_THREAD,
            frechet=14.3,
            precision=0.683,
            recall=0.535,
            coverage=0.197,
            rarest_class_share=0.0162,
            diversity=0.968,
        ),
    )
}
