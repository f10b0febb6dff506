"""What a model computes over the batches of all processes, so that several are one with a larger batch."""

import torch
import torch.distributed as distributed
from torch import Tensor


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in place; all must call it."""
    if processes() > 1:
        distributed.all_reduce(values)
    return values


@torch.compiler.disable
def averaged(values: Tensor) -> Tensor:
    """The mean over all processes, without a gradient; all must call it."""
    if processes() == 1:
        return values.detach()
    return summed(values.detach().clone()) / processes()


def gathered(vectors: Tensor) -> Tensor:
    """The vectors [N,D] of all processes, as many from each, one after another."""
    if processes() == 1:
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(processes())]
    distributed.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)
