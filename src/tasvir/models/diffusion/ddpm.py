"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv 2006.11239; Nichol and Dhariwal 2021, 2102.09672)."""

from dataclasses import dataclass, replace

from tasvir.config import Count, OptimizerConfig, Positive, Refused, TrainConfig
from tasvir.core import Recipe, measured
from tasvir.diffusion.forward import Discrete, Prediction, Process, Schedule, Weighting
from tasvir.models.diffusion.diffusion import (
    MEASURED,
    SMALL_NETWORK,
    TINY_NETWORK,
    Diffusion,
    DiffusionConfig,
    one_thread,
)
from tasvir.nn.denoisers import UNetConfig


@dataclass(frozen=True)
class DDPMConfig(DiffusionConfig):
    steps: Count = 1000
    """Levels of noise that it is trained on."""
    schedule: Schedule = "cosine"
    """How fast noise grows; linear is the first paper's, cosine the second's."""
    zero_terminal_snr: bool = False
    """Leave nothing of the picture at the last step (Lin et al. 2024); then v or the picture must be predicted."""
    prediction: Prediction = "noise"
    """What the network says: the noise, the picture, or v, between them (Salimans and Ho 2022)."""
    weighting: Weighting = "simple"
    """How errors at different levels count: alike, by min-SNR (Hang et al. 2023), or as in the variational bound."""
    gamma: Positive = 5.0
    """Of min-SNR: the most that a level counts."""


class DDPM(Diffusion):
    def make_process(self) -> Process:
        config = self.config
        if config.zero_terminal_snr and config.prediction == "noise":
            raise Refused(
                "--model.zero-terminal-snr leaves nothing but noise at the last step, from which no picture can be "
                "told by predicting noise: set --model.prediction v."
            )
        if config.zero_terminal_snr and config.weighting == "min-snr":
            raise Refused(
                "--model.weighting min-snr counts nothing at a step without signal, where sampling begins: leave "
                "--model.zero-terminal-snr out, or set --model.weighting simple."
            )
        if config.zero_terminal_snr and config.steps == 1:
            raise Refused("--model.zero-terminal-snr needs a step before the last: set --model.steps to 2 or more.")
        if config.sampling.steps > config.steps:
            raise Refused(
                f"--model.sampling.steps is {config.sampling.steps} and --model.steps {config.steps}: no more steps "
                "can be taken than there are levels of noise; set --model.sampling.steps lower."
            )
        return Discrete(
            config.steps,
            config.schedule,
            config.prediction,
            config.weighting,
            config.gamma,
            config.zero_terminal_snr,
        )


DDPM_RECIPE = Recipe(
    summary="Denoising diffusion: noise becomes a picture, step by step; a small network for 28 and 32 px.",
    model=DDPM,
    config=DDPMConfig(),
    tiny=DDPMConfig(network=TINY_NETWORK, steps=20),
    train=TrainConfig(steps=20_000, batch_size=64),
    expect=measured(
        f"tasvir train ddpm --data mnist {MEASURED}",
        f"evaluate --guidance 2; {one_thread(3000, 28)}",
        frechet=0.716,
        kid=0.0138,
        precision=0.805,
        recall=0.82,
        coverage=0.868,
        label_agreement=0.9895,
    )
    + measured(
        f"tasvir train ddpm --data mnist {MEASURED}",
        one_thread(3000, 28),
        frechet=1.858,
        kid=0.0208,
        precision=0.763,
        recall=0.9,
        coverage=0.765,
        label_agreement=0.8675,
        vlb_bits_per_dim=2.06,
    ),
)

RECIPES = {
    "ddpm": DDPM_RECIPE,
    "ddpm-64": DDPM_RECIPE.preset(
        "The same with one halving more and attention at 8 and 16 px; for pictures of 64 px.",
        train={"steps": 100_000, "batch_size": 32, "average": 0.9999},
    ),
    "ddpm-cifar10": DDPM_RECIPE.preset(
        "The network of the first paper, of 35.7 million parameters, for pictures of 32 px.",
        published="FID 3.17 on CIFAR-10's training set after 800,000 steps (Ho et al. 2020, table 1, no classes)",
        schedule="linear",
        conditional=False,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup=5000, clip=1.0),
        train={"steps": 800_000, "batch_size": 128, "average": 0.9999},
    ),
}
NETWORKS = {
    "ddpm-64": replace(SMALL_NETWORK, multipliers=(1, 2, 2, 2), attention=(8, 16)),
    "ddpm-cifar10": UNetConfig(),
}
RECIPES |= {
    name: replace(RECIPES[name], config=replace(RECIPES[name].config, network=network))
    for name, network in NETWORKS.items()
}
