"""Autoencoders beside their peers, as their users run them: pythae's trainer with its defaults on the same networks,
vector-quantize-pytorch's quantizer, and PixelCNN sampling beside the loop that computes every pixel from nothing.

`python bench/autoencoders.py [--rounds N] [--cases …]`; needs `pip install pythae vector-quantize-pytorch`. The two
sides take turns in processes of their own; medians and their ratio are printed. The naive sampler is timed over a few
pixels of every picture and multiplied: all of its pixels cost the same.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import sides

CASES = {
    "vae": "VAE 64×64×3, batch 64",
    "vae-28": "VAE 28×28×1, batch 64",
    "vq-vae": "VQ-VAE 64×64×3, batch 32",
    "quantizer": "quantizer alone, 512 codes of 64, 8,192 vectors, both ways",
}
SHAPES = {"vae": (3, 64, 64), "vae-28": (1, 28, 64), "vq-vae": (3, 64, 32)}
"""Channels, size, batch."""
SAMPLING = {"width": 128, "layers": 10, "side": 28, "batch": 16}


def our_step(name: str) -> Callable[[int], None]:
    """A step of training as `tasvir train` makes it."""
    from tasvir.training.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from tasvir.config import DataConfig, RunConfig
    from tasvir.data import load
    from tasvir.data.batches import Batches
    from tasvir.models import recipe
    from tasvir.runs import Run
    from tasvir.training.state import State

    channels, size, batch_size = SHAPES[name]
    color = "rgb" if channels == 3 else "grey"
    data = load(DataConfig(("cartoons",), size=size, limit=1000, labels="none", color=color))
    found = recipe(name.removesuffix("-28"))
    torch.manual_seed(0)
    run = Run(
        Path(tempfile.gettempdir()),
        RunConfig(name, 0, DataConfig(), found.train, found.config),
        data.pictures,
        data.description,
    )
    state = State(found.model(found.config, data.pictures), run, torch.device("cpu"))
    batches = Batches(data, batch_size, 0, "cpu")
    return lambda number: state.advance(batches[number]) and None


def their_step(name: str) -> Callable[[int], None]:
    """A step of pythae's trainer, with its defaults, on the same networks and batch size."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    from tasvir.config import Pictures
    from tasvir.models import recipe

    channels, size, batch_size = SHAPES[name]
    torch.manual_seed(0)
    found = recipe(name.removesuffix("-28"))
    ours = found.model(found.config, Pictures(channels, size))

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.network = ours.encoder

        def forward(self, x):  # type: ignore[no-untyped-def]
            out = self.network(x * 2 - 1)
            if name == "vq-vae":
                return ModelOutput(embedding=out)
            mean, log_variance = out.chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.network = ours.decoder

        def forward(self, z):  # type: ignore[no-untyped-def]
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    nn.Module.train(ours)
    dimensions = (channels, size, size)
    if name == "vq-vae":
        model = VQVAE(VQVAEConfig(input_dim=dimensions, latent_dim=64), encoder=Encoder(), decoder=Decoder())
    else:
        config = VAEConfig(input_dim=dimensions, latent_dim=found.config.latent_size)
        model = VAE(config, encoder=Encoder(), decoder=Decoder())
    pictures = torch.rand(1000, *dimensions)
    trainer = BaseTrainer(
        model,
        BaseDataset(pictures, torch.zeros(1000)),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            no_cuda=True,
        ),
    )
    trainer.prepare_training()
    trainer.model.train()
    batches = iter(())

    def step(number: int) -> None:
        nonlocal batches
        inputs = next(batches, None)
        if inputs is None or len(inputs["data"]) < batch_size:
            batches = iter(trainer.train_loader)
            inputs = next(batches)
        with trainer.amp_context:
            output = trainer.model(trainer._set_inputs_to_device(inputs), epoch=1, dataset_size=1000, uses_ddp=False)
        trainer._optimizers_step(output)
        output.loss.item()

    return step


def quantizer_step(ours: bool) -> Callable[[int], None]:
    """Quantize and go back, without a network around it."""
    import torch

    torch.manual_seed(0)
    latent = torch.randn(32, 64, 16, 16)
    if ours:
        from tasvir.training.allocator import keep_freed_memory

        keep_freed_memory()
        from tasvir.models import recipe
        from tasvir.nn.quantizers import quantizer

        layer = quantizer(recipe("vq-vae").config).train()

        def step(number: int) -> None:
            leaf = latent.detach().requires_grad_()
            found = layer(leaf)
            (found.values.square().mean() + sum(found.terms.values())).backward()

    else:
        from vector_quantize_pytorch import VectorQuantize

        peer = VectorQuantize(dim=64, codebook_size=512, decay=0.99, commitment_weight=0.25, accept_image_fmap=True)
        peer.train()

        def step(number: int) -> None:
            leaf = latent.detach().requires_grad_()
            values, _, loss = peer(leaf)
            (values.square().mean() + loss.sum()).backward()

    return step


def sampling(rounds: int) -> None:
    """Incremental sampling beside the naive loop, in one process: neither keeps anything between calls."""
    import statistics
    import time

    import torch

    from tasvir.nn.pixelcnn import GatedPixelCNN

    torch.manual_seed(0)
    side, batch = SAMPLING["side"], SAMPLING["batch"]
    network = GatedPixelCNN(
        1, 2, side, width=SAMPLING["width"], layers=SAMPLING["layers"], kernel=5, output=128, embedded=False
    ).eval()
    uniform = torch.rand(batch, 1, side, side)
    fast, naive, pixels = [], [], 3
    with torch.no_grad():
        network.sample(uniform)
        for _ in range(rounds):
            began = time.perf_counter()
            network.sample(uniform)
            fast.append(time.perf_counter() - began)
            values = torch.zeros(batch, 1, side, side, dtype=torch.int64)
            began = time.perf_counter()
            for _ in range(pixels):
                network(values)
            naive.append((time.perf_counter() - began) / pixels * side * side)
    words = f"PixelCNN, {SAMPLING['layers']} layers of {SAMPLING['width']}, {batch} pictures of {side}×{side}"
    sides.row(words, "naive loop", statistics.median(naive), statistics.median(fast))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cases", nargs="*", default=[*CASES, "sampling"])
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        case, ours = words.serve[0], words.serve[1] == "ours"
        if case == "quantizer":
            sides.serve(quantizer_step(ours))
        else:
            sides.serve(our_step(case) if ours else their_step(case))
    else:
        sides.heading()
        for case in words.cases:
            if case == "sampling":
                sampling(max(words.rounds // 2, 1))
            else:
                peer = "vector-quantize-pytorch" if case == "quantizer" else "pythae"
                sides.row(CASES[case], peer, *sides.medians(__file__, case, words.rounds))
