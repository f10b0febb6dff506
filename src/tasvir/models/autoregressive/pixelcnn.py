"""The gated PixelCNN on pixels (van den Oord et al. 2016, arXiv 1606.05328): an exact likelihood, value by value."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tasvir.config import Count, Fraction, OptimizerConfig, Pictures, Refused, TrainConfig
from tasvir.core import Batch, Model, Noise, Player, Recipe, Turn, measured
from tasvir.models.autoencoders.ae import BINARIZED
from tasvir.nn.pixelcnn import GatedPixelCNN


@dataclass(frozen=True)
class PixelCNNConfig:
    width: Count = 32
    """Channels of both stacks."""
    layers: Count = 8
    kernel: Count = 3
    """Height and width of the window that a layer looks through, an odd number; the first layer's is 7."""
    output: Count = 128
    """Channels of the hidden layer behind the stacks."""
    dropout: Fraction = 0.0
    """Part of the channels that are left out of every layer while training."""
    conditional: bool = False
    """Learn and draw pictures of a class that is asked for."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup=50)


class PixelCNN(Model):
    def __init__(self, config: PixelCNNConfig, pictures: Pictures, foundation: Model | None = None):
        super().__init__(config, pictures, foundation)
        if config.conditional and not pictures.classes:
            raise Refused("--model.conditional needs classes, and these pictures have none.")
        self.conditional = config.conditional
        self.network = GatedPixelCNN(
            pictures.channels,
            pictures.levels,
            pictures.size,
            width=config.width,
            layers=config.layers,
            kernel=config.kernel,
            output=config.output,
            embedded=False,
            classes=len(pictures.classes) if self.conditional else 0,
            dropout=config.dropout,
        )

    def players(self) -> dict[str, Player]:
        return {"pixelcnn": Player((self.network,), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        label = batch.label if self.conditional else None
        nats = self.nats(batch.image, label).mean()
        yield Turn("pixelcnn", {"nats": nats}, {"bits_per_dim": nats.detach() / (batch.image[0].numel() * math.log(2))})

    def nats(self, image: Tensor, label: Tensor | None) -> Tensor:
        """-log p(x), or -log p(x|label), of pictures [B,C,H,W] in [-1,1]; [B] nats."""
        values = quantize(image, self.pictures.levels)
        return cross_entropy(self.network(values, label), values, reduction="none").flatten(1).sum(1)

    def log_likelihood(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x|label) where the model has classes, [B] nats.

        A model with classes that is given none averages p(x|label) over them, each as likely as any other. Raises
        `Refused` for a class that there is not.
        """
        if not self.conditional:
            return -self.nats(image, None)
        if label is not None:
            self.check_classes(label)
            return -self.nats(image, label)
        classes = torch.arange(len(self.pictures.classes), device=image.device)
        given = torch.stack([-self.nats(image, one.expand(len(image))) for one in classes])
        return given.logsumexp(0) - math.log(len(classes))

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        if self.conditional:
            drawn = self.draw_classes(noise)
            label = drawn if label is None else label
            self.check_classes(label)
        shape = (self.pictures.channels, self.pictures.size, self.pictures.size)
        values = self.network.sample(noise.uniform(*shape, device=self.device), label)
        return values.float() * (2 / (self.pictures.levels - 1)) - 1


def quantize(image: Tensor, levels: int) -> Tensor:
    """Pictures in [-1,1] → the nearest of `levels` even steps, int64 from 0."""
    return ((image.float() + 1) * ((levels - 1) / 2)).round().long().clamp(0, levels - 1)


RECIPES = {
    "pixelcnn": Recipe(
        summary="Gated PixelCNN: pictures pixel by pixel, with an exact likelihood.",
        model=PixelCNN,
        config=PixelCNNConfig(),
        tiny=PixelCNNConfig(width=8, layers=2, output=8),
        train=TrainConfig(steps=4500, batch_size=32, channels_last=False),
        best="bits_per_dim",
        expect=measured(
            "tasvir train pixelcnn --data mnist --data.binarize dynamic",
            BINARIZED,
            log_likelihood=-86.75,
            bits_per_dim=0.1596,
        ),
        published="-81.3 nats on binarized MNIST, after far longer training (van den Oord et al. 2016, arXiv "
        "1601.06759, table 4)",
    ),
}
