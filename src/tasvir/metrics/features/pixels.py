"""Principal components of the pixels: features without a network, for completeness. They know where a picture is light
and where dark, and little of what a person sees in it."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasvir.data import Dataset
from tasvir.metrics.features.extraction import Extractor, channels_first

COMPONENTS = 128
LARGEST = 64
"""Side in pixels to which larger pictures are averaged down."""
FITTED = 10_000
"""Most pictures that the components are found with."""
VALUES = 1 << 26
"""Most pixel values that they are found with."""
BATCH = 64


def extractor(dataset: Dataset) -> Extractor:
    """The components of a set's training pictures; of its test pictures where the training pictures are streamed."""
    images, channels = dataset.train.images if len(dataset.train) else dataset.test.images, dataset.pictures.channels
    side = min(dataset.pictures.size, LARGEST)
    count = min(len(images), FITTED, VALUES // (side * side * channels))
    places = np.sort(np.random.default_rng(0).permutation(len(images))[:count])
    values = np.empty((len(places), side * side * channels), np.float32)
    for start in range(0, len(places), BATCH):
        part = slice(start, start + BATCH)
        values[part] = flattened(channels_first(images[places[part]], channels)).numpy()
    mean, components = principal_components(values, COMPONENTS)
    shift, matrix = torch.from_numpy(mean), torch.from_numpy(components.T.copy())

    def network(pictures: Tensor) -> tuple[Tensor, None]:
        return (flattened(pictures[:, :channels].cpu()) - shift) @ matrix, None

    return Extractor(
        name="pixels",
        hash=hashlib.sha256(mean.tobytes() + components.tobytes()).hexdigest(),
        resize="none" if side == dataset.pictures.size else f"averaged down to {side} px",
        size=len(components),
        network=network,
        facts={"components": len(components), "fitted": len(places)},
    )


def principal_components(values: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] of rows [N,D] and their first principal components [K,D], K at most `number`, N-1 and D; float32.

    Orthonormal, by falling variance; found by randomized projections where N and D are large (Halko et al. 2011,
    arXiv 0909.4061), the same ones each time.
    """
    from sklearn.decomposition import PCA

    found = PCA(min(number, len(values) - 1, values.shape[1]), random_state=0).fit(values)
    return found.mean_.astype(np.float32), found.components_.astype(np.float32)


def flattened(images: Tensor) -> Tensor:
    """uint8 [N,C,H,W] to float32 [N,D] in [0,1], averaged down where they are larger than 64 px."""
    values = images.float() / 255
    if values.shape[-1] > LARGEST:
        values = F.interpolate(values, size=LARGEST, mode="area")
    return values.flatten(1)
