"""Full steps of picture-to-picture training beside the loop that others write: eager, float32, in the default layout.

`python bench/translation.py [--rounds N] [--cases …]`. The peers have the same networks with torch's own norms and take
the players' turns as the reference PyTorch code does. The sides take turns in processes of their own; medians and their
ratio are printed. `--memory` prints what a full-size SRGAN step takes at most.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sides

CASES: dict[str, tuple[str, str, int, int, int]] = {
    "pix2pix": ("pix2pix", "pix2pix 256×256, U-Net 256, 70×70 patches, batch 1", 256, 256, 1),
    "cyclegan": ("cyclegan", "CycleGAN 128×128, 9 blocks, batch 1", 128, 128, 1),
    "srgan": ("srgan", "SRGAN ×4, 96×96, batch 16, content in pixels", 96, 24, 16),
}
"""Recipe, words, sizes of pictures and of sources, batch."""


def settings(case: str, config: Any) -> Any:
    from dataclasses import replace

    return replace(config, **{"cyclegan": {"blocks": 9}, "srgan": {"content": "pixels"}}.get(case, {}))


def built(case: str):  # type: ignore[no-untyped-def]
    import torch

    from tasvir.config import Pictures, RunConfig
    from tasvir.models import build, recipe, usual_foundation
    from tasvir.runs import Run

    torch.manual_seed(0)
    name, _, size, source, _ = CASES[case]
    found, pictures = recipe(name), Pictures(3, size, source=Pictures(3, source))
    config, below = settings(case, found.config), usual_foundation(name)
    run = Run(Path(tempfile.gettempdir()), RunConfig(name, 0, found.data, found.train, config, below), pictures, {})
    return run, build(name, config, pictures, below)


def batches_of(case: str, layout: Any):  # type: ignore[no-untyped-def]
    """Plain random pictures: reading is measured in bench/data.py."""
    import torch

    from tasvir.core import Batch

    _, _, size, source, number = CASES[case]

    def drawn(side: int) -> torch.Tensor:
        return (torch.rand(number, 3, side, side) * 2 - 1).contiguous(memory_format=layout)

    return [Batch(drawn(size), source=drawn(source)) for _ in range(4)]


def our_step(case: str) -> Callable[[int], None]:
    """As `tasvir train` makes it."""
    from tasvir.training.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from tasvir.training.precision import choose_device
    from tasvir.training.state import State

    run, model = built(case)
    state = State(model, run, choose_device("auto"))
    layout = torch.channels_last if run.config.train.channels_last else torch.contiguous_format
    batches = batches_of(case, layout)
    return lambda number: state.advance(batches[number % 4]) and None


def with_usual_norms(network: Any, norm: Callable[[int], Any]) -> Any:
    """The same network with torch's own norm in the place of each group norm."""
    from torch import nn

    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.GroupNorm):
            network.set_submodule(name, norm(layer.num_channels))
    return network.train()


def adam(*networks: Any, rate: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999)) -> Any:
    import torch

    return torch.optim.Adam([p for network in networks for p in network.parameters()], rate, betas)


def frozen(networks: tuple[Any, ...], off: bool) -> None:
    for network in networks:
        for parameter in network.parameters():
            parameter.requires_grad_(not off)


def pix2pix_step(model: Any, batches: list) -> Callable[[int], None]:
    import torch
    from torch import nn

    generator, discriminator = (with_usual_norms(n, nn.BatchNorm2d) for n in (model.generator, model.discriminator))
    of_generator, of_discriminator = adam(generator), adam(discriminator)
    game, absolute = nn.BCEWithLogitsLoss(), nn.L1Loss()

    def step(number: int) -> None:
        batch = batches[number % 4]
        fake = generator(batch.source)
        frozen((discriminator,), False)
        of_discriminator.zero_grad()
        of_fake = discriminator(torch.cat([batch.source, fake], 1).detach())
        of_real = discriminator(torch.cat([batch.source, batch.image], 1))
        loss = (game(of_fake, torch.zeros_like(of_fake)) + game(of_real, torch.ones_like(of_real))) * 0.5
        loss.backward()
        of_discriminator.step()
        frozen((discriminator,), True)
        of_generator.zero_grad()
        score = discriminator(torch.cat([batch.source, fake], 1))
        of_all = game(score, torch.ones_like(score)) + 100 * absolute(fake, batch.image)
        of_all.backward()
        of_generator.step()
        _ = loss.item() + of_all.item()

    return step


def cyclegan_step(model: Any, batches: list) -> Callable[[int], None]:
    import torch
    from torch import nn

    there, back = (with_usual_norms(n, nn.InstanceNorm2d) for n in (model.forth, model.back))
    of_images, of_sources = (
        with_usual_norms(n, nn.InstanceNorm2d) for n in (model.judge_pictures, model.judge_sources)
    )
    of_generators, of_discriminators = adam(there, back), adam(of_images, of_sources)
    game, absolute = nn.MSELoss(), nn.L1Loss()
    pool: dict[str, list] = {"images": [], "sources": []}

    def pooled(name: str, fake: Any) -> Any:
        kept = pool[name]
        if len(kept) < 50:
            kept.append(fake.detach())
            return fake
        if torch.rand(()) < 0.5:
            place = int(torch.randint(50, ()))
            kept[place], fake = fake.detach(), kept[place]
        return fake

    def step(number: int) -> None:
        batch = batches[number % 4]
        a, b = batch.source, batch.image
        fake_b = there(a)
        again_a = back(fake_b)
        fake_a = back(b)
        again_b = there(fake_a)
        frozen((of_images, of_sources), True)
        of_generators.zero_grad()
        same = absolute(there(b), b) * 5 + absolute(back(a), a) * 5
        scores = of_images(fake_b), of_sources(fake_a)
        loss = same + sum(game(score, torch.ones_like(score)) for score in scores)
        loss = loss + 10 * (absolute(again_a, a) + absolute(again_b, b))
        loss.backward()
        of_generators.step()
        frozen((of_images, of_sources), False)
        of_discriminators.zero_grad()
        for network, real, fake in (
            (of_images, b, pooled("images", fake_b)),
            (of_sources, a, pooled("sources", fake_a)),
        ):
            of_real, of_fake = network(real), network(fake.detach())
            half = game(of_real, torch.ones_like(of_real)) + game(of_fake, torch.zeros_like(of_fake))
            (half * 0.5).backward()
        of_discriminators.step()
        _ = loss.item()

    return step


def srgan_step(model: Any, batches: list) -> Callable[[int], None]:
    import torch
    from torch import nn

    generator, discriminator = model.generator.train(), model.discriminator.train()
    of_generator, of_discriminator = (adam(n, rate=1e-4, betas=(0.9, 0.999)) for n in (generator, discriminator))
    game, content = nn.BCEWithLogitsLoss(), nn.MSELoss()

    def step(number: int) -> None:
        batch = batches[number % 4]
        of_generator.zero_grad()
        fake = generator(batch.source)
        score = discriminator(fake)
        loss = content(fake, batch.image) + 1e-3 * game(score, torch.ones_like(score))
        loss.backward()
        of_generator.step()
        of_discriminator.zero_grad()
        of_real, of_fake = discriminator(batch.image), discriminator(fake.detach())
        half = (game(of_real, torch.ones_like(of_real)) + game(of_fake, torch.zeros_like(of_fake))) / 2
        half.backward()
        of_discriminator.step()
        _ = loss.item() + half.item()

    return step


THEIRS: dict[str, Callable[[Any, list], Callable[[int], None]]] = {
    "pix2pix": pix2pix_step,
    "cyclegan": cyclegan_step,
    "srgan": srgan_step,
}


def their_step(case: str) -> Callable[[int], None]:
    """As the reference code has it."""
    import torch

    _, model = built(case)
    return THEIRS[case](model, batches_of(case, torch.contiguous_format))


def memory() -> None:
    """Of SRGAN's full-size step, in a process of its own."""
    step = our_step("srgan")
    for number in range(3):
        step(number)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{CASES['srgan'][1]}: at most {most:.2f} GiB resident")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        sides.serve((our_step if words.serve[1] == "ours" else their_step)(words.serve[0]), steps=4, warmup=2)
    elif words.memory:
        memory()
    else:
        sides.heading()
        for case in words.cases:
            theirs, ours = sides.medians(__file__, case, words.rounds)
            sides.row(CASES[case][1], "reference loop", theirs, ours)
