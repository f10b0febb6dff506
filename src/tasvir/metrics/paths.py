"""Perceptual path length (Karras et al. 2019, arXiv 1812.04948, section 4.1): how fast pictures change along a path
between latents. A short, even path means that the generator is smooth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasvir.core import Noise
from tasvir.metrics.perceptual import Network, color, lpips
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, bootstrap
from tasvir.spaces import PATHS, random_latents

MOST = 10_000
"""Paths that are measured at most."""
EPSILON = 1e-4
"""The step along a path, as in the paper."""
BATCH = 16
"""Paths at a time: LPIPS keeps the pictures of every layer."""

NETWORK: Network = "vgg"
"""By which two pictures of a path are compared, as in the paper."""


SAMPLINGS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "full": lambda number, generator: torch.rand(number, 1, generator=generator, dtype=torch.float64),
    "end": lambda number, generator: torch.zeros(number, 1, dtype=torch.float64),
}
"""Where on a path the step is taken: anywhere (the paper), or at its start (Karras et al. 2020, arXiv 1912.04958)."""


@torch.no_grad()
def path_length(
    decode: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    interpolate: str = "spherical",
    sampling: str = "full",
    epsilon: float = EPSILON,
    seed: int = 0,
) -> np.ndarray:
    """[N] float64 lengths of the paths between latents [N,D] (on the CPU): distance over a step, divided by its square.

    Equation 2 of the paper (`spherical`, in z) and 3 (`linear`, in w). `decode` takes latents [B,D] float32 to
    pictures, `distance` takes two batches of those to [B]. Latents are interpolated in float64, since a step is small
    against what float32 can tell apart.
    """
    between = PATHS[interpolate]
    parts = SAMPLINGS[sampling](len(start), torch.Generator().manual_seed(seed))
    found = []
    for place in range(0, len(start), BATCH):
        rows = slice(place, place + BATCH)
        ends = start[rows].double(), end[rows].double()
        near, far = (decode(between(*ends, parts[rows] + step).float()) for step in (0.0, epsilon))
        found.append(distance(near, far).cpu().double().numpy() / epsilon**2)
    return np.concatenate(found)


def without_outliers(lengths: np.ndarray) -> np.ndarray:
    """Lengths from the 1st to the 99th percentile: a few enormous ones would be all that a mean shows."""
    low = np.quantile(lengths, 0.01, method="lower")
    high = np.quantile(lengths, 0.99, method="higher")
    return lengths[(lengths >= low) & (lengths <= high)]


# ---- what evaluate asks for


@torch.no_grad()
def perceptual_path_length(subject: Subject) -> list[Value]:
    """`ppl_z` of a run that decodes latents, and `ppl_w` if its model has `map(z)` → w and `synthesize(w)` → pictures.

    Lower is smoother, but a generator that always makes the same picture has the lowest, 0: read it beside the others.
    """
    assert subject.opened is not None
    model, device = subject.opened.model, subject.opened.device
    number = min(subject.number, MOST)
    noise = Noise(range(subject.seed, subject.seed + number))
    ends = [random_latents(model, noise) for _ in range(2)]
    distance = lpips(NETWORK, device)

    def on_device(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda latents: function(latents.to(device))

    def mapped(z: Tensor) -> Tensor:
        return torch.cat([model.map(part.to(device)).cpu() for part in z.split(BATCH)])

    def between(near: Tensor, far: Tensor) -> Tensor:
        return distance(color(near), color(far))

    spaces = {"ppl_z": (ends, model.decode, "spherical")}
    if hasattr(model, "map") and hasattr(model, "synthesize"):
        spaces["ppl_w"] = ([mapped(z) for z in ends], model.synthesize, "linear")
    values = []
    for name, ((start, end), decode, interpolate) in spaces.items():
        lengths = path_length(on_device(decode), start, end, between, interpolate, seed=subject.seed)
        values.append(_value(name, lengths, distance.facts([subject.dataset.pictures.size]), interpolate))
    return values


def _value(name: str, lengths: np.ndarray, facts: dict[str, Any], interpolate: str) -> Value:
    protocol = {
        "epsilon": EPSILON,
        "sampling": "full",
        "interpolation": interpolate,
        "discarded": "below 1 %, above 99 %",
    }
    interval = bootstrap(lambda rows: float(without_outliers(lengths[rows]).mean()), len(lengths))
    return Value(name, float(without_outliers(lengths).mean()), interval, len(lengths), passport={**facts, **protocol})
