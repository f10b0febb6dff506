"""The convolutional networks of the VQ-VAE papers: strides first, then residual blocks; and the way back."""

from torch import Tensor, nn

from tasvir.config import Refused


class Residual(nn.Module):
    """[B,hidden,H,W] to the same: x + conv1×1(ReLU(conv3×3(ReLU(x))))."""

    def __init__(self, hidden: int, residual: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(hidden, residual, 3, padding=1), nn.ReLU(), nn.Conv2d(residual, hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class StridedEncoder(nn.Sequential):
    """[B,channels,S,S] → [B,hidden,S/factor,S/factor]: a stride-2 convolution for each halving, a 3×3, the blocks."""

    def __init__(self, channels: int, hidden: int, residual: int, blocks: int, factor: int):
        layers: list[nn.Module] = []
        for position in range(halvings_of(factor)):
            width = max(1, hidden // 2) if position == 0 else hidden
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        layers += [nn.Conv2d(channels, hidden, 3, padding=1)]
        super().__init__(*layers, *(Residual(hidden, residual) for _ in range(blocks)), nn.ReLU())


class StridedDecoder(nn.Sequential):
    """[B,inputs,S,S] → [B,channels,factor·S,factor·S]: a 3×3, the blocks, a transposed convolution each doubling."""

    def __init__(self, inputs: int, channels: int, hidden: int, residual: int, blocks: int, factor: int):
        layers: list[nn.Module] = [nn.Conv2d(inputs, hidden, 3, padding=1)]
        layers += [*(Residual(hidden, residual) for _ in range(blocks)), nn.ReLU()]
        before, doublings = hidden, halvings_of(factor)
        for left in reversed(range(doublings)):
            width = (max(1, hidden // 2) if left == 1 else hidden) if left else channels
            layers += [nn.ConvTranspose2d(before, width, 4, stride=2, padding=1)]
            layers += [nn.ReLU()] if left else []
            before = width
        super().__init__(*layers)


def halvings_of(factor: int) -> int:
    """How often a power of two can be halved until it is 1."""
    return factor.bit_length() - 1


def require_multiple(size: int, factor: int) -> None:
    """Raise `Refused` unless strides of that product divide the size of pictures."""
    if size % factor:
        lower = max(size // factor * factor, factor)
        raise Refused(
            f"Pictures of {size} px cannot be divided into squares of {factor} px: "
            f"set --data.size, for example to {lower} or {lower + factor}."
        )
