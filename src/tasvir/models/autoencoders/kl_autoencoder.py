"""The autoencoder with maps of latents and a slight pull to N(0,1), as latent diffusion stands on (Rombach et al. 2022,
arXiv 2112.10752, section 3.1, "KL-reg."); without the paper's perceptual and adversarial losses.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tasvir.config import Count, CountOrZero, NonNegative, OptimizerConfig, Pictures, TrainConfig
from tasvir.core import Recipe
from tasvir.models.autoencoders.vae import VAE, VariationalConfig
from tasvir.nn.residual import StridedDecoder, StridedEncoder, require_multiple


@dataclass(frozen=True)
class KLAutoencoderConfig(VariationalConfig):
    channels: Count = 4
    """Of a latent."""
    downsample: Literal[2, 4, 8, 16] = 4
    """How many pixels high and wide the square is that one place of a latent stands for."""
    hidden: Count = 64
    """Channels of the convolutions."""
    residual: Count = 32
    """Channels inside a residual block."""
    blocks: CountOrZero = 2
    """Residual blocks of each network."""
    beta: NonNegative = 0.01
    """Weight of the divergence from the prior."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup=100)


class KLAutoencoder(VAE):
    """A VAE whose latent of D numbers is maps [channels,S/downsample,S/downsample], row by row."""

    sizes = "multiples of --model.downsample (4) from 8 px up"

    def shape_of(self, config: Any, pictures: Pictures) -> tuple[int, int, int]:
        require_multiple(pictures.size, config.downsample)
        side = pictures.size // config.downsample
        return config.channels, side, side

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        sizes = (config.hidden, config.residual, config.blocks, config.downsample)
        encoder = StridedEncoder(pictures.channels, *sizes)
        return (
            nn.Sequential(encoder, nn.Conv2d(config.hidden, 2 * config.channels, 1), nn.Flatten()),
            nn.Sequential(
                nn.Unflatten(1, self.latent_shape), StridedDecoder(config.channels, pictures.channels, *sizes)
            ),
        )


RECIPES = {
    "kl-autoencoder": Recipe(
        summary="Autoencoder with maps of latents, slightly pulled to N(0,1): what ldm stands on.",
        model=KLAutoencoder,
        config=KLAutoencoderConfig(),
        tiny=KLAutoencoderConfig(channels=2, hidden=8, residual=4, blocks=1, components=4),
        train=TrainConfig(steps=6000),
        best="reconstruction_mse",
    ),
}
