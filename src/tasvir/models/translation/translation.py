"""What all models have in common that are given a picture and make a picture of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from tasvir.config import OptimizerConfig, Refused
from tasvir.core import Batch, Model, Noise, Turn
from tasvir.losses.games import Game, GameConfig, clip_weights, gradient_penalty
from tasvir.models.adversarial.gan import watched

PLAYER = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999), schedule="late-linear")
"""Of pix2pix, CycleGAN and pix2pixHD."""
STEADY = replace(PLAYER, schedule="constant")  # a run in two parts is then the same as in one


class Translation(Model):
    """Trained on pictures with sources; a subclass says how one becomes the other, in `translate`."""

    needs = ("source",)
    scale = 1
    stride = 1
    least = 1
    """Height and width of the smallest source, in px."""

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


def discriminators_turns(
    discriminator: nn.Module,
    judge: Callable[[Tensor], Tensor],
    config: GameConfig,
    real: Tensor,
    fake: Tensor,
    step: int,
    weight: float = 1.0,
) -> Iterator[Turn]:
    """The game, the mean over scores of what each is worth, and penalties of a picture's mean score.

    All is multiplied by `weight`. `judge` takes pictures [B,K,H,W] to float32 scores [B,...] by the `discriminator`;
    nothing is learned through `fake`.
    """
    game, kind = config.played(), real.device.type
    if config.penalizes_every_turn:  # then the penalties are of these scores, in float32
        real, fake = (image.float().detach().requires_grad_() for image in (real, fake))
    with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not config.penalizes_every_turn):
        real_score, fake_score = judge(real), judge(fake)
    terms = {"game": game.discriminator(real_score, fake_score)}

    def mean(score: Tensor) -> Tensor:
        return score.reshape(len(score), -1).mean(1)

    if game.gradient_penalty:
        terms["gradient_penalty"] = game.gradient_penalty * gradient_penalty(lambda x: mean(judge(x)), real, fake)
    if config.penalizes_every_turn:
        terms |= config.penalties_of(mean(real_score), real, mean(fake_score), fake)
    yield Turn("discriminator", _times(weight, terms), watched(game, real_score, fake_score))
    if config.r1_every > 1 and (late := config.penalties(step, lambda x: mean(judge(x)), real, fake)):
        yield Turn("discriminator", _times(weight, late))
    if game.weight_clip:
        clip_weights(discriminator, game.weight_clip)


def _times(weight: float, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight * term for name, term in terms.items()}


def simple(config: GameConfig, who: str) -> Game:
    """A game of one step each, without penalties or clipped weights. Raises `Refused` for any other."""
    game = config.played()
    if game.discriminator_steps > 1 or game.weight_clip or config.differentiates_twice:
        raise Refused(
            f"{who} plays games of one step each, without penalties or clipped weights: leave these out, and set "
            "--model.game.name to least-squares, non-saturating, minimax, hinge or relativistic."
        )
    return game
