"""Augmentation of all that a discriminator sees, through which the generator learns."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to every picture, real or generated, before the discriminator sees it; for few pictures."""

    name: Literal["none"] = "none"


class Augment(nn.Module):
    """Pictures [B,C,S,S] in [-1,1] to the same."""

    def __init__(self, config: AugmentConfig):
        super().__init__()
        self.config = config

    def forward(self, image: Tensor) -> Tensor:
        return image

    def adapted(self, real_score: Tensor, number: int) -> dict[str, Tensor]:
        """Become stronger or weaker by the scores [B] of `number` real pictures; what is to be watched."""
        return {}
