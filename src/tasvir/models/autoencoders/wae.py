"""The Wasserstein autoencoder WAE-MMD (Tolstikhin et al. 2018, arXiv 1711.01558, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasvir.config import Count, NonNegative, TrainConfig
from tasvir.core import Batch, Noise, Recipe, Turn, measured
from tasvir.losses.divergences import maximum_mean_discrepancy
from tasvir.losses.likelihoods import reconstruction_loss
from tasvir.models.autoencoders.ae import MIXTURE, ONE_THREAD, Autoencoder, AutoencoderConfig
from tasvir.models.autoencoders.vae import active_units


@dataclass(frozen=True)
class WAEConfig(AutoencoderConfig):
    latent_size: Count = 16
    penalty: NonNegative = 100.0
    """Weight lambda of the discrepancy between a batch's encodings and as many draws from the prior, N(0,1)."""


class WAE(Autoencoder):
    """The encoder is deterministic."""

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        latent = self.encode(batch.image)
        loss = reconstruction_loss(self.config, self.decoder(latent), batch.image)
        terms = {"reconstruction": loss.mean()}
        drawn = torch.randn(latent.shape, device=latent.device)
        if len(batch) > 1:  # a single picture is not distributed in any way
            terms["discrepancy"] = self.config.penalty * maximum_mean_discrepancy(latent, drawn)
        watch = {"latent_mean_square": latent.detach().square().mean(), **active_units(latent)}
        yield Turn("autoencoder", terms, watch)

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.draw(self.latent_size, device=self.device))


RECIPES = {
    "wae-mmd": Recipe(
        summary="Wasserstein autoencoder: encodings as a whole are pulled to the prior.",
        model=WAE,
        config=WAEConfig(),
        tiny=WAEConfig(latent_size=4, widths=(4, 8)),
        train=TrainConfig(steps=6000, batch_size=128),
        expect=measured("tasvir train wae-mmd --data mnist --train.steps 2500", ONE_THREAD, frechet=8.93)
        + measured(
            "tasvir train wae-mmd --data mnist --train.steps 2500",
            f"{MIXTURE}; {ONE_THREAD}",
            frechet=2.36,
            reconstruction_mse=0.00843,
        ),
    )
}
