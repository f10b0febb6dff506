"""A training step of tasvir beside the same networks as a tutorial would write it: plain eager float32 PyTorch.

`python bench/steps.py [--rounds N]`. The two take turns in processes of their own (memory settings are a process's), a
few steps each time; medians over all rounds and their ratio are printed.
"""

import argparse

import sides

CASES = {"vae": "VAE 64×64×3, batch 64"}


def tutorial(model):  # type: ignore[no-untyped-def]
    """One step after another as in PyTorch's own examples, on tasvir's networks."""
    import torch
    from torch import nn

    optimizer = torch.optim.Adam(model.parameters(), lr=model.config.optimizer.learning_rate)

    def step(image):  # type: ignore[no-untyped-def]
        optimizer.zero_grad()
        mean, log_variance = model.encoder(image).chunk(2, dim=1)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        made = torch.sigmoid(model.decoder(latent))
        reconstruction = nn.functional.binary_cross_entropy(made, (image + 1) / 2, reduction="sum") / len(image)
        divergence = -0.5 * torch.mean(torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), dim=1))
        loss = reconstruction + divergence
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(name: str, ours: bool) -> None:
    """A process that runs a few steps whenever it is asked to, and answers with their seconds."""
    if ours:
        from tasvir.training.allocator import keep_freed_memory

        keep_freed_memory()
    import tempfile
    from pathlib import Path

    import torch

    from tasvir.config import DataConfig, Pictures, RunConfig
    from tasvir.data import load
    from tasvir.data.batches import Batches
    from tasvir.models import recipe
    from tasvir.runs import Run
    from tasvir.training.state import State

    torch.manual_seed(0)
    found = recipe(name)
    pictures = Pictures(3, 64)
    data = load(DataConfig("cartoons", size=64, limit=1000, labels="none"))
    batches = Batches(data, 64, 0, "cpu", channels_last=ours)
    model = found.model(found.config, pictures)
    if ours:
        run = Run(
            Path(tempfile.gettempdir()), RunConfig(name, 0, DataConfig(), found.train, found.config), pictures, {}
        )
        state = State(model, run, torch.device("cpu"))

        def step(number: int) -> None:
            state.advance(batches[number])
    else:
        plain = tutorial(model.train())

        def step(number: int) -> None:
            plain(batches[number].image)

    sides.serve(step)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        serve(words.serve[0], words.serve[1] == "ours")
    else:
        sides.heading()
        for case in words.cases:
            sides.row(CASES[case], "tutorial", *sides.medians(__file__, case, words.rounds))
