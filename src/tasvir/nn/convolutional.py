"""Convolutional encoder and decoder that halve and double the picture, shared by the autoencoders."""

from collections.abc import Callable

from torch import Tensor, nn

# Not nn.InstanceNorm2d: its gradient is wrong on a CPU for one picture with channels innermost in memory (torch 2.13).
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.GroupNorm(channels, channels),
    "none": lambda channels: nn.Identity(),
}


def halvings(size: int, smallest: int = 4) -> list[int]:
    """Picture sizes from `size` down, each half of the one before rounded up, the last below 2 × `smallest` - 1."""
    sizes = [size]
    while sizes[-1] >= 2 * smallest - 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


class Encoder(nn.Module):
    """[B,C,S,S] → [B,outputs]: one stride-2 convolution for each halving, then a dense layer."""

    def __init__(self, channels: int, size: int, widths: tuple[int, ...], outputs: int, norm: str):
        super().__init__()
        sizes = halvings(size)
        layers: list[nn.Module] = []
        for width in _widths(widths, len(sizes) - 1):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), NORMS[norm](width), nn.LeakyReLU(0.2)]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * sizes[-1] ** 2, outputs)

    def forward(self, image: Tensor) -> Tensor:
        return self.dense(self.convolutions(image).flatten(1))


class Decoder(nn.Module):
    """[B,latent] → [B,C,S,S] logits: a dense layer, a stride-2 transposed convolution for each doubling, a last one."""

    def __init__(self, latent: int, channels: int, size: int, widths: tuple[int, ...], norm: str):
        super().__init__()
        sizes = halvings(size)[::-1]
        outward = _widths(widths, len(sizes) - 1)[::-1]
        self.shape = (outward[0], sizes[0], sizes[0])
        self.dense = nn.Linear(latent, outward[0] * sizes[0] ** 2)
        layers: list[nn.Module] = []
        for before, after, bigger in zip(outward, [*outward[1:], outward[-1]], sizes[1:], strict=True):
            layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1 - bigger % 2)]
            layers += [NORMS[norm](after), nn.LeakyReLU(0.2)]
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(outward[-1], channels, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        return self.convolutions(self.dense(latent).unflatten(1, self.shape))


def _widths(widths: tuple[int, ...], count: int) -> list[int]:
    """The first `count` widths; the last is repeated where there are too few."""
    return [widths[min(position, len(widths) - 1)] for position in range(count)]
