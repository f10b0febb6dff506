"""pix2pix: translation between pairs of pictures (Isola et al. 2017, arXiv 1611.07004)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tasvir.config import Count, DataConfig, Fraction, NonNegative, OptimizerConfig, Pictures
from tasvir.core import Batch, Noise, Player, Recipe, Turn
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, watched
from tasvir.models.translation.translation import Translation, initialize
from tasvir.nn.dropout import answering
from tasvir.nn.patches import PatchDiscriminator, halvings_for
from tasvir.nn.unets import UNet

PLAYER = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))


@dataclass(frozen=True)
class Pix2PixConfig:
    width: Count = 64
    """Channels of the first layer of both networks; each halving doubles them, up to eight times as many."""
    network: Literal["unet", "encoder-decoder"] = "unet"
    """The encoder-decoder is the same without connections between layers of one size."""
    patch: Literal[1, 16, 70, "whole"] = 70
    """Height and width in pixels of what one score of the discriminator sees."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Instance norm is what the paper's batch norm is for one picture at a time."""
    dropout: Fraction = 0.5
    """Of the three innermost layers of the way back: the model's only noise."""
    l1: NonNegative = 100.0
    """Weight of the absolute error."""
    adversarial: NonNegative = 1.0
    """Weight of the game; 0 leaves the discriminator out."""
    game: GameConfig = GameConfig()
    generator: OptimizerConfig = PLAYER
    discriminator: OptimizerConfig = PLAYER


class Pix2Pix(Translation):
    sizes = "a power of two from 8 px"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size & (size - 1) == 0

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        depth = pictures.size.bit_length() - 1
        self.stride = 2**depth
        channels = self.source_channels, pictures.channels
        self.generator = UNet(
            *channels, config.width, depth, config.norm, config.dropout, skips=config.network == "unet"
        )
        halvings = halvings_for(config.patch, pictures.size)
        self.discriminator = PatchDiscriminator(sum(channels), config.width, halvings, config.norm)
        self.apply(initialize)
        self.game = config.game.played()

    def players(self) -> dict[str, Player]:
        return {
            "discriminator": Player((self.discriminator,), self.config.discriminator),
            "generator": Player((self.generator,), self.config.generator),
        }

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        source, real = batch.source, batch.image
        assert source is not None
        fake = self.generator(source)
        real_score, fake_score = self.judge(source, real), self.judge(source, fake.detach())
        # halved, which slows it against the generator (section 3.3)
        terms = {"game": 0.5 * self.game.discriminator(real_score, fake_score)}
        yield Turn("discriminator", terms, watched(self.game, real_score, fake_score))
        game = self.config.adversarial * self.game.generator(self.judge(source, fake), real_score.detach())
        error = (fake.float() - real).abs().mean()
        yield Turn("generator", {"game": game, "l1": self.config.l1 * error})

    def judge(self, source: Tensor, image: Tensor) -> Tensor:
        """Scores [B,1,h,w] float32 of pictures [B,C,S,S] for what they were made from, [B,C',S,S]."""
        return self.discriminator(torch.cat([source, image], 1)).float()

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        with answering(self.generator, noise):
            return self.generator(source).float()


TRANSLATED = replace(ADVERSARIAL, batch_size=1, steps=80_000, channels_last=False, sample_every="epoch")

RECIPES = {
    "pix2pix": Recipe(
        summary="Translation between pairs: U-Net, discriminator of patches, L1.",
        model=Pix2Pix,
        config=Pix2PixConfig(),
        tiny=Pix2PixConfig(width=4, patch=16),
        train=TRANSLATED,
        data=DataConfig(),
        best="mae",
    ),
}
