"""What all models have in common that are given a picture and make a picture of it."""

from torch import Tensor, nn

from tasvir.config import Refused
from tasvir.core import Batch, Model, Noise
from tasvir.losses.games import Game, GameConfig


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
    """Weights of convolutions from N(0, 0.02²), biases 0 (Isola et al. 2017, arXiv 1611.07004, appendix 6.2).

    Scales of norms from N(1, 0.02²), as in the authors' code.
    """
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def simple(config: GameConfig, who: str) -> Game:
    """A game of one step each, without penalties or clipped weights. Raises `Refused` for any other."""
    game = config.played()
    if game.discriminator_steps > 1 or game.weight_clip or config.differentiates_twice:
        raise Refused(
            f"{who} plays games of one step each, without penalties or clipped weights: leave these out, and set "
            "--model.game.name to least-squares, non-saturating, minimax, hinge or relativistic."
        )
    return game
