"""A batch of 64 pictures, mirrored and ready to train on: tasvir's packed set beside torchvision's ImageFolder and
DataLoader, in turns on the same files. `python bench/data.py [--folder PATH]`."""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from tasvir.config import DataConfig
from tasvir.data import load
from tasvir.data.batches import Batches

PICTURES, SIZE, BATCH, WORKERS = 2_000, 64, 64, 2
ROUNDS, BATCHES = 7, 25


def make_pictures(folder: Path) -> None:
    """JPEGs of cartoons, in two classes."""
    from tasvir.data.cartoons import cartoon

    for number in range(PICTURES):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cartoon(number, SIZE)[0]).save(place / f"{number:05d}.jpg", quality=90)


def ours(folder: Path) -> Iterator[torch.Tensor]:
    batches = Batches(load(DataConfig(source=(str(folder),), size=SIZE)), BATCH, seed=0, device="cpu", flip=True)
    step = 0
    while True:
        yield batches[step].image
        step += 1


def theirs(folder: Path) -> Iterator[torch.Tensor]:
    from torchvision import datasets, transforms

    steps = [
        transforms.Resize(SIZE),
        transforms.CenterCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    pictures = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        pictures, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )
    while True:
        for images, _ in loader:
            yield images


def draw(stream: Iterator[torch.Tensor], count: int) -> None:
    for _ in range(count):  # each batch is dropped before the next is made, as in training
        next(stream)


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder with one sub-folder of pictures for each class")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)  # as in the loader's workers; also keeps the figures steady on a shared machine
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TASVIR_CACHE"] = str(Path(temporary) / "cache")
        if folder is None:
            folder = Path(temporary) / "pictures"
            make_pictures(folder)
        packing = milliseconds(lambda: load(DataConfig(source=(str(folder),), size=SIZE)))
        opening = milliseconds(lambda: load(DataConfig(source=(str(folder),), size=SIZE)))
        streams = {"tasvir, packed": ours(folder), f"ImageFolder, {WORKERS} workers": theirs(folder)}
        for stream in streams.values():  # start the workers
            draw(stream, BATCHES)
        taken: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(ROUNDS):
            for name, stream in streams.items():
                time.sleep(0.3)  # the workers fill their queue and rest: four batches of a head start for them
                taken[name].append(milliseconds(partial(draw, stream, BATCHES)) / BATCHES)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        turns = f"{ROUNDS} rounds of {BATCHES} batches in turns"
        print(f"{BATCH} pictures of {SIZE}x{SIZE}, {turns}, {os.cpu_count()} cores, 1 thread each")
        print(f"packing once {packing:.0f} ms, opening again {opening:.1f} ms\n")
        print(f"{'':28}{'ms a batch':>12}{'least':>9}{'most':>9}")
        for name, values in taken.items():
            print(f"{name:28}{medians[name]:>12.2f}{min(values):>9.2f}{max(values):>9.2f}")
        mine, other = medians.values()
        print(f"\nratio of the medians: {other / mine:.0f}x")


if __name__ == "__main__":
    main()
