"""What a decoder's output says about pixels, as a table; and the divergences of latents from their prior."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LikelihoodName = Literal["bernoulli", "gaussian", "mse"]


@dataclass(frozen=True)
class Likelihood:
    """A reconstruction loss over pixels in [0,1]; pictures and logits are [B,C,H,W], values [B]."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    """(logits, pixels, scale) → what is descended."""
    nats: Callable[[Tensor, Tensor, float], Tensor]
    """(logits, pixels, scale) → the negative log-likelihood in nats that belongs to the loss."""
    density: bool
    """Whether the likelihood is a density over pixels in [0,1]; else it is a probability."""
    scale: float = 1.0
    """Used where a config leaves it out."""


def reconstruction_loss(config: Any, logits: Tensor, image: Tensor) -> Tensor:
    """What a config with `reconstruction` and `scale` descends for pictures in [-1,1]; [B]."""
    row = LIKELIHOODS[config.reconstruction]
    return row.loss(logits.float(), (image + 1) / 2, config.scale or row.scale)


def reconstruction_nats(config: Any, logits: Tensor, image: Tensor) -> Tensor:
    """The negative log-likelihood of pictures in [-1,1] that belongs to `reconstruction_loss`; [B] nats."""
    row = LIKELIHOODS[config.reconstruction]
    return row.nats(logits.float(), (image + 1) / 2, config.scale or row.scale)


def bernoulli(logits: Tensor, pixels: Tensor, scale: float = 1.0) -> Tensor:
    """-log p of pixels taken as probabilities of a Bernoulli variable each; [B] nats. `scale` has no meaning here."""
    return binary_cross_entropy_with_logits(logits, pixels, reduction="none").flatten(1).sum(1)


def gaussian(logits: Tensor, pixels: Tensor, scale: float) -> Tensor:
    """-log N(pixels; sigmoid(logits), scale²), summed over pixels; [B] nats."""
    distance = (logits.sigmoid() - pixels).square().flatten(1)
    return 0.5 * distance.sum(1) / scale**2 + distance.shape[1] * (math.log(scale) + 0.5 * math.log(2 * math.pi))


def mean_squared_error(logits: Tensor, pixels: Tensor, scale: float) -> Tensor:
    """`scale` times the mean over pixels of (sigmoid(logits) - pixels)²; [B]."""
    return scale * (logits.sigmoid() - pixels).square().flatten(1).mean(1)


def _mean_squared_error_nats(logits: Tensor, pixels: Tensor, scale: float) -> Tensor:
    # scale · mean = sum / (2 sigma²) where sigma² = pixels / (2 scale)
    return gaussian(logits, pixels, math.sqrt(pixels[0].numel() / (2 * scale)))


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Likelihood(bernoulli, bernoulli, density=False),
    "gaussian": Likelihood(gaussian, gaussian, density=True, scale=0.1),
    "mse": Likelihood(mean_squared_error, _mean_squared_error_nats, density=True, scale=1000.0),
}


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0,1)) of each dimension, nats; Kingma and Welling 2014, appendix B."""
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)
