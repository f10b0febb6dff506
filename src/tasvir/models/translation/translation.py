"""What all models have in common that are given a picture and make a picture of it."""

from torch import Tensor, nn

from tasvir.core import Batch, Model, Noise


class Translation(Model):
    """Trained on pictures with sources; a subclass says how one becomes the other, in `translate`."""

    needs = ("source",)
    scale = 1
    stride = 1

    @property
    def source_channels(self) -> int:
        assert self.pictures.source is not None
        return self.pictures.source.channels

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError

    def compared(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.source is not None
        return {"source": batch.source, "translated": self.translate(batch.source), "target": batch.image}


def initialize(layer: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02²), biases 0 (Isola et al. 2017, arXiv 1611.07004, appendix 6.2)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
