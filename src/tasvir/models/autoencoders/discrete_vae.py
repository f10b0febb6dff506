"""The variational autoencoder with binary latents, whose encoder learns through any estimator of the gradient of an
expectation over Bernoulli variables (Mnih and Gregor 2014, arXiv 1402.0030; Tucker et al. 2017, arXiv 1703.07370).

Latents outside the model are what is standard normal under the prior: a bit is set where its latent is positive.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tasvir.config import Count, CountOrZero, NonNegative, OptimizerConfig, Pictures, Positive, Refused, TrainConfig
from tasvir.core import Batch, Noise, Player, Recipe, Turn
from tasvir.estimators.distributions import Bernoulli, Estimate, Generator
from tasvir.estimators.table import ESTIMATORS, Options
from tasvir.losses.likelihoods import LikelihoodName, reconstruction_loss, reconstruction_nats
from tasvir.models.autoencoders.ae import Autoencoder
from tasvir.nn.convolutional import Decoder, Encoder
from tasvir.nn.everywhere import averaged

EstimatorName = Literal[
    "score-function",
    "mean-baseline",
    "previous-baseline",
    "leave-one-out",
    "optimal-leave-one-out",
    "measure-valued",
    "straight-through",
    "gumbel-softmax",
    "gumbel-straight-through",
    "rebar",
]
BITS = Bernoulli()
MOST_MEASURED = 64
"""Latents up to which measure-valued gradients, one evaluation of the decoder for each, are affordable."""
LOOKED_AT = 4
"""Pictures whose gradient's variance is watched."""
REPEATS = 16
"""Independent estimates that the variance is computed from."""
MEMORY = 0.99
"""Decay of the average of earlier losses, the baseline `previous-baseline` begins with."""


@dataclass(frozen=True)
class DiscreteVAEConfig:
    latent_size: Count = 64
    """Bits, each as likely 0 as 1 under the prior."""
    estimator: EstimatorName = "leave-one-out"
    """Of the encoder's gradient; `tasvir estimators --distribution bernoulli` compares them."""
    draws: Count = 4
    """Samples of the bits for each picture in a step."""
    temperature: Positive = 0.5
    """Of the relaxed bits of gumbel-softmax, gumbel-straight-through and rebar."""
    variance_every: CountOrZero = 50
    """Steps between measurements of the variance of the encoder's gradient; 0 measures none."""
    widths: tuple[Count, ...] = (32, 64, 128, 256, 256)
    """Channels of each stride-2 convolution, outermost first; as many are used as the size has halvings."""
    norm: Literal["layer", "none"] = "layer"
    """Within one picture: batch norm would let the pictures of a batch change one another's loss."""
    reconstruction: LikelihoodName = "bernoulli"
    """What is descended for pixels in [0,1]; see losses/likelihoods.py."""
    scale: Positive | None = None
    """The standard deviation of `gaussian` (0.1 if left out), or the weight of `mse` (1000)."""
    beta: NonNegative = 1.0
    """Weight of the divergence from the prior."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)


class DiscreteVAE(Autoencoder):
    moving: Tensor

    def __init__(self, config: Any, pictures: Pictures):
        least = ESTIMATORS[config.estimator].least
        if config.draws < least:
            raise Refused(
                f"--model.estimator {config.estimator} compares the draws of a picture and needs at least {least}: "
                f"--model.draws {least}, not {config.draws}."
            )
        if config.estimator == "measure-valued" and config.latent_size > MOST_MEASURED:
            raise Refused(
                f"measure-valued gradients decode every picture once for each of the {config.latent_size} latents: "
                f"take --model.latent-size {MOST_MEASURED} or less, or another --model.estimator."
            )
        super().__init__(config, pictures)
        self.register_buffer("moving", torch.zeros(()))

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The encoder, [B,C,S,S] → logits of the bits [B,D], and the decoder, bits [B,D] → logits [B,C,S,S]."""
        return (
            Encoder(pictures.channels, pictures.size, config.widths, config.latent_size, config.norm),
            Decoder(config.latent_size, pictures.channels, pictures.size, config.widths, config.norm),
        )

    def players(self) -> dict[str, Player]:
        return {"vae": Player((self.encoder, self.decoder), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        logits = self.logits(batch.image)
        found = self.estimate(batch.image, logits, step)
        # worth nothing, with the estimate as its gradient
        surrogate = ((logits - logits.detach()) * found.gradient[..., 0]).sum(1)
        divergence = kl_from_fair_coins(logits)
        spins = torch.tanh(logits.detach() / 2)
        watch = {"kl_per_dimension": divergence.detach().mean()}
        if len(batch) > 1:
            watch["active_units"] = (spins.var(0, correction=0) > 0.01).float().sum()
        every = self.config.variance_every
        if every and (step + 1) % every == 0:
            watch["gradient_variance"] = self.gradient_variance(batch.image[:LOOKED_AT], logits[:LOOKED_AT], step)
        with torch.no_grad():
            self.moving.lerp_(averaged(found.value.detach().float().mean()), 1 - MEMORY)
        terms = {
            "reconstruction": (found.value + surrogate).mean(),
            "kl": self.config.beta * divergence.sum(1).mean(),
        }
        yield Turn("vae", terms, watch)

    def logits(self, image: Tensor) -> Tensor:
        """Of the bits under q(z|x), [B,D] float32."""
        return self.encoder(image).float().clamp(-30, 30)

    def estimate(self, image: Tensor, logits: Tensor, step: int, generator: Generator = None) -> Estimate:
        """The gradient of E_q[loss] with respect to logits [*,B,D], [*,B,D,1], and the loss of the draws, [*,B]."""

        def loss(bits: Tensor) -> Tensor:
            every = image.expand(*bits.shape[:-2], *image.shape).flatten(0, -4)
            return reconstruction_loss(self.config, self.decoder(bits.flatten(0, -2)), every).view(bits.shape[:-1])

        baseline = self.moving / (1 - MEMORY**step) if step else self.moving  # without the zero that it began with
        options = Options(temperature=self.config.temperature, baseline=baseline.clone(), generator=generator)
        estimator = ESTIMATORS[self.config.estimator].estimate
        return estimator(BITS, logits.detach()[..., None], loss, self.config.draws, options)

    @torch.no_grad()
    def gradient_variance(self, image: Tensor, logits: Tensor, step: int) -> Tensor:
        """Variance over independent estimates of the gradient with respect to the logits, summed over them and averaged
        over pictures, nats². Its random numbers follow from the step's seed, and none of the training's are used up."""
        generator = torch.Generator(logits.device).manual_seed((torch.initial_seed() + 1) % 2**63)
        found = self.estimate(image, logits.expand(REPEATS, *logits.shape), step, generator)
        return found.gradient.var(0).sum((-2, -1)).mean()

    def encode(self, image: Tensor) -> Tensor:
        """The posterior mean of each bit as -1 or 1, which like a latent has mean 0 and variance 1 under the prior."""
        return torch.tanh(self.logits(image) / 2)

    def decode(self, latent: Tensor) -> Tensor:
        """From the bits of latents that are positive: as likely as not under a standard normal."""
        return super().decode((latent > 0).float())

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.uniform(self.latent_size, device=self.device) - 0.5)

    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The evidence lower bound of each picture with one draw of the bits, [B] nats."""
        logits = self.logits(image)
        reconstruction = -reconstruction_nats(self.config, self.decoder(self.draw(logits, noise)), image)
        divergence = kl_from_fair_coins(logits).sum(1)
        return {"bound": reconstruction - divergence, "log_likelihood": reconstruction, "kl": divergence}

    def log_weights(self, image: Tensor, noise: Noise, draws: int) -> Tensor:
        """log p(x,z) - log q(z|x) of draws of the bits, [draws,B] nats; encodes once."""
        logits = self.logits(image)
        found = []
        for _ in range(draws):
            bits = self.draw(logits, noise)
            # log(1/2) - log q(bit)
            from_prior = -math.log(2) - logsigmoid((2 * bits - 1) * logits)
            found.append(from_prior.sum(1) - reconstruction_nats(self.config, self.decoder(bits), image))
        return torch.stack(found)

    def draw(self, logits: Tensor, noise: Noise) -> Tensor:
        """Bits from q(z|x), [B,D]."""
        return (noise.uniform(self.latent_size, device=logits.device) < logits.sigmoid()).float()


def kl_from_fair_coins(logits: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(logits)) ‖ Bernoulli(1/2)) of each bit, nats: log 2 less its entropy."""
    probability = logits.sigmoid()
    return math.log(2) + probability * logsigmoid(logits) + (1 - probability) * logsigmoid(-logits)


DISCRETE_VAE = Recipe(
    summary="VAE with binary latents; its encoder learns through any of ten gradient estimators.",
    model=DiscreteVAE,
    config=DiscreteVAEConfig(),
    tiny=DiscreteVAEConfig(latent_size=4, widths=(4, 8)),
    train=TrainConfig(steps=6000),
    best="bound",
)

RECIPES = {"discrete-vae": DISCRETE_VAE}
