"""Spectral normalization against numpy's singular values, torch's own layer, and what training asks of it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tasvir.nn.spectral import SpectralNorm, singular_values, spectral

LAYERS = {
    "dense": lambda: nn.Linear(7, 5),
    "convolution": lambda: nn.Conv2d(3, 6, 3),
    "embedding": lambda: nn.Embedding(4, 9),
}


def largest(weight: torch.Tensor) -> float:
    return float(np.linalg.svd(weight.detach().double().flatten(1).numpy(), compute_uv=False)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_largest_singular_value_becomes_one(kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    plain = layer.weight.detach().clone()
    spectral(layer)
    for _ in range(200):
        _ = layer.weight
    assert torch.allclose(layer.weight, plain / largest(plain), rtol=1e-5)
    assert singular_values(layer)[""] == pytest.approx(1.0, rel=1e-5)


def test_one_iteration_is_algorithm_1() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 7)
    norm = SpectralNorm(weight, iterations=0)
    u, w = norm.u.double().numpy(), weight.double().numpy()
    for _ in range(3):
        v = w.T @ u / np.linalg.norm(w.T @ u)
        u = w @ v / np.linalg.norm(w @ v)
        assert np.allclose(norm(weight).numpy(), w / (u @ w @ v), rtol=1e-5)
        assert np.allclose(norm.u.numpy(), u, atol=1e-6)
    norm.eval()
    before = norm.u.clone()
    norm(weight)
    assert torch.equal(norm.u, before), "evaluation leaves the vector as it is"


def test_outputs_and_gradients_are_those_of_torchs_layer() -> None:
    torch.manual_seed(0)
    ours = nn.Conv2d(3, 6, 3, padding=1)
    theirs = copy.deepcopy(ours)
    spectral(ours)
    parametrizations.spectral_norm(theirs, n_power_iterations=300)
    image = torch.randn(2, 3, 8, 8)
    for _ in range(300):
        _ = ours.weight
    found = []
    for layer in (ours, theirs):
        out = layer(image)
        (out**2).sum().backward()
        found.append((out.detach(), layer.parametrizations.weight.original.grad))
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_gradient_is_of_sigma_with_constant_vectors() -> None:
    """Equation 12 of the paper, before convergence too: (G - ⟨G, W/σ⟩ u vᵀ) / σ."""
    torch.manual_seed(0)
    weight, upstream = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    norm = SpectralNorm(weight, iterations=1)
    v = torch.nn.functional.normalize(weight.detach().T @ norm.u, dim=0)
    u, sigma = weight.detach() @ v / (weight.detach() @ v).norm(), (weight.detach() @ v).norm()
    (norm(weight) * upstream).sum().backward()
    expected = (upstream - (upstream * weight.detach() / sigma).sum() * torch.outer(u, v)) / sigma
    assert torch.allclose(weight.grad, expected, atol=1e-6)


def test_it_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, dtype=torch.float32, requires_grad=True)
    norm = SpectralNorm(weight, iterations=30).eval()
    (gradient,) = torch.autograd.grad(norm(weight).square().sum(), weight, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0


def test_autocast_changes_no_bit_of_the_weight() -> None:
    torch.manual_seed(0)
    layer = spectral(nn.Conv2d(3, 6, 3))
    twin = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, twin.weight)
    assert all(buffer.dtype == torch.float32 for buffer in layer.buffers())


def test_layout_of_the_weight_does_not_matter() -> None:
    torch.manual_seed(0)
    layer = spectral(nn.Conv2d(8, 6, 3))
    other = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for _ in range(3):
        assert torch.allclose(layer.weight, other.weight, atol=1e-7)
    assert torch.allclose(layer.state_dict()["parametrizations.weight.0.u"], next(other.buffers()), atol=1e-6)


def test_a_weight_of_zeros_stays_finite() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    spectral(layer)
    layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight, torch.zeros(2, 3))
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_averaged_weights_are_normalized_too() -> None:
    """An average of unit vectors is shorter than one; torch's own layer would then divide by too little."""
    torch.manual_seed(0)
    norms = []
    for wrap in (spectral, parametrizations.spectral_norm):
        layer = wrap(nn.Linear(6, 5))
        for _ in range(100):
            _ = layer.weight
        with torch.no_grad():
            for buffer in layer.buffers():
                buffer.mul_(0.8)
        norms.append(singular_values(layer)[""])
    assert norms[0] == pytest.approx(1.0, rel=1e-3) and norms[1] > 1.5


def test_state_and_copies_go_on_as_the_original() -> None:
    torch.manual_seed(0)
    layer = spectral(nn.Linear(6, 5))
    twin, loaded = copy.deepcopy(layer), spectral(nn.Linear(6, 5))
    loaded.load_state_dict(layer.state_dict())
    for _ in range(3):
        weight = layer.weight
        assert torch.equal(weight, twin.weight) and torch.equal(weight, loaded.weight)


def test_a_normalized_stack_is_1_lipschitz() -> None:
    """Dense layers of singular value 1 and activations of slope 1 or less: no two points are drawn apart."""
    torch.manual_seed(0)
    network = nn.Sequential(spectral(nn.Linear(10, 20)), nn.ReLU(), spectral(nn.Linear(20, 1)))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(100):  # even while it tries to be as steep as it can
        optimizer.zero_grad()
        network(torch.randn(16, 10) + 1).mean().neg().add(network(torch.randn(16, 10) - 1).mean()).backward()
        optimizer.step()
    for _ in range(50):
        network(torch.zeros(1, 10))
    points = torch.randn(500, 10).requires_grad_()
    (slopes,) = torch.autograd.grad(network(points).sum(), points)
    steepest = float(slopes.norm(dim=1).max())
    assert 0.3 < steepest <= 1.0 + 1e-4
