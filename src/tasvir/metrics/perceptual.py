"""Perceptual distance of two pictures, LPIPS (Zhang et al. 2018, arXiv 1801.03924), through torchmetrics: its heads
come with the package, the network below them with torchvision's weights."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasvir.data.batches import to_float
from tasvir.metrics.similarity import Pairs, sides
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, of_each
from tasvir.nn import pretrained as published
from tasvir.training.precision import choose_device

Network = Literal["alex", "vgg", "squeeze"]
NETWORK: Network = "alex"
"""By which pairs are compared, as its authors advise."""
NETWORKS: dict[Network, tuple[str, int]] = {
    "alex": ("AlexNet_Weights", 31),
    "vgg": ("VGG16_Weights", 16),
    "squeeze": ("SqueezeNet1_1_Weights", 17),
}
"""Network → (torchvision's name of its weights, the smallest picture in px that gets through it)."""
ENLARGED = 64
"""Pixels that smaller pictures are enlarged to: the size of the patches that LPIPS was learned on."""
CHUNK = 2**19
"""Pixels of one side of the pairs that are compared at a time."""


@dataclass(frozen=True)
class Perceptual:
    """LPIPS of one network, called with two batches of pictures, float [N,3,H,W] in [-1,1]: [N], at least 0."""

    network: Network
    module: nn.Module
    hash: str
    """The first 16 digits of the sha256 of all its weights, heads included."""

    @torch.no_grad()
    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        return self.descended(made, real)

    def descended(self, made: Tensor, real: Tensor) -> Tensor:
        """The same, with gradients."""
        if self.resize(min(real.shape[-2:])) != "none":
            size = (ENLARGED, ENLARGED)
            made, real = (functional.interpolate(images, size, mode="bilinear") for images in (made, real))
        return self.module(made.float(), real.float()).flatten()

    def resize(self, side: int) -> str:
        """In words, what happens to pictures of this side before they are compared."""
        return "none" if side >= NETWORKS[self.network][1] else f"bilinear to {ENLARGED} px"

    def facts(self, sides: list[int]) -> dict[str, Any]:
        """What the passport says for pictures of these sides."""
        resize = " or ".join(sorted({self.resize(side) for side in sides}))
        return {"lpips": self.network, "lpips_weights": self.hash, "lpips_resize": resize}


def lpips(network: Network = NETWORK, device: torch.device | str = "cpu", pretrained: bool = True) -> Perceptual:
    """LPIPS with `alex`, `vgg` or `squeeze` below; without `pretrained` the network's weights are random, for tests.

    Raises `Refused` if the weights are not there and cannot be fetched, or are not what they should be.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    if pretrained:
        published.fetch(NETWORKS[network][0], f"LPIPS with {network}")
    module = _NoTrainLpips(net=network, pnet_rand=not pretrained)
    digest = hashlib.sha256()
    for name, values in module.state_dict().items():
        digest.update(name.encode())
        digest.update(values.numpy().tobytes())
    return Perceptual(network, module.to(device), digest.hexdigest()[:16])


def at_hand(network: Network) -> bool:
    """Whether a network's weights lie where torchvision keeps them."""
    return published.at_hand(NETWORKS[network][0])


def color(images: Tensor) -> Tensor:
    """[N,1 or 3,H,W] to [N,3,H,W]: grey is repeated."""
    return images.expand(-1, 3, -1, -1)


def distances(distance: Perceptual, pairs: Pairs, device: torch.device) -> np.ndarray:
    """[N] float64 distances of all pairs, a few of them at a time."""
    found = []
    for made, real in pairs:
        step = max(1, CHUNK // (real.shape[1] * real.shape[2]))
        for start in range(0, len(real), step):
            both = (torch.from_numpy(np.array(images[start : start + step])).to(device) for images in (made, real))
            found.append(distance(*(color(to_float(part)) for part in both)).cpu().double().numpy())
    return np.concatenate(found)


# ---- what evaluate asks for


def perceptual(subject: Subject) -> list[Value]:
    """`lpips` with AlexNet, the authors' choice for comparing pictures; the mean over pairs."""
    device = choose_device(subject.device)
    distance = lpips(NETWORK, device)
    passport = distance.facts(sides(subject.pairs))
    return [of_each(f"{subject.prefix}lpips", distances(distance, subject.pairs, device), passport=passport)]
