"""Several processes under torchrun: who this one is, and what they must agree on. One process needs none of it."""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors


def start(device: str = "auto") -> None:
    """Join the other processes if torchrun started this one, to train on that kind of device."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        on_gpu = torch.cuda.is_available() and device != "cpu"
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl" if on_gpu else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(minutes=30))


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_writer() -> bool:
    """The one process that writes files and speaks."""
    return rank() == 0


def wait() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one exchange."""
    if count() == 1 or not tensors:
        return
    flat = _flatten_dense_tensors([tensor.contiguous() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, _unflatten_dense_tensors(flat, [t.contiguous() for t in tensors]), strict=True):
        tensor.copy_(mean)


def settle(tensors: Sequence[Tensor]) -> None:
    """As `average`, but numbers that are equal in all processes stay what they are, to the bit: (x + x + x) / 3 is not
    always x.
    """
    if count() == 1 or not tensors:
        return
    own = [tensor.clone() for tensor in tensors]
    spread = [part for tensor in tensors for part in (tensor, -tensor)]
    flat = _flatten_dense_tensors([part.contiguous() for part in spread])
    distributed.all_reduce(flat, op=distributed.ReduceOp.MAX)
    extremes = _unflatten_dense_tensors(flat, [part.contiguous() for part in spread])
    average(tensors)
    for tensor, kept, high, low in zip(tensors, own, extremes[::2], extremes[1::2], strict=True):
        tensor.copy_(torch.where(high == -low, kept, tensor))


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process; the same answer in all of them."""
    if count() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return bool(value)
