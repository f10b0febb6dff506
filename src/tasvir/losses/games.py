"""The adversarial games as one table that every GAN shares, and the penalties that go with them.

A discriminator gives scores (logits), not probabilities; `sigmoid(score)` is the probability that a picture is real.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from tasvir.config import Count, NonNegative


@dataclass(frozen=True)
class Game:
    """Both players' losses, and the settings the game was published with."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """Scores of real and of generated pictures [B] → scalar loss."""
    generator: Callable[[Tensor, Tensor], Tensor]
    """Scores of generated and of real pictures [B] → scalar loss; only a `paired` game looks at the real ones."""
    has_winner: bool = True
    """Whether a discriminator loss near zero means that the discriminator tells all pictures apart."""
    paired: bool = False
    """Whether generated pictures are held against real ones."""
    threshold: float | None = 0.0
    """The score above which a picture is called real; None where only differences of scores mean anything."""
    discriminator_steps: int = 1
    weight_clip: float = 0.0
    gradient_penalty: float = 0.0

    def middle(self, real: Tensor, fake: Tensor) -> Tensor | float:
        """The score above which a picture is called real, of scores [B]: where the game has none, the middle between
        the two means."""
        return (real.mean() + fake.mean()) / 2 if self.threshold is None else self.threshold


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()  # -log sigmoid(real) - log(1 - sigmoid(fake))


# Arjovsky et al. 2017, arXiv 1701.07875; how the discriminator is kept Lipschitz is not said here
_WASSERSTEIN = Game(
    lambda real, fake: fake.mean() - real.mean(),
    lambda fake, real: -fake.mean(),
    has_winner=False,
    threshold=None,
    discriminator_steps=5,
)

GAMES: dict[str, Game] = {
    # Goodfellow et al. 2014, arXiv 1406.2661, equation 1; and the generator's loss of its section 3
    "minimax": Game(_cross_entropy, lambda fake, real: -softplus(fake).mean()),
    "non-saturating": Game(_cross_entropy, lambda fake, real: softplus(-fake).mean()),
    # Mao et al. 2017, arXiv 1611.04076
    "least-squares": Game(
        lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        lambda fake, real: 0.5 * (fake - 1).square().mean(),
        threshold=0.5,
    ),
    # the same, algorithm 1; Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1
    "wasserstein-clipping": replace(_WASSERSTEIN, weight_clip=0.01),
    "wasserstein-penalty": replace(_WASSERSTEIN, gradient_penalty=10.0),
    # Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equations 16 and 17
    "hinge": Game(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda fake, real: -fake.mean()),
    # Jolicoeur-Martineau 2019, arXiv 1807.00734; Huang et al. 2024, arXiv 2501.05441
    "relativistic": Game(
        lambda real, fake: softplus(fake - real).mean(),
        lambda fake, real: softplus(real - fake).mean(),
        paired=True,
        threshold=None,
    ),
    # the first of these, each score against the mean of the other kind (RaSGAN); arXiv 1809.00219, equations 1 and 2
    "relativistic-average": Game(
        lambda real, fake: softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean(),
        lambda fake, real: softplus(real.mean() - fake).mean() + softplus(real - fake.mean()).mean(),
        paired=True,
        threshold=None,
    ),
}


@dataclass(frozen=True)
class GameConfig:
    """Which game is played; what is left out is as the game was published."""

    name: Literal[
        "minimax",
        "non-saturating",
        "least-squares",
        "wasserstein-clipping",
        "wasserstein-penalty",
        "hinge",
        "relativistic",
        "relativistic-average",
    ] = "non-saturating"
    discriminator_steps: Count | None = None
    """Discriminator steps for each step of the generator (5 in the Wasserstein games, else 1)."""
    weight_clip: NonNegative | None = None
    """Discriminator weights are kept within ± this (0.01 in wasserstein-clipping; 0 is off)."""
    gradient_penalty: NonNegative | None = None
    """Weight of the gradient penalty (10 in wasserstein-penalty; 0 is off)."""
    r1: NonNegative = 0.0
    """Weight gamma of the R1 penalty on real pictures; 0 is off. Where pictures are augmented, both penalties are at
    the augmented ones."""
    r2: NonNegative = 0.0
    """Weight gamma of the same penalty on generated pictures; 0 is off."""
    r1_every: Count = 16
    """Steps between turns with these two penalties, which are multiplied by it (lazy regularization); with 1 they are
    part of every turn of the discriminator."""

    def played(self) -> Game:
        """The row of `GAMES` with this config's own settings in it."""
        own = {name: getattr(self, name) for name in ("discriminator_steps", "weight_clip", "gradient_penalty")}
        return replace(GAMES[self.name], **{name: value for name, value in own.items() if value is not None})

    @property
    def differentiates_twice(self) -> bool:
        return self.played().gradient_penalty > 0 or self.r1 > 0 or self.r2 > 0

    @property
    def penalizes_every_turn(self) -> bool:
        return self.r1_every == 1 and (self.r1 > 0 or self.r2 > 0)

    def penalties_of(self, real_score: Tensor, real: Tensor, fake_score: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """R1 and R2 with their weights, of scores [B] and the pictures [B,C,H,W] that they were computed from.

        The pictures require gradients, and nothing was computed under autocast.
        """
        asked = {"r1": (self.r1, real_score, real), "r2": (self.r2, fake_score, fake)}
        asked = {name: one for name, one in asked.items() if one[0]}
        total = torch.stack([score.sum() for _, score, _ in asked.values()]).sum()  # no score is of another's picture
        slopes = torch.autograd.grad(total, [image for _, _, image in asked.values()], create_graph=True)
        return {
            name: gamma * half_squared(slope) for (name, (gamma, *_)), slope in zip(asked.items(), slopes, strict=True)
        }

    def penalties(self, step: int, score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """R1 and R2 with their weights, in a step in which they are due; `score` takes pictures [B,C,H,W] to [B]."""
        if step % self.r1_every:
            return {}
        asked = {"r1": (self.r1, real), "r2": (self.r2, fake)}
        return {
            name: gamma * self.r1_every * zero_centered_penalty(score, image)
            for name, (gamma, image) in asked.items()
            if gamma
        }


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (‖∇D(x)‖ - 1)² at random points x between real and fake pictures [B,C,H,W], in float32.

    Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    point = torch.lerp(real.float(), fake.float().detach(), mix).requires_grad_()
    return (_input_gradient(discriminator, point).flatten(1).norm(dim=1) - 1).square().mean()


def zero_centered_penalty(discriminator: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Half the mean of ‖∇D(x)‖² at pictures [B,C,H,W], in float32: R1 at real ones, R2 at generated ones.

    Mescheder et al. 2018, arXiv 1801.04406, equations 9 and 10.
    """
    return half_squared(_input_gradient(discriminator, image.float().detach().requires_grad_()))


def half_squared(gradient: Tensor) -> Tensor:
    """Half the mean of the squared lengths of gradients [B,C,H,W]."""
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def _input_gradient(discriminator: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.autocast(point.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(discriminator(point).sum(), point, create_graph=True)
    return gradient


@torch.no_grad()
def clip_weights(discriminator: torch.nn.Module, bound: float) -> None:
    """Keep every weight within ± `bound` (Arjovsky et al. 2017, algorithm 1, line 7)."""
    torch._foreach_clamp_min_(list(discriminator.parameters()), -bound)
    torch._foreach_clamp_max_(list(discriminator.parameters()), bound)
