"""The network of the Fréchet Inception distance (Heusel et al. 2017, arXiv 1706.08500), as torch-fidelity converted it
(Obukhov et al. 2020): Inception v3 of 2015 (Szegedy et al., arXiv 1512.00567) with TensorFlow 1's resize."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tasvir.metrics.features.extraction import Extractor
from tasvir.metrics.features.weights import INCEPTION, state_dict
from tasvir.training.precision import choose_device

OUTPUTS = "2048", "logits_unbiased"
"""The features of FID and KID; the logits without bias, which the Inception Score is taken of."""
BATCH = 32


def extractor(weights: Path | None) -> Extractor:
    """The FID network with its published weights. Raises `Refused` where they cannot be had."""
    return Extractor(
        name="inception",
        hash=INCEPTION.sha256,
        resize="bilinear as TensorFlow 1 to 299 px",
        size=2048,
        network=inception_of(state_dict(INCEPTION, weights)),
        batch=BATCH,
    )


def inception_of(tensors: Mapping[str, Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The network with the weights `tensors`: uint8 [N,3,H,W] to features [N,2048] and logits [N,1008], float32.

    Each batch norm is folded into the convolution before it, which changes features by rounding only.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

    # It loads a file, and would fetch one; it is given what has been verified, written anew.
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    file.seek(0)
    network = FeatureExtractorInceptionV3("inception", list(OUTPUTS), feature_extractor_weights_path=file)
    for part in network.modules():
        if isinstance(part, BasicConv2d):
            part.conv, part.bn = fuse_conv_bn_eval(part.conv, part.bn), nn.Identity()
    device = choose_device("auto")
    network = network.to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        vectors, logits = network(images.to(device))
        return vectors, logits

    return features
