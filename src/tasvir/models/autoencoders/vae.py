"""The variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114), and what later papers made of its parts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, CountOrZero, NonNegative, Pictures, Positive, Refused, TrainConfig
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.divergences import DIVERGENCES, DivergenceName
from tasvir.losses.likelihoods import (
    LikelihoodName,
    learned_scale,
    reconstruction_loss,
    reconstruction_nats,
    scale_of,
)
from tasvir.models.autoencoders.ae import BINARIZED, MIXTURE, MNIST, ONE_THREAD, Autoencoder, AutoencoderConfig
from tasvir.nn.convolutional import Decoder, Encoder
from tasvir.nn.priors import PRIORS, PriorName, draw


@dataclass(frozen=True)
class GenerativeConfig:
    """What is assumed of pixels and latents."""

    reconstruction: LikelihoodName = "bernoulli"
    """How likely pixels in [0,1] are, given the decoder's output; see losses/likelihoods.py."""
    scale: Positive | Literal["learned"] | None = None
    """The standard deviation of `gaussian` (0.1 if left out; `learned`: one for all pixels), or the weight of `mse`
    (1000)."""
    prior: PriorName = "standard"
    """standard: N(0,1). mixture: Gaussians that are learned. vamp: the posteriors at pictures that are learned."""
    components: Count = 64
    """Gaussians in the priors `mixture` and `vamp`."""


@dataclass(frozen=True)
class VariationalConfig(GenerativeConfig):
    """How the posterior is pulled to the prior."""

    beta: NonNegative = 1.0
    """Weight of the divergence from the prior."""
    divergence: DivergenceName = "kl"
    """kl: Kullback-Leibler, as the bound has it. cauchy-schwarz: closed form for mixtures too."""
    warmup: CountOrZero = 0
    """Steps over which `beta` rises linearly from zero."""
    free_bits: NonNegative = 0.0
    """Nats of each latent dimension, averaged over the batch, below which the divergence is not descended; where the
    prior is a mixture, whose divergence has no parts, that many times the dimensions for all of them together."""


@dataclass(frozen=True)
class VAEConfig(VariationalConfig, AutoencoderConfig):
    pass


class VAE(Autoencoder):
    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.prior = PRIORS[config.prior](config.components, self.latent_size, pictures)
        self.learned_scale = learned_scale(config)
        if config.prior == "vamp" and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.encoder.modules()
        ):
            raise Refused(
                "--model.prior vamp encodes learned pictures, whose statistics are not those of a batch: it goes with "
                "--model.norm layer or none, and not with batch norm."
            )

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The encoder, [B,C,S,S] → mean and log-variance [B,2D], and the decoder, [B,D] → logits [B,C,S,S]."""
        return (
            Encoder(pictures.channels, pictures.size, config.widths, 2 * config.latent_size, config.norm),
            Decoder(config.latent_size, pictures.channels, pictures.size, config.widths, config.norm),
        )

    def players(self) -> dict[str, Player]:
        learned = () if self.learned_scale is None else (self.learned_scale,)
        return {"vae": Player((self.encoder, self.decoder, self.prior, *learned), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        mean, log_variance = self.posterior(batch.image)
        latent = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, device=mean.device)
        prior = self.prior.components(self.posterior)
        loss = reconstruction_loss(self.config, self.decoder(latent), batch.image, self.sigma())
        parts = DIVERGENCES[self.config.divergence](mean, log_variance, latent, prior)
        terms = {"reconstruction": loss.mean(), self.config.divergence: self.pull(parts, step)}
        with torch.no_grad():
            kl = parts if self.config.divergence == "kl" else DIVERGENCES["kl"](mean, log_variance, latent, prior)
        watch = {"kl_per_dimension": kl.detach().sum(1).mean() / self.latent_size, **self.watched(mean)}
        if self.config.warmup:
            watch["beta"] = mean.new_tensor(self.weight(step))
        yield Turn("vae", terms, watch)

    def pull(self, parts: Tensor, step: int) -> Tensor:
        """What is descended of a divergence whose parts are [B,D] or [B,1]: weighted, its free bits let be; scalar.

        Free bits: Kingma et al. 2016, arXiv 1606.04934, equation 15.
        """
        if not self.config.free_bits:
            return self.weight(step) * parts.sum(1).mean()
        free = self.config.free_bits * self.latent_size / parts.shape[1]
        return self.weight(step) * parts.mean(0).clamp(min=free).sum()

    def weight(self, step: int) -> float:
        """Of the divergence at step `step`, from 0 (Sønderby et al. 2016, arXiv 1602.02282, section 2.2)."""
        config = self.config
        return config.beta * min(1.0, step / config.warmup) if config.warmup else config.beta

    def watched(self, mean: Tensor) -> dict[str, Tensor]:
        """What is only logged, of posterior means [B,D]."""
        watch = {} if self.learned_scale is None else {"scale": self.learned_scale().detach()}
        return {**watch, **active_units(mean)}

    def sigma(self) -> Tensor | None:
        """The scale of the likelihood where it is learned."""
        return None if self.learned_scale is None else self.learned_scale()

    @property
    def scale(self) -> float:
        """The scale of the likelihood: given, learned, or as its table has it."""
        return scale_of(self.config) if self.learned_scale is None else float(self.learned_scale().detach())

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [B,D] each, float32."""
        mean, log_variance = self.encoder(image).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, image: Tensor) -> Tensor:
        return self.posterior(image)[0]

    def latents(self, noise: Noise) -> Tensor:
        """Draws from the prior, [N,D], one for each seed."""
        return draw(self.prior.components(self.posterior), noise)

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(self.latents(noise))

    def log_likelihood_of(self, latent: Tensor, image: Tensor) -> Tensor:
        """log p(x|z) of latents [B,D], [B] nats."""
        return -reconstruction_nats(self.config, self.decoder(latent), image, self.sigma())

    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The evidence lower bound of each picture with one draw of z (equation 7 with L = 1), [B] nats.

        `kl` is closed form where the prior is one Gaussian, else log q(z|x) - log p(z) of the same draw.
        """
        mean, log_variance = self.posterior(image)
        latent = mean + (0.5 * log_variance).exp() * noise.draw(self.latent_size, device=mean.device)
        log_likelihood = self.log_likelihood_of(latent, image)
        kl = DIVERGENCES["kl"](mean, log_variance, latent, self.prior.components(self.posterior)).sum(1)
        return {"bound": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}

    def log_weights(self, image: Tensor, noise: Noise, draws: int) -> Tensor:
        """log p(x,z) - log q(z|x) of draws of z (Burda et al. 2016, equation 8), [draws,B] nats; encodes once."""
        mean, log_variance = self.posterior(image)
        prior = self.prior.components(self.posterior)
        found = []
        for _ in range(draws):
            unit = noise.draw(self.latent_size, device=mean.device)
            latent = mean + (0.5 * log_variance).exp() * unit
            log_joint = self.log_likelihood_of(latent, image) + prior.log_density(latent)
            found.append(log_joint - log_density_of_draw(unit, log_variance))
        return torch.stack(found)


def log_density_of_draw(unit: Tensor, log_variance: Tensor) -> Tensor:
    """log q(z|x) of z that lie `unit` deviations from the mean, summed over the last dimension, nats."""
    return -0.5 * (unit.square() + log_variance + math.log(2 * math.pi)).sum(-1)


def active_units(mean: Tensor) -> dict[str, Tensor]:
    """How many dimensions of encodings [B,D] tell pictures apart, if there are several pictures.

    Burda et al. 2016, arXiv 1509.00519, section 5.2: a unit is active if Var_x(E[z|x]) > 0.01.
    """
    return {"active_units": (mean.detach().var(0, correction=0) > 0.01).float().sum()} if len(mean) > 1 else {}


VAE_RECIPE = Recipe(
    summary="Variational autoencoder.",
    model=VAE,
    config=VAEConfig(),
    tiny=VAEConfig(latent_size=4, widths=(4, 8), components=4),
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
    )
    + measured(
        "tasvir train vae --data mnist --model.latent-size 16 --train.steps 10000",
        f"{MIXTURE}; {MNIST}",
        frechet=1.65,
        precision=0.855,
        recall=0.604,
        coverage=0.703,
    )
    + measured(
        "tasvir train vae --data mnist --data.binarize dynamic --model.latent-size 32 "
        "--model.optimizer.schedule cosine --train.steps 16000",
        f"importance bound of 100 draws; {BINARIZED}",
        importance_bound=-88.5,
        bound=-93.2,
        rate=30.2,
    ),
    published="importance bound of 5,000 draws -86.8 nats on binarized MNIST, after full training of dense layers "
    "(Burda et al. 2016, table 1)",
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
    # Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained variational framework", ICLR
    "beta-vae": VAE_RECIPE.preset(
        "VAE with a heavier divergence, for latent dimensions that mean something.",
        latent_size=10,
        beta=4.0,
        warmup=1000,
        free_bits=0.05,
    ),
    # Tomczak and Welling 2018, arXiv 1705.07120
    "vae-vamp": VAE_RECIPE.preset(
        "VAE whose prior is the mixture of its posteriors at learned pictures (VampPrior).",
        prior="vamp",
        norm="layer",
        warmup=1000,
    ),
    # Rybkin et al. 2021, arXiv 2006.13202
    "sigma-vae": VAE_RECIPE.preset(
        "VAE that learns the variance of its pixels.", reconstruction="gaussian", scale="learned"
    ),
    # Tran et al. 2022, "Cauchy-Schwarz Regularized Autoencoder", JMLR 23, article 115
    "cs-vae": VAE_RECIPE.preset(
        "VAE with the Cauchy-Schwarz divergence from a learned mixture of Gaussians.",
        divergence="cauchy-schwarz",
        prior="mixture",
        expect=measured(
            "tasvir train cs-vae --data mnist --model.latent-size 16 --train.steps 2500",
            f"2,000 samples and test pictures, importance bound of 50 draws; {ONE_THREAD}",
            importance_bound=-97.9,
            bound=-101.0,
            frechet=8.63,
            reconstruction_mse=0.00832,
        ),
    ),
}
