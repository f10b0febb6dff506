"""Discriminators of patches (Isola et al. 2017, arXiv 1611.07004, section 3.2.2 and appendix 6.1.2)."""

from collections.abc import Sequence

from torch import Tensor, nn

from tasvir.nn.convolutional import NORMS
from tasvir.nn.translators import halved

WIDEST = 8
"""How many times wider than its first layer the network becomes."""
LEAST = 3
"""Height and width of the maps that the last two convolutions of 4×4 still make a score of."""


def field(halvings: int) -> int:
    """Height and width in pixels of what one score sees, with so many halvings."""
    size = 1
    for stride in [1, 1, *[2] * halvings]:
        size = (size - 1) * stride + 4
    return size


def halvings_for(patch: int | str, size: int) -> int:
    """Halvings of a discriminator whose scores each see `patch` px, or the `whole` picture of `size` px; 0 for 1 px.

    Where the picture is too small for it, the most that leave a score: the largest patch that the picture can have.
    """
    if patch == 1:
        return 0
    wanted = size if patch == "whole" else int(patch)
    halvings = next(number for number in range(1, 12) if field(number) >= wanted)
    return next((fewer for fewer in range(halvings, 0, -1) if size >> fewer >= LEAST), 0)


class PatchDiscriminator(nn.Sequential):
    """[B,channels,H,W] → scores [B,1,h,w], each of one patch: 1, 16, 34, 70, 142 … px with 0, 1, 2, 3, 4 … halvings."""

    def __init__(self, channels: int, width: int, halvings: int, norm: str):
        if not halvings:
            layers: list[nn.Module] = [
                *(nn.Conv2d(channels, width, 1), nn.LeakyReLU(0.2)),
                *(nn.Conv2d(width, 2 * width, 1), NORMS[norm](2 * width), nn.LeakyReLU(0.2)),
                nn.Conv2d(2 * width, 1, 1),
            ]
            super().__init__(*layers)
            return
        layers, before = [], channels
        for level in range(halvings + 1):
            after = width * min(2**level, WIDEST)
            layers += [nn.Conv2d(before, after, 4, stride=2 if level < halvings else 1, padding=1)]
            layers += [NORMS[norm](after)] if level else []
            layers += [nn.LeakyReLU(0.2)]
            before = after
        super().__init__(*layers, nn.Conv2d(before, 1, 4, padding=1))

    def features(self, image: Tensor) -> list[Tensor]:
        """What comes out of each activation, first to last, and then the scores."""
        found = []
        for layer in self:
            image = layer(image)
            if isinstance(layer, nn.LeakyReLU):
                found.append(image)
        return [*found, image]


class MultiScale(nn.ModuleList):
    """Discriminators, each of which sees pictures half as large as the one before (Wang et al. 2018, arXiv 1711.11585,
    section 3.2): [B,channels,H,W] → of each, its `features`."""

    def __init__(self, channels: int, width: int, halvings: Sequence[int], norm: str):
        super().__init__(PatchDiscriminator(channels, width, number, norm) for number in halvings)

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        found = []
        for level, discriminator in enumerate(self):
            assert isinstance(discriminator, PatchDiscriminator)
            image = halved(image) if level else image
            found.append(discriminator.features(image))
        return found
