"""What all diffusion models have in common: pictures with noise, a network that finds the picture, samplers.

A subclass says which `Process` leads from pictures to noise; see diffusion/forward.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from tasvir.config import OptimizerConfig, Pictures, Range, Refused, SamplingConfig, validate
from tasvir.core import Batch, Model, Noise, Player, Turn
from tasvir.diffusion.forward import Level, Process
from tasvir.diffusion.samplers import SAMPLERS, Denoise
from tasvir.nn.denoisers import DenoisingUNet, UNetConfig

TINY_NETWORK = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
SMALL_NETWORK = UNetConfig(width=64, multipliers=(1, 2, 2), attention=(7, 8), heads=0, dropout=0.0, patch=2)
"""For a CPU: 0.6 GFLOP for a picture of 28 px, 0.8 for one of 32 px and 2.9 for one of 64 px; 6.5M parameters."""

MEASURED = (
    "--model.network.patch 2 --model.network.width 48 --model.network.blocks 1 --model.network.multipliers 1 2 "
    "--model.network.attention 7 --model.optimizer.learning-rate 1e-3 --model.optimizer.schedule cosine "
    "--train.steps 3000 --train.no-channels-last --train.average 0.995"
)
"""Settings of the runs on MNIST that were measured."""


def one_thread(step: int, minutes: int) -> str:
    """The passport of what was measured of those runs."""
    return (
        f"2,000 samples against 2,000 of MNIST's test digits, features of the classifier, step {step:,}, seed 0, "
        f"averaged weights; one thread of an AMD EPYC (Zen 4) with up to ten other jobs beside it, {minutes} min, "
        "bfloat16, torch 2.13.0"
    )


@dataclass(frozen=True)
class DiffusionConfig:
    """What all diffusion models can be told."""

    network: UNetConfig = SMALL_NETWORK
    conditional: bool = True
    """Learn the classes, where the pictures have any."""
    unlabelled: Annotated[float, Range(low=0.01, high=1.0)] = 0.1
    """How often a picture is shown without its class, so that both can be drawn and guidance goes from one to the
    other (Ho and Salimans 2022, arXiv 2207.12598), and pictures of no known class denoised."""
    sampling: SamplingConfig = SamplingConfig()
    """What `tasvir sample` does where it is not told."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, warmup=200, clip=1.0)


class Diffusion(Model):
    """A subclass has `process`; one in another space has also `shape`, `coded` and `decoded`."""

    sizes = "even sizes from 4 px"
    stepwise = True
    distilled = False
    """Whether the network says where the path through x ends, and not what is expected."""
    process: Process

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 4 and size % 2 == 0

    def __init__(self, config: Any, pictures: Pictures, foundation: Model | None = None):
        super().__init__(config, pictures, foundation)
        self.conditional = config.conditional and bool(pictures.classes)
        self.process = self.make_process()
        self.network = self.make_network()
        self.check_settings()

    def check_settings(self) -> None:
        """Raise `Refused` where pictures could not be drawn as `config.sampling` says."""
        try:
            self.sampling()
        except Refused as error:
            raise Refused(f"As --model.sampling has it, nothing can be drawn. {error}") from None

    def make_process(self) -> Process:
        raise NotImplementedError

    def make_network(self) -> torch.nn.Module:
        """(x [B,*shape], told [B], classes [B] or None) → [B,*shape] float32."""
        channels, size, _ = self.shape
        return DenoisingUNet(self.config.network, channels, size, self.known_classes, self.conditions)

    @property
    def conditions(self) -> int:
        """How many numbers the network is told of what `augmented` did."""
        return 0

    @property
    def known_classes(self) -> int:
        return len(self.pictures.classes) if self.conditional else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what noise is added to."""
        return self.pictures.channels, self.pictures.size, self.pictures.size

    def coded(self, batch: Batch) -> Tensor:
        """What noise is added to, [B,*shape] float32 of about unit scale."""
        return batch.image

    def decoded(self, clean: Tensor) -> Tensor:
        """What noise was taken from, as pictures [N,C,H,W] in [-1,1]."""
        return clean.clamp(-1, 1)

    def players(self) -> dict[str, Player]:
        return {"denoiser": Player((self.network,), self.config.optimizer)}

    # --- the algorithm ---

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        clean, conditions = self.augmented(self.coded(batch))
        level = self.process.draw(len(clean), clean.device)
        noise = self.paired(clean, torch.randn(clean.shape, device=clean.device), batch.label)
        noisy = level.mixed(clean, noise)
        predicted = self.predict(noisy, level, self.shown(batch.label), conditions)
        target = self.process.target(clean, noisy, noise, level)
        error = (predicted - target).square().flatten(1).mean(1)
        yield Turn("denoiser", {"loss": (self.process.weight(level) * error).mean()}, {"mse": error.detach().mean()})

    def augmented(self, clean: Tensor) -> tuple[Tensor, Tensor | None]:
        """What noise is added to [B,*shape], changed; what the network is told of that [B,conditions], if anything."""
        return clean, None

    def paired(self, clean: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        """The noise of a batch in the order in which it is added to the pictures."""
        return noise

    def shown(self, label: Tensor | None) -> Tensor | None:
        """The classes of a batch [B], some of them hidden."""
        if not self.conditional or label is None:
            return None
        hidden = torch.rand(len(label), device=label.device) < self.config.unlabelled
        return torch.where(hidden, self.known_classes, label)

    def predict(self, noisy: Tensor, level: Level, label: Tensor | None, conditions: Tensor | None = None) -> Tensor:
        """What the network says of x [B,*shape] at the process's own levels [B], float32."""
        inner = self.process.scalings(level.for_each(noisy)).inner
        more = () if conditions is None else (conditions,)
        return self.network(inner * noisy, self.process.told(level), label, *more).float()

    # --- what it can do ---

    def estimate(self, x: Tensor, level: Level, label: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """The expected clean x, [N,*shape] float32, of x at any levels [N] or one level of all.

        `guidance` w goes from the estimate without class (0) to that with it (1) and beyond: w·with + (1 - w)·without.
        """
        each = Level(*(value.to(x.device, torch.float32).expand(len(x)) for value in level))
        own = self.process.own(each)
        scaled = (own.alpha.square() + own.sigma.square()).sqrt() / (each.alpha.square() + each.sigma.square()).sqrt()
        x = Level(scaled, scaled).for_each(x).alpha * x
        if label is None or guidance == 1:
            return self._estimate(x, own, label)
        if guidance == 0:
            return self._estimate(x, own, None)
        nothing = torch.full_like(label, self.known_classes)
        twice = Level(*(value.repeat(2) for value in own))
        told, untold = self._estimate(x.repeat(2, 1, 1, 1), twice, torch.cat([label, nothing])).chunk(2)
        return untold + guidance * (told - untold)

    def _estimate(self, x: Tensor, own: Level, label: Tensor | None) -> Tensor:
        _, skip, out = self.process.scalings(own.for_each(x))
        return skip * x + out * self.predict(x, own, label)

    def denoise(self, image: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.estimate(image, Level(torch.ones_like(sigma), sigma), label).clamp(-1, 1)

    def sampling(self, **asked: Any) -> SamplingConfig:
        """The config's settings with those that are asked for. Raises `Refused` where they cannot be followed."""
        how = replace(self.config.sampling, **asked)
        validate(how)
        if SAMPLERS[how.sampler].distilled != self.distilled:
            ours = ", ".join(row for row in SAMPLERS if SAMPLERS[row].distilled == self.distilled)
            kind = "distilled: it says where a path ends" if self.distilled else "not distilled: it says what to expect"
            raise Refused(f"The sampler {how.sampler} is not for this run, which is {kind}; ask for {ours}.")
        if how.guidance != 1 and not self.conditional:
            raise Refused(f"--guidance {how.guidance:g} is between classes, and this run knows none: leave it out.")
        for name in ("eta", "churn", "variance"):
            if name in asked and name not in SAMPLERS[how.sampler].takes:
                takers = " and ".join(row for row in SAMPLERS if name in SAMPLERS[row].takes)
                raise Refused(f"--{name} is for the sampler {takers}, not {how.sampler}: leave it out.")
        self.process.check_steps(how.steps)
        return how

    def denoiser(self, label: Tensor | None = None, how: SamplingConfig | None = None) -> Denoise:
        """The estimate of the clean picture as samplers want it."""
        how = how or self.sampling()
        if label is not None and self.conditional:
            self.check_classes(label)

        def estimated(x: Tensor, level: Level) -> Tensor:
            clean = self.estimate(x, level, label if self.conditional else None, how.guidance)
            return clean.clamp(-1, 1) if how.clip else clean

        return estimated

    def sample(
        self,
        noise: Noise,
        label: Tensor | None = None,
        how: SamplingConfig | None = None,
        watch: Callable[[Denoise], Denoise] | None = None,
    ) -> Tensor:
        """One picture for each seed; `watch` may put round the denoiser what looks at all that it is asked."""
        how = how or self.sampling()
        if self.conditional and label is None:
            label = self.draw_classes(noise)
        grid = self.process.grid(how.steps)

        def draw() -> Tensor:
            return noise.draw(*self.shape, device=self.device)

        start, denoise = float(grid.sigma[0]) * draw(), self.denoiser(label, how)
        denoise = denoise if watch is None else watch(denoise)
        return self.decoded(SAMPLERS[how.sampler].run(denoise, start, grid, draw, how))
