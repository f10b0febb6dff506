"""The variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114), with beta (Higgins et al. 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasvir.config import NonNegative, Pictures, TrainConfig
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.likelihoods import (
    LikelihoodName,
    kl_from_standard_normal,
    reconstruction_loss,
    reconstruction_nats,
)
from tasvir.models.autoencoders.ae import MNIST, Autoencoder, AutoencoderConfig
from tasvir.nn.convolutional import Decoder, Encoder


@dataclass(frozen=True)
class VAEConfig(AutoencoderConfig):
    reconstruction: LikelihoodName = "bernoulli"
    beta: NonNegative = 1.0
    """Weight of the divergence from the prior."""


class VAE(Autoencoder):
    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
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
        loss = reconstruction_loss(self.config, self.decoder(latent), batch.image)
        divergence = kl_from_standard_normal(mean, log_variance)
        watch = {"kl_per_dimension": divergence.mean().detach()}
        if len(batch) > 1:
            # Burda et al. 2016, arXiv 1509.00519, section 5.2: a unit is active if Var_x(E[z|x]) > 0.01
            watch["active_units"] = (mean.detach().var(0, correction=0) > 0.01).float().sum()
        terms = {"reconstruction": loss.mean(), "kl": self.config.beta * divergence.sum(1).mean()}
        yield Turn("vae", terms, watch)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [B,D] each, float32."""
        mean, log_variance = self.encoder(image).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, image: Tensor) -> Tensor:
        return self.posterior(image)[0]

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.draw(self.latent_size, device=self.device))

    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The evidence lower bound of each picture with one draw of z (equation 7 with L = 1), [B] nats."""
        mean, log_variance = self.posterior(image)
        latent = mean + (0.5 * log_variance).exp() * noise.draw(self.latent_size, device=mean.device)
        reconstruction = -reconstruction_nats(self.config, self.decoder(latent), image)
        divergence = kl_from_standard_normal(mean, log_variance).sum(1)
        return {"bound": reconstruction - divergence, "log_likelihood": reconstruction, "kl": divergence}

    def log_weights(self, image: Tensor, noise: Noise, draws: int) -> Tensor:
        """log p(x,z) - log q(z|x) of draws of z (Burda et al. 2016, equation 8), [draws,B] nats; encodes once."""
        mean, log_variance = self.posterior(image)
        found = []
        for _ in range(draws):
            unit = noise.draw(self.latent_size, device=mean.device)
            latent = mean + (0.5 * log_variance).exp() * unit
            # log N(z; 0, 1) - log N(z; mean, variance), in which z less the mean is `unit` deviations
            from_prior = 0.5 * (unit.square() + log_variance - latent.square()).sum(1)
            found.append(from_prior - reconstruction_nats(self.config, self.decoder(latent), image))
        return torch.stack(found)


VAE_RECIPE = Recipe(
    summary="Variational autoencoder.",
    model=VAE,
    config=VAEConfig(),
    tiny=VAEConfig(latent_size=4, widths=(4, 8)),
    train=TrainConfig(steps=6000),
    best="bound",
    expect=measured(
        "tasvir train vae --data mnist --model.latent-size 16 --train.steps 10000",
        MNIST,
        reconstruction_mse=0.00752,
        bound=-96.9,
        importance_bound=-93.7,
        rate=23.4,
        frechet=6.84,
        kid=0.0779,
        precision=0.776,
        recall=0.752,
        coverage=0.449,
        reconstruction_frechet=0.763,
        reconstruction_ssim=0.911,
        nearest_class_accuracy=0.839,
        class_agreement=0.536,
        class_coverage=0.988,
        diversity=0.852,
    ),
)

RECIPES = {
    "vae": VAE_RECIPE,
    "vae-2d": VAE_RECIPE.preset(
        "VAE with two latent dimensions, for looking at.",
        latent_size=2,
        expect=measured(
            "tasvir train vae-2d --data mnist --train.steps 5000",
            MNIST,
            reconstruction_mse=0.0418,
            bound=-152.2,
            importance_bound=-149.7,
            rate=5.68,
            frechet=32.3,
            reconstruction_frechet=27.2,
            nearest_class_accuracy=0.684,
            class_agreement=0.711,
            class_coverage=0.836,
            diversity=0.513,
        ),
    ),
}
