"""Flow matching on straight paths (Lipman et al. 2022, arXiv 2210.02747), rectified flow (Liu et al. 2022)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from tasvir.config import Range, SamplingConfig, TrainConfig
from tasvir.core import Recipe, measured
from tasvir.diffusion.coupling import coupled
from tasvir.diffusion.forward import Process, Straight
from tasvir.models.diffusion.diffusion import MEASURED, TINY_NETWORK, Diffusion, DiffusionConfig, one_thread


@dataclass(frozen=True)
class FlowConfig(DiffusionConfig):
    times: Literal["uniform", "logit-normal"] = "uniform"
    """Where on the paths it learns: anywhere, or in the middle more than at the ends (Esser et al. 2024)."""
    shift: Annotated[float, Range(low=0.01, high=100.0)] = 1.0
    """More than 1 has more of the steps near noise, for large pictures (Esser et al. 2024)."""
    coupling: Literal["independent", "optimal-transport"] = "independent"
    """Which noise a picture's path comes from: any, or within each batch the nearest on the whole, so that paths
    cross less (Tong et al. 2023, Pooladian et al. 2023); of each class by itself, where classes are learned."""
    sampling: SamplingConfig = SamplingConfig(sampler="heun", steps=10)


class Flow(Diffusion):
    def make_process(self) -> Process:
        return Straight(self.config.times, self.config.shift)

    def paired(self, clean: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        if self.config.coupling == "independent":
            return noise
        return coupled(clean, noise, label if self.conditional else None)


RECIPES = {
    "flow": Recipe(
        summary="Flow matching: a velocity field that carries noise to pictures on straight paths, in few steps.",
        model=Flow,
        config=FlowConfig(),
        tiny=FlowConfig(network=TINY_NETWORK, sampling=SamplingConfig(sampler="heun", steps=4)),
        train=TrainConfig(steps=20_000, batch_size=64),
        expect=measured(
            f"tasvir train flow --data mnist {MEASURED}",
            f"evaluate --guidance 2; {one_thread(3000, 30)}",
            frechet=0.631,
            kid=0.0048,
            precision=0.908,
            recall=0.745,
            coverage=0.869,
            label_agreement=0.9995,
        )
        + measured(
            f"tasvir train flow --data mnist {MEASURED}",
            one_thread(3000, 30),
            frechet=0.672,
            kid=0.0051,
            precision=0.827,
            recall=0.887,
            coverage=0.893,
            label_agreement=0.947,
            denoising_gain=9.06,
        ),
    ),
}
