"""A small convolutional classifier of the reference set's own classes. Its features mean something on pictures such as
digits, of which the networks for photographs know nothing (Bińkowski et al. 2018, arXiv 1801.01401, used LeNet's)."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from tasvir.config import Refused
from tasvir.data import Dataset
from tasvir.data.items import cache_folder
from tasvir.metrics.features.extraction import Extractor, channels_first, exact, kept, shown
from tasvir.training.precision import choose_device

FORMAT = 1
"""Version of the network and of how it is trained: raising it trains every classifier anew."""
WIDTHS = 32, 64, 128
"""Channels of the three stages; the last is the number of features."""
LARGEST = 32
"""Side in pixels to which larger pictures are averaged down."""
STEPS = 100, 400
"""Fewest and most steps of training."""
PASSES = 8
"""How often every picture is seen, within these."""
BATCH = 128
LEARNING_RATE = 3e-3
"""The highest of the one-cycle schedule (Smith and Topin 2017, arXiv 1708.07120)."""
WEIGHT_DECAY = 0.01
SHIFT = 14
"""While training, pictures are moved by up to this part of their side: by 2 pixels of 28."""
JUDGED = 10_000
"""Most held-out pictures that the accuracy is measured on."""


class Network(nn.Module):
    """Three stages of two 3×3 convolutions, halved in between, and the mean over the picture.

    uint8 [N,C,H,W] of any size to features [N,128] and logits [N,K]. One for grey pictures looks at the first channel.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList(
            nn.Sequential(*_convolution(before, width), *_convolution(width, width))
            for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False)
        )
        self.linear = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = images[:, : self.channels].to(self.linear.weight.device).float() / 127.5 - 1
        hidden = F.avg_pool2d(hidden, shrinking(hidden.shape[-1]))
        for number, stage in enumerate(self.stages):
            hidden = stage(F.max_pool2d(hidden, 2, ceil_mode=True) if number else hidden)
        features = hidden.mean((2, 3))
        return features, self.linear(features)


def _convolution(before: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def shrinking(side: int) -> int:
    """By how much pictures of this side are averaged down first."""
    return -(-side // LARGEST)


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    seed: int = 0,
    steps: int | None = None,
    what: str = "classifier",
) -> Network:
    """A classifier taught with uint8 pictures [N,H,W,C] and their labels [N] in 0..classes-1, ready to be used.

    AdamW on cross-entropy in float32, batches of 128, a one-cycle schedule; pictures are moved a little and not
    mirrored, because a mirrored digit is none. Unless `steps` are given, every picture is seen eight times, in no fewer
    than 100 steps and no more than 400. The same `seed` gives the same weights on the same machine, and torch's own
    random state is left as it was. `what` is shown on a terminal when it takes long.
    """
    steps = steps or usual_steps(len(images))
    labels, network = np.asarray(labels), _fresh(images.shape[-1], classes, seed)
    device = network.linear.weight.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(steps, 2))
    generator = np.random.default_rng(seed)
    with exact(), torch.enable_grad(), shown(steps, what) as advance:
        for places in _shuffled(len(images), steps, generator):
            pictures = channels_first(_moved(images[places], generator), network.channels)
            loss = F.cross_entropy(network(pictures)[1], torch.from_numpy(labels[places]).long().to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
    return network.eval().requires_grad_(False)


def usual_steps(number: int) -> int:
    """Steps of training with so many pictures."""
    fewest, most = STEPS
    return min(max(PASSES * number // BATCH, fewest), most)


def predict(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """The class [N] int64 that a network (of `fit`) sees in each of the uint8 pictures [N,H,W,C]."""
    found = np.empty(len(images), np.int64)
    with torch.inference_mode(), exact():
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            found[part] = network(channels_first(images[part], 3))[1].argmax(1).cpu().numpy()
    return found


def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of uint8 pictures [N,H,W,C] in which a network sees the class of their label [N]."""
    return float((predict(network, images) == np.asarray(labels)).mean())


def _fresh(channels: int, classes: int, seed: int) -> Network:
    """A network that knows nothing yet, on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Network(channels, classes)
    return network.to(choose_device("auto"), memory_format=torch.channels_last)  # type: ignore[call-overload]


def _shuffled(number: int, steps: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Places [B] of `steps` batches: every picture once, in any order, before any comes again."""
    size, left = min(BATCH, number), np.empty(0, np.int64)
    for _ in range(steps):
        if len(left) < size:
            left = np.concatenate([left, generator.permutation(number)])
        yield left[:size]
        left = left[size:]


def _moved(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each picture moved by some pixels; the edge is repeated."""
    number, height, width, _ = images.shape
    most = max(1, height // SHIFT)
    down, right = generator.integers(-most, most + 1, (2, number, 1))
    rows = np.clip(np.arange(height) + down, 0, height - 1)  # [N,H]
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return images[np.arange(number)[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class _Trained:
    network: Network
    hash: str
    accuracy: float
    number: int
    """Pictures that the accuracy was measured on."""


def extractor(dataset: Dataset) -> Extractor:
    """The classifier of a set's classes, trained on its training pictures once and then taken from the cache.

    Raises `Refused` for a set without classes or training pictures at hand, and for a classifier that sees the classes
    of fewer held-out pictures than halfway between always naming the most frequent class and making no mistake.
    """
    classes, size, channels = dataset.pictures.classes, dataset.pictures.size, dataset.pictures.channels
    train, test = dataset.train, dataset.test
    instead = "Say --features inception, or --features pixels, which needs no weights."
    if not len(train):
        raise Refused(f"{dataset.name} is streamed: no training pictures are at hand for a classifier.\n{instead}")
    if len(classes) < 2 or train.labels is None or test.labels is None:
        raise Refused(f"{dataset.name} has no classes that a classifier could be trained on.\n{instead}")
    identity = json.dumps([FORMAT, train.hash, test.hash, size, channels, classes])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset.name)[:40]
    folder = cache_folder() / "classifiers" / f"{plain}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    found = kept(folder, lambda where: _opened(where, channels, len(classes)), lambda where: _make(where, dataset))
    chance = float(np.bincount(test.labels).max() / len(test))
    if found.accuracy < (chance + 1) / 2:
        raise Refused(
            f"A classifier of {dataset.name}'s {len(classes)} classes is right on {found.accuracy:.1%} of the held-out "
            f"pictures, and naming the most frequent class on {chance:.1%}: its features would mean little.\n{instead}"
        )
    by = shrinking(size)
    return Extractor(
        name="classifier",
        hash=found.hash,
        resize="none" if by == 1 else f"averaged down {by}× to {size // by} px",
        size=WIDTHS[-1],
        network=found.network,
        classes=classes,
        facts={"accuracy": found.accuracy, "accuracy_pictures": found.number, "classes": len(classes)},
    )


def _make(folder: Path, dataset: Dataset) -> None:
    classes, train, test = len(dataset.pictures.classes), dataset.train, dataset.test
    assert train.labels is not None and test.labels is not None
    print(f"Training a classifier of the {classes} classes of {dataset.name}, once.", file=sys.stderr, flush=True)
    network = fit(train.images, train.labels, classes, what=f"classifier of {dataset.name}")
    judged = np.sort(np.random.default_rng(0).permutation(len(test))[:JUDGED])
    right = accuracy(network, test.images[judged], test.labels[judged])
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    about = f"{classes} classes, {right:.1%} right"
    told = {"about": about, "hash": _hash(folder), "accuracy": right, "number": len(judged)}
    (folder / "description.json").write_text(json.dumps(told, indent=1))


def _opened(folder: Path, channels: int, classes: int) -> _Trained | None:
    """The classifier in `folder`, or None where there is none or it is damaged."""
    try:
        told = json.loads((folder / "description.json").read_text())
        if _hash(folder) != told["hash"]:
            return None
        network = _fresh(channels, classes, 0)
        network.load_state_dict(load((folder / "model.safetensors").read_bytes()))
        return _Trained(network.eval().requires_grad_(False), told["hash"], told["accuracy"], told["number"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
