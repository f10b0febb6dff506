"""Spectral normalization (Miyato et al. 2018, arXiv 1802.05957, algorithm 1), for the weight of any layer.

Beside torch's own: float32 whatever autocast says; the paper's order, so that one vector is all the state; and a
copy with averaged weights and an averaged vector is as normalized as the original.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

EPSILON = 1e-12
Layer = TypeVar("Layer", bound=nn.Module)


class SpectralNorm(nn.Module):
    """A weight [out,...] over its largest singular value, as a matrix of `out` rows; estimated by power iteration.

    Each pass in training mode makes one iteration: v = Wᵀu / ‖Wᵀu‖, σ = ‖Wv‖, u = Wv / σ. The gradient of σ is that of
    uᵀWv with both vectors constant. `u` is a float buffer; in evaluation mode it stays as it is.
    """

    u: Tensor

    def __init__(self, weight: Tensor, iterations: int = 15):
        super().__init__()
        self.register_buffer("u", normalize(torch.randn(len(weight)), dim=0).to(weight.device))
        for _ in range(iterations):
            self(weight.detach())

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.float().flatten(1)
            with torch.no_grad():
                v = normalize(matrix.T.mv(self.u), dim=0, eps=EPSILON)
            response = matrix.mv(v)
            sigma = torch.linalg.vector_norm(response).clamp_min(EPSILON)
            if self.training:
                with torch.no_grad():
                    self.u.copy_(response / sigma)
            return weight / sigma


def spectral(layer: Layer) -> Layer:
    """The same layer with its `weight` normalized; initialize it before."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))  # type: ignore[arg-type]
    return layer


def singular_values(network: nn.Module) -> dict[str, float]:
    """The largest singular value of every spectrally normalized weight as it is used, by its layer's name."""
    found = {}
    training = network.training
    network.eval()
    with torch.no_grad():
        for name, layer in network.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                found[name] = float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2))
    network.train(training)
    return found
