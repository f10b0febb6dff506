"""Semi-supervised GAN: a discriminator that tells K classes and generated pictures apart, from few labels.

Salimans et al. 2016, arXiv 1606.03498, section 5 (and feature matching, section 3.1); Odena 2016, arXiv 1606.01583.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.utils.parametrizations import weight_norm

from tasvir.config import Count, DataConfig, Fraction, NonNegative, OptimizerConfig, Pictures, Refused
from tasvir.core import Batch, Recipe, Turn, measured
from tasvir.losses.games import gradient_penalty
from tasvir.models.adversarial.dcgan import DCGAN, DCGANConfig, convolutional_generator, initialize
from tasvir.models.adversarial.gan import ADVERSARIAL, GAN, ONE_THREAD, AdversarialConfig, variety, watched
from tasvir.nn.noisy import GaussianNoise, PlainDropout


@dataclass(frozen=True)
class SGANConfig(AdversarialConfig):
    network: Literal["dense", "convolutional"] = "convolutional"
    """convolutional with dropout, as the paper's for CIFAR-10; or dense with noise in every layer, its own for MNIST
    (with a learning rate of 0.003)."""
    widths: tuple[Count, ...] = (1000, 500, 250, 250, 250)
    """Units of the dense discriminator's hidden layers."""
    generator_widths: tuple[Count, ...] = (500, 500)
    """Units of the dense generator's hidden layers."""
    width: Count = 32
    """Channels of the convolutional discriminator at first (the paper's has 96), twice as many later; the generator has
    4 times as many at 4×4 px, and half at each doubling."""
    depth: Count = 1
    """Convolutions of the convolutional discriminator before each of its two halvings, that one included; the paper's
    has 3."""
    noise_in: NonNegative = 0.3
    """Deviation of the noise that the dense discriminator adds to pictures, whose values it takes from 0 to 1."""
    noise_between: NonNegative = 0.5
    """Deviation of the noise that it adds to hidden layers."""
    dropout: Fraction = 0.3
    """Of the convolutional discriminator, 0.5 in the paper's; pictures have 0.4 of it."""
    unsupervised: NonNegative = 1.0
    """Weight of the discriminator's game beside the classes of labelled pictures."""
    matching: Literal["features", "game"] = "features"
    """What the generator descends: the distance of mean features (section 3.1), or the game's own loss."""
    generator: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, betas=(0.5, 0.999))
    discriminator: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, betas=(0.5, 0.999))


class Classifier(nn.Module):
    """Pictures [B,C,S,S] to logits of the classes [B,K], and to the features before them."""

    def __init__(self, trunk: nn.Module, noise: nn.Module, last: nn.Module):
        super().__init__()
        self.trunk, self.noise, self.last = trunk, noise, last

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(image)
        return self.last(self.noise(features)), features


class SGAN(GAN):
    sizes = DCGAN.sizes
    needs = ("labels",)
    few_labels = True

    @staticmethod
    def accepts(size: int) -> bool:
        return DCGAN.accepts(size)

    def networks(self, config: SGANConfig, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        if config.game.played().weight_clip:
            raise Refused(
                "sgan normalizes its weights, which clipping would undo: take a game without weight clipping."
            )
        make_generator, make_discriminator = NETWORKS[config.network]
        return make_generator(config, pictures), make_discriminator(config, pictures)

    def judge(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scores [B] of pictures, and (logits [B,K], features [B,F]), all float32.

        The logit of "generated" is fixed at 0, so D(x) = Z/(Z+1) with Z the sum of the exponentials of the others
        (section 5): its logit is log Z.
        """
        logits, features = self.discriminator(image)
        return logits.float().logsumexp(1), (logits.float(), features.float())

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        real, game, config = batch.image, self.game, self.config.game
        known = batch if batch.labelled is None else batch.labelled
        assert known.label is not None
        generators_turn = (step + 1) % game.discriminator_steps == 0
        latent = self.draw(len(batch))
        with torch.set_grad_enabled(generators_turn):
            fake = self.generate(latent)

        real_seen, fake_seen, known_seen = (self.augment(image) for image in (real, fake.detach(), known.image))
        logits = self.judge(torch.cat([real_seen, fake_seen, known_seen]))[1][0]
        real_score, fake_score, _ = logits.logsumexp(1).split([len(real), len(fake), len(known)])
        logits = logits[len(real) + len(fake) :]
        terms = {
            "classes": cross_entropy(logits, known.label),
            "game": self.config.unsupervised * game.discriminator(real_score, fake_score),
        }
        watch = {**watched(game, real_score, fake_score), **variety(fake, real)}
        if self.config.matching == "features":  # then the generator does not play, and nobody can win
            watch.pop("won", None)
        watch["labelled_accuracy"] = (logits.detach().argmax(1) == known.label).float().mean()

        def score(image: Tensor) -> Tensor:
            return self.judge(image)[0]

        if game.gradient_penalty:
            terms["gradient_penalty"] = game.gradient_penalty * gradient_penalty(score, real_seen, fake_seen)
        if config.r1_every == 1:
            terms |= config.penalties(step, score, real_seen, fake_seen)
        watch |= self.augment.adapted(real_score - game.middle(real_score, fake_score), len(batch))
        yield Turn("discriminator", terms, watch)

        if config.r1_every > 1 and (late := config.penalties(step, score, real_seen, fake_seen)):
            yield Turn("discriminator", late)
        if generators_turn:
            with torch.no_grad():
                real_score, (_, real_features) = self.judge(real_seen)
            fake_score, (_, fake_features) = self.judge(self.augment(fake))
            if self.config.matching == "features":
                yield Turn("generator", {"feature_matching": feature_distance(fake_features, real_features)})
            else:
                yield Turn("generator", {"game": game.generator(fake_score, real_score)})

    def classify(self, image: Tensor) -> Tensor:
        return self.judge(image)[1][0]


def feature_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Squared distance of the mean features of generated and of real pictures, each [B,F] (section 3.1)."""
    return (fake.mean(0) - real.mean(0)).square().sum()


def dense_generator(config: SGANConfig, pictures: Pictures) -> nn.Module:
    layers: list[nn.Module] = []
    before = config.latent_size
    for width in config.generator_widths:
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.Softplus()]
        before = width
    shape = (pictures.channels, pictures.size, pictures.size)
    last = weight_norm(nn.Linear(before, pictures.channels * pictures.size**2))
    return nn.Sequential(*layers, last, nn.Unflatten(1, shape), nn.Tanh())


class FromZero(nn.Module):
    """Pictures from -1 to 1 as from 0 to 1, so that a dark background is nothing."""

    def forward(self, image: Tensor) -> Tensor:
        return (image + 1) / 2


def normed(layer: nn.Linear | nn.Conv2d, power: float = 1.0, gain: float = 2.0) -> nn.Module:
    """The layer with weight norm (Salimans and Kingma 2016, arXiv 1602.07868), begun so that inputs of this mean square
    give outputs of variance `gain`."""
    nn.init.normal_(layer.weight, 0.0, (gain / (power * layer.weight[0].numel())) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return weight_norm(layer)


DARK = 0.1
"""About the mean square of a handwritten digit's pixels, from 0 to 1."""


def dense_discriminator(config: SGANConfig, pictures: Pictures) -> Classifier:
    layers: list[nn.Module] = [nn.Flatten(), FromZero(), GaussianNoise(config.noise_in)]
    before = pictures.channels * pictures.size**2
    for place, width in enumerate(config.widths):
        layers += [GaussianNoise(config.noise_between)] if place else []
        layers += [normed(nn.Linear(before, width), 1.0 if place else DARK), nn.ReLU()]
        before = width
    last = normed(nn.Linear(before, len(pictures.classes)), gain=1.0)
    return Classifier(nn.Sequential(*layers), GaussianNoise(config.noise_between), last)


def deep_generator(config: SGANConfig, pictures: Pictures) -> nn.Module:
    likeness = DCGANConfig(latent_size=config.latent_size, width=4 * config.width)
    generator = convolutional_generator(likeness, pictures)
    generator.apply(initialize)
    return generator


def deep_discriminator(config: SGANConfig, pictures: Pictures) -> Classifier:
    """Two halvings of `depth` convolutions each, then three more, averaged over the picture; weight norm throughout."""
    width, wide = config.width, 2 * config.width
    layers: list[nn.Module] = [PlainDropout(0.4 * config.dropout)]
    before = pictures.channels
    for after in (width, wide):
        for stride in (*[1] * (config.depth - 1), 2):
            layers += [normed(nn.Conv2d(before, after, 3, stride, 1)), nn.LeakyReLU(0.2)]
            before = after
        layers += [PlainDropout(config.dropout)]
    for side in (min(3, pictures.size // 4), 1, 1):
        layers += [normed(nn.Conv2d(before, wide, side)), nn.LeakyReLU(0.2)]
        before = wide
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    last = normed(nn.Linear(wide, len(pictures.classes)))
    begin(nn.Sequential(*layers, last), blobs(64, pictures.channels, min(pictures.size, 32)))
    return Classifier(nn.Sequential(*layers), nn.Identity(), last)


def blobs(number: int, channels: int, size: int) -> Tensor:
    """Smooth bright spots on dark ground, [N,C,S,S] in [-1,1]: what stands for pictures before any is known."""
    coarse = torch.randn(number, channels, max(2, size // 4), max(2, size // 4))
    return (2 * interpolate(coarse, (size, size), mode="bilinear") - 1).tanh()


@torch.no_grad()
def begin(network: nn.Sequential, image: Tensor) -> None:
    """Scales and biases of weight-normed layers such that each unit has zero mean and unit variance over these pictures
    (Salimans and Kingma 2016, arXiv 1602.07868, section 3)."""
    network.eval()
    values = image
    for layer in network:
        found = layer(values)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            units = found.transpose(0, 1).flatten(1)
            deviation, mean = torch.std_mean(units, 1)
            deviation += 1e-6
            kept = dict(layer.named_parameters())
            scale, bias = kept["parametrizations.weight.original0"], kept["bias"]
            scale.div_(deviation.view(-1, *[1] * (scale.dim() - 1)))
            bias.copy_((bias - mean) / deviation)
            found = layer(values)
        values = found
    network.train()


NETWORKS = {
    "dense": (dense_generator, dense_discriminator),
    "convolutional": (deep_generator, deep_discriminator),
}

# Pictures are shifted by up to 2 of 28 px: without that, 100 of them are soon known by heart.
SGAN_RECIPE = Recipe(
    summary="Semi-supervised GAN: classes from few labels.",
    model=SGAN,
    config=SGANConfig(),
    tiny=SGANConfig(latent_size=4, widths=(8, 8), generator_widths=(8,), width=4),
    train=replace(ADVERSARIAL, steps=30_000, batch_size=64),
    data=DataConfig(labelled=100, translate=0.08),
    best="test_accuracy",
    expect=measured("tasvir train sgan --data mnist --train.steps 8000", ONE_THREAD, test_accuracy=0.965),
    published="MNIST, 100 labels: 93 (± 6.5) errors of 10,000 (Salimans et al. 2016, table 1), unshifted, longer.",
)

SLOWER = OptimizerConfig(learning_rate=3e-4, betas=(0.5, 0.999))

PAPERS = SGAN_RECIPE.preset(
    "Semi-supervised GAN, the paper's convolutional networks.",
    train={"batch_size": 100},
    width=96,
    depth=3,
    dropout=0.5,
    generator=SLOWER,
    discriminator=SLOWER,
)

RECIPES = {
    "sgan": SGAN_RECIPE,
    "sgan-cifar10": replace(PAPERS, tiny=replace(SGAN_RECIPE.tiny, depth=2), data=DataConfig(labelled=100)),
}
