"""SRGAN: a trained enlarging network goes on against a discriminator (Ledig et al. 2017, arXiv 1609.04802).

And ESRGAN (Wang et al. 2018, arXiv 1809.00219): dense blocks, and a discriminator that says which of two is more real.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, NonNegative, OptimizerConfig, Pictures, Positive, Refused
from tasvir.core import Batch, Model, Player, Recipe, Turn, measured
from tasvir.losses.games import GameConfig
from tasvir.losses.perceptual import VGG, VGGConfig, feature_distance
from tasvir.models.translation.srresnet import ENLARGED, LOSSES, ON, PIECES, Enlarging
from tasvir.models.translation.translation import discriminators_turns
from tasvir.nn.enlarging import normed

WIDTHS = (1, 1, 2, 2, 4, 4, 8, 8)
"""Channels of the discriminator's convolutions, as multiples of the first; every second one halves the picture."""
INSTEAD = "Or name a file of them, --model.vgg.weights FILE, or compare pixels, --model.content pixels."

PLAYER = OptimizerConfig(learning_rate=1e-4, schedule="late-tenth")
_STEADY = replace(PLAYER, schedule="constant")


@dataclass(frozen=True)
class SRGANConfig:
    width: Count = 64
    """Channels of the discriminator's first convolution; the last two have eight times as many."""
    dense: Count = 1024
    """Units of the discriminator's hidden dense layer."""
    norm: Literal["batch", "instance", "none"] = "batch"
    """Of the discriminator."""
    content: Literal["pixels", "vgg22", "vgg54"] = "vgg54"
    """What the squared error is of: pixels in [-1,1], or what VGG-19 sees at its 2nd convolution before the 2nd
    pooling, or at its 4th before the 5th."""
    before_activation: bool = False
    """Compare what VGG-19 sees before its rectifier."""
    feature_scale: Positive = 1 / 12.75
    """What VGG-19's features are multiplied by."""
    vgg: VGGConfig = VGGConfig()
    l1: NonNegative = 0.0
    """Weight of the absolute error of pixels, besides."""
    adversarial: NonNegative = 1e-3
    """Weight of the game."""
    game: GameConfig = GameConfig()
    generator: OptimizerConfig = PLAYER
    discriminator: OptimizerConfig = PLAYER


def discriminator(channels: int, size: int, width: int, dense: int, norm: str) -> nn.Sequential:
    """[B,channels,size,size] → scores [B]: eight convolutions and two dense layers (figure 4)."""
    layers: list[nn.Module] = []
    before = channels
    for number, times in enumerate(WIDTHS):
        layers += [*normed(before, width * times, norm if number else "none", 1 + number % 2), nn.LeakyReLU(0.2)]
        before = width * times
        size = (size + 1) // 2 if number % 2 else size
    hidden = [nn.Flatten(), nn.Linear(before * size**2, dense), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, *hidden, nn.Linear(dense, 1), nn.Flatten(0))


class SRGAN(Enlarging):
    """The generator is built as the foundation's, and begins with its weights; the foundation stays beside it."""

    stands_on = "upscale"
    sizes = "a multiple of 4 px from 20 px"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 20 and size % 4 == 0  # from 20 px the last maps have more than one pixel, as batch norm wants

    def __init__(self, config: Any, pictures: Pictures, foundation: Model):
        super().__init__(config, pictures, foundation)
        if not isinstance(foundation, Enlarging):
            raise Refused("This recipe begins with the network of srresnet or rrdbnet: name a run of these with --on.")
        self.generator = copy.deepcopy(foundation.generator).requires_grad_(True).train()
        self.discriminator = discriminator(pictures.channels, pictures.size, config.width, config.dense, config.norm)
        self.game = config.game.played()
        self.vgg: VGG | None = None
        if config.content != "pixels":
            block, number = config.content[-2:]
            self.layer = f"{'conv' if config.before_activation else 'relu'}{block}_{number}"
            self.vgg = VGG(config.vgg, (self.layer,), f"--model.content {config.content}", INSTEAD)

    def begin(self) -> None:
        assert isinstance(self.foundation, Enlarging)
        self.generator.load_state_dict(self.foundation.generator.state_dict())

    def fetch(self) -> None:
        if self.vgg is not None:
            self.vgg.load()

    def players(self) -> dict[str, Player]:
        once = not self.config.game.differentiates_twice
        return {
            "discriminator": Player((self.discriminator,), self.config.discriminator, compiled=once),
            "generator": Player((self.generator,), self.config.generator),
        }

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        real, game = batch.image, self.game
        generators_turn = (step + 1) % game.discriminator_steps == 0
        with torch.set_grad_enabled(generators_turn):
            fake = self.generator(batch.source)
        yield from discriminators_turns(self.discriminator, self.judge, self.config.game, real, fake.detach(), step)
        if generators_turn:
            with torch.no_grad():
                real_score = self.judge(real) if game.paired else real.new_zeros(())
            against = game.generator(self.judge(fake), real_score)
            yield Turn("generator", {"game": self.config.adversarial * against, **self.errors(fake, real)})

    def judge(self, image: Tensor) -> Tensor:
        """Scores [B] float32 of pictures [B,C,S,S]."""
        return self.discriminator(image).float()

    def errors(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The generator's terms besides the game."""
        terms = {"content": self.content(made.float(), real)}
        return terms | ({"l1": self.config.l1 * LOSSES["absolute"](made, real)} if self.config.l1 else {})

    def content(self, made: Tensor, real: Tensor) -> Tensor:
        """Mean squared error of pictures [B,C,S,S], or of what VGG-19 sees in them (equations 4 and 5)."""
        if self.vgg is None:
            return LOSSES["squared"](made, real)
        return self.config.feature_scale**2 * feature_distance(self.vgg, made, real)

    def answers(self, source: Tensor) -> dict[str, Tensor]:
        assert isinstance(self.foundation, Enlarging)
        return {"before": self.foundation.upscale(source), "upscaled": self.upscale(source)}


# tiny: torch sums batch norm of channels_last maps less exactly on a CPU: 1e-3 of the gradient in float32
SHARPER = (
    "tasvir train srgan --on RUN --data t91_png.zip --data.size 64 --model.content pixels --model.adversarial 4e-3 "
    "--model.width 32 --model.dense 256 --model.generator.schedule constant --model.discriminator.schedule constant "
    "--train.steps 2000 --train.average 0.99, RUN being the srresnet measured"
)

_SRGAN = Recipe(
    summary="Super-resolution that looks sharp: srresnet, then against a discriminator.",
    model=SRGAN,
    config=SRGANConfig(),
    tiny=SRGANConfig(
        width=4, dense=8, norm="none", content="pixels", l1=0.01, generator=_STEADY, discriminator=_STEADY
    ),
    train=replace(ENLARGED, steps=200_000),
    data=PIECES,
    best="lpips",
    foundation="srresnet",
    expect=(
        *measured(
            SHARPER,
            f"Set5, whole pictures, {ON}; bicubic 28.43 dB, 0.811, 0.105",
            psnr_y=29.58,
            ssim_y=0.842,
            gmsd=0.0692,
        ),
        *measured(
            SHARPER,
            f"Set14, whole pictures, {ON}; bicubic 26.09 dB, 0.705, 0.127",
            psnr_y=26.99,
            ssim_y=0.730,
            gmsd=0.0962,
        ),
    ),
    published=(
        "×4, from SRResNet, 2·10^5 steps on 350,000 pictures of ImageNet, VGG 5,4: PSNR of Y 29.40 dB and SSIM 0.8472 "
        "on Set5, 26.02 dB and 0.7397 on Set14 (Ledig et al. 2017, arXiv 1609.04802, table 2)"
    ),
)
_ESRGAN = SRGANConfig(
    before_activation=True,
    l1=1e-2,
    adversarial=5e-3,
    game=GameConfig("relativistic-average"),
    generator=_STEADY,
    discriminator=_STEADY,
)

RECIPES = {
    "srgan": _SRGAN,
    "esrgan": replace(
        _SRGAN,
        summary="Super-resolution: dense blocks, relativistic average game, VGG-19 before activation, L1.",
        config=_ESRGAN,
        tiny=replace(_ESRGAN, width=4, dense=8, content="pixels", before_activation=False),
        train=replace(ENLARGED, steps=400_000),
        data=replace(PIECES, size=128),
        foundation="rrdbnet",
        expect=(),
        published="",
    ),
}
