"""One player's optimizer: its schedule as a pure function of the step, and `descend`, which takes one turn."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tasvir.config import OptimizerConfig
from tasvir.core import Player, Turn
from tasvir.training import processes
from tasvir.training.precision import LossScale


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of a training of `steps` steps."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    falls: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "linear": lambda t: 1.0 - t,
        "late-linear": lambda t: min(1.0, 2.0 - 2.0 * t),  # Zhu et al. 2017, arXiv 1703.10593, section 4
        "late-tenth": lambda t: 1.0 if t < 0.5 else 0.1,  # Ledig et al. 2017, arXiv 1609.04802, section 3.2
        "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    }
    return config.learning_rate * falls[config.schedule](progress)


class SkippingRMSprop(torch.optim.RMSprop):
    """RMSprop that leaves weights and state as they were where `found_inf` is 1, without waiting for the device.

    The fused Adam of torch honours this attribute itself; RMSprop has no fused form.
    """

    found_inf: Tensor

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:  # type: ignore[override]
        kept = []
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["square_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            kept += [(tensor, tensor.clone()) for tensor in (parameter, state["square_avg"])]
        super().step(closure)
        for tensor, before in kept:
            torch.where(self.found_inf > 0, before, tensor, out=tensor)


def build(player: Player) -> torch.optim.Optimizer:
    """The optimizer of a player's config over its parameters."""
    config, parameters = player.optimizer, player.parameters()
    if config.name == "rmsprop":
        return SkippingRMSprop(
            parameters, lr=config.learning_rate, alpha=config.betas[1], weight_decay=config.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return kind(parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=fused)


def descend(turn: Turn, player: Player, optimizer: torch.optim.Optimizer, rate: float, scale: LossScale) -> Tensor:
    """One optimizer step of `player` down the sum of the turn's terms.

    Only this player's gradients are computed. They are averaged over processes, clipped, and the step is skipped if
    the loss or a gradient is not finite. Returns whether it was skipped (scalar 0 or 1, float32, on the device).
    """
    parameters = player.parameters()
    loss = torch.stack([term.float() for term in turn.terms.values()]).sum()
    (loss * scale.scale if scale.on else loss).backward(inputs=parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = loss.detach().clone()
    processes.average([*gradients, total])
    if scale.on:
        torch._foreach_div_(gradients, scale.scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    bad = (~torch.isfinite(norm + total)).float()
    if player.optimizer.clip:
        torch._foreach_mul_(gradients, (player.optimizer.clip / (norm + 1e-12)).clamp(max=1.0))
    for group in optimizer.param_groups:
        group["lr"] = rate
    if isinstance(optimizer, SkippingRMSprop) or optimizer.defaults.get("fused"):
        optimizer.found_inf = bad  # type: ignore[attr-defined]
        optimizer.step()
    elif not bad.item():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    turn.watch = {**turn.watch, "gradient_norm": norm.detach()}
    return bad
