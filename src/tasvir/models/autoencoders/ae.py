"""The autoencoder (Hinton and Salakhutdinov 2006, doi 10.1126/science.1127647), convolutional."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from tasvir.config import Count, OptimizerConfig, Pictures, Positive, TrainConfig
from tasvir.core import Batch, Model, Player, Recipe, Turn, measured
from tasvir.losses.likelihoods import LikelihoodName, reconstruction_loss
from tasvir.nn.convolutional import Decoder, Encoder


@dataclass(frozen=True)
class AutoencoderConfig:
    latent_size: Count = 64
    widths: tuple[Count, ...] = (32, 64, 128, 256, 256)
    """Channels of each stride-2 convolution, outermost first; as many are used as the size has halvings."""
    norm: Literal["batch", "layer", "none"] = "batch"
    reconstruction: LikelihoodName = "mse"
    """What is descended for pixels in [0,1]; see losses/likelihoods.py."""
    scale: Positive | None = None
    """The standard deviation of `gaussian` (0.1 if left out), or the weight of `mse` (1000)."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)


class Autoencoder(Model):
    sizes = "multiples of 4 from 8 px up"
    latent_size: int

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size % 4 == 0

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.latent_shape = self.shape_of(config, pictures)
        self.latent_size = math.prod(self.latent_shape)
        self.encoder, self.decoder = self.networks(config, pictures)

    def shape_of(self, config: Any, pictures: Pictures) -> tuple[int, int, int]:
        """Channels, height and width of the latent, which is a vector unless a subclass says otherwise."""
        return config.latent_size, 1, 1

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The encoder, [B,C,S,S] → [B,D], and the decoder, [B,D] → logits [B,C,S,S]."""
        return (
            Encoder(pictures.channels, pictures.size, config.widths, config.latent_size, config.norm),
            Decoder(config.latent_size, pictures.channels, pictures.size, config.widths, config.norm),
        )

    def players(self) -> dict[str, Player]:
        return {"autoencoder": Player((self.encoder, self.decoder), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        logits = self.decoder(self.encoder(batch.image))
        yield Turn("autoencoder", {"reconstruction": reconstruction_loss(self.config, logits, batch.image).mean()})

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image).float()

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).float().sigmoid() * 2 - 1

    def compress(self, image: Tensor) -> Tensor:
        return self.encode(image).unflatten(1, self.latent_shape)

    def expand(self, latent: Tensor) -> Tensor:
        return self.decode(latent.flatten(1))

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))


MNIST = (
    "MNIST test split (10,000 pictures), pixels in [0,1], averaged weights, training and sampling seed 0; "
    "2 cores of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0; distances in the features of the classifier "
    "with accuracy 0.9926 and sha256 782ea0ad…"
)
"""Where and how the numbers of these recipes were measured."""
ONE_THREAD = MNIST.replace("2 cores", "one thread")
"""The same for those that were trained on one."""
TRAINED = "averaged weights, training and sampling seed 0; one thread of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0"
"""How, without what on."""
BINARIZED = f"MNIST test split, binarized once (10,000 pictures); {TRAINED}"
"""The same for those in nats of black and white pixels."""
MIXTURE = "samples from a mixture fitted to the latents (--prior mixture)"
"""What stands before either where samples are not from the model's own prior."""

AE = Recipe(
    summary="Autoencoder: a convolutional bottleneck, no prior.",
    model=Autoencoder,
    config=AutoencoderConfig(),
    tiny=replace(AutoencoderConfig(), latent_size=4, widths=(4, 8)),
    train=TrainConfig(steps=6000),
    best="reconstruction_mse",
    expect=measured(
        "tasvir train ae --data mnist --model.latent-size 16 --train.steps 3000",
        MNIST,
        reconstruction_mse=0.00729,
        reconstruction_mae=0.0285,
        reconstruction_ssim=0.915,
        reconstruction_frechet=0.612,
    )
    + measured(
        "tasvir train ae --data mnist --model.latent-size 16 --train.steps 3000",
        f"{MIXTURE}; {MNIST}",
        frechet=2.09,
        precision=0.854,
        recall=0.696,
        coverage=0.754,
    ),
)

RECIPES = {"ae": AE}
