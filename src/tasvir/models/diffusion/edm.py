"""Diffusion with a preconditioned network (Karras et al. 2022, arXiv 2206.00364), "EDM"."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tasvir.config import Fraction, Range, Refused, SamplingConfig, TrainConfig
from tasvir.core import Recipe
from tasvir.diffusion.forward import Karras, Process
from tasvir.models.diffusion.diffusion import TINY_NETWORK, Diffusion, DiffusionConfig
from tasvir.nn import nonleaky


@dataclass(frozen=True)
class EDMConfig(DiffusionConfig):
    mean: Annotated[float, Range(low=-5.0, high=5.0)] = -1.2
    """Of ln σ, the noise that it learns from."""
    deviation: Annotated[float, Range(low=0.01, high=3.0)] = 1.2
    """Standard deviation of ln σ."""
    least: Annotated[float, Range(low=1e-6, high=1e6)] = 0.002
    """The least σ of sampling."""
    most: Annotated[float, Range(low=1e-6, high=1e6)] = 80.0
    """The greatest."""
    rho: Annotated[float, Range(low=1.0, high=100.0)] = 7.0
    """How much closer levels of noise lie where there is little, in sampling."""
    data: Annotated[float, Range(low=0.001, high=1000.0)] = 0.5
    """Standard deviation of pixels."""
    augment: Fraction = 0.0
    """Chance of each of six changes of a picture (mirrored, enlarged, turned, stretched, shifted), of which the network
    is told, so that it draws none: for few pictures; 0.12 is the paper's."""
    sampling: SamplingConfig = SamplingConfig(sampler="heun", steps=18)


class EDM(Diffusion):
    @property
    def conditions(self) -> int:
        return nonleaky.CONDITIONS if self.config.augment else 0

    def augmented(self, clean: Tensor) -> tuple[Tensor, Tensor | None]:
        return nonleaky.augmented(clean, self.config.augment) if self.config.augment else (clean, None)

    def make_process(self) -> Process:
        config = self.config
        if config.least >= config.most:
            raise Refused(
                f"--model.least is {config.least:g} and --model.most {config.most:g}: noise would not fall; set "
                "--model.least below --model.most."
            )
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
