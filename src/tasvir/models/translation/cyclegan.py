"""CycleGAN: translation between two sets of pictures that do not match (Zhu et al. 2017, arXiv 1703.10593)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, CountOrZero, NonNegative, OptimizerConfig, Pictures
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, watched
from tasvir.models.translation.translation import PLAYER, STEADY, Translation, initialize, simple
from tasvir.nn.patches import PatchDiscriminator, halvings_for
from tasvir.nn.translators import ResNetGenerator

HALVINGS = 2
"""Of both generators."""
LARGE = 256
"""Size in px from which generators have nine blocks instead of six."""


@dataclass(frozen=True)
class CycleGANConfig:
    width: Count = 64
    """Channels of the first layer of all four networks."""
    blocks: Count | None = None
    """Residual blocks of a generator; left out, 9 from 256 px on, else 6."""
    patch: Literal[1, 16, 70, "whole"] = 70
    """Height and width in pixels of what one score of a discriminator sees; at most what the pictures allow."""
    cycle: NonNegative = 10.0
    """Weight of the absolute error of pictures that were translated and back again."""
    identity: NonNegative = 5.0
    """Weight of the absolute error of pictures given to the generator that makes such pictures, which is to leave them
    as they are: it keeps their colours. Left out where the two sets differ in channels."""
    adversarial: NonNegative = 2.0
    """Weight of the game for the generators: 2, because the least-squares game is half of what the paper has."""
    pool: CountOrZero = 50
    """Generated pictures of each direction that are kept to show the discriminators again; 0 keeps none."""
    game: GameConfig = GameConfig("least-squares")
    generator: OptimizerConfig = PLAYER
    discriminator: OptimizerConfig = PLAYER


class Pool(nn.Module):
    """A history of generated pictures (Shrivastava et al. 2017, arXiv 1612.07828, section 2.3), as CycleGAN has it.

    Pictures are given back as they come until it is full. Then one in two is put in the place of an older one, chosen
    by chance, which is given back instead. They are kept with 8 bits, as all pictures are on disk: a quarter of the
    memory, exact to half a level. Each process has its own; a resumed training goes on with that of the first.
    """

    def __init__(self, places: int, pictures: Pictures):
        super().__init__()
        shape = (places, pictures.channels, pictures.size, pictures.size)
        self.register_buffer("kept", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("count", torch.zeros(()))  # float, so that an update that is skipped takes it back too

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B,C,S,S] in [-1,1] → as many to show the discriminator, float32; two random numbers for each picture."""
        kept, count = self.kept, self.count
        assert isinstance(kept, Tensor) and isinstance(count, Tensor)
        chances = torch.rand(2, len(images), device=images.device)
        if not len(kept):
            return images.detach().float()
        shown = []
        for image, coin, chance in zip(images.detach().float().split(1), *chances, strict=True):
            filling = count < len(kept)
            place = torch.where(filling, count, (chance * len(kept)).clamp(max=len(kept) - 1)).long().view(1)
            old = kept[place]
            swapped = coin > 0.5
            new = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            kept.index_copy_(0, place, torch.where(filling | swapped, new, old))
            shown.append(torch.where(swapped & ~filling, old.float() / 127.5 - 1, image))
            count.add_(filling)
        return torch.cat(shown)


class CycleGAN(Translation):
    """`forth` makes pictures of sources, `back` sources of pictures; each has a discriminator of what it makes."""

    sizes = "a multiple of 4 from 16 px"
    unpaired = True
    stride = 2**HALVINGS
    least = 2 * stride

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 16 and size % 2**HALVINGS == 0

    @classmethod
    def lacks(cls, pictures: Pictures) -> str | None:
        if pictures.source is not None and pictures.source.size != pictures.size:
            return (
                f"translates between pictures of one size, and here sources have {pictures.source.size} px "
                f"and pictures {pictures.size}: leave --data.derive low-resolution to models that enlarge"
            )
        return super().lacks(pictures)

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        assert pictures.source is not None
        self.game = simple(config.game, "CycleGAN")
        channels = self.source_channels, pictures.channels
        blocks = config.blocks or (9 if pictures.size >= LARGE else 6)
        self.forth = ResNetGenerator(*channels, config.width, HALVINGS, blocks)
        self.back = ResNetGenerator(*channels[::-1], config.width, HALVINGS, blocks)
        halvings = halvings_for(config.patch, pictures.size)
        self.judge_pictures = PatchDiscriminator(channels[1], config.width, halvings, "instance")
        self.judge_sources = PatchDiscriminator(channels[0], config.width, halvings, "instance")
        self.apply(initialize)
        self.kept_pictures, self.kept_sources = Pool(config.pool, pictures), Pool(config.pool, pictures.source)
        self.identity = config.identity if channels[0] == channels[1] else 0.0

    def players(self) -> dict[str, Player]:
        return {
            "generators": Player((self.forth, self.back), self.config.generator),
            "discriminators": Player((self.judge_pictures, self.judge_sources), self.config.discriminator),
        }

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        source, real = batch.source, batch.image
        assert source is not None
        fake, same = self.both(self.forth, source, real)
        fake_source, same_source = self.both(self.back, real, source)
        terms = {
            "game": self.config.adversarial
            * (self.deceive(self.judge_pictures, fake, real) + self.deceive(self.judge_sources, fake_source, source)),
            "cycle": self.config.cycle
            * (error(self.back(fake), source) + error(self.forth(fake_source), real)),  # equation 2
        }
        if self.identity:  # section 5.2
            terms["identity"] = self.identity * (error(same, real) + error(same_source, source))
        yield Turn("generators", terms)

        sides = (
            (self.judge_pictures, real, self.kept_pictures(fake)),
            (self.judge_sources, source, self.kept_sources(fake_source)),
        )
        scores = [judge(torch.cat([genuine, shown])).float().chunk(2) for judge, genuine, shown in sides]
        real_score, fake_score = (torch.stack(side) for side in zip(*scores, strict=True))
        # the sum over both directions; the least-squares row is halved already, as in section 4
        terms = {"game": 2 * self.game.discriminator(real_score, fake_score)}
        yield Turn("discriminators", terms, watched(self.game, real_score, fake_score))

    def both(self, generator: nn.Module, given: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """What a generator makes of what it is given, and of pictures such as it makes; in one pass, if both count."""
        if not self.identity:
            return generator(given), made
        one, other = generator(torch.cat([given, made])).chunk(2)
        return one, other

    def deceive(self, judge: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's loss in the game of one direction."""
        score = judge(fake).float()
        if not self.game.paired:
            return self.game.generator(score, score.detach())
        with torch.no_grad():
            return self.game.generator(score, judge(real).float())

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        return self.forth(source).float()

    def translate_back(self, image: Tensor) -> Tensor:
        return self.back(image).float()

    def compared(self, batch: Batch) -> dict[str, Tensor]:
        """Both directions and back again."""
        assert batch.source is not None
        fake, fake_source = self.translate(batch.source), self.translate_back(batch.image)
        forth = {"source": batch.source, "translated": fake, "and back": self.translate_back(fake)}
        return forth | {"target": batch.image, "backwards": fake_source, "and forth": self.translate(fake_source)}


def error(made: Tensor, wanted: Tensor) -> Tensor:
    """The mean absolute error of pictures [B,C,S,S], float32."""
    return (made.float() - wanted.float()).abs().mean()


RECIPES = {
    "cyclegan": Recipe(
        summary="Translation between sets that do not match: two generators, the way there and back.",
        model=CycleGAN,
        config=CycleGANConfig(),
        tiny=CycleGANConfig(width=6, blocks=1, patch=16, pool=5, cycle=1.0, generator=STEADY, discriminator=STEADY),
        train=replace(ADVERSARIAL, batch_size=1, steps=200_000, channels_last=False, sample_every="epoch"),
        best="frechet",
        expect=measured(
            "tasvir train cyclegan --data maps_train_512x256.zip --data.fit tiles --data.overlap 0 --data.size 64 "
            "--data.flip --model.width 24 --train.steps 5000",
            "784 tiles of the held-out tenth of 400 pairs of aerial photo and map, learned from as two sets, pixels in "
            "[0,1], averaged weights, seed 0; one thread of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0; mae and gmsd "
            "against the true map: copying the photo 0.638, 0.271, the mean map 0.0697, 0.204",
            cycle_mae=0.0777,
            back_cycle_mae=0.0441,
            mae=0.0714,
            gmsd=0.200,
        ),
        published=(
            "Labels → photos on Cityscapes, FCN score: 0.52 of pixels right, where pix2pix, which has pairs, reaches "
            "0.71 (arXiv 1703.10593, table 2)."
        ),
    ),
}
