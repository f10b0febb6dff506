"""What latents are taken to come from, as a table: every prior is a mixture of diagonal Gaussians."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tasvir.config import Pictures
from tasvir.core import Noise
from tasvir.losses.divergences import Mixture

PriorName = Literal["standard", "mixture", "vamp"]
Posterior = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pictures [K,C,S,S] → mean and log-variance of q(z|x), [K,D] each."""


class Prior(nn.Module):
    """K diagonal Gaussians in D dimensions, each to be learned or not."""

    def __init__(self, components: int, latent_size: int, pictures: Pictures):
        super().__init__()

    def components(self, posterior: Posterior) -> Mixture:
        """The mixture as it is now. The model's posterior is handed in and not kept: its encoder is registered once."""
        raise NotImplementedError


class Standard(Prior):
    """N(0, I): one component, nothing to learn."""

    means: Tensor

    def __init__(self, components: int, latent_size: int, pictures: Pictures):
        super().__init__(components, latent_size, pictures)
        self.register_buffer("means", torch.zeros(1, latent_size), persistent=False)

    def components(self, posterior: Posterior) -> Mixture:
        return Mixture(self.means.new_zeros(1), self.means, torch.zeros_like(self.means))


class LearnedMixture(Prior):
    """K Gaussians whose weights, means and variances are learned."""

    def __init__(self, components: int, latent_size: int, pictures: Pictures):
        super().__init__(components, latent_size, pictures)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_size))
        self.log_variances = nn.Parameter(torch.zeros(components, latent_size))

    def components(self, posterior: Posterior) -> Mixture:
        return Mixture(self.logits.log_softmax(0), self.means, self.log_variances)


class Vamp(Prior):
    """The posteriors at K learned pictures, weighted alike (Tomczak and Welling 2018, arXiv 1705.07120)."""

    def __init__(self, components: int, latent_size: int, pictures: Pictures):
        super().__init__(components, latent_size, pictures)
        self.pseudo_inputs = nn.Parameter(torch.randn(components, pictures.channels, pictures.size, pictures.size))
        """Before the tanh that keeps them pictures."""

    def components(self, posterior: Posterior) -> Mixture:
        means, log_variances = posterior(self.pseudo_inputs.tanh())
        return Mixture(torch.zeros_like(means[:, 0]).log_softmax(0), means, log_variances)


PRIORS: dict[str, type[Prior]] = {"standard": Standard, "mixture": LearnedMixture, "vamp": Vamp}


def draw(prior: Mixture, noise: Noise) -> Tensor:
    """A latent from the prior for each seed, [N,D]; the noise's distribution takes the place of the Gaussian."""
    unit = noise.draw(prior.means.shape[1], device=prior.means.device)
    if len(prior.means) == 1:
        chosen = torch.zeros(len(noise), dtype=torch.int64, device=unit.device)
    else:
        below = noise.uniform(1, device=unit.device).squeeze(1)
        edges = prior.log_weights.exp().cumsum(0)
        chosen = torch.searchsorted(edges, below * edges[-1], right=True).clamp(max=len(edges) - 1)
    return prior.means[chosen] + (0.5 * prior.log_variances[chosen]).exp() * unit
