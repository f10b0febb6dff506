"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752): any of the processes in the latents of an autoencoder."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tasvir.config import Count, OptimizerConfig, Pictures, Range, SamplingConfig, TrainConfig
from tasvir.core import Batch, Compresses, Model, Recipe, Turn, measured
from tasvir.diffusion.forward import Discrete, Karras, Process, Straight
from tasvir.models.autoencoders.ae import Autoencoder
from tasvir.models.diffusion.diffusion import TINY_NETWORK, Diffusion, DiffusionConfig, one_thread
from tasvir.nn.denoisers import UNetConfig, Waves
from tasvir.nn.everywhere import summed

PROCESSES: dict[str, Callable[[], Process]] = {
    "flow": Straight,
    # twice the noise that pictures get, whose deviation is half of that of latents
    "edm": lambda: Karras(mean=-1.2 + math.log(2), least=0.004, most=160.0, data=1.0),
    # latents have no range to clip to: an error in predicted noise would be multiplied by σ/α, in v it is by σ
    "ddpm": lambda: Discrete(schedule="cosine", prediction="v"),
}
"""The same as in the recipes of these names, but for what is said here."""
ProcessName = Literal["flow", "edm", "ddpm"]
OBSERVED = 32
"""Steps whose latents tell their mean and deviation."""
GUESS = 1e-5
"""How many numbers the first guess of N(0,1) counts as."""
FAINT = 0.1
"""Channels whose deviation is less than this part of the usual one are not made louder than that."""


@dataclass(frozen=True)
class DenseConfig:
    """The network for latents that are vectors."""

    width: Count = 512
    blocks: Count = 4
    """Residual blocks of two dense layers."""
    dropout: Annotated[float, Range(low=0.0, high=0.99)] = 0.0


@dataclass(frozen=True)
class LatentConfig(DiffusionConfig):
    process: ProcessName = "flow"
    """How noise is mixed in and what is learned of it, as in the recipe of that name."""
    network: UNetConfig = UNetConfig(width=64, multipliers=(1, 2), attention=(4, 7, 8, 14, 16), heads=0, dropout=0.0)
    """For latents that are maps, whose sizes are meant where it says pictures."""
    dense: DenseConfig = DenseConfig()
    sampling: SamplingConfig = SamplingConfig(sampler="heun", steps=10, clip=False)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, schedule="cosine", warmup=200, clip=1.0)


class DenseDenoiser(nn.Module):
    """[B,D,1,1], a number from 0 to 1000 or so [B], and classes [B] → [B,D,1,1] float32: a residual network.

    Class `classes` means none is told.
    """

    def __init__(self, config: DenseConfig, size: int, classes: int = 0):
        super().__init__()
        width = config.width
        self.waves = Waves(width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList([DenseBlock(config) for _ in range(config.blocks)])
        self.norm, self.last = nn.LayerNorm(width), _zeroed(nn.Linear(width, size))

    def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None) -> Tensor:
        known = self.time(self.waves(told))
        if self.label is not None:
            nothing = torch.full_like(told, self.label.num_embeddings - 1, dtype=torch.int64)
            known = known + self.label(nothing if label is None else label)
        known, made = silu(known), self.first(x.flatten(1))
        for block in self.blocks:
            made = block(made, known)
        return self.last(silu(self.norm(made))).view(x.shape).float()


class DenseBlock(nn.Module):
    """[B,W] and what is known [B,W] → [B,W]."""

    def __init__(self, config: DenseConfig):
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.layer, self.told = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.second = _zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        made = self.layer(silu(self.norms[0](x))) + self.told(known)
        return x + self.second(self.dropout(silu(self.norms[1](made))))


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Latent(Diffusion):
    """Diffusion of what `compress` of a frozen autoencoder makes of pictures, brought to mean 0 and deviation 1."""

    stands_on = "compress"
    accepts = staticmethod(Autoencoder.accepts)
    sizes = "multiples of what the autoencoder downsamples by (4) from 8 px up"
    denoise = None  # type: ignore[assignment]  # noise in a picture is not noise in its latent
    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, config: Any, pictures: Pictures, foundation: Model):
        super().__init__(config, pictures, foundation)
        channels = self.shape[0]
        self.register_buffer("count", torch.full((), GUESS))
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("squares", torch.full((channels,), GUESS))

    def make_process(self) -> Process:
        return PROCESSES[self.config.process]()

    def make_network(self) -> nn.Module:
        if self.shape[1] > 1:
            return super().make_network()
        return DenseDenoiser(self.config.dense, self.shape[0], self.known_classes)

    @property
    def autoencoder(self) -> Compresses:
        return cast(Compresses, self.foundation)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.autoencoder.latent_shape

    def prepare(self, image: Tensor) -> Tensor:
        """Latents of pictures, [N,*shape] float32."""
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            return self.autoencoder.compress(image.float())

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        if batch.prepared is None:
            batch = replace(batch, prepared=self.prepare(batch.image))
        if step < OBSERVED:
            self.observe(cast(Tensor, batch.prepared))
        yield from super().turns(batch, step)

    @torch.no_grad()
    def observe(self, latent: Tensor) -> None:
        """Count latents [B,*shape] among those that tell mean and deviation (section G of the paper: first batch).

        Sums are kept, so that their average over the steps of training is the sum of something too.
        """
        number = latent.new_tensor(latent[:, 0].numel())
        for kept, found in (
            (self.count, number),
            (self.total, latent.sum((0, 2, 3))),
            (self.squares, latent.square().sum((0, 2, 3))),
        ):
            kept += summed(found)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the channels of latents, [D,1,1] each."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        faint = FAINT**2 * variance.mean()
        return mean[:, None, None], variance.clamp(min=faint).sqrt()[:, None, None]

    def coded(self, batch: Batch) -> Tensor:
        mean, deviation = self.moments
        latent = self.prepare(batch.image) if batch.prepared is None else batch.prepared
        return (latent - mean) / deviation

    def decoded(self, clean: Tensor) -> Tensor:
        mean, deviation = self.moments
        with torch.autocast(clean.device.type, enabled=False):
            return self.autoencoder.expand(clean.float() * deviation + mean).clamp(-1, 1)

    def reconstruct(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """By the autoencoder alone: what its latents keep of pictures."""
        with torch.autocast(image.device.type, enabled=False):
            return self.autoencoder.expand(self.prepare(image))


COMMAND = (
    "tasvir train ldm --data mnist --first.train.steps 2000 --train.steps 2500 --model.optimizer.learning-rate 1e-3 "
    "--model.optimizer.schedule cosine --train.average 0.995"
)

RECIPES = {
    "ldm": Recipe(
        summary="Latent diffusion: an autoencoder, then diffusion or flow in its latents, which are small.",
        model=Latent,
        config=LatentConfig(),
        tiny=LatentConfig(
            network=replace(TINY_NETWORK, attention=()),
            dense=DenseConfig(width=16, blocks=1),
            sampling=SamplingConfig(sampler="heun", steps=4, clip=False),
        ),
        train=TrainConfig(steps=20_000, batch_size=64),
        foundation="kl-autoencoder",
        expect=measured(
            COMMAND,
            f"evaluate --guidance 2; {one_thread(2500, 30)}, both stages",
            frechet=0.456,
            label_agreement=0.996,
        )
        + measured(
            COMMAND,
            f"{one_thread(2500, 30)}, both stages",
            frechet=1.02,
            kid=0.0109,
            precision=0.834,
            recall=0.872,
            coverage=0.897,
            label_agreement=0.9165,
        ),
    ),
}
