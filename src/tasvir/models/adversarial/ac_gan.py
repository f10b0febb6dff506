"""AC-GAN: conditional image synthesis with auxiliary classifier GANs (Odena, Olah and Shlens 2017, arXiv 1610.09585).

The discriminator is not told a picture's class but says which it sees, and the generator draws what it can tell. The
networks are those of the appendix for CIFAR-10, with one more doubling of the size, or one fewer, for other sizes.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasvir.config import Count, NonNegative, OptimizerConfig, Pictures, Range
from tasvir.core import Recipe, measured
from tasvir.models.adversarial.dcgan import DCGANConfig, discriminator_norm
from tasvir.models.adversarial.gan import ADVERSARIAL, GAN, ONE_THREAD
from tasvir.nn.classes import joined
from tasvir.nn.convolutional import NORMS, halvings


@dataclass(frozen=True)
class ACGANConfig(DCGANConfig):
    width: Count = 384
    """Channels of the generator's 4×4 maps; each doubling of the size halves them."""
    discriminator_width: Count = 16
    """Channels of the discriminator's first convolution; each of the next doubles them, up to 32 times as many."""
    dropout: Annotated[float, Range(0.0, 0.99)] = 0.5
    """Share of the discriminator's activations that are dropped."""
    activation_noise: NonNegative = 0.1
    """Standard deviation of the noise that is added to the discriminator's activations."""
    class_weight: NonNegative = 1.0
    """Weight of the class losses beside the source losses."""


class ACGAN(GAN):
    sizes = "8, 12, 16, 20 px and so on"
    needs = ("labels",)
    conditional = True

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size % 4 == 0

    def networks(self, config: ACGANConfig, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The generator, [B,D] and classes [B] → [B,C,S,S], and the discriminator, [B,C,S,S] → [B,1 + classes]."""
        return Generator(config, pictures).apply(initialize), discriminator(config, pictures).apply(initialize)

    def judge(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores [B] of pictures, and the logits [B,classes] of what they show; `label` is not looked at."""
        said = self.discriminator(image).float()
        return said[:, 0], said[:, 1:]

    def classify(self, image: Tensor) -> Tensor:
        """[N,C,S,S] in [-1,1] to logits of the classes [N,classes] float32, as the discriminator sees them."""
        return self.judge(image)[1]

    def further(
        self, player: str, latent: Tensor, label: Tensor | None, fake_said: Any, real_said: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The class losses of the pictures that a player has a hand in: both want classes to be told apart."""
        assert label is not None
        seen = {"fake": fake_said} if real_said is None else {"real": real_said, "fake": fake_said}
        terms = {f"{of}_class": self.config.class_weight * cross_entropy(said, label) for of, said in seen.items()}
        right = {f"{of}_class_accuracy": (said.argmax(1) == label).float().mean() for of, said in seen.items()}
        return terms, right


class Generator(nn.Module):
    """[B,D] and classes [B] → [B,C,S,S] in [-1,1]; a dense layer, then every layer doubles the size."""

    def __init__(self, config: ACGANConfig, pictures: Pictures):
        super().__init__()
        self.classes = len(pictures.classes)
        sizes = halvings(pictures.size)[::-1]
        widths = [max(1, config.width >> doubling) for doubling in range(len(sizes) - 1)]
        layers: list[nn.Module] = [
            nn.Linear(config.latent_size + self.classes, widths[0] * sizes[0] ** 2),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (widths[0], sizes[0], sizes[0])),
        ]
        for size, before, after in zip(sizes[1:], widths, widths[1:], strict=False):
            layers += [_doubling(before, after, size, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, _doubling(widths[-1], pictures.channels, sizes[-1]), nn.Tanh())

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        return self.layers(joined(latent, label, self.classes))


def _doubling(before: int, after: int, size: int, bias: bool = True) -> nn.Module:
    """5×5, to `size` px from half of it, rounded up."""
    return nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1 - size % 2, bias=bias)


def discriminator(config: ACGANConfig, pictures: Pictures) -> nn.Module:
    """[B,C,S,S] → the score and the logits of the classes, [B,1 + classes]; every second layer halves the size."""
    sizes, norm, before = halvings(pictures.size), discriminator_norm(config), pictures.channels
    layers: list[nn.Module] = []
    for number in range(2 * (len(sizes) - 1)):
        after = config.discriminator_width << min(number, 5)
        layers += [nn.Conv2d(before, after, 3, stride=2 - number % 2, padding=1, bias=not number or norm == "none")]
        layers += [NORMS[norm](after)] if number else []
        layers += [nn.LeakyReLU(0.2, inplace=True), Disturbance(config.dropout, config.activation_noise)]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * sizes[-1] ** 2, 1 + len(pictures.classes)))


class Disturbance(nn.Module):
    """While training: values are dropped (Srivastava et al. 2014), the others enlarged to keep the mean, then Gaussian
    noise is added. Drawn in the plain layout, so that the same seed disturbs the same values in every layout.
    """

    def __init__(self, dropout: float, noise: float):
        super().__init__()
        self.dropout, self.noise = dropout, noise

    def forward(self, value: Tensor) -> Tensor:
        if not self.training:
            return value
        if self.dropout:
            kept = torch.rand(value.shape, device=value.device) >= self.dropout
            value = value * _like(value, kept).mul_(1 / (1 - self.dropout))
        if self.noise:
            value = value + _like(value, torch.randn(value.shape, device=value.device)).mul_(self.noise)
        return value


def _like(value: Tensor, drawn: Tensor) -> Tensor:
    """The drawn numbers in the type and layout of `value`, of the same shape."""
    return torch.empty_like(value, requires_grad=False).copy_(drawn)


def initialize(layer: nn.Module) -> None:
    """Weights from N(0, 0.02²), biases 0."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


PLAYER = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))

RECIPES = {
    "ac-gan": Recipe(
        summary="GAN whose discriminator also says the class; draws pictures of a class that is asked for.",
        model=ACGAN,
        config=ACGANConfig(generator=PLAYER, discriminator=PLAYER),
        tiny=ACGANConfig(latent_size=4, width=8, discriminator_width=4),
        train=replace(ADVERSARIAL, steps=50_000, batch_size=100),
        expect=measured(
            "tasvir train ac-gan --data mnist --model.width 128 --train.batch-size 64 --train.steps 6000",
            ONE_THREAD,
            label_agreement=0.987,
            frechet=2.06,
            precision=0.856,
            recall=0.589,
            coverage=0.644,
            rarest_class_share=0.0875,
            diversity=0.944,
        ),
    )
}
