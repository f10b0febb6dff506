"""The importance-weighted autoencoder (Burda et al. 2016, arXiv 1509.00519).

Its gradient can be doubly reparameterized (Tucker et al. 2019, arXiv 1810.04152).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from tasvir.config import Count, TrainConfig
from tasvir.core import Batch, Recipe, Turn, measured
from tasvir.losses.divergences import gaussian_log_density
from tasvir.models.autoencoders.ae import BINARIZED, AutoencoderConfig
from tasvir.models.autoencoders.vae import VAE, GenerativeConfig, log_density_of_draw


@dataclass(frozen=True)
class IWAEConfig(GenerativeConfig, AutoencoderConfig):
    draws: Count = 5
    """Draws of the latent for each picture; one is a VAE. A step's time grows with them."""
    estimator: Literal["iwae", "dreg"] = "iwae"
    """How the encoder learns: by the bound's own gradient, or by its doubly reparameterized form, of less variance."""


class IWAE(VAE):
    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        draws, doubly = self.config.draws, self.config.estimator == "dreg"
        mean, log_variance = self.posterior(batch.image)
        unit = torch.randn(draws, *mean.shape, device=mean.device)
        latent = mean + (0.5 * log_variance).exp() * unit
        if doubly:  # log q(z|x) as a function of z alone
            log_posterior = gaussian_log_density(latent, mean.detach(), log_variance.detach())
        else:
            log_posterior = log_density_of_draw(unit, log_variance)
        each = latent.flatten(0, 1)
        log_likelihood = self.log_likelihood_of(each, batch.image.repeat(draws, 1, 1, 1)).view(draws, -1)
        log_prior = self.prior.components(self.posterior).log_density(each).view(draws, -1)
        log_weights = log_likelihood + log_prior - log_posterior
        bound = torch.logsumexp(log_weights, 0) - math.log(draws)
        shares = log_weights.detach().softmax(0)
        if doubly:  # Tucker et al. 2019: the encoder's share is squared; the bound's gradient has one already
            latent.register_hook(lambda gradient: gradient * shares.unsqueeze(-1))
        kl = (log_posterior - log_prior).detach().mean()
        watch = {
            "kl_per_dimension": kl / self.latent_size,
            "distortion": -log_likelihood.detach().mean(),
            "effective_draws": (1 / shares.square().sum(0)).mean(),
            **self.watched(mean),
        }
        yield Turn("vae", {"negative_bound": -bound.mean()}, watch)


RECIPES = {
    "iwae": Recipe(
        summary="VAE that descends the importance-weighted bound.",
        model=IWAE,
        config=IWAEConfig(),
        tiny=IWAEConfig(latent_size=4, widths=(4, 8), components=4),
        train=TrainConfig(steps=6000),
        best="importance_bound",
        expect=measured(
            "tasvir train iwae --data mnist --data.binarize dynamic --model.latent-size 32 "
            "--model.optimizer.schedule cosine --train.steps 9000",
            f"importance bound of 100 draws; {BINARIZED}",
            importance_bound=-88.5,
            bound=-96.2,
            rate=26.9,
        ),
        published="importance bound of 5,000 draws -85.5 nats on binarized MNIST with 5 draws in training, after full "
        "training of dense layers (Burda et al. 2016, table 1)",
    )
}
