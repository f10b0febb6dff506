"""Generative adversarial nets (Goodfellow et al. 2014, arXiv 1406.2661), dense layers, any game of the table."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tasvir.config import Count, OptimizerConfig, Pictures, Refused, TrainConfig
from tasvir.core import Batch, Model, Noise, NoiseKind, Player, Recipe, Turn, draw_noise, measured, truncated
from tasvir.losses.games import Game, GameConfig, clip_weights, gradient_penalty
from tasvir.nn.augmentation import Augment, AugmentConfig

ADVERSARIAL = TrainConfig(evaluate_every=2_000, evaluate_number=1_000)
"""How adversarial recipes are trained: such training may get worse again, so the best checkpoint is kept besides."""


@dataclass(frozen=True)
class AdversarialConfig:
    """What the players of every game have."""

    latent_size: Count = 100
    noise: NoiseKind = "normal"
    """What the latent is drawn from; always zero mean and unit variance."""
    game: GameConfig = GameConfig()
    augment: AugmentConfig = AugmentConfig()
    generator: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))
    discriminator: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))


@dataclass(frozen=True)
class GANConfig(AdversarialConfig):
    widths: tuple[Count, ...] = (256, 512, 1024)
    """Units of the generator's hidden layers; the discriminator has them backwards."""


class GAN(Model):
    """A subclass says what its networks are and what they are told; the algorithm is the same for all."""

    truncates = True

    def __init__(self, config: Any, pictures: Pictures):
        super().__init__(config, pictures)
        self.latent_size = config.latent_size
        self.generator, self.discriminator = self.networks(config, pictures)
        self.game = config.game.played()
        self.augment = Augment(config.augment)

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The generator, [B,D] → [B,C,S,S] in [-1,1], and the discriminator, [B,C,S,S] → scores [B]."""
        return dense_generator(config, pictures), dense_discriminator(config, pictures)

    def players(self) -> dict[str, Player]:
        once = not self.config.game.differentiates_twice
        return {
            "discriminator": Player((self.discriminator,), self.config.discriminator, compiled=once),
            "generator": Player((self.generator,), self.config.generator),
        }

    # --- what a subclass may say otherwise ---

    def draw(self, number: int) -> Tensor:
        """Latents [N,D] to train with."""
        return draw_noise(self.config.noise, (number, self.latent_size), device=self.device)

    def generate(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents [B,D], and their classes [B] where the model is conditional, to pictures [B,C,S,S]."""
        return self.generator(latent) if label is None else self.generator(latent, label)

    def judge(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Any]:
        """Scores [B] float32 of pictures [B,C,S,S], and what else the discriminator says of them."""
        return (self.discriminator(image) if label is None else self.discriminator(image, label)).float(), None

    def judge_both(
        self, real: Tensor, fake: Tensor, label: Tensor | None
    ) -> tuple[tuple[Tensor, Any], tuple[Tensor, Any]]:
        """What `judge` says of real and of generated pictures, the classes [B] of both being the same."""
        return self.judge(real, label), self.judge(fake, label)

    def further(
        self, player: str, latent: Tensor, label: Tensor | None, fake_said: Any, real_said: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A player's terms besides the game, and what is watched besides, from what else the discriminator said.

        `label` is the classes [B] of the batch where there are any; in the generator's turn `real_said` is None.
        """
        return {}, {}

    # --- the algorithm ---

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        real, told = batch.image, batch.label if self.conditional else None
        game, config = self.game, self.config.game
        generators_turn = (step + 1) % game.discriminator_steps == 0
        latent = self.draw(len(batch))
        with torch.set_grad_enabled(generators_turn):
            fake = self.generate(latent, told)

        real_seen, fake_seen = self.augment(real), self.augment(fake.detach())
        if config.penalizes_every_turn:  # then the penalties are of these scores, in float32
            real_seen, fake_seen = (image.float().detach().requires_grad_() for image in (real_seen, fake_seen))
        kind = real.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not config.penalizes_every_turn):
            (real_score, real_said), (fake_score, fake_said) = self.judge_both(real_seen, fake_seen, told)
        terms = {"game": game.discriminator(real_score, fake_score)}
        further, watch = self.further("discriminator", latent, batch.label, fake_said, real_said)
        diversity = variety(fake, real, told, len(self.pictures.classes))
        watch = {**watched(game, real_score, fake_score), **diversity, **watch}

        def score(image: Tensor) -> Tensor:
            return self.judge(image, told)[0]

        if game.gradient_penalty:
            terms["gradient_penalty"] = game.gradient_penalty * gradient_penalty(score, real_seen, fake_seen)
        if config.penalizes_every_turn:
            terms |= config.penalties_of(real_score, real_seen, fake_score, fake_seen)
        watch |= self.augment.adapted(real_score - game.middle(real_score, fake_score), len(batch))
        yield Turn("discriminator", {**terms, **further}, watch)

        if config.r1_every > 1 and (late := config.penalties(step, score, real_seen, fake_seen)):
            yield Turn("discriminator", late)
        if game.weight_clip:
            clip_weights(self.discriminator, game.weight_clip)
        if generators_turn:
            fake_score, fake_said = self.judge(self.augment(fake), told)
            if game.paired:
                with torch.no_grad():
                    real_score = score(real_seen)
            terms, watch = self.further("generator", latent, batch.label, fake_said, None)
            yield Turn("generator", {"game": game.generator(fake_score, real_score.detach()), **terms}, watch)

    # --- what it can do ---

    def latents(self, noise: Noise) -> Tensor:
        """[N,D], as `decode` takes them."""
        return noise.draw(self.latent_size, device=self.device, usual=self.config.noise)

    def truncate(self, latent: Tensor, bound: float) -> Tensor:
        """Latents [N,D] with the normal part of each within ± `bound`."""
        return truncated(latent, bound)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Of class 0, where the model is conditional and none is told."""
        if not self.conditional:
            return self.generate(latent).float()
        label = latent.new_zeros(len(latent), dtype=torch.int64) if label is None else label
        self.check_classes(label)
        return self.generate(latent, label).float()

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float | None = None) -> Tensor:
        """`truncation` keeps every latent value within ± itself (`core.truncated`), where noise is normal."""
        latent = self.latents(noise)
        if truncation is not None:
            if (noise.kind or self.config.noise) != "normal":
                raise Refused("Truncation is of normal noise: leave --truncation out, or take --noise normal.")
            latent = self.truncate(latent, truncation)
        if not self.conditional:
            return self.decode(latent)
        return self.decode(latent, self.draw_classes(noise) if label is None else label)


def watched(game: Game, real_score: Tensor, fake_score: Tensor) -> dict[str, Tensor]:
    """Who is winning: mean scores, and the shares of real and of generated pictures that are told to be what they are.

    Where only differences of scores mean anything, pictures are told apart by the middle between the two means.
    """
    real, fake = real_score.detach(), fake_score.detach()
    middle = game.middle(real, fake)
    watch = {
        "real_score": real.mean(),
        "fake_score": fake.mean(),
        "real_accuracy": (real > middle).float().mean(),
        "fake_accuracy": (fake < middle).float().mean(),
    }
    if game.has_winner:
        watch["won"] = (game.discriminator(real, fake) < 0.05).float()
    return watch


@torch.no_grad()
def variety(fake: Tensor, real: Tensor, label: Tensor | None = None, classes: int = 1) -> dict[str, Tensor]:
    """`batch_diversity`: how much generated pictures [B,C,S,S] differ within a batch, against how much real ones do.

    The root mean square of the distance between two pictures, over the same of real ones: 0 if all are alike. With
    `label` [B], of pictures of one class, because a generator that draws one picture of each class is no better; not a
    number where no class has two.
    """
    if len(fake) < 2:
        return {}
    group = fake.new_ones(len(fake), 1, dtype=torch.float32) if label is None else one_hot(label, classes).float()
    with torch.autocast(fake.device.type, enabled=False):
        made, usual = (_within(image.float().flatten(1), group) for image in (fake, real))
    return {"batch_diversity": (made / usual.clamp_min(1e-12)).sqrt()}


def _within(values: Tensor, group: Tensor) -> Tensor:
    """The mean over columns of the variance of values [B,D] within groups, of which each has a column of [B,K]."""
    counts = group.sum(0)
    values = values - values.mean(0)
    between = ((group.T @ values).square().sum(1) / counts.clamp_min(1)).sum()
    return (values.square().sum() - between).clamp_min(0) / (len(values) - (counts > 0).sum()) / values.shape[1]


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
ONE_THREAD = MNIST.replace("2 cores", "one thread")
"""The same for those that were trained on one."""
FACES = (
    "held-out tenth (588) of 6,000 anime faces against 2,000 samples, averaged weights, training and sampling seed 0; "
    "one thread of an AMD EPYC (Zen 4), bfloat16, torch 2.13.0; distances in pixels (128 principal components)"
)
"""Of those trained on a folder of faces."""

RECIPES = {
    "gan": Recipe(
        summary="Generative adversarial network, fully connected.",
        model=GAN,
        config=GANConfig(),
        tiny=GANConfig(latent_size=4, widths=(8, 8)),
        train=replace(ADVERSARIAL, steps=20_000),
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
