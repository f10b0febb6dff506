"""The variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114), with beta (Higgins et al. 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasvir.config import NonNegative, Pictures, Positive, TrainConfig
from tasvir.core import Batch, Model, Noise, Player, Recipe, Turn
from tasvir.losses.likelihoods import LIKELIHOODS, LikelihoodName, kl_from_standard_normal
from tasvir.models.autoencoders.ae import Autoencoder, AutoencoderConfig
from tasvir.nn.convolutional import Decoder, Encoder


@dataclass(frozen=True)
class VAEConfig(AutoencoderConfig):
    scale: Positive = 0.1
    reconstruction: LikelihoodName = "bernoulli"
    beta: NonNegative = 1.0
    """Weight of the divergence from the prior."""


class VAE(Model):
    sizes = Autoencoder.sizes
    accepts = staticmethod(Autoencoder.accepts)

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.latent_size = config.latent_size
        self.encoder, self.decoder = self.networks(config, pictures)

    def networks(self, config: Any, pictures: Pictures) -> tuple[torch.nn.Module, torch.nn.Module]:
        """The encoder, [B,C,S,S] → mean and log-variance [B,2D], and the decoder, [B,D] → logits [B,C,S,S]."""
        return (
            Encoder(pictures.channels, pictures.size, config.widths, 2 * config.latent_size, config.norm),
            Decoder(config.latent_size, pictures.channels, pictures.size, config.widths, config.norm),
        )

    def players(self) -> dict[str, Player]:
        return {"vae": Player((self.encoder, self.decoder), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        mean, log_variance = self.posterior(batch.image)
        latent = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, device=mean.device)
        logits = self.decoder(latent).float()
        loss = LIKELIHOODS[self.config.reconstruction].loss(logits, (batch.image + 1) / 2, self.config.scale)
        divergence = kl_from_standard_normal(mean, log_variance)
        yield Turn(
            "vae",
            {"reconstruction": loss.mean(), "kl": self.config.beta * divergence.sum(1).mean()},
            {
                "kl_per_dimension": divergence.mean().detach(),
                # Burda et al. 2016, arXiv 1509.00519, section 5.2: a unit is active if Var_x(E[z|x]) > 0.01
                "active_units": (mean.detach().var(0, correction=0) > 0.01).float().sum(),
            },
        )

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [B,D] each, float32."""
        mean, log_variance = self.encoder(image).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, image: Tensor) -> Tensor:
        return self.posterior(image)[0]

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).float().sigmoid() * 2 - 1

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.draw(self.latent_size, device=self.device))

    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The evidence lower bound of each picture with one draw of z (equation 7 with L = 1), [B] nats."""
        mean, log_variance = self.posterior(image)
        latent = mean + (0.5 * log_variance).exp() * noise.draw(self.latent_size, device=mean.device)
        nats = LIKELIHOODS[self.config.reconstruction].nats
        reconstruction = -nats(self.decoder(latent).float(), (image + 1) / 2, self.config.scale)
        divergence = kl_from_standard_normal(mean, log_variance).sum(1)
        return {"bound": reconstruction - divergence, "log_likelihood": reconstruction, "kl": divergence}


VAE_RECIPE = Recipe(
    summary="Variational autoencoder.",
    model=VAE,
    config=VAEConfig(),
    tiny=VAEConfig(latent_size=4, widths=(4, 8)),
    train=TrainConfig(steps=6000),
)

RECIPES = {
    "vae": VAE_RECIPE,
    "vae-2d": VAE_RECIPE.preset("VAE with two latent dimensions, for looking at.", latent_size=2),
}
