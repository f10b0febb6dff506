"""Learning beats a stated baseline on real pictures within a small budget; and torch.compile trains the same model."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REAL, tiny_batch, tiny_model, tiny_run
from tasvir.config import DataConfig, OptimizerConfig, RunConfig, TrainConfig
from tasvir.data import Dataset, load
from tasvir.drawing import Opened
from tasvir.losses.games import GameConfig
from tasvir.metrics import neighbours
from tasvir.models import recipe
from tasvir.runs import Run
from tasvir.training.health import relative_diversity
from tasvir.training.loop import train
from tasvir.training.state import State


def trained(name: str, folder: Path, data: Dataset, config: DataConfig, steps: int, **model: object) -> Opened:
    """A run of so many steps, in the fastest precision here."""
    settings = TrainConfig(
        steps=steps, log_every=100, sample_every=0, checkpoint_every=steps, average=0.99, tensorboard=False
    )
    chosen = RunConfig(name, 0, config, settings, replace(recipe(name).config, **model))
    run = Run(folder, chosen, data.pictures, data.description).create()
    assert train(run, data) == "done"
    return Opened(run)


DIGITS = DataConfig(source=("digits",))


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_reconstructions_beat_the_mean_picture(name: str, tmp_path: Path) -> None:
    """Held-out digits: under 20 % (ae) and 50 % (vae, which pays for its prior) of the mean picture's error."""
    data = load(DIGITS)
    opened = trained(name, tmp_path / "run", data, DIGITS, 600, latent_size=12, widths=(32, 64))
    test, known = data.test.images.astype(np.float32) / 255, data.train.images.astype(np.float32) / 255
    error = np.square(opened.reconstructions(data.test.images).astype(np.float32) / 255 - test).mean()
    mean_picture = np.square(known.mean(0) - test).mean()
    assert error < {"ae": 0.2, "vae": 0.5}[name] * mean_picture


def test_the_bound_beats_independent_pixels(tmp_path: Path) -> None:
    """The VAE's bound on held-out digits beats, by 1.5 nats, the likelihood of pixels that ignore each other."""
    data = load(DIGITS)
    opened = trained("vae", tmp_path / "run", data, DIGITS, 600, latent_size=8, widths=(32, 64))
    from tasvir.core import Noise

    with torch.no_grad():
        bound = opened.model.bound(opened.tensor(data.test.images), Noise(range(len(data.test.images))))["bound"]
    mean = (data.train.images.astype(np.float64) / 255).mean(0).clip(1e-3, 1 - 1e-3)
    test = data.test.images.astype(np.float64) / 255
    independent = (test * np.log(mean) + (1 - test) * np.log(1 - mean)).reshape(len(test), -1).sum(1)
    assert float(bound.mean()) > independent.mean() + 1.5


PENALIZED = OptimizerConfig(learning_rate=5e-4, betas=(0.0, 0.9))
CLIPPED = OptimizerConfig(name="rmsprop", learning_rate=5e-4, betas=(0.0, 0.99))
ADVERSARIAL = {
    "dcgan": ("dcgan", 400, {"width": 64}),
    "minimax": ("gan", 700, {}),
    "non-saturating": ("gan", 700, {}),
    "least-squares": ("gan", 700, {}),
    "hinge": ("gan", 700, {}),
    "wasserstein-clipping": ("gan", 1200, {"generator": CLIPPED, "discriminator": CLIPPED}),
    "wasserstein-penalty": ("gan", 1000, {"generator": PENALIZED, "discriminator": PENALIZED}),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_samples_beat_shuffled_pixels_and_are_varied(case: str, tmp_path: Path) -> None:
    """Samples of digits lie nearer to real ones than pictures whose pixels come from different real pictures.

    At most 80 % of that distance, with at least half the variety of real pictures, and an even share of most classes.
    """
    data = load(DIGITS)
    name, steps, settings = ADVERSARIAL[case]
    if name == "gan":
        settings = {**settings, "widths": (64, 128), "game": GameConfig(case)}  # type: ignore[dict-item,arg-type]
    opened = trained(name, tmp_path / "run", data, DIGITS, steps, **settings)
    samples = opened.samples(range(200))
    draw = np.random.default_rng(0)
    shuffled = np.stack([draw.permutation(data.train.images[:200, y, x]) for y in range(8) for x in range(8)], 1)
    shuffled = shuffled.reshape(200, 8, 8, 1)

    def distance(images: np.ndarray) -> float:
        flat, known = images.reshape(200, 1, 64) / 255, data.train.images.reshape(1, -1, 64) / 255
        return float(np.square(flat - known).sum(-1).min(1).mean())

    assert distance(samples) < 0.8 * distance(shuffled)
    assert relative_diversity(samples, data.test.images) > 0.5
    test, labels = data.test.images, data.test.labels
    assert data.train.labels is not None and labels is not None
    _, _, coverage = neighbours.judge(samples, data.train.images, data.train.labels, test, labels)
    assert coverage > 0.6


@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="needs the real MNIST files beside the project")
def test_real_mnist_in_a_minute(tmp_path: Path) -> None:
    """300 steps on real MNIST: reconstructions under a quarter of the mean picture's error."""
    config = DataConfig(source=("mnist",), root=REAL, limit=5000)
    data = load(config)
    assert data.pictures.size == 28 and data.pictures.channels == 1
    opened = trained("vae", tmp_path / "run", data, config, 300, latent_size=16, widths=(16, 32, 64))
    test = data.test.images[:500].astype(np.float32) / 255
    error = np.square(opened.reconstructions(data.test.images[:500]).astype(np.float32) / 255 - test).mean()
    assert error < 0.25 * np.square(data.train.images.mean(0) / 255 - test).mean()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize("name", ["vae", "dcgan", "wgan-gp"])
def test_compiled_networks_train_the_same(name: str, tmp_path: Path) -> None:
    """To 1e-3 in every loss over two steps, noise drawn outside the networks; penalized networks are left alone."""
    losses = []
    for compiled in (False, True):
        run, _ = tiny_run(name, tmp_path / str(compiled), compile=compiled)
        state = State(tiny_model(name), run, torch.device("cpu"))
        if compiled:
            state.compile()
            left_alone = [p for p in state.players.values() if not p.compiled]
            assert bool(left_alone) == (name == "wgan-gp")
        torch._dynamo.utils.counters.clear()
        losses.append([state.advance(tiny_batch(state.run.pictures.size)) for _ in range(2)])
        assert bool(torch._dynamo.utils.counters["stats"].get("unique_graphs")) == compiled
    for plain, fast in zip(*losses, strict=True):
        for key, value in plain.items():
            assert float(fast[key]) == pytest.approx(float(value), rel=1e-3, abs=1e-3), key
