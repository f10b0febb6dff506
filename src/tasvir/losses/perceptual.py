"""What VGG-19 (Simonyan and Zisserman 2015, arXiv 1409.1556) sees in pictures: features, their distance, Gram matrices.

A model holds a `VGG`, which is no module: its weights are neither in checkpoints nor moved by any player, and are
read when they are first used, so that a trained model samples where they are not.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasvir.config import Refused
from tasvir.nn import pretrained

NAME = "VGG19_Weights"
CONVOLUTIONS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
"""(convolutions, channels) between one pooling and the next."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in [0,1], by which torchvision's networks were trained."""
Pooling = Literal["max", "average"]
SEED = 0
"""Of random weights: they are the same in every run and process."""
RARE = 0.1
"""Least activity of a channel, as a part of its layer's mean, that it is scaled by."""


@dataclass(frozen=True)
class VGGConfig:
    """Which VGG-19 looks at pictures, as part of a model's config."""

    weights: str = "published"
    """`published` are torchvision's, fetched once; or a file like them; `random` need none and see less."""


@dataclass(frozen=True)
class _Layer:
    """One layer of VGG-19, in order."""

    name: str
    kind: Literal["conv", "relu", "pool"]
    place: int
    """Its number in torchvision's `features`."""
    inputs: int = 0
    outputs: int = 0


def _all() -> tuple[_Layer, ...]:
    found: list[_Layer] = []
    inputs = 3
    for block, (count, outputs) in enumerate(CONVOLUTIONS, 1):
        for number in range(1, count + 1):
            found.append(_Layer(f"conv{block}_{number}", "conv", len(found), inputs, outputs))
            found.append(_Layer(f"relu{block}_{number}", "relu", len(found)))
            inputs = outputs
        found.append(_Layer(f"pool{block}", "pool", len(found)))
    return tuple(found)


LAYERS = {layer.name: layer for layer in _all()}
"""Name → layer: conv1_1, relu1_1, conv1_2, …, pool5."""


def layer_named(name: str) -> str:
    """A layer's name in `LAYERS`. `vggIJ` (Ledig et al. 2017, arXiv 1609.04802) is the J-th convolution before the I-th
    pooling, after activation: `vgg54` is relu5_4. Raises `Refused` for one that there is not.
    """
    short = re.fullmatch(r"vgg(\d)[._]?(\d)", name)
    known = f"relu{short[1]}_{short[2]}" if short else name
    if known not in LAYERS:
        counts = ", ".join(f"{block}_1 to {block}_{count}" for block, (count, _) in enumerate(CONVOLUTIONS, 1))
        raise Refused(f"VGG-19 has no layer {name!r}; there are conv and relu {counts}, and pool1 to pool5.")
    return known


class Features(nn.Module):
    """VGG-19 up to the last of the layers asked for, frozen.

    Takes [N,1 or 3,H,W] in [-1,1] and gives {name as asked for: [N,C,h,w]}, computed in float32, also under autocast:
    with fewer bits what is deep is too coarse for differences. `pool` average in place of max is what
    Gatys et al. 2016 advise for synthesis. `weights` are as in `VGGConfig`. Raises `Refused` for weights that cannot be
    had, saying what needs them and what can be done `instead`, and for pictures smaller than `least` px.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        layers: Iterable[str],
        weights: str | Path = "published",
        pool: Pooling = "max",
        what: str = "VGG-19",
        instead: str = "",
    ):
        super().__init__()
        self.layers = {name: layer_named(name) for name in layers}
        last = max(LAYERS[known].place for known in self.layers.values())
        self.path = [layer for layer in LAYERS.values() if layer.place <= last]
        self.least = 2 ** sum(layer.kind == "pool" for layer in self.path)
        """Pixels of the shorter side that the poolings leave something of."""
        self.pool = pool
        self.random = str(weights) == "random"
        self.note = ""
        """A sentence about weights that are not the published ones."""
        values = self._weights(str(weights), what, instead)
        self.weights, self.biases = (
            nn.ParameterDict({layer.name: values[f"features.{layer.place}.{part}"] for layer in self._convolutions()})
            for part in ("weight", "bias")
        )
        for name, numbers in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(numbers, device="cpu").view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def normalize(self, images: Iterable[Tensor]) -> "Features":
        """Scale each channel so that its mean activation over these pictures, [1,1 or 3,H,W] of any sizes, is one, and
        the layer above so that it sees what it saw: layers become comparable. Gatys et al. 2016 (section 2) do this
        over ImageNet's pictures; here it is done over those at hand, so that losses of different ones do not compare.

        Random weights get biases first that leave each channel active about half of the time: without, channels of
        deep layers are almost constant, since what all pictures have in common grows from layer to layer.

        A channel that is active less than `RARE` as much as the others of its layer on the whole is scaled as they
        would be at `RARE`. Changes the network in place and returns it.
        """
        seen = [self._prepared(image) for image in images]
        scale = torch.ones(3, device=self.mean.device)
        for layer in self.path:
            if layer.kind == "pool":
                seen = [self._pooled(values) for values in seen]
            elif layer.kind == "conv":
                weight, bias = self.weights[layer.name], self.biases[layer.name]
                weight *= scale[:, None, None]
                seen = [functional.conv2d(values, weight, bias, padding=1) for values in seen]
                if self.random:
                    middle = torch.stack([values.mean((0, 2, 3)) for values in seen]).mean(0)
                    bias -= middle
                    seen = [values - middle[:, None, None] for values in seen]
                seen = [values.relu_() for values in seen]
                scale = torch.stack([values.mean((0, 2, 3)) for values in seen]).mean(0)
                scale = scale.clamp(min=max(RARE * float(scale.mean()), 1e-12))
                weight /= scale[:, None, None, None]
                bias /= scale
                for values in seen:
                    values /= scale[:, None, None]
        return self

    def _prepared(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) < self.least:
            deepest = max(self.layers, key=lambda name: LAYERS[self.layers[name]].place)
            raise Refused(
                f"{deepest} of VGG-19 sees pictures from {self.least} px, not {image.shape[-1]}×{image.shape[-2]}: "
                "take larger pictures or an earlier layer."
            )
        return (image.float().expand(-1, 3, -1, -1) * 0.5 + 0.5 - self.mean) / self.deviation

    def _pooled(self, values: Tensor) -> Tensor:
        return (functional.max_pool2d if self.pool == "max" else functional.avg_pool2d)(values, 2)

    def _convolutions(self) -> list[_Layer]:
        return [layer for layer in self.path if layer.kind == "conv"]

    def _weights(self, weights: str, what: str, instead: str) -> dict[str, Tensor]:
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self._convolutions():
            shapes[f"features.{layer.place}.weight"] = (layer.outputs, layer.inputs, 3, 3)
            shapes[f"features.{layer.place}.bias"] = (layer.outputs,)
        if weights == "random":
            self.note = "The weights of VGG-19 are random: what it sees is weaker than with the published ones."
            return _random(shapes)
        given = None if weights == "published" else Path(weights)
        found = pretrained.tensors(NAME, shapes, given, what, instead)
        if given is not None and not pretrained.is_published(NAME, given):
            self.note = f"{given} is not the published file of VGG-19's weights; it fits, and is used."
        return found

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, enabled=False):
            return self._seen(image)

    def _seen(self, image: Tensor) -> dict[str, Tensor]:
        wanted = set(self.layers.values())
        seen: dict[str, Tensor] = {}
        values = self._prepared(image)
        previous = ""
        for layer in self.path:
            if layer.kind == "conv":
                values = functional.conv2d(values, self.weights[layer.name], self.biases[layer.name], padding=1)
            elif layer.kind == "relu":
                values = functional.relu(values, inplace=previous not in wanted)
            else:
                values = self._pooled(values)
            if layer.name in wanted:
                seen[layer.name] = values
            previous = layer.name
        return {name: seen[known] for name, known in self.layers.items()}


def _random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Normal weights that keep the size of what passes (He et al. 2015, arXiv 1502.01852, equation 10), biases 0.

    Filters fall off from their centre by the binomial window 1 2 1, so that they look at shapes more than at grain.
    """
    generator = torch.Generator("cpu").manual_seed(SEED)
    edge = torch.tensor([1.0, 2.0, 1.0], device="cpu")
    window = edge[:, None] * edge
    window /= window.square().mean().sqrt()
    return {
        name: torch.randn(shape, generator=generator, device="cpu") * window * math.sqrt(2 / math.prod(shape[1:]))
        if len(shape) > 1
        else torch.zeros(shape, device="cpu")
        for name, shape in shapes.items()
    }


class VGG:
    """`Features` for a model to hold as an attribute: no module, shared by copies of the model, read when first used
    and moved to where the pictures are.

    `instead` is the sentence that tells those without weights what to do.
    """

    def __init__(self, config: VGGConfig, layers: Iterable[str], what: str, instead: str = "", pool: Pooling = "max"):
        self.layers = tuple(layers)
        for name in self.layers:
            layer_named(name)
        self.wanted = config.weights, pool, what, instead
        self.features: Features | None = None

    def load(self) -> Features:
        """The network, read now if it was not yet. Raises `Refused` where its weights cannot be had."""
        if self.features is None:
            with torch.inference_mode(False):
                self.features = Features(self.layers, *self.wanted)
        return self.features

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """[N,1 or 3,H,W] in [-1,1] to features by layer, with gradients to the pictures. Raises `Refused`."""
        features = self.load()
        if features.mean.device != image.device:
            features.to(image.device)
        return features(image)

    def __deepcopy__(self, memo: object) -> "VGG":
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "features": None}


def feature_distance(
    features: VGG | Features, made: Tensor, real: Tensor, layers: Iterable[str] | None = None
) -> Tensor:
    """Mean squared difference of the features of two batches of pictures, a scalar; the sum over `layers`, or over all
    that are looked at. No gradient reaches `real`. Johnson et al. 2016 (arXiv 1603.08155), section 3.2.
    """
    with torch.no_grad():
        wanted = features(real)
    found = features(made)
    names = tuple(wanted if layers is None else layers)
    return torch.stack([functional.mse_loss(found[name].float(), wanted[name].float()) for name in names]).sum()


def gram(features: Tensor) -> Tensor:
    """Correlations between channels, [N,C,H,W] → [N,C,C] float32: the sum over places of products of two channels
    (Gatys et al. 2016, arXiv 1508.06576, equation 3), divided by the number of places, so that size does not matter.
    """
    flat = features.float().flatten(2)
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / flat.shape[2]
