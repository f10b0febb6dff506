"""Telling a network a picture's class."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, one_hot


def joined(vector: Tensor, label: Tensor, classes: int, strength: float = 1.0) -> Tensor:
    """Vectors [B,D] with a number for each class behind them, [B,D + classes]: `strength` for class `label` [B], or 0.

    Beside noise of unit variance, √D would drown it: generators so told drew one picture of each class.
    """
    return torch.cat([vector, strength * one_hot(label, classes).to(vector.dtype)], 1)


class ClassBias(nn.Module):
    """Maps [B,C,H,W] and classes [B] to maps with a learned number added to each channel, by class.

    A convolution over maps to which a plane of ones was joined for the picture's class, and of zeros for all others,
    differs from one without them by such numbers (but at the border).
    """

    def __init__(self, classes: int, channels: int, deviation: float = 0.3):
        super().__init__()
        self.weight = nn.Parameter(deviation * torch.randn(classes, channels))

    def forward(self, maps: Tensor, label: Tensor) -> Tensor:
        return maps + embedding(label, self.weight)[:, :, None, None].to(maps.dtype)
