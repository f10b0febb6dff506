"""Diffusion with a preconditioned network (Karras et al. 2022, arXiv 2206.00364), "EDM"."""

from dataclasses import dataclass

from tasvir.config import Positive, SamplingConfig, TrainConfig
from tasvir.core import Recipe
from tasvir.diffusion.forward import Karras, Process
from tasvir.models.diffusion.diffusion import TINY_NETWORK, Diffusion, DiffusionConfig


@dataclass(frozen=True)
class EDMConfig(DiffusionConfig):
    mean: float = -1.2
    """Of ln σ, the noise that it learns from."""
    deviation: Positive = 1.2
    """Standard deviation of ln σ."""
    least: Positive = 0.002
    """The least σ of sampling."""
    most: Positive = 80.0
    """The greatest."""
    rho: Positive = 7.0
    """How much closer levels of noise lie where there is little, in sampling."""
    data: Positive = 0.5
    """Standard deviation of pixels."""
    sampling: SamplingConfig = SamplingConfig(sampler="heun", steps=18)


class EDM(Diffusion):
    def make_process(self) -> Process:
        config = self.config
        return Karras(config.mean, config.deviation, config.least, config.most, config.rho, config.data)


RECIPES = {
    "edm": Recipe(
        summary="Diffusion with a preconditioned network and noise over orders of magnitude; few steps suffice.",
        model=EDM,
        config=EDMConfig(),
        tiny=EDMConfig(network=TINY_NETWORK, sampling=SamplingConfig(sampler="heun", steps=4)),
        train=TrainConfig(steps=20_000, batch_size=64),
    ),
}
