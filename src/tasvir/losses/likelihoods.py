"""What a decoder's output says about pixels, as a table; and a scale that is learned."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tasvir.config import Refused

LikelihoodName = Literal["bernoulli", "gaussian", "mse"]


@dataclass(frozen=True)
class Likelihood:
    """A reconstruction loss over pixels in [0,1]; pictures and logits are [B,C,H,W], values [B]."""

    loss: Callable[[Tensor, Tensor, Any], Tensor]
    """(logits, pixels, scale) → what is descended."""
    nats: Callable[[Tensor, Tensor, Any], Tensor]
    """(logits, pixels, scale) → the negative log-likelihood in nats that belongs to the loss."""
    density: bool
    """Whether the likelihood is a density over pixels in [0,1]; else it is a probability."""
    scale: float = 1.0
    """Used where a config leaves it out."""


Scale = float | Tensor
"""A number, or one that is learned: a positive scalar on the model's device."""


class LearnedScale(nn.Module):
    """The standard deviation of `gaussian` as one parameter, its logarithm (Rybkin et al. 2021, arXiv 2006.13202)."""

    def __init__(self, start: float):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        return self.log_scale.exp()


def learned_scale(config: Any) -> LearnedScale | None:
    """What a config with `scale: learned` needs; None for a scale that is given. Raises `Refused` where it has none."""
    if config.scale != "learned":
        return None
    if config.reconstruction != "gaussian":
        raise Refused(
            "--model.scale learned is a standard deviation, which only the gaussian likelihood has, not "
            f"{config.reconstruction}: add --model.reconstruction gaussian, or give a number."
        )
    return LearnedScale(LIKELIHOODS["gaussian"].scale)


def scale_of(config: Any) -> float:
    """The scale that a config gives, or that its likelihood has where the config leaves it out."""
    return config.scale or LIKELIHOODS[config.reconstruction].scale


def reconstruction_loss(config: Any, logits: Tensor, image: Tensor, scale: Scale | None = None) -> Tensor:
    """What a config with `reconstruction` and `scale` descends for pictures in [-1,1]; [B].

    `scale`, where it is given, is used in place of the config's.
    """
    row = LIKELIHOODS[config.reconstruction]
    return row.loss(logits.float(), (image + 1) / 2, scale_of(config) if scale is None else scale)


def reconstruction_nats(config: Any, logits: Tensor, image: Tensor, scale: Scale | None = None) -> Tensor:
    """The negative log-likelihood of pictures in [-1,1] that belongs to `reconstruction_loss`; [B] nats."""
    row = LIKELIHOODS[config.reconstruction]
    return row.nats(logits.float(), (image + 1) / 2, scale_of(config) if scale is None else scale)


def bernoulli(logits: Tensor, pixels: Tensor, scale: Scale = 1.0) -> Tensor:
    """-log p of pixels taken as probabilities of a Bernoulli variable each; [B] nats. `scale` has no meaning here."""
    return binary_cross_entropy_with_logits(logits, pixels, reduction="none").flatten(1).sum(1)


def gaussian(logits: Tensor, pixels: Tensor, scale: Scale) -> Tensor:
    """-log N(pixels; sigmoid(logits), scale²), summed over pixels; [B] nats."""
    distance = (logits.sigmoid() - pixels).square().flatten(1)
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return 0.5 * distance.sum(1) / scale**2 + distance.shape[1] * (log_scale + 0.5 * math.log(2 * math.pi))


def mean_squared_error(logits: Tensor, pixels: Tensor, scale: Scale) -> Tensor:
    """`scale` times the mean over pixels of (sigmoid(logits) - pixels)²; [B]."""
    return scale * (logits.sigmoid() - pixels).square().flatten(1).mean(1)


def _mean_squared_error_nats(logits: Tensor, pixels: Tensor, scale: Scale) -> Tensor:
    # scale · mean = sum / (2 sigma²) where sigma² = pixels / (2 scale)
    return gaussian(logits, pixels, (pixels[0].numel() / (2 * scale)) ** 0.5)


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Likelihood(bernoulli, bernoulli, density=False),
    "gaussian": Likelihood(gaussian, gaussian, density=True, scale=0.1),
    "mse": Likelihood(mean_squared_error, _mean_squared_error_nats, density=True, scale=1000.0),
}
