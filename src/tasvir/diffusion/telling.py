"""What is told of sampling: how pictures are drawn, how often the network is asked, and how far it has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tasvir.config import SamplingConfig
from tasvir.data.workers import progress
from tasvir.diffusion.forward import Level
from tasvir.diffusion.samplers import SAMPLERS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tasvir.drawing import Opened


def in_words(how: SamplingConfig, dtype: torch.dtype = torch.float32) -> str:
    """For passports: `heun, 10 steps, guidance 2`; only what means something to the sampler and is not usual."""
    parts = [how.sampler, f"{how.steps} step{'s' * (how.steps != 1)}"]
    usual = SamplingConfig()
    for name in ("guidance", *SAMPLERS[how.sampler].takes):
        value = getattr(how, name)
        if value != getattr(usual, name):
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    parts += [] if how.clip else ["not clipped"]
    parts += [] if dtype == torch.float32 else [str(dtype).removeprefix("torch.")]
    return ", ".join(parts)


def evaluations(grid: Level, how: SamplingConfig) -> int:
    """How often a sampler asks for an estimate of the clean picture along a row of levels."""
    found = 0

    def denoise(x: Tensor, level: Level) -> Tensor:
        nonlocal found
        found += 1
        return x

    SAMPLERS[how.sampler].run(denoise, torch.zeros(1), grid, lambda: torch.zeros(1), how)
    return found


def expected(model: Any, how: SamplingConfig) -> int:
    """How often the network will be asked for each picture; guidance asks it twice at a time."""
    guided = model.conditional and how.guidance not in (0, 1)
    return evaluations(model.process.grid(how.steps), how) * (2 if guided else 1)


@contextmanager
def told(network: nn.Module, advance: Callable[[int], None]) -> Iterator[None]:
    """While it lasts, `advance` is called with the number of pictures that a network was asked for."""
    hook = network.register_forward_hook(lambda module, given, made: advance(len(made)))
    try:
        yield
    finally:
        hook.remove()


def shown(opened: "Opened", number: int, how: SamplingConfig | None) -> "AbstractContextManager[None]":
    """While it lasts, a bar on a terminal over all that the network is asked for to draw so many pictures; nothing for
    models that draw at once (`how` is None)."""
    return nullcontext() if how is None else _shown(opened.model, number, how)


@contextmanager
def _shown(model: Any, number: int, how: SamplingConfig) -> Iterator[None]:
    with progress(number * expected(model, how), "evaluations of the network") as advance, told(model.network, advance):
        yield
