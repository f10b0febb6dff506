"""pix2pix: translation between pairs of pictures (Isola et al. 2017, arXiv 1611.07004)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from tasvir.config import Count, DataConfig, NonNegative, OptimizerConfig, Pictures, Range, Refused
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL
from tasvir.models.translation.translation import PLAYER, STEADY, Translation, discriminators_turns, initialize
from tasvir.nn.dropout import answering
from tasvir.nn.patches import PatchDiscriminator, halvings_for
from tasvir.nn.unets import UNet


@dataclass(frozen=True)
class Pix2PixConfig:
    width: Count = 64
    """Channels of the first layer of both networks; each halving doubles them, up to eight times as many."""
    network: Literal["unet", "encoder-decoder"] = "unet"
    """The encoder-decoder is the same without connections between layers of one size."""
    patch: Literal[1, 16, 70, "whole"] = 70
    """Height and width in pixels of what one score of the discriminator sees; at most what the pictures allow."""
    conditional_discriminator: bool = True
    """Whether the discriminator is given the source beside the picture; without, it judges the picture alone."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Instance norm is what the paper's batch norm is for one picture at a time."""
    dropout: Annotated[float, Range(low=0.0, high=0.99)] = 0.5
    """Of the three innermost layers of the way back: the model's only noise."""
    l1: NonNegative = 100.0
    """Weight of the absolute error; 0 leaves it out."""
    adversarial: NonNegative = 1.0
    """Weight of the game; 0 leaves the discriminator out."""
    game: GameConfig = GameConfig()
    generator: OptimizerConfig = PLAYER
    discriminator: OptimizerConfig = PLAYER


class Pix2Pix(Translation):
    """A subclass may say what is made of a source (`generate`), and in which space it is judged: `coded`, `picture`."""

    sizes = "a power of two from 8 px"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size & (size - 1) == 0

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        if not (config.l1 or config.adversarial):
            raise Refused(
                "Nothing is learned with --model.l1 and --model.adversarial both 0: give one of them a weight."
            )
        depth = pictures.size.bit_length() - 1
        self.stride = 2**depth
        inputs, outputs, width = self.source_channels, self.coded_channels, config.width
        self.generator = UNet(
            inputs, outputs, width, depth, config.norm, config.dropout, skips=config.network == "unet"
        )
        self.discriminator = None
        if config.adversarial:
            seen = inputs + outputs if config.conditional_discriminator else outputs
            halvings = halvings_for(config.patch, pictures.size)
            self.discriminator = PatchDiscriminator(seen, width, halvings, config.norm)
        self.apply(initialize)
        self.game = config.game.played()

    def players(self) -> dict[str, Player]:
        players = {"generator": Player((self.generator,), self.config.generator)}
        if self.discriminator is not None:
            once = not self.config.game.differentiates_twice
            players["discriminator"] = Player((self.discriminator,), self.config.discriminator, compiled=once)
        return players

    # --- what a subclass may say otherwise ---

    @property
    def coded_channels(self) -> int:
        """Channels of what the generator makes."""
        return self.pictures.channels

    def generate(self, source: Tensor) -> Tensor:
        """Sources [B,C',H,W] to coded pictures [B,K,H,W]."""
        return self.generator(source)

    def coded(self, image: Tensor) -> Tensor:
        """Pictures [B,C,H,W] as the generator makes them and the discriminator sees them, [B,K,H,W] in [-1,1]."""
        return image

    def picture(self, source: Tensor, made: Tensor) -> Tensor:
        """What was made of sources, [B,K,H,W], as pictures [B,C,H,W] float32 in [-1,1]."""
        return made.float()

    # --- the algorithm ---

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        source, real = batch.source, self.coded(batch.image)
        assert source is not None
        generators_turn = self.discriminator is None or (step + 1) % self.game.discriminator_steps == 0
        with torch.set_grad_enabled(generators_turn):
            fake = self.generate(source)
        if self.discriminator is not None:
            yield from discriminators_turns(
                self.discriminator,
                lambda image: self.judge(source, image),
                self.config.game,
                real,
                fake.detach(),
                step,
                weight=0.5,  # which slows the discriminator against the generator (section 3.3)
            )
        if not generators_turn:
            return
        terms = {}
        if self.discriminator is not None:
            with torch.no_grad():
                real_score = self.judge(source, real) if self.game.paired else real.new_zeros(())
            score = self.judge(source, fake)
            terms["game"] = self.config.adversarial * self.game.generator(score, real_score)
        if self.config.l1:
            terms["l1"] = self.config.l1 * (fake.float() - real).abs().mean()
        yield Turn("generator", terms, self.watched(source))

    def watched(self, source: Tensor) -> dict[str, Tensor]:
        """What a subclass has to tell of sources, by name."""
        return {}

    def judge(self, source: Tensor, image: Tensor) -> Tensor:
        """Scores [B,1,h,w] float32 of coded pictures [B,K,S,S] for what they were made from, [B,C',S,S]."""
        assert self.discriminator is not None
        seen = torch.cat([source, image], 1) if self.config.conditional_discriminator else image
        return self.discriminator(seen).float()

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        with answering(self.generator, noise):
            return self.picture(source, self.generate(source))


class Inpainting(Pix2Pix):
    """Only the hole is new: what the source shows is kept. A hole is where all channels are mid grey."""

    @classmethod
    def lacks(cls, pictures: Pictures) -> str | None:
        if pictures.source is not None and pictures.source.channels != pictures.channels:
            return "needs sources with as many channels as the pictures: --data.derive masked makes such pairs"
        return super().lacks(pictures)

    def generate(self, source: Tensor) -> Tensor:
        return torch.where(hole_of(source), self.generator(source).float(), source)

    def watched(self, source: Tensor) -> dict[str, Tensor]:
        return {"hole": hole_of(source).float().mean()}


def hole_of(source: Tensor) -> Tensor:
    """Which pixels of sources [B,C,H,W] are missing, [B,1,H,W] bool."""
    return (source.abs() < GREY).all(1, keepdim=True)


GREY = 1.5 / 255
"""How far from 0 the values of mid grey may be: 127 and 128 of 255."""

TRANSLATED = replace(ADVERSARIAL, batch_size=1, steps=80_000, channels_last=False, sample_every="epoch")

TINY = Pix2PixConfig(width=4, patch=16, generator=STEADY, discriminator=STEADY)

MAPS = (
    "441 tiles of the held-out tenth of 400 pairs of aerial photo and map, pixels in [0,1], averaged weights, seed 0; "
    "one thread of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0"
)
"""Where and how the numbers of the maps were measured."""
TILES = "--data maps_train_512x256.zip --data.fit tiles --data.size 128 --data.flip --model.width 32"

PIX2PIX = Recipe(
    summary="Translation between pairs: U-Net, discriminator of patches, L1.",
    model=Pix2Pix,
    config=Pix2PixConfig(),
    tiny=TINY,
    train=TRANSLATED,
    data=DataConfig(flip=True),
    best="mae",
    expect=(
        *measured(
            f"tasvir train pix2pix {TILES} --train.steps 10000",
            f"{MAPS}; copying the photo 0.638, 0.143, 0.276, the mean map 0.0691, 0.724, 0.223",
            mae=0.0460,
            ssim=0.623,
            gmsd=0.169,
        ),
        *measured(
            f"tasvir train pix2pix {TILES} --data.direction b-to-a --train.steps 8000",
            f"{MAPS}; copying the map 0.638, 0.143, 0.276, the mean photo 0.110, 0.319, 0.281",
            mae=0.103,
            ssim=0.313,
            gmsd=0.202,
        ),
    ),
)
SEVERAL = {"batch_size": 4, "steps": 40_000}

RECIPES = {
    "pix2pix": PIX2PIX,
    "pix2pix-256": PIX2PIX.preset(
        "pix2pix as published: 256 px, cut at random out of 286 px.",
        data={"size": 256, "jitter": 286},
    ),
    "edges": PIX2PIX.preset(
        "Pictures from their edges; any folder of pictures will do.",
        train=SEVERAL,
        data={"derive": "edges"},
        expect=measured(
            "tasvir train edges --data cartoons --data.size 64 --model.width 32 --train.steps 3000",
            "500 held-out cartoons, pixels in [0,1], averaged weights, seed 0; one thread of an AMD EPYC (Zen 4), "
            "bfloat16, torch 2.13.0; copying the edges 0.304, 0.175, 0.302, the mean cartoon 0.140, 0.402, 0.269",
            mae=0.0936,
            ssim=0.633,
            gmsd=0.137,
        ),
    ),
    "inpaint": replace(PIX2PIX, model=Inpainting).preset(
        "A missing square painted in; any folder of pictures will do.", train=SEVERAL, data={"derive": "masked"}
    ),
    "denoise": PIX2PIX.preset(
        "Noise taken out of pictures; any folder of pictures will do.",
        train=SEVERAL,
        data={"derive": "noisy"},
        dropout=0.0,
    ),
}
