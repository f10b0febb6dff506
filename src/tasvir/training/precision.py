"""Which device, which precision, and the scaling of losses that float16 needs."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from tasvir.config import Refused


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises `Refused` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise NotImplementedError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise Refused(f"There is no device {name!r} here; use auto or cpu.") from None
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in; `auto` is the fastest that the hardware is good at."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu" and _cpu_is_fast_at_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_is_fast_at_bfloat16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for these
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`; nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2), kept on the device.

    Halved after an update that was not finite, doubled after 2,000 good ones in a row; 1 for other precisions.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.on = dtype == torch.float16
        self.scale = torch.tensor(2.0**14 if self.on else 1.0, device=device)
        self.good = torch.zeros((), device=device)

    def update(self, bad: Tensor) -> None:
        """`bad` is a scalar 0 or 1: whether the last update was skipped."""
        if self.on:
            self.good = torch.where(bad > 0, 0.0, self.good + 1)
            grown = self.good >= 2000
            self.scale = torch.where(bad > 0, self.scale / 2, torch.where(grown, self.scale * 2, self.scale))
            self.good = torch.where(grown, 0.0, self.good)

    def state(self) -> dict[str, float]:
        return {"scale": float(self.scale), "good": float(self.good)}

    def load(self, state: dict[str, Any]) -> None:
        self.scale.fill_(state["scale"])
        self.good.fill_(state["good"])
