"""Training steps and sampling of diffusion models beside diffusers and denoising-diffusion-pytorch, as users run them.

`python bench/diffusion.py [--rounds N] [--cases …] [--layouts]`. The peers run eager, in float32. diffusers is among
the tests' packages; the other peer is not to be in the project's environment: `uv pip install --target /tmp/peers
--no-deps denoising-diffusion-pytorch ema-pytorch pytorch-fid accelerate`. The sides take turns in processes of their
own; medians and their ratio are printed. `--layouts` prints what a residual block spends its time on, and whether
anything in it changes the layout of memory.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sides

BATCH, SIZE, DRAWN = 16, 32, 10
CASES: dict[str, tuple[str, str]] = {
    "diffusers": ("diffusers", "DDPM step 32×32, the CIFAR-10 network, 35.7M, batch 16"),
    "lucidrains": ("denoising-diffusion-pytorch", "DDPM step 32×32, width 64·(1, 2, 4, 8), batch 16"),
    "sampling": ("diffusers", f"16 pictures 32×32 in {DRAWN} DDIM steps, 35.7M"),
}
"""Peer and words."""
STEPS = {"diffusers": 3, "lucidrains": 4, "sampling": 1}
"""In a turn."""


def settings(case: str) -> Any:
    """The configuration of tasvir's model."""
    from tasvir.models import recipe
    from tasvir.nn.denoisers import UNetConfig

    config = recipe("ddpm-cifar10").config
    config = replace(config, network=replace(config.network, dropout=0.0))  # as the peers have it
    if case == "lucidrains":
        network = UNetConfig(width=64, multipliers=(1, 2, 4, 8), blocks=1, attention=(4,), heads=4, dropout=0.0)
        return replace(config, network=network)
    return config


def pictures_of() -> list:
    """Plain random pictures: reading is measured in bench/data.py."""
    import torch

    torch.manual_seed(0)
    return [torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1 for _ in range(4)]


def our_step(case: str) -> Callable[[int], Any]:
    """As `tasvir train` makes it, or `tasvir sample`."""
    from tasvir.training.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from tasvir.config import DataConfig, Pictures, RunConfig, SamplingConfig
    from tasvir.core import Batch, Noise
    from tasvir.models import recipe
    from tasvir.runs import Run
    from tasvir.training.precision import autocast, choose_device, choose_dtype
    from tasvir.training.state import State

    device, config, found, pictures = choose_device("cpu"), settings(case), recipe("ddpm-cifar10"), Pictures(3, SIZE)
    torch.manual_seed(0)
    model = found.model(config, pictures)
    if case == "sampling":
        model.eval()
        how = SamplingConfig(sampler="ddim", steps=DRAWN)

        def drawn(number: int) -> None:
            with torch.no_grad(), autocast(device, choose_dtype("auto", device)):
                model.sample(Noise(range(number * BATCH, (number + 1) * BATCH)), how=how)

        return drawn
    run = Run(
        Path(tempfile.gettempdir()), RunConfig("ddpm-cifar10", 0, DataConfig(), found.train, config), pictures, {}
    )
    state = State(model, run, device)
    layout = torch.channels_last if found.train.channels_last else torch.contiguous_format
    images = [image.contiguous(memory_format=layout) for image in pictures_of()]
    return lambda number: state.advance(Batch(images[number % 4])) and None


def diffusers_network() -> Any:
    """With the configuration of google/ddpm-cifar10-32."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIZE,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


def diffusers_step() -> Callable[[int], None]:
    """As the script for unconditional training has it."""
    import torch
    from diffusers import DDPMScheduler

    model, scheduler, images = diffusers_network().train(), DDPMScheduler(), pictures_of()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.95, 0.999), weight_decay=1e-6)

    def step(number: int) -> None:
        clean = images[number % 4]
        noise = torch.randn(clean.shape)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (BATCH,))
        predicted = model(scheduler.add_noise(clean, noise, times), times).sample
        loss = torch.nn.functional.mse_loss(predicted, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _ = loss.item()

    return step


def diffusers_sampling() -> Callable[[int], None]:
    """As DDIMPipeline has it."""
    import torch
    from diffusers import DDIMScheduler

    model, scheduler = diffusers_network().eval(), DDIMScheduler()

    @torch.no_grad()
    def drawn(number: int) -> None:
        x = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
        scheduler.set_timesteps(DRAWN)
        for time in scheduler.timesteps:
            x = scheduler.step(model(x, time).sample, time, x, eta=0.0).prev_sample

    return drawn


def lucidrains_step() -> Callable[[int], None]:
    """As its README has it."""
    sys.path.append("/tmp/peers")
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    model = GaussianDiffusion(Unet(dim=64, dim_mults=(1, 2, 4, 8)), image_size=SIZE, timesteps=1000).train()
    images = [(image + 1) / 2 for image in pictures_of()]
    optimizer = torch.optim.Adam(model.parameters(), 8e-5, betas=(0.9, 0.99))

    def step(number: int) -> None:
        loss = model(images[number % 4])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _ = loss.item()

    return step


THEIRS = {"diffusers": diffusers_step, "lucidrains": lucidrains_step, "sampling": diffusers_sampling}


def operations() -> None:
    """Prints what the networks of both sides of the training steps cost, forward, for one picture."""
    sys.path.append("/tmp/peers")
    import torch
    from denoising_diffusion_pytorch import Unet
    from torch.utils.flop_counter import FlopCounterMode

    from tasvir.nn.denoisers import DenoisingUNet

    peers = {"diffusers": diffusers_network, "lucidrains": lambda: Unet(dim=64, dim_mults=(1, 2, 4, 8))}
    for case, peer in peers.items():
        said = []
        for network in (peer(), DenoisingUNet(settings(case).network, 3, SIZE)):
            with torch.no_grad(), FlopCounterMode(display=False) as counted:
                network(torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1))
            parameters = sum(p.numel() for p in network.parameters())
            said.append(f"{counted.get_total_flops() / 1e9:.2f} GFLOP a picture, {parameters / 1e6:.1f}M parameters")
        print(f"{CASES[case][0]}: {said[0]}; tasvir: {said[1]}", flush=True)


def layouts() -> None:
    """The profiler's table of a residual block of channels_last maps, and what changes their layout there."""
    from tasvir.training.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from torch.profiler import ProfilerActivity, profile
    from torch.utils._python_dispatch import TorchDispatchMode

    from tasvir.nn.denoisers import Block, UNetConfig

    changes: list[str] = []

    def order(x: torch.Tensor) -> tuple[int, ...]:
        return tuple(sorted(range(x.ndim), key=x.stride))

    class Watch(TorchDispatchMode):
        """Every operation that is no view and whose maps of one shape lie in memory in different orders."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = function(*args, **(kwargs or {}))
            every = [*args, *(kwargs or {}).values(), *(made if isinstance(made, tuple) else (made,))]
            maps = [x for x in every if isinstance(x, torch.Tensor) and x.numel() > SIZE**2 * 128]
            kinds = {(x.shape, order(x)) for x in maps}
            if not function.is_view and len(kinds) > len({x.shape for x in maps}):
                changes.append(str(function))
            return made

    block = Block(128, 128, 512, UNetConfig(dropout=0.0)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(BATCH, 128, SIZE, SIZE).contiguous(memory_format=torch.channels_last).requires_grad_()
    given = torch.randn_like(x).bfloat16()
    known = torch.randn(BATCH, 512)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            made = block(x, known)
        made.backward(given)

    step()
    with Watch():
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(5):
            step()
    table = profiled.key_averages()
    print(table.table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))
    whole = sum(row.self_cpu_time_total for row in table)
    copied = sum(row.self_cpu_time_total for row in table if row.key == "aten::copy_")
    print(f"Norm + SiLU + convolution, twice: {len(changes)} changes of layout {changes or ''}".rstrip())
    print(f"copies, all between precisions: {copied / whole:.1%} of the time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--layouts", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        case, side = words.serve
        sides.serve(our_step(case) if side == "ours" else THEIRS[case](), steps=STEPS[case], warmup=1)
    elif words.layouts:
        layouts()
    else:
        sides.heading()
        operations()
        for case in words.cases:
            theirs, ours = sides.medians(__file__, case, words.rounds)
            sides.row(CASES[case][1], CASES[case][0], theirs, ours)
        layouts()
