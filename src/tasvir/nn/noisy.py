"""Noise on the way through a network, for classifiers of few labels; drawn alike whatever the memory layout is."""

import torch
from torch import Tensor, nn


class GaussianNoise(nn.Module):
    """Values with independent noise of this deviation added while training."""

    def __init__(self, deviation: float):
        super().__init__()
        self.deviation = deviation

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        return values + (self.deviation * torch.randn(values.shape, device=values.device)).to(values.dtype)


class PlainDropout(nn.Module):
    """Each value is zero with this probability while training, and the others are larger by as much (Srivastava et al.
    2014); torch's own draws in the order in which values lie in memory."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        kept = torch.rand(values.shape, device=values.device) >= self.probability
        return values * (kept / (1 - self.probability)).to(values.dtype)
