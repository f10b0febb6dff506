"""SRResNet: pictures enlarged by a residual network that is trained on the error of pixels alone.

Ledig et al. 2017, arXiv 1609.04802; with the network of Wang et al. 2018, arXiv 1809.00219, the first stage of ESRGAN.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from tasvir.config import Count, DataConfig, OptimizerConfig, Pictures, Refused, TrainConfig
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.models.translation.translation import Translation
from tasvir.nn.enlarging import bicubic, factors, rrdb, srresnet

LARGEST_FACTOR = 3
"""Of a scale: ×2, ×3, ×4, ×6, ×8 … are made of stages of ×2 and ×3."""


@dataclass(frozen=True)
class SRResNetConfig:
    network: Literal["srresnet", "rrdb"] = "srresnet"
    """Residual blocks and pixel shuffle, or residual blocks of dense blocks."""
    width: Count = 64
    """Channels of every layer but those before a pixel shuffle."""
    blocks: Count = 16
    norm: Literal["batch", "none"] = "batch"
    """Of the residual blocks; rrdb has none."""
    kernel: Count = 9
    """Height and width of the first and the last convolution of srresnet, an odd number."""
    growth: Count = 32
    """Channels that each convolution in a dense block adds."""
    from_bicubic: bool = False
    """Learn what to add to the picture enlarged by cubic convolution; this makes a short training much better."""
    loss: Literal["squared", "absolute"] = "squared"
    """The error of pixels in [-1,1]."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4)


def _srresnet(config: SRResNetConfig, channels: int, scale: int) -> nn.Module:
    if config.kernel % 2 == 0:
        raise Refused(f"--model.kernel is {config.kernel}; it must be an odd number, such as 9 or 3.")
    return srresnet(channels, config.width, config.blocks, scale, config.norm, config.kernel, config.from_bicubic)


def _rrdb(config: SRResNetConfig, channels: int, scale: int) -> nn.Module:
    return rrdb(channels, config.width, config.blocks, scale, config.growth, from_bicubic=config.from_bicubic)


NETWORKS: dict[str, Callable[[SRResNetConfig, int, int], nn.Module]] = {"srresnet": _srresnet, "rrdb": _rrdb}

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda made, real: (made.float() - real).square().mean(),
    "absolute": lambda made, real: (made.float() - real).abs().mean(),
}
"""Mean errors of pictures [B,C,H,W], as float32 scalars."""


class Enlarging(Translation):
    """Trained on pictures and smaller ones of them; the scale is that of the pictures."""

    sizes = "a multiple of 4 px from 8 px"
    generator: nn.Module

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size % 4 == 0

    @classmethod
    def lacks(cls, pictures: Pictures) -> str | None:
        if pictures.source is None:
            return "needs pictures and smaller ones of them: --data.derive low-resolution --data.scale 4 makes these"
        if not pictures.matched:
            return "needs pairs, and these are two sets that only lie side by side"
        if pictures.source.channels != pictures.channels:
            return "enlarges pictures in their own colours, and these sources have others: set --data.color"
        scale, rest = divmod(pictures.size, pictures.source.size)
        if scale < 2 or rest or factors(scale)[-1] > LARGEST_FACTOR:
            return (
                f"enlarges pictures 2, 3, 4, 6 or 8 times, and these are of {pictures.size} px beside sources of "
                f"{pictures.source.size} px: --data.derive low-resolution --data.scale 4 makes smaller ones"
            )
        return super().lacks(pictures)

    def __init__(self, config: Any, pictures: Pictures, foundation: Any = None):
        super().__init__(config, pictures, foundation)
        assert pictures.source is not None
        self.scale = pictures.size // pictures.source.size

    def upscale(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1], of any size, to [N,C,scale·H,scale·W] float32 in [-1,1]."""
        return self.generator(image).float().clamp(-1, 1)

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        """The one answer that there is, whatever `noise`."""
        return self.upscale(source)

    def compared(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.source is not None
        return {
            "source": batch.source,
            "bicubic": bicubic(batch.source, self.scale).clamp(-1, 1),
            **self.answers(batch.source),
            "target": batch.image,
        }

    def answers(self, source: Tensor) -> dict[str, Tensor]:
        """What becomes of sources, by what made it."""
        return {"upscaled": self.upscale(source)}


class SRResNet(Enlarging):
    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.generator = NETWORKS[config.network](config, pictures.channels, self.scale)

    def players(self) -> dict[str, Player]:
        return {"generator": Player((self.generator,), self.config.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        error = LOSSES[self.config.loss](self.generator(batch.source), batch.image)
        yield Turn("generator", {self.config.loss: error})


ENLARGED = TrainConfig(batch_size=16, sample_every=2_000, checkpoint_every=2_000)
PIECES = DataConfig(derive="low-resolution", scale=4, size=96, fit="tiles", flip=True)

SMALLER = (
    "tasvir train srresnet --data t91_png.zip --data.size 64 --model.from-bicubic --model.norm none --model.width 48 "
    "--model.blocks 8 --model.kernel 3 --model.optimizer.learning-rate 8e-4 --model.optimizer.schedule cosine "
    "--model.optimizer.warmup 100 --model.optimizer.clip 1 --train.steps 5000"
)
ON = (
    "trained on T91 alone, ×4, luma, border of 4 px cut off, averaged weights, seed 0; one thread of an AMD EPYC "
    "(Zen 4), bfloat16, torch 2.13.0"
)
"""How the numbers of these recipes were measured."""

_SRRESNET = Recipe(
    summary="Super-resolution: residual blocks and pixel shuffle, trained on the squared error.",
    model=SRResNet,
    config=SRResNetConfig(),
    tiny=SRResNetConfig(width=4, blocks=1, kernel=3),
    train=replace(ENLARGED, steps=1_000_000),
    data=PIECES,
    best="psnr_y",
    expect=(
        *measured(
            SMALLER,
            f"Set5, whole pictures, {ON}; bicubic 28.43 dB, 0.811, 0.105",
            psnr_y=30.67,
            ssim_y=0.872,
            gmsd=0.0626,
        ),
        *measured(SMALLER, f"Set14, whole pictures, {ON}; bicubic 26.09 dB, 0.705", psnr_y=27.59, ssim_y=0.755),
    ),
    published=(
        "×4, after 10^6 steps on 350,000 pictures of ImageNet: PSNR of Y 32.05 dB and SSIM 0.9019 on Set5, 28.49 dB "
        "and 0.8184 on Set14; bicubic 28.43 and 25.99 dB (Ledig et al. 2017, arXiv 1609.04802, table 2)"
    ),
)

RECIPES = {
    "srresnet": _SRRESNET,
    "rrdbnet": replace(
        _SRRESNET,
        summary="Super-resolution: residual blocks of dense blocks, trained on the absolute error.",
        config=SRResNetConfig(
            network="rrdb", blocks=23, norm="none", loss="absolute", optimizer=OptimizerConfig(learning_rate=2e-4)
        ),
        tiny=SRResNetConfig(network="rrdb", width=4, blocks=1, norm="none", growth=2, loss="absolute"),
        data=replace(PIECES, size=128),
        expect=(),
        published="",
    ),
}
