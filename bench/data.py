"""Pictures on their way into training, each side in turns with what people use: batches, packing, memory.

`python bench/data.py [batches] [packing] [memory] [--folder PATH]`: all three if none is named. PATH holds a sub-folder
of pictures for each class; without it, JPEGs of cartoons are made.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tasvir.training.allocator import keep_freed_memory

keep_freed_memory()  # as `tasvir train` does

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from tasvir.config import DataConfig  # noqa: E402
from tasvir.data import load  # noqa: E402
from tasvir.data.batches import Batches  # noqa: E402

WORKERS = 2
SETS = {64: (10_000, 64), 256: (2_000, 16)}
"""Height and width → pictures made, batch."""
ROUNDS, BATCHES = 7, 100
GROWING = 1_000, 10_000, 100_000


def make_pictures(folder: Path, size: int, count: int) -> None:
    """JPEGs of cartoons, in two classes."""
    from tasvir.data.cartoons import LARGEST, cartoon

    for number in range(count):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(cartoon(number, min(size, LARGEST))[0])
        drawn.resize((size, size), Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)


def ours(folder: Path, size: int, batch: int) -> Iterator[torch.Tensor]:
    dataset = load(DataConfig(source=(str(folder),), size=size, flip=True))
    batches = Batches(dataset, batch, seed=0, device="cpu")
    step = 0
    while True:
        yield batches[step].image
        step += 1


def theirs(folder: Path, size: int, batch: int) -> Iterator[torch.Tensor]:
    from torchvision import datasets, transforms

    steps = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    pictures = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        pictures, batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
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


def table(taken: dict[str, list[float]], unit: str) -> None:
    """Medians, least and most, and the ratio of the second side to the first."""
    medians = [statistics.median(values) for values in taken.values()]
    print(f"{'':28}{unit:>12}{'least':>9}{'most':>9}")
    for (name, values), median in zip(taken.items(), medians, strict=True):
        print(f"{name:28}{median:>12.2f}{min(values):>9.2f}{max(values):>9.2f}")
    print(f"ratio of the medians: {medians[1] / medians[0]:.1f}x\n")


def batches(folder: Path, size: int, batch: int) -> None:
    streams = {
        "tasvir, packed": ours(folder, size, batch),
        f"ImageFolder, {WORKERS} workers": theirs(folder, size, batch),
    }
    for stream in streams.values():  # start the workers
        draw(stream, BATCHES)
    taken: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(ROUNDS):
        for name, stream in streams.items():
            time.sleep(1)  # the workers fill their queue and rest: four batches of a head start for them
            taken[name].append(milliseconds(partial(draw, stream, BATCHES)) / BATCHES)
    print(
        f"{batch} pictures of {size}x{size}, mirrored, ready to train on; {ROUNDS} rounds of {BATCHES} batches in turns"
    )
    table(taken, "ms a batch")


def plain_loop(folder: Path, size: int, target: Path) -> None:
    """Every picture opened, cropped, resized and kept, as a script would do it."""
    kept = []
    for file in sorted(folder.rglob("*.jpg")):
        image = Image.open(file).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        kept.append(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)))
    np.save(target, np.stack(kept))


def packing(folder: Path, size: int, cache: Path) -> None:
    """Into an empty cache, both sides from files that the system has in memory."""

    def packed() -> None:
        shutil.rmtree(cache / "packs", ignore_errors=True)
        load(DataConfig(source=(str(folder),), size=size))

    sides = {"tasvir": packed, "Pillow in one process": partial(plain_loop, folder, size, cache / "plain.npy")}
    cache.mkdir(exist_ok=True)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(4):
        for name, side in sides.items():
            spent = milliseconds(side) / 1e3
            if turn:
                taken[name].append(spent)
    count = sum(1 for _ in folder.rglob("*.jpg"))
    with Image.open(next(folder.rglob("*.jpg"))) as first:
        print(f"{count} JPEGs of {first.width}x{first.height} packed at {size}x{size}, 3 rounds in turns")
    table(taken, "s")


MEASURED = """
import re, resource, sys, time
from tasvir.config import DataConfig
from tasvir.data import load
from tasvir.data.check import check
from tasvir.data.sources import find
config = DataConfig(source=(sys.argv[2],), size=32)
start = time.perf_counter()
load(config) if sys.argv[1] == "packing" else check(find(config), config)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(time.perf_counter() - start, peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def memory(folder: Path) -> None:
    """Packing and checking 1,000 to 100,000 small JPEGs: peak memory of the process and of its largest worker."""
    print(f"{'':10}{'pictures':>10}{'seconds':>10}{'peak MiB':>10}{'worker MiB':>12}")
    images = np.random.default_rng(0)
    done = 0
    for count in GROWING:
        for number in range(done, count):
            place = folder / f"{number // 1000:03d}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.integers(0, 256, (32, 32, 3), np.uint8)).save(place / f"{number:06d}.jpg")
        done = count
        for what in ("packing", "check"):
            script = [sys.executable, "-c", MEASURED, what, str(folder)]
            said = subprocess.run(script, check=True, capture_output=True, text=True, env=os.environ).stdout.split()
            seconds, peak, worker = map(float, said)
            print(f"{what:10}{count:>10,}{seconds:>10.1f}{peak:>10.0f}{worker:>12.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="batches, packing, memory")
    parser.add_argument("--folder", type=Path, help="a folder with one sub-folder of pictures for each class")
    asked = parser.parse_args()
    what = asked.what or ["batches", "packing", "memory"]
    torch.set_num_threads(WORKERS)  # as many as the other side has processes
    print(f"{os.cpu_count()} cores, {WORKERS} threads or workers on either side, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TASVIR_CACHE"] = str(Path(temporary) / "cache")
        folders = {size: asked.folder or Path(temporary) / f"pictures-{size}" for size in SETS}
        for size, (count, batch) in SETS.items():
            if asked.folder is None and set(what) & {"batches", "packing"}:
                make_pictures(folders[size], size, count)
            if "batches" in what:
                batches(folders[size], size, batch)
        if "packing" in what:
            for size, to in ((64, 64), (256, 128)):
                packing(folders[size], to, Path(temporary) / "cache")
            if asked.folder is None:
                make_pictures(Path(temporary) / "pictures-512", 512, 600)
                packing(Path(temporary) / "pictures-512", 128, Path(temporary) / "cache")
        if "memory" in what:
            memory(Path(temporary) / "growing")


if __name__ == "__main__":
    main()
