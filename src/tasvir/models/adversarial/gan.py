"""Generative adversarial nets (Goodfellow et al. 2014, arXiv 1406.2661), dense layers, any game of the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasvir.config import Count, OptimizerConfig, Pictures, TrainConfig
from tasvir.core import Batch, Model, Noise, NoiseKind, Player, Recipe, Turn, draw_noise, measured
from tasvir.losses.games import GameConfig, clip_weights, gradient_penalty, r1_penalty


@dataclass(frozen=True)
class GANConfig:
    latent_size: Count = 100
    noise: NoiseKind = "normal"
    """What the latent is drawn from while training; always zero mean and unit variance."""
    widths: tuple[Count, ...] = (256, 512, 1024)
    """Units of the generator's hidden layers; the discriminator has them backwards."""
    game: GameConfig = GameConfig()
    generator: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))
    discriminator: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))


class GAN(Model):
    """A subclass says what its networks are; the algorithm is the same for all."""

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.latent_size = config.latent_size
        self.generator, self.discriminator = self.networks(config, pictures)
        self.game = config.game.played()

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The generator, [B,D] → [B,C,S,S] in [-1,1], and the discriminator, [B,C,S,S] → scores [B]."""
        return dense_generator(config, pictures), dense_discriminator(config, pictures)

    def players(self) -> dict[str, Player]:
        once = not self.config.game.differentiates_twice
        return {
            "discriminator": Player((self.discriminator,), self.config.discriminator, compiled=once),
            "generator": Player((self.generator,), self.config.generator),
        }

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        real = batch.image
        generators_turn = (step + 1) % self.game.discriminator_steps == 0
        with torch.set_grad_enabled(generators_turn):
            fake = self.generator(draw_noise(self.config.noise, (len(batch), self.latent_size), device=real.device))
        yield self.discriminator_turn(self.discriminator, real, fake.detach())
        if self.config.game.r1 and step % self.config.game.r1_every == 0:
            weight = self.config.game.r1 * self.config.game.r1_every
            yield Turn("discriminator", {"r1": weight * r1_penalty(self.discriminator, real)})
        if self.game.weight_clip:
            clip_weights(self.discriminator, self.game.weight_clip)
        if generators_turn:
            yield Turn("generator", {"game": self.game.generator(self.discriminator(fake).float())})

    def discriminator_turn(self, score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Turn:
        """The discriminator's move in the game, with its penalty; and who is winning."""
        real_score, fake_score = score(real).float(), score(fake).float()
        terms = {"game": self.game.discriminator(real_score, fake_score)}
        if self.game.gradient_penalty:
            terms["gradient_penalty"] = self.game.gradient_penalty * gradient_penalty(score, real, fake)
        watch = {"real_score": real_score.detach().mean(), "fake_score": fake_score.detach().mean()}
        if self.game.has_winner:
            watch["won"] = (terms["game"].detach() < 0.05).float()
        return Turn("discriminator", terms, watch)

    def decode(self, latent: Tensor) -> Tensor:
        return self.generator(latent).float()

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise.draw(self.latent_size, device=self.device))


def dense_generator(config: GANConfig, pictures: Pictures) -> nn.Module:
    layers: list[nn.Module] = []
    before = config.latent_size
    for width in config.widths:
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
        before = width
    shape = (pictures.channels, pictures.size, pictures.size)
    return nn.Sequential(
        *layers, nn.Linear(before, pictures.channels * pictures.size**2), nn.Unflatten(1, shape), nn.Tanh()
    )


def dense_discriminator(config: GANConfig, pictures: Pictures) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    before = pictures.channels * pictures.size**2
    for width in config.widths[::-1]:
        layers += [nn.Linear(before, width), nn.LeakyReLU(0.2)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 1), nn.Flatten(0))


MNIST = (
    "MNIST test split (10,000 pictures; diversity 2,000), pixels in [0,1], averaged weights, seed 0; "
    "2 cores of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0; distances in the features of the classifier "
    "with accuracy 0.9926 and sha256 782ea0ad…"
)
"""Where and how the numbers of these recipes were measured."""

RECIPES = {
    "gan": Recipe(
        summary="Generative adversarial network, fully connected.",
        model=GAN,
        config=GANConfig(),
        tiny=GANConfig(latent_size=4, widths=(8, 8)),
        train=TrainConfig(steps=20_000),
        expect=measured(
            "tasvir train gan --data mnist --train.steps 12000",
            MNIST,
            frechet=5.92,
            kid=0.0851,
            precision=0.841,
            recall=0.789,
            coverage=0.706,
            nearest_class_accuracy=0.839,
            class_agreement=0.749,
            class_coverage=0.871,
            diversity=0.940,
        ),
    )
}
