"""pix2pixHD: translation between pairs of large pictures (Wang et al. 2018, arXiv 1711.11585).

Without instance maps, and with the global network and the local enhancer trained together from the first step, where
the paper trains the global network alone first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from tasvir.config import Count, NonNegative, OptimizerConfig, Pictures, Range
from tasvir.core import Batch, Noise, Player, Recipe, Turn
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, watched
from tasvir.models.translation.translation import PLAYER, STEADY, Translation, initialize, simple
from tasvir.nn.patches import MultiScale, halvings_for
from tasvir.nn.translators import CoarseToFineGenerator

HALVINGS = 4
"""Of the global network, at most."""


@dataclass(frozen=True)
class Pix2PixHDConfig:
    width: Count = 64
    """Channels of the first layer of the global network and of the discriminators; the local enhancer has half."""
    halvings: Annotated[int, Range(low=1, high=HALVINGS)] = HALVINGS
    """Of the pictures in the global network, which sees them at half their size to begin with; fewer for small ones."""
    blocks: Count = 9
    """Residual blocks of the global network."""
    local_blocks: Count = 3
    """Residual blocks of the local enhancer."""
    scales: Annotated[int, Range(low=1, high=4)] = 3
    """Discriminators; each sees pictures half as large as the one before."""
    patch: Literal[16, 70] = 70
    """Height and width in pixels of what one score of a discriminator sees; at most what the pictures allow."""
    feature_matching: NonNegative = 10.0
    """Weight of the absolute difference between what discriminators make of real and of generated pictures."""
    adversarial: NonNegative = 2.0
    """Weight of the game for the generator: 2, because the least-squares game is half of the mean square."""
    game: GameConfig = GameConfig("least-squares")
    generator: OptimizerConfig = PLAYER
    discriminator: OptimizerConfig = PLAYER


class Pix2PixHD(Translation):
    sizes = "a multiple of 32 from 64 px"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 64 and size % 2 ** (HALVINGS + 1) == 0

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.game = simple(config.game, "pix2pixHD")
        self.stride = 2 ** (config.halvings + 1)
        self.least = 2 * self.stride
        channels = self.source_channels, pictures.channels
        depths = config.halvings, config.blocks, config.local_blocks
        self.generator = CoarseToFineGenerator(*channels, config.width, *depths)
        halvings = [halvings_for(config.patch, pictures.size >> level) for level in range(config.scales)]
        self.discriminators = MultiScale(sum(channels), config.width, halvings, "instance")
        self.apply(initialize)

    def players(self) -> dict[str, Player]:
        return {
            "generator": Player((self.generator,), self.config.generator),
            "discriminator": Player((self.discriminators,), self.config.discriminator),
        }

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        source, image = batch.source, batch.image
        assert source is not None
        made = self.generator(source)
        real, fake = self.seen(source, image), self.seen(source, made)  # what is seen of real ones serves both turns
        pairs = list(zip(real, fake, strict=True))
        game = sum(self.game.generator(f[-1].float(), r[-1].detach().float()) for r, f in pairs)
        matching = sum(feature_distance(r[:-1], f[:-1]) for r, f in pairs)  # equation 5
        terms = {"game": self.config.adversarial * game, "feature_matching": self.config.feature_matching * matching}
        yield Turn("generator", terms)

        fake = self.seen(source, made.detach())
        scores = [(r[-1].float(), f[-1].float()) for r, f in zip(real, fake, strict=True)]
        terms = {"game": torch.stack([self.game.discriminator(*both) for both in scores]).sum()}
        real_score, fake_score = (torch.cat([score.flatten() for score in side]) for side in zip(*scores, strict=True))
        yield Turn("discriminator", terms, watched(self.game, real_score, fake_score))

    def seen(self, source: Tensor, image: Tensor) -> list[list[Tensor]]:
        """What each discriminator makes of pictures [B,C,S,S] made from [B,C',S,S]: maps of its layers, then scores."""
        return self.discriminators(torch.cat([source, image.to(source.dtype)], 1))

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        return self.generator(source).float()


def feature_distance(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """The sum over layers of the mean absolute difference between maps; nothing is learned from the real ones.

    Wang et al. 2018, equation 4.
    """
    distances = [(f.float() - r.detach().float()).abs().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(distances).sum()


RECIPES = {
    "pix2pixhd": Recipe(
        summary="Translation between pairs at 512 and 1024 px: coarse to fine, three discriminators, their features.",
        model=Pix2PixHD,
        config=Pix2PixHDConfig(),
        tiny=Pix2PixHDConfig(2, 1, 1, 1, patch=16, generator=STEADY, discriminator=STEADY),
        train=replace(ADVERSARIAL, batch_size=1, steps=80_000, channels_last=False, sample_every="epoch"),
        best="mae",
    ),
}
