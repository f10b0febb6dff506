"""Dropout that is a model's noise: drawn while training, and from a picture's own seed when an answer is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tasvir.core import Noise


class NoiseDropout(nn.Module):
    """[B,C,H,W] to the same, each value set to 0 with probability `rate`, the others divided by 1 - `rate`.

    In evaluation nothing changes, except inside `answering`.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.noise: Noise | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.rate or not (self.training or self.noise is not None):
            return x
        if self.noise is not None:
            drawn = self.noise.uniform(*x.shape[1:], device=x.device)
        else:
            drawn = torch.rand(x.shape, device=x.device)  # in plain layout, whatever that of x is
        return x * (drawn >= self.rate).to(x.dtype) / (1 - self.rate)


@contextmanager
def answering(model: nn.Module, noise: Noise | None) -> Iterator[None]:
    """While inside, the dropout of `model` is drawn from `noise`, one seed for each picture; None leaves it out."""
    layers = [layer for layer in model.modules() if isinstance(layer, NoiseDropout)]
    for layer in layers:
        layer.noise = noise
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None
