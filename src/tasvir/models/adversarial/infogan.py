"""InfoGAN (Chen et al. 2016, arXiv 1606.03657): parts of the latent that the picture must tell, and so mean something.

The generator also raises a lower bound on the mutual information of codes c and picture, E[log Q(c|x)] + H(c)
(equation 5). Q is a second head of the discriminator.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from tasvir.config import Count, CountOrZero, NonNegative, OptimizerConfig, Pictures, Refused
from tasvir.core import Code, Noise, Recipe, draw_noise, measured, truncated
from tasvir.models.adversarial.dcgan import DCGAN, initialize
from tasvir.models.adversarial.gan import ADVERSARIAL, GAN, ONE_THREAD, AdversarialConfig
from tasvir.nn.convolutional import halvings


@dataclass(frozen=True)
class InfoGANConfig(AdversarialConfig):
    latent_size: Count = 62
    """Of the noise beside the codes."""
    categories: tuple[CountOrZero, ...] = (10,)
    """Of each categorical code; 0 is none."""
    continuous: CountOrZero = 2
    """Continuous codes, from -1 to 1."""
    information: NonNegative = 1.0
    """Weight lambda of what the picture must tell of categorical codes ..."""
    continuous_information: NonNegative = 0.1
    """... and of continuous ones (appendix C.1)."""
    spread: Literal["fixed", "learned"] = "fixed"
    """Standard deviation of the Gaussian that Q says of a continuous code: 1, or told by Q for each picture."""
    width: Count = 64
    """Channels at half the picture's size; each further halving doubles them."""
    dense: Count = 1024
    """Units of the dense layers."""
    dense_head: Count = 128
    """Units of Q's own hidden layer."""
    generator: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, betas=(0.5, 0.999))
    discriminator: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999))


class Told(NamedTuple):
    """What Q says of the codes of pictures, float32."""

    logits: tuple[Tensor, ...]
    """Of each categorical code, [B,K]."""
    mean: Tensor
    """Of the continuous codes, [B,C]."""
    log_variance: Tensor
    """[B,C]"""


class Discriminator(nn.Module):
    """Pictures [B,C,S,S] to scores [B], and to what Q says of the codes, [B,Q]: one trunk with two heads."""

    def __init__(self, trunk: nn.Module, score: nn.Module, codes: nn.Module):
        super().__init__()
        self.trunk, self.score, self.codes = trunk, score, codes

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(image)
        return self.score(features).flatten(), self.codes(features)


class InfoGAN(GAN):
    sizes = DCGAN.sizes

    def __init__(self, config: InfoGANConfig, pictures: Pictures):
        self.categories = tuple(count for count in config.categories if count)
        if 1 in self.categories:
            raise Refused(
                "--model.categories is 1; a code of one category tells nothing. Give 2 or more, or 0 for none."
            )
        if not self.categories and not config.continuous:
            raise Refused("infogan without codes is dcgan: leave --model.categories or --model.continuous above 0.")
        super().__init__(config, pictures)
        self.noise_size = config.latent_size
        self.latent_codes = codes_of(self.categories, config)
        self.latent_size = latent_length(self.categories, config)

    @staticmethod
    def accepts(size: int) -> bool:
        return DCGAN.accepts(size)

    def networks(self, config: InfoGANConfig, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        generator = generator_of(replace(config, latent_size=latent_length(self.categories, config)), pictures)
        said = sum(self.categories) + config.continuous * (2 if config.spread == "learned" else 1)
        discriminator = discriminator_of(config, pictures, said)
        for network in (generator, discriminator):
            network.apply(initialize)
        return generator, discriminator

    def draw(self, number: int) -> Tensor:
        """Latents [N,D]: noise, a one-hot vector for each categorical code, continuous codes."""
        parts = [draw_noise(self.config.noise, (number, self.noise_size), device=self.device)]
        parts += [
            one_hot(torch.randint(count, (number,), device=self.device), count).float() for count in self.categories
        ]
        parts.append(2 * torch.rand(number, self.config.continuous, device=self.device) - 1)
        return torch.cat(parts, 1)

    def judge(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Told]:
        score, said = self.discriminator(image)
        return score.float(), self.told(said.float())

    def told(self, said: Tensor) -> Told:
        """What stands in Q's outputs [B,Q]."""
        count = self.config.continuous
        logits = said[:, : sum(self.categories)].split(self.categories, 1)
        gaussian = said[:, sum(self.categories) :]
        mean = gaussian[:, :count]
        return Told(logits, mean, gaussian[:, count:].clamp(-10, 10) if gaussian.shape[1] > count else 0 * mean)

    def further(
        self, player: str, latent: Tensor, label: Tensor | None, fake_said: Told, real_said: Told | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Q's negative log-likelihood of the codes that pictures were made with, in the turns of both players."""
        config, terms, watch = self.config, {}, {}
        if self.categories:
            asked = [
                latent[:, code.start : code.start + code.size].argmax(1) for code in self.latent_codes if code.size > 1
            ]
            pairs = list(zip(fake_said.logits, asked, strict=True))
            terms["categories"] = config.information * sum(
                (cross_entropy(*pair) for pair in pairs), latent.new_zeros(())
            )
            if real_said is not None:
                hits = [(logits.detach().argmax(1) == code).float().mean() for logits, code in pairs]
                watch["category_accuracy"] = torch.stack(hits).mean()
                watch["category_usage"] = usage(real_said.logits[0].detach())
        if config.continuous:
            code = latent[:, -config.continuous :]
            nats = gaussian_nats(code, fake_said.mean, fake_said.log_variance).sum(1).mean()
            terms["continuous"] = config.continuous_information * nats
            if real_said is not None:
                watch["code_mse"] = (fake_said.mean.detach() - code).square().mean()
        return terms, watch

    def latents(self, noise: Noise) -> Tensor:
        parts = [noise.draw(self.noise_size, device=self.device, usual=self.config.noise)]
        for count in self.categories:
            chosen = (noise.uniform(device=self.device) * count).long().clamp(max=count - 1)
            parts.append(one_hot(chosen, count).float())
        parts.append(2 * noise.uniform(self.config.continuous, device=self.device) - 1)
        return torch.cat(parts, 1)

    def truncate(self, latent: Tensor, bound: float) -> Tensor:
        """Only of the noise: the codes are not normal."""
        return torch.cat([truncated(latent[:, : self.noise_size], bound), latent[:, self.noise_size :]], 1)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Categorical codes between two categories, as a walk has them, count by their shares."""
        parts = [latent[:, : self.noise_size]]
        for code in self.latent_codes:
            part = latent[:, code.start : code.start + code.size]
            parts.append(normalize(part.clamp_min(0), p=1, dim=1) if code.size > 1 else part)
        return self.generate(torch.cat(parts, 1)).float()

    def categorize(self, image: Tensor) -> Tensor:
        """By the first categorical code; [N,0] without one."""
        said = self.judge(image)[1]
        return said.logits[0] if said.logits else said.mean[:, :0]


def latent_length(categories: tuple[int, ...], config: InfoGANConfig) -> int:
    return config.latent_size + sum(categories) + config.continuous


def codes_of(categories: tuple[int, ...], config: InfoGANConfig) -> tuple[Code, ...]:
    """Where the codes stand in the latent, behind the noise."""
    codes, start = [], config.latent_size
    for number, count in enumerate(categories):
        codes.append(Code("category" if len(categories) == 1 else f"categories {number}", start, count))
        start += count
    return (*codes, *(Code(f"code {number}", start + number) for number in range(config.continuous)))


def gaussian_nats(value: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log N(value; mean, variance), each [B,C]."""
    return 0.5 * ((value - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))


def usage(logits: Tensor) -> Tensor:
    """How many categories a batch is spread over, as a share of all: exp of the entropy of the mean of Q, over K."""
    share = logits.softmax(1).mean(0)
    return (-(share * share.clamp_min(1e-12).log()).sum()).exp() / logits.shape[1]


def stages(size: int) -> list[int]:
    """Picture sizes from `size` down to 7 or 8, and at least one halving: 28, 14, 7."""
    return halvings(size, min(7, (size + 1) // 2))


def generator_of(config: InfoGANConfig, pictures: Pictures) -> nn.Module:
    """[B,D] → [B,C,S,S] in [-1,1]: two dense layers, then every layer doubles the size (appendix C.1)."""
    sizes = stages(pictures.size)[::-1]
    widths = [config.width << place for place in range(len(sizes) - 1)][::-1]
    flat = widths[0] * sizes[0] ** 2
    layers: list[nn.Module] = [nn.Linear(config.latent_size, config.dense), nn.BatchNorm1d(config.dense), nn.ReLU()]
    layers += [nn.Linear(config.dense, flat), nn.BatchNorm1d(flat), nn.ReLU()]
    layers += [nn.Unflatten(1, (widths[0], sizes[0], sizes[0]))]
    for place, (size, before) in enumerate(zip(sizes[1:], widths, strict=True)):
        last = place == len(widths) - 1
        after = pictures.channels if last else widths[place + 1]
        layers += [nn.ConvTranspose2d(before, after, 4 - size % 2, stride=2, padding=1)]
        layers += [nn.Tanh()] if last else [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def discriminator_of(config: InfoGANConfig, pictures: Pictures, said: int) -> Discriminator:
    """Strided convolutions and a dense layer, which score and Q share (appendix C.1); no norm on the first layer."""
    norm: Any = nn.LayerNorm if config.game.differentiates_twice else nn.BatchNorm1d
    sizes, before = stages(pictures.size), pictures.channels
    layers: list[nn.Module] = []
    for place, size in enumerate(sizes[:-1]):
        after = config.width << place
        layers += [nn.Conv2d(before, after, 4 - size % 2, stride=2, padding=1)]
        if place:
            layers += [nn.BatchNorm2d(after) if norm is nn.BatchNorm1d else nn.GroupNorm(1, after)]
        layers += [nn.LeakyReLU(0.1)]
        before = after
    layers += [nn.Flatten(), nn.Linear(before * sizes[-1] ** 2, config.dense), norm(config.dense), nn.LeakyReLU(0.1)]
    head = nn.Sequential(
        nn.Linear(config.dense, config.dense_head),
        norm(config.dense_head),
        nn.LeakyReLU(0.1),
        nn.Linear(config.dense_head, said),
    )
    return Discriminator(nn.Sequential(*layers), nn.Linear(config.dense, 1), head)


RECIPES = {
    "infogan": Recipe(
        summary="InfoGAN: categorical and continuous codes that the picture must tell.",
        model=InfoGAN,
        config=InfoGANConfig(),
        tiny=InfoGANConfig(latent_size=4, categories=(3,), width=64, dense=128, dense_head=8),
        train=replace(ADVERSARIAL, steps=20_000, batch_size=128),
        expect=measured(
            "tasvir train infogan --data mnist --model.width 32 --model.dense 512 --train.steps 6000",
            ONE_THREAD,
            code_accuracy=0.818,
            code_agreement=0.836,
            frechet=0.226,
            rarest_class_share=0.0745,
        ),
    )
}
