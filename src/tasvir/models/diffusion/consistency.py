"""Consistency distillation: a network that says where a path ends, learned from one that knows where it goes.

Song et al. 2023 (arXiv 2303.01469, algorithm 2), with the student itself, its gradient stopped, as its own target and
pseudo-Huber distances (Song and Dhariwal 2024, arXiv 2310.14189, sections 3.2 and 3.3).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasvir.config import Count, NonNegative, OptimizerConfig, Pictures, Positive, Refused, SamplingConfig, TrainConfig
from tasvir.core import Batch, Model, Recipe, Turn, measured
from tasvir.diffusion.forward import Level, Process, Scalings
from tasvir.diffusion.samplers import Denoise, slope
from tasvir.models.diffusion.diffusion import Diffusion, one_thread

STEEPEST = 80.0
"""The most that an error of the network may be multiplied by at the noisiest level: EDM's greatest σ."""


@dataclass(frozen=True)
class ConsistencyConfig:
    levels: Count = 18
    """Of noise that it learns at: the steps in which its teacher would draw; it can itself draw in up to as many."""
    solver: Literal["heun", "euler"] = "heun"
    """How the teacher goes from a level to the next; Euler's asks it once instead of twice."""
    guidance: NonNegative = 1.0
    """The teacher's, where it knows classes: what it draws so is learned, and cannot be changed after."""
    huber: Positive = 0.00054
    """Root mean squares of a difference below this count as squares, greater ones as they are."""
    sampling: SamplingConfig = SamplingConfig(sampler="consistency", steps=2)
    """What `tasvir sample` does where it is not told."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, warmup=100, clip=1.0)


class Few(Process):
    """The levels of a teacher's process, `levels` of them to learn at and some of these to draw along."""

    def __init__(self, teacher: Process, levels: int):
        try:
            teacher.check_steps(levels)
        except Refused:
            raise Refused(
                f"--model.levels is {levels}, and what is distilled was trained on fewer levels of noise: set less."
            ) from None
        self.teacher = teacher
        grid = teacher.grid(levels)
        steep = teacher.scalings(grid).out.abs() > STEEPEST
        limit = torch.tensor(STEEPEST, dtype=torch.float64).atan()
        alpha, sigma = torch.where(steep, limit.cos(), grid.alpha), torch.where(steep, limit.sin(), grid.sigma)
        first = max(int(steep.sum()) - 1, 0)
        self.row = Level(alpha[first:], sigma[first:])
        """[levels + 1] float64; noise is predicted from no level that has nothing but noise, so that there may be fewer
        levels than were asked for."""
        self.levels = len(self.row.alpha) - 1
        self._copies: dict[torch.device, Level] = {}

    def check_steps(self, steps: int) -> None:
        if steps > self.levels:
            raise Refused(
                f"--steps is {steps}; the model was distilled at {self.levels} levels of noise: ask for no more, "
                "1 to 4 suffice."
            )

    def grid(self, steps: int) -> Level:
        """`steps` + 1 of its levels, as evenly spaced in the teacher's steps as can be."""
        places = (torch.arange(steps + 1, dtype=torch.float64) * self.levels / steps).round().long()
        return Level(self.row.alpha[places], self.row.sigma[places])

    def neighbours(self, number: int, device: torch.device) -> tuple[Level, Level]:
        """Random levels [number] and to each the next cleaner one, by torch's own generator."""
        place = torch.randint(0, self.levels, (number,), device=device)
        if device not in self._copies:  # once, so that no step waits for it
            self._copies[device] = Level(*(value.float().to(device) for value in self.row))
        row = self._copies[device]
        return Level(row.alpha[place], row.sigma[place]), Level(row.alpha[place + 1], row.sigma[place + 1])

    def draw(self, number: int, device: torch.device) -> Level:
        return self.neighbours(number, device)[0]

    def own(self, level: Level) -> Level:
        return self.teacher.own(level)

    def told(self, level: Level) -> Tensor:
        return self.teacher.told(level)

    def scalings(self, level: Level) -> Scalings:
        return self.teacher.scalings(level)

    def weight(self, level: Level) -> Tensor:
        """Less where an error of the network is multiplied, so that no level's gradient outweighs the others'."""
        return 1 / self.scalings(level).out.abs().clamp(min=1)


class Consistency(Diffusion):
    """`estimate` is where the teacher's path through x ends, not the expected clean picture.

    Where x is clean the path ends at x itself: there skip = 1 and out = 0, and the network is not asked.
    """

    stands_on = "denoise"
    distilled = True
    denoise = None  # type: ignore[assignment]
    process: Few

    def __init__(self, config: Any, pictures: Pictures, foundation: Model):
        if not isinstance(foundation, Diffusion):
            raise Refused("This recipe distils a diffusion model: name a run of ddpm, edm or flow with --on.")
        Model.__init__(self, config, pictures, foundation)
        self.conditional = foundation.conditional
        if config.guidance != 1 and not self.conditional:
            raise Refused("--model.guidance is between classes, and what is distilled knows none: leave it out.")
        self.process = Few(foundation.process, config.levels)
        self.network = copy.deepcopy(foundation.network).requires_grad_(True).train()
        for layer in self.network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # or it would differ from its own target
        self.check_settings()

    @property
    def teacher(self) -> Diffusion:
        assert isinstance(self.foundation, Diffusion)
        return self.foundation

    def begin(self) -> None:
        self.network.load_state_dict(self.teacher.network.state_dict())

    # --- the algorithm ---

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        clean, label = self.coded(batch), batch.label if self.conditional else None
        level, after = self.process.neighbours(len(clean), clean.device)
        noisy = level.mixed(clean, torch.randn(clean.shape, device=clean.device))
        with torch.no_grad():
            target = self.target(noisy, level, after, label)
        apart = (self.estimate(noisy, level, label) - target).square().flatten(1).mean(1)
        huber = self.config.huber
        loss = (self.process.weight(level) * ((apart + huber**2).sqrt() - huber)).mean()
        yield Turn("denoiser", {"loss": loss}, {"mse": apart.detach().mean()})

    def target(self, noisy: Tensor, level: Level, after: Level, label: Tensor | None) -> Tensor:
        """Where the path ends by the student's own word, one step of its teacher later; [B,*shape]."""

        def asked(x: Tensor, at: Level) -> Tensor:
            row = Level(at.alpha.flatten(), at.sigma.flatten())
            return self.kept(self.teacher.estimate(x, row, label, self.config.guidance))

        x = stepped(asked, noisy, level.for_each(noisy), after.for_each(noisy), self.config.solver == "heun")
        ended = (after.sigma <= 0)[:, None, None, None]
        return torch.where(ended, x, self.kept(self.estimate(x, after, label)))

    def kept(self, clean: Tensor) -> Tensor:
        """Within the range of pictures, as in sampling."""
        return clean.clamp(-1, 1) if self.config.sampling.clip else clean

    # --- what it can do ---

    def sampling(self, **asked: Any) -> SamplingConfig:
        if asked.get("guidance", 1) != 1 or self.config.sampling.guidance != 1:
            raise Refused(
                f"This run was distilled with guidance {self.config.guidance:g}, which cannot be changed after: "
                "leave --guidance out, or distil anew with --model.guidance."
            )
        return super().sampling(**asked)


def stepped(denoise: Denoise, x: Tensor, level: Level, after: Level, second: bool = True) -> Tensor:
    """One step of Heun's method, or of Euler's, between levels [B,1,1,1], each picture [B,C,H,W] its own.

    A step to a clean picture is Euler's.
    """
    first = slope(denoise, x, level, level, after)
    if not second:
        return x + first
    again = slope(denoise, x + first, after, level, after)
    return x + torch.where(after.sigma > 0, (first + again) / 2, first)


COMMAND = (
    "tasvir train consistency --on RUN --data mnist --model.levels 8 --model.optimizer.learning-rate 5e-4 "
    "--model.optimizer.warmup 50 --model.optimizer.schedule cosine --train.steps 1200 --train.average 0.99 "
    "--train.no-channels-last, on that of `tasvir recipes edm`"
)

RECIPES = {
    "consistency": Recipe(
        summary="A trained diffusion run distilled to draw in 1 to 4 steps (consistency distillation).",
        model=Consistency,
        config=ConsistencyConfig(),
        tiny=ConsistencyConfig(levels=3),
        train=TrainConfig(steps=10_000, batch_size=64),
        foundation="edm",
        expect=tuple(
            found
            for steps, distance, agreement in ((1, 3.46, 0.902), (2, 2.50, 0.8985), (4, 2.21, 0.9075))
            for found in measured(
                COMMAND,
                f"evaluate --steps {steps}; {one_thread(1200, 27)}; its teacher, in 18 steps: 1.63 and 0.895",
                frechet=distance,
                label_agreement=agreement,
            )
        ),
        published=(
            "FID 3.55 in 1 step and 2.93 in 2 on CIFAR-10, from EDM's network without classes, by LPIPS "
            "(Song et al. 2023, arXiv 2303.01469, table 1)"
        ),
    ),
}
