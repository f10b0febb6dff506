"""All that training must remember between two steps, and its form on disk."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasvir.core import Batch, Model
from tasvir.runs import Checkpoint, Run
from tasvir.training import optimizers, processes
from tasvir.training.averaging import Average
from tasvir.training.precision import LossScale, autocast, choose_dtype


class State:
    """A model being trained: weights, averages, optimizers, and the counters that decide what comes next."""

    def __init__(self, model: Model, run: Run, device: torch.device):
        settings = run.config.train
        self.run = run
        self.device = device
        self.dtype = choose_dtype(settings.precision, device)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=layout).train()  # type: ignore[call-overload]
        self.players = model.players()
        self.optimizers = {name: optimizers.build(player) for name, player in self.players.items()}
        self.average = Average(model, settings.average) if settings.average and processes.is_writer() else None
        self.scale = LossScale(self.dtype, device)
        self.step = 0
        self.rate_factor = 1.0
        """What every learning rate is multiplied by: less than 1 after going back to a checkpoint."""
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_row = torch.zeros((), device=device)
        self.longest_row = torch.zeros((), device=device)

    @property
    def drawn(self) -> Model:
        """The model that pictures are drawn with, in evaluation mode: the averaged one if there is one."""
        return self.average.model if self.average else self.model

    def compile(self) -> None:
        """Compile every network that a player allows."""
        for player in self.players.values():
            for network in player.networks if player.compiled else ():
                network.forward = torch.compile(_called(network.forward))

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """One step: every turn of the model, descended in order. Returns its terms and watched values by name.

        All random numbers are a function of (seed, step, rank), so a resumed run draws what an unbroken one would.
        """
        torch.manual_seed(mixed_seed(self.run.config.seed, self.step, processes.rank()))
        values: dict[str, Tensor] = {}
        bad = torch.zeros((), device=self.device)
        statistics = [b for b in self.model.buffers() if b.is_floating_point() or b.dtype == torch.uint8]
        before = [buffer.clone() for buffer in statistics]
        turns = self.model.turns(batch, self.step)
        while True:
            with autocast(self.device, self.dtype):
                turn = next(turns, None)
            if turn is None:
                break
            player = self.players[turn.player]
            rate = optimizers.learning_rate(player.optimizer, self.step, self.run.config.train.steps)
            skipped = optimizers.descend(
                turn, player, self.optimizers[turn.player], rate * self.rate_factor, self.scale
            )
            bad = torch.maximum(bad, skipped)
            for name, value in {**turn.terms, **turn.watch}.items():
                values.setdefault(f"{turn.player}/{name}", value.detach())  # a player's first turn is the game
        for buffer, kept in zip(statistics, before, strict=True):  # a forward pass that overflowed moved them too
            torch.where(bad > 0, kept, buffer, out=buffer)
        self.scale.update(bad)
        if not self.scale.on:  # float16 skips an update now and then to find its scale; only many in a row are trouble
            self.skipped = self.skipped + bad
        self.skipped_in_row = (self.skipped_in_row + 1) * bad
        self.longest_row = torch.maximum(self.longest_row, self.skipped_in_row)
        if self.average:
            self.average.update(self.step)
        self.step += 1
        return values

    def save(self) -> Checkpoint | None:
        """Write a checkpoint (the writer does; all processes must call it)."""
        weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if processes.count() > 1:  # a copy: writing a checkpoint must not change what comes after it
            buffers = {f"model.{name}": buffer for name, buffer in self.model.named_buffers()}
            kept = {name: b for name, b in buffers.items() if b.is_floating_point() and name in weights}
            statistics = {name: buffer.clone() for name, buffer in kept.items()}
            processes.settle(list(statistics.values()))  # the mean; what is not float is the writer's own
            weights |= statistics
        if not processes.is_writer():
            return None
        if self.average:
            weights |= {f"average.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        state = {
            "processes": processes.count(),
            "rate_factor": self.rate_factor,
            "loss_scale": self.scale.state(),
            "skipped": float(self.skipped),
            "skipped_in_row": float(self.skipped_in_row),
        }
        files = {"model.safetensors": weights, "optimizer.safetensors": self._moments()}
        return self.run.save(self.step, files, state)

    def load(self, checkpoint: Checkpoint) -> None:
        """Become what the checkpoint remembers, bit for bit."""
        tensors = self.run.read(checkpoint, "model.safetensors")
        _fill(self.model, tensors, "model.")
        if self.average:
            _fill(self.average.model, tensors, "average.")
        moments = self.run.read(checkpoint, "optimizer.safetensors")
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for player, optimizer in self.optimizers.items():
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"{player}/{names[parameter]}/"
                found = {n.removeprefix(prefix): t for n, t in moments.items() if n.startswith(prefix)}
                optimizer.state[parameter] = {n: _like(parameter, n, t) for n, t in found.items()}
        state = checkpoint.state()
        self.step = checkpoint.step
        if state["processes"] != processes.count() and processes.is_writer():
            print(
                f"Trained by {state['processes']} processes so far and now by {processes.count()}: "
                "it goes on, but sees the pictures in another order than an unbroken run.",
                file=sys.stderr,
            )
        self.rate_factor = state["rate_factor"]
        self.scale.load(state["loss_scale"])
        self.skipped.fill_(state["skipped"])
        self.skipped_in_row.fill_(state["skipped_in_row"])
        self.longest_row.zero_()

    def _moments(self) -> dict[str, Tensor]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{player}/{names[parameter]}/{name}": value
            for player, optimizer in self.optimizers.items()
            for parameter, state in optimizer.state.items()
            for name, value in state.items()
        }


def _called(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of this file around a network's `forward`: torch.compile passes over frames of torch's own layers."""
    return lambda *inputs: forward(*inputs)


def mixed_seed(*numbers: int) -> int:
    """One 64-bit seed from several numbers; near ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _like(parameter: Tensor, name: str, value: Tensor) -> Tensor:
    """An optimizer's tensor as the optimizer keeps it: moments in the parameter's layout, as fused kernels want."""
    if value.shape != parameter.shape or name == "step":
        return value.clone().to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@torch.no_grad()
def _fill(model: Model, tensors: dict[str, Tensor], prefix: str) -> None:
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})


WATCHED = (
    *("gradient_norm", "gradient_variance", "score", "won", "accuracy", "diversity"),
    *("augmentation", "overfitting", "path_length", "hole"),
    *("active_units", "kl_per_dimension", "beta", "scale", "distortion", "effective_draws"),
    *("mse", "perplexity", "usage", "bits_per_dim", "bits_per_code", "latent_mean_square"),
)
"""Endings of the names of what is only watched."""


def summary(values: dict[str, Any]) -> dict[str, float]:
    """The losses among a log line's values, for the progress line: `player/term`, without what is only watched."""
    return {name: value for name, value in values.items() if not name.endswith(WATCHED)}
