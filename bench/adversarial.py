"""Full steps of adversarial training beside the loop that others write: eager, float32, each forward for itself.

`python bench/adversarial.py [--rounds N] [--cases …]`. DCGAN's peer is the loop of PyTorch's examples; SN-GAN's has
torch's own spectral norm; all have the same networks, batch and sequence of turns. The sides take turns in processes of
their own; medians and their ratio are printed. Where there is a GPU, also pictures each second and the share of
the roofline: counted operations over what its largest bfloat16 matrix product reached a moment before.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sides

BATCH = 64
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "dcgan": ("dcgan", "DCGAN 64×64×3, width 512 (the examples' size)", 64, {"width": 512}),
    "dcgan-paper": ("dcgan", "DCGAN 64×64×3, width 1024 (the paper's size)", 64, {"width": 1024}),
    "sngan": ("sngan", "SN-GAN 32×32×3, residual, width 64, 5 + 1 turns", 32, {"width": 64}),
    "wgan-gp": ("wgan-gp", "WGAN-GP 64×64×3, DCGAN's networks, width 256, 5 + 1 turns", 64, {"width": 256}),
    "wgan-gp-resnet": ("wgan-gp-resnet", "WGAN-GP 32×32×3, residual, width 32, 5 + 1 turns", 32, {"width": 32}),
}
"""Recipe, words, picture size, settings. All in batches of 64."""


def built(case: str):  # type: ignore[no-untyped-def]
    import torch

    from tasvir.config import Pictures
    from tasvir.models import recipe

    torch.manual_seed(0)
    name, _, size, settings = CASES[case]
    found = recipe(name)
    pictures = Pictures(3, size)
    config = replace(found.config, **settings)
    return found, config, pictures, found.model(config, pictures)


def pictures_of(case: str, device: Any):  # type: ignore[no-untyped-def]
    """Plain random pictures: reading is measured in bench/data.py."""
    import torch

    size = CASES[case][2]
    return [torch.rand(BATCH, 3, size, size, device=device) * 2 - 1 for _ in range(4)]


def our_step(case: str) -> tuple[Callable[[int], None], int]:
    """As `tasvir train` makes it; and discriminator steps for one of the generator."""
    from tasvir.training.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from tasvir.config import DataConfig, RunConfig
    from tasvir.core import Batch
    from tasvir.runs import Run
    from tasvir.training.precision import choose_device
    from tasvir.training.state import State

    device = choose_device("auto")
    found, config, pictures, model = built(case)
    run = Run(
        Path(tempfile.gettempdir()), RunConfig(CASES[case][0], 0, DataConfig(), found.train, config), pictures, {}
    )
    state = State(model, run, device)
    images = [image.contiguous(memory_format=torch.channels_last) for image in pictures_of(case, device)]
    return lambda number: state.advance(Batch(images[number % 4])) and None, model.game.discriminator_steps


def their_step(case: str) -> tuple[Callable[[int], None], int]:
    """As a textbook has it."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrizations, parametrize

    from tasvir.training.precision import choose_device

    device = choose_device("auto")
    _, config, _, model = built(case)
    resample_one_after_another()
    for layer in model.discriminator.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
            parametrizations.spectral_norm(layer)
    model = model.to(device).train()
    images, game = pictures_of(case, device), model.game
    adam = {
        name: torch.optim.Adam(player.networks[0].parameters(), player.optimizer.learning_rate, player.optimizer.betas)
        for name, player in model.players().items()
    }
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(BATCH, device=device), torch.zeros(BATCH, device=device)

    def noise() -> torch.Tensor:
        return torch.randn(BATCH, config.latent_size, device=device)

    def example(number: int) -> None:
        real = images[number % 4]
        model.discriminator.zero_grad()
        of_real = criterion(model.discriminator(real), ones)
        of_real.backward()
        fake = model.generator(noise())
        of_fake = criterion(model.discriminator(fake.detach()), zeros)
        of_fake.backward()
        adam["discriminator"].step()
        model.generator.zero_grad()
        of_generator = criterion(model.discriminator(fake), ones)
        of_generator.backward()
        adam["generator"].step()
        _ = of_real.item() + of_fake.item() + of_generator.item()

    def textbook(number: int) -> None:
        real = images[number % 4]
        adam["discriminator"].zero_grad()
        fake = model.generator(noise()).detach()
        loss = game.discriminator(model.discriminator(real), model.discriminator(fake))
        if game.gradient_penalty:
            mix = torch.rand(BATCH, 1, 1, 1, device=device)
            point = (mix * real + (1 - mix) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(model.discriminator(point).sum(), point, create_graph=True)
            loss = loss + game.gradient_penalty * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss.backward()
        adam["discriminator"].step()
        if (number + 1) % game.discriminator_steps == 0:
            adam["generator"].zero_grad()
            of_generator = game.generator(model.discriminator(model.generator(noise())), loss)
            of_generator.backward()
            adam["generator"].step()
        loss.item()

    return (example if CASES[case][0] == "dcgan" else textbook), game.discriminator_steps


def resample_one_after_another() -> None:
    """Residual blocks as they are usually written."""
    from torch.nn.functional import avg_pool2d, conv2d, interpolate

    from tasvir.nn.resnets import Convolution

    def forward(layer, x):  # type: ignore[no-untyped-def]
        x = interpolate(x, scale_factor=2) if layer.resampling == "up" else x
        x = conv2d(x, layer.weight, layer.bias, padding=1)
        return avg_pool2d(x, 2) if layer.resampling == "down" else x

    Convolution.forward = forward  # type: ignore[method-assign]


def cycle(step: Callable[[int], None], turns: int) -> Callable[[int], None]:
    """All discriminator steps and the generator's, so that every time is of the same work."""
    import torch

    def whole(number: int) -> None:
        for turn in range(turns):
            step(number * turns + turn)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return whole


def roofline(case: str, seconds: float) -> str:
    """Pictures each second, and the share of the GPU's arithmetic; empty without one."""
    import time

    import torch

    if not torch.cuda.is_available():
        return ""
    from torch.utils.flop_counter import FlopCounterMode

    step, turns = our_step(case)
    whole = cycle(step, turns)
    whole(0)
    with FlopCounterMode(display=False) as counter:
        whole(1)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    reached = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        matrix @ matrix
        torch.cuda.synchronize()
        reached = max(reached, 2 * 8192**3 / (time.perf_counter() - began))
    share = counter.get_total_flops() / seconds / reached
    return f"{turns * BATCH / seconds:,.0f} pictures/s, {share:.1%} of {reached / 1e12:.0f} TFLOP/s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        step, turns = (our_step if words.serve[1] == "ours" else their_step)(words.serve[0])
        sides.serve(cycle(step, turns), steps=6 if turns == 1 else 2, warmup=3 if turns == 1 else 1)
    else:
        sides.heading()
        for case in words.cases:
            theirs, ours = sides.medians(__file__, case, words.rounds)
            peer = "examples' loop" if CASES[case][0] == "dcgan" else "textbook"
            sides.row(CASES[case][1], peer, theirs, ours)
            if told := roofline(case, ours):
                print(f"  {told}")
