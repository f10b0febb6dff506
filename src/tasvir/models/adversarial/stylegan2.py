"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), on the ideas of StyleGAN (Karras et al. 2019, arXiv 1812.04948).

A mapping network turns z into w, whose styles scale the weights of each layer of a generator that begins with a learned
constant. `--model.normalization adain` styles as in 2019: instance norm, then a scale and a shift.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, Fraction, NonNegative, OptimizerConfig, Pictures
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.games import GameConfig
from tasvir.models.adversarial.gan import ADVERSARIAL, FACES, GAN, AdversarialConfig
from tasvir.nn.everywhere import averaged
from tasvir.nn.styles import Mapping, ResidualDiscriminator, StyleGenerator, Synthesis, path_lengths

W_MEAN_RATE = 0.005
"""Share of a step's mean w in the running one."""
PATH_MEAN_RATE = 0.01
"""Share of a turn's mean path length in the running one."""


ADAM = OptimizerConfig(learning_rate=2e-3, betas=(0.0, 0.99))


def lazy(player: Player, every: int) -> Player:
    """A player that has one turn more every k steps (2020, appendix B): λ·c and βᶜ, c = k/(k + 1)."""
    part, usual = every / (every + 1), player.optimizer
    betas = (usual.betas[0] ** part, usual.betas[1] ** part)
    return replace(player, optimizer=replace(usual, learning_rate=usual.learning_rate * part, betas=betas))


@dataclass(frozen=True)
class StyleGAN2Config(AdversarialConfig):
    latent_size: Count = 512
    style_size: Count = 512
    """Numbers in w."""
    mapping_layers: Count = 8
    """Dense layers from z to w."""
    base: Count = 32768
    """Channels times the side of the maps, at every size; 32768 gives 32 channels at 1024 px."""
    most: Count = 512
    """Most channels, at the small sizes."""
    normalization: Literal["modulation", "adain"] = "modulation"
    """How w styles a layer: by scales of its weights (2020), or by instance norm, scale and shift (2019)."""
    style_mixing: Fraction = 0.9
    """Share of the training pictures whose coarse and fine styles come from two latents."""
    path_length: NonNegative = 2.0
    """Weight of path length regularization; 0 is off."""
    path_every: Count = 8
    """Steps between turns with it, which are multiplied by it (lazy regularization)."""
    game: GameConfig = GameConfig("non-saturating", r1=10.0)
    """The paper's gamma of R1, 10, is for 1024 px; small pictures take less, as 0.1 at 32 or 64 px. A later rule of the
    authors is 0.0002·S²/batch for pictures of S px (arXiv 2006.06676)."""
    generator: OptimizerConfig = ADAM
    """Before the correction for turns with path lengths (`lazy`)."""
    discriminator: OptimizerConfig = ADAM
    """Before the correction for turns with R1 and R2."""


class StyleGAN2(GAN):
    sizes = "8, 16, 32, 64, 128, 256, 512 and 1024 px"
    generator: StyleGenerator
    w_mean: Tensor
    """[W]"""
    path_mean: Tensor
    fixed_noise: Tensor
    """[1,P]"""

    @staticmethod
    def accepts(size: int) -> bool:
        return size in (8, 16, 32, 64, 128, 256, 512, 1024)

    def __init__(self, config: StyleGAN2Config, pictures: Pictures):
        super().__init__(config, pictures)
        self.styles = self.generator.synthesis.styles
        """Style inputs L: two at each size, coarsest first."""
        self.register_buffer("w_mean", torch.zeros(config.style_size))
        self.register_buffer("path_mean", torch.zeros(()))
        fixed = torch.randn(1, self.generator.synthesis.pixels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("fixed_noise", fixed)

    def networks(self, config: StyleGAN2Config, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        sides = [4 << doubling for doubling in range((pictures.size // 4).bit_length())]
        widths = [max(1, min(config.most, config.base // side)) for side in sides]
        generator = StyleGenerator(
            Mapping(config.latent_size, config.style_size, config.mapping_layers),
            Synthesis(pictures.channels, widths, config.style_size, config.normalization == "adain"),
        )
        return generator, ResidualDiscriminator(pictures.channels, widths)

    def players(self) -> dict[str, Player]:
        """Learning rates and betas corrected for the turns that are played besides (see `lazy`)."""
        config, game = self.config, self.config.game
        discriminator = super().players()["discriminator"]
        networks = (self.generator.mapping, self.generator.synthesis)
        generator = Player(networks, config.generator, compiled=not config.path_length)
        if (game.r1 or game.r2) and game.r1_every > 1:
            discriminator = lazy(discriminator, game.r1_every)
        if config.path_length:
            generator = lazy(generator, config.path_every)
        return {"discriminator": discriminator, "generator": generator}

    # --- training ---

    def generate(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Pictures to train with: styles mixed, noise drawn, the running mean of w moved."""
        w = self.map(latent)
        with torch.no_grad():
            self.w_mean.lerp_(averaged(w.mean(0)), W_MEAN_RATE)
        return self.generator.synthesis(self.mixed(w), self._drawn_noise(len(w)))

    def mixed(self, w: Tensor) -> Tensor:
        """[B,W] → [B,L,W], in some pictures with another w from a layer on (2019)."""
        everywhere = w[:, None].expand(-1, self.styles, -1)
        if not self.config.style_mixing:
            return everywhere
        other = self.map(self.draw(len(w)))[:, None]
        first = torch.randint(1, self.styles, (len(w), 1), device=w.device)
        mixes = torch.rand(len(w), 1, device=w.device) < self.config.style_mixing
        replaced = (torch.arange(self.styles, device=w.device) >= first) & mixes
        return torch.where(replaced[:, :, None], other, everywhere)

    def _drawn_noise(self, number: int) -> Tensor:
        return torch.randn(number, self.generator.synthesis.pixels, device=self.device)

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        yield from super().turns(batch, step)
        if self.config.path_length and step % self.config.path_every == 0:
            yield self.path_turn(max(1, len(batch) // 2))

    def path_turn(self, number: int) -> Turn:
        """Equation 4 of 2020, in float32: a step in w of one length shall change every picture as much."""
        with torch.autocast(self.device.type, enabled=False):
            w = self.mixed(self.map(self.draw(number)))
            image = self.generator.synthesis(w, self._drawn_noise(number))
            lengths = path_lengths(image, w, torch.randn(image.shape, device=self.device))
            self.path_mean.lerp_(averaged(lengths.mean()), PATH_MEAN_RATE)
            penalty = (lengths - self.path_mean.clone()).square().mean()
        weight = self.config.path_length * self.config.path_every
        return Turn("generator", {"path_penalty": weight * penalty}, {"path_length": lengths.detach().mean()})

    # --- what it can do ---

    def map(self, z: Tensor) -> Tensor:
        """[N,D] → w [N,W]."""
        return self.generator.mapping(z)

    def truncate(self, w: Tensor, truncation: float) -> Tensor:
        """[N,W] drawn towards the mean of w: by 1 not at all, by 0 all the way (2019)."""
        return torch.lerp(self.w_mean, w, truncation)

    def synthesize(self, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """One w for all styles [N,W], or one for each [N,L,W], to pictures [N,C,S,S], not kept within [-1,1].

        `noise` is [N,P]; left out, it is the same, drawn once and for all, for every picture.
        """
        styles = w[:, None].expand(-1, self.styles, -1) if w.dim() == 2 else w
        return self.generator.synthesis(styles, self.fixed_noise if noise is None else noise).float()

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """With the noise of `synthesize`."""
        return self.synthesize(self.map(latent)).clamp(-1, 1)

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float | None = None) -> Tensor:
        """`truncation` draws every w towards the mean, as `truncate` does."""
        w = self.map(self.latents(noise))
        w = w if truncation is None else self.truncate(w, truncation)
        return self.synthesize(w, noise.draw(self.fixed_noise.shape[1], device=self.device)).clamp(-1, 1)


STYLEGAN2 = Recipe(
    summary="StyleGAN2: a mapping network, and styles that scale the weights of every layer.",
    model=StyleGAN2,
    config=StyleGAN2Config(),
    tiny=StyleGAN2Config(latent_size=4, style_size=8, mapping_layers=2, base=64, most=8),
    train=replace(ADVERSARIAL, steps=100_000, batch_size=32),
)

RECIPES = {
    "stylegan2": STYLEGAN2,
    "stylegan2-small": replace(
        STYLEGAN2,
        summary="StyleGAN2 of few channels and a short mapping, for small pictures and CPUs.",
        config=replace(
            STYLEGAN2.config,
            latent_size=128,
            style_size=128,
            mapping_layers=2,
            base=512,
            most=64,
            game=GameConfig("non-saturating", r1=0.1),
        ),
        train=replace(ADVERSARIAL, steps=10_000, batch_size=32),
        expect=measured(
            "tasvir train stylegan2-small --data faces --data.size 32 --train.steps 5000 --train.average 0.995",
            FACES,
            frechet=33.7,
            precision=0.872,
            sliced_wasserstein=22.8,
            diversity=0.904,
        ),
    ),
}
