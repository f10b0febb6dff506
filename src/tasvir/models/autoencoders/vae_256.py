"""A VAE for colour pictures of 256×256: four stride-2 convolutions in, five out, 1000·MSE + KL."""

from dataclasses import dataclass

from torch import Tensor, nn

from tasvir.config import Count, DataConfig, Fraction, OptimizerConfig, Pictures, TrainConfig
from tasvir.core import Recipe
from tasvir.losses.likelihoods import LikelihoodName
from tasvir.models.autoencoders.vae import VAE, VariationalConfig


@dataclass(frozen=True)
class VAE256Config(VariationalConfig):
    latent_size: Count = 200
    widths: tuple[Count, Count, Count, Count] = (128, 128, 64, 32)
    """Channels of the encoder's convolutions; the decoder's are these backwards."""
    bottom: Count = 64
    """Channels of the decoder's first map, at a thirty-second of the size."""
    dropout: Fraction = 0.2
    reconstruction: LikelihoodName = "mse"
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4)


class Encoder256(nn.Module):
    """[B,C,S,S] → mean and log-variance [B,2D]; dropout on all convolutions but the first."""

    def __init__(self, config: VAE256Config, pictures: Pictures):
        super().__init__()
        layers: list[nn.Module] = []
        before = pictures.channels
        for position, width in enumerate(config.widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU()]
            layers += [nn.Dropout(config.dropout)] if position else []
            before = width
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(before * (pictures.size // 16) ** 2, 2 * config.latent_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.dense(self.convolutions(image).flatten(1))


class Decoder256(nn.Module):
    """[B,D] → logits [B,C,S,S]."""

    def __init__(self, config: VAE256Config, pictures: Pictures):
        super().__init__()
        self.shape = (config.bottom, pictures.size // 32, pictures.size // 32)
        self.dense = nn.Linear(config.latent_size, config.bottom * (pictures.size // 32) ** 2)
        layers: list[nn.Module] = []
        before = config.bottom
        for width in config.widths[::-1]:
            layers += [nn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1)]
            layers += [nn.BatchNorm2d(width), nn.LeakyReLU()]
            before = width
        layers += [nn.ConvTranspose2d(before, pictures.channels, 3, stride=2, padding=1, output_padding=1)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return self.convolutions(self.dense(latent).unflatten(1, self.shape))


class VAE256(VAE):
    sizes = "multiples of 32 px (256 is what it was made for)"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 32 and size % 32 == 0

    def networks(self, config: VAE256Config, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        return Encoder256(config, pictures), Decoder256(config, pictures)


RECIPES = {
    "vae-256": Recipe(
        summary="VAE for colour pictures of 256×256.",
        model=VAE256,
        config=VAE256Config(),
        tiny=VAE256Config(latent_size=4, widths=(8, 8, 4, 4), bottom=4),
        train=TrainConfig(steps=20_000, batch_size=32),
        data=DataConfig(size=256),
        best="bound",
    )
}
