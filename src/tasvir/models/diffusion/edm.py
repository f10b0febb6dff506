"""Diffusion with a preconditioned network (Karras et al. 2022, arXiv 2206.00364), "EDM"."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tasvir.config import Fraction, Range, Refused, SamplingConfig, TrainConfig
from tasvir.core import Recipe, measured
from tasvir.diffusion.forward import Karras, Process
from tasvir.models.diffusion.diffusion import MEASURED, TINY_NETWORK, Diffusion, DiffusionConfig, one_thread
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
        expect=measured(
            f"tasvir train edm --data mnist {MEASURED}",
            f"evaluate --guidance 2; {one_thread(3000, 30)}",
            frechet=0.528,
            kid=0.006,
            precision=0.844,
            recall=0.788,
            coverage=0.867,
            label_agreement=0.9945,
        )
        + measured(
            f"tasvir train edm --data mnist {MEASURED}",
            one_thread(3000, 30),
            frechet=1.629,
            kid=0.0155,
            precision=0.781,
            recall=0.879,
            coverage=0.788,
            label_agreement=0.8945,
            denoising_gain=9.01,
        )
        + measured(
            "tasvir train edm --data cifar10_train_20k.zip --data.size 32 --data.flip --model.network.width 64 "
            "--model.network.blocks 1 --model.network.multipliers 1 2 --model.network.attention 8 "
            "--model.optimizer.learning-rate 7e-4 --model.optimizer.schedule cosine --train.steps 2500 "
            "--train.batch-size 32 --train.no-channels-last --train.average 0.995",
            "500 of the pictures of CIFAR-10 held out by content, step 2,500, 26 min; noise of 0.05 to 0.5 of black to "
            "white; the machine as above",
            denoising_gain=8.45,
        ),
    ),
}
