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
    generator: Callable[[Tensor], Tensor]
    """Scores of generated pictures [B] → scalar loss."""
    has_winner: bool = True
    """Whether a discriminator loss near zero means that the discriminator tells all pictures apart."""
    discriminator_steps: int = 1
    weight_clip: float = 0.0
    gradient_penalty: float = 0.0


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()  # -log sigmoid(real) - log(1 - sigmoid(fake))


def _wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


GAMES: dict[str, Game] = {
    # Goodfellow et al. 2014, arXiv 1406.2661, equation 1; and the generator's loss of its section 3
    "minimax": Game(_cross_entropy, lambda fake: -softplus(fake).mean()),
    "non-saturating": Game(_cross_entropy, lambda fake: softplus(-fake).mean()),
    # Mao et al. 2017, arXiv 1611.04076, equation 9
    "least-squares": Game(
        lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        lambda fake: 0.5 * (fake - 1).square().mean(),
    ),
    # Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1
    "wasserstein-clipping": Game(
        _wasserstein, lambda fake: -fake.mean(), has_winner=False, discriminator_steps=5, weight_clip=0.01
    ),
    # Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1
    "wasserstein-penalty": Game(
        _wasserstein, lambda fake: -fake.mean(), has_winner=False, discriminator_steps=5, gradient_penalty=10.0
    ),
    # Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equations 16 and 17
    "hinge": Game(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda fake: -fake.mean()),
}


@dataclass(frozen=True)
class GameConfig:
    """Which game is played; what is left out is as the game was published."""

    name: Literal[
        "minimax", "non-saturating", "least-squares", "wasserstein-clipping", "wasserstein-penalty", "hinge"
    ] = "non-saturating"
    discriminator_steps: Count | None = None
    """Discriminator steps for each step of the generator (5 in the Wasserstein games, else 1)."""
    weight_clip: NonNegative | None = None
    """Discriminator weights are kept within ± this (0.01 in wasserstein-clipping; 0 is off)."""
    gradient_penalty: NonNegative | None = None
    """Weight of the gradient penalty (10 in wasserstein-penalty; 0 is off)."""
    r1: NonNegative = 0.0
    """Weight gamma of the R1 penalty on real pictures; 0 is off."""
    r1_every: Count = 16
    """Steps between R1 turns; the penalty is multiplied by it (lazy regularization)."""

    def played(self) -> Game:
        """The row of `GAMES` with this config's own settings in it."""
        own = {name: getattr(self, name) for name in ("discriminator_steps", "weight_clip", "gradient_penalty")}
        return replace(GAMES[self.name], **{name: value for name, value in own.items() if value is not None})

    @property
    def differentiates_twice(self) -> bool:
        return self.played().gradient_penalty > 0 or self.r1 > 0


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (‖∇D(x)‖ - 1)² at random points x between real and fake pictures [B,C,H,W], in float32.

    Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    point = torch.lerp(real.float(), fake.float().detach(), mix).requires_grad_()
    return (_input_gradient(discriminator, point).flatten(1).norm(dim=1) - 1).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half the mean of ‖∇D(x)‖² at real pictures [B,C,H,W], in float32.

    Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """
    point = real.float().detach().requires_grad_()
    return 0.5 * _input_gradient(discriminator, point).square().flatten(1).sum(1).mean()


def _input_gradient(discriminator: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.autocast(point.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(discriminator(point).sum(), point, create_graph=True)
    return gradient


@torch.no_grad()
def clip_weights(discriminator: torch.nn.Module, bound: float) -> None:
    """Keep every weight within ± `bound` (Arjovsky et al. 2017, algorithm 1, line 7)."""
    torch._foreach_clamp_min_(list(discriminator.parameters()), -bound)
    torch._foreach_clamp_max_(list(discriminator.parameters()), bound)
