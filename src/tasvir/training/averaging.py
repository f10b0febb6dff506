"""An exponential moving average of a model's weights, used for samples and measurements."""

import copy
from typing import Any

import torch
from torch import nn


class Average:
    """A copy of the model that follows it: weights and running statistics as averages, counters as they are.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that a young average forgets the initial weights.
    """

    def __init__(self, model: Any, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for mean, value in pairs if mean.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model after training step `step`, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._values, weight)
        for copied, counter in self._counters:
            copied.copy_(counter)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
