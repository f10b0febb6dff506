"""Pictures through a network, some at a time: what an extractor is, its features, and those of real pictures kept."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from tasvir.config import Refused
from tasvir.data.items import cache_folder
from tasvir.data.workers import progress

T = TypeVar("T")

FORMAT = 1
"""Version of what is kept of features: raising it computes all anew."""
PIECE = 1 << 25
"""Bytes of pictures that a network is given at a time, at most."""
PATIENCE = 2.0
"""Seconds of work after which a person is shown how far it is."""


@dataclass(frozen=True)
class Extractor:
    """A network (or projection) that makes vectors of pictures, and all that tells it from others."""

    name: str
    """As `--features` takes it: `inception`, `classifier`, `pixels`, `timm:resnet18`."""
    hash: str
    """sha256 of its weights."""
    resize: str
    """In words, how pictures come to the size that it wants."""
    size: int
    """Length D of a vector."""
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """uint8 [N,3,H,W] to features float32 [N,D] and logits float32 [N,K], or None where it has no classes."""
    classes: tuple[str, ...] = ()
    """What the logits stand for, where they are the reference set's classes."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a passport should say of it."""
    batch: int = 256
    """Most pictures to give it at a time."""


@dataclass(frozen=True)
class Features:
    """What an extractor made of pictures; mapped from disk where it is large, and never to be changed."""

    vectors: np.ndarray
    """[N,D] float32."""
    logits: np.ndarray | None
    """[N,K] float32."""
    folder: Path | None = None
    """Where these are kept for the next time, so that what is computed of them (mean, covariance) can lie beside them.
    None for features that are not kept."""


def extract(extractor: Extractor, images: np.ndarray, spool: Callable[[tuple[int, ...], type], np.ndarray]) -> Features:
    """The features of uint8 pictures [N,H,W,C], grey or RGB, in their order.

    `spool(shape, kind)` makes the arrays to fill, first that of the vectors, then that of the logits if there are any.
    Pictures are read and features are written in pieces: memory does not grow with N.
    """
    number = len(images)
    batch = max(1, min(extractor.batch, PIECE // max(1, int(np.prod(images.shape[1:])))))
    vectors: np.ndarray = spool((number, extractor.size), np.float32)
    logits: np.ndarray | None = None
    with torch.inference_mode(), exact(), shown(number, f"{extractor.name} features") as advance:
        for start in range(0, number, batch):
            part = slice(start, start + batch)
            found, classed = extractor.network(channels_first(images[part], 3))
            vectors[part] = found.float().cpu().numpy()
            if classed is not None:
                if logits is None:
                    logits = spool((number, classed.shape[1]), np.float32)
                logits[part] = classed.float().cpu().numpy()
            advance(len(found))
    return Features(vectors, logits)


def cached(extractor: Extractor, images: Callable[[], np.ndarray], key: str) -> Features:
    """Features of real pictures, computed once per extractor and `key` and then mapped from the cache.

    `key` says which pictures they are (hash of the data, size, number); `images` is asked for them only where there is
    no entry. Two processes that want the same compute it once; a damaged entry is made again. Raises `Refused` for a
    full disk.
    """
    identity = json.dumps([FORMAT, key, extractor.name, extractor.hash, extractor.resize])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", extractor.name)[:40]
    name = f"{plain}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    folder = cache_folder() / "features" / name

    def make(where: Path) -> None:
        names = iter(("vectors.npy", "logits.npy"))

        def spool(shape: tuple[int, ...], kind: type) -> np.ndarray:
            return np.lib.format.open_memmap(where / next(names), mode="w+", dtype=kind, shape=shape)

        made = extract(extractor, images(), spool)
        for array in (made.vectors, made.logits):
            if isinstance(array, np.memmap):
                array.flush()
        kinds = 0 if made.logits is None else made.logits.shape[1]
        about = f"{len(made.vectors)} pictures"
        described = {"about": about, "key": key, "hash": extractor.hash, "resize": extractor.resize}
        shape = {"number": len(made.vectors), "size": extractor.size, "logits": kinds}
        (where / "description.json").write_text(json.dumps({**described, **shape}, indent=1))

    return kept(folder, _opened, make)


def _opened(folder: Path) -> Features | None:
    """The features in `folder`, or None where there are none or they are damaged."""
    try:
        about = json.loads((folder / "description.json").read_text())
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        logits = np.load(folder / "logits.npy", mmap_mode="r") if about["logits"] else None
        fits = vectors.shape == (about["number"], about["size"]) and vectors.dtype == np.float32
        if logits is not None:
            fits = fits and logits.shape == (about["number"], about["logits"]) and logits.dtype == np.float32
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Features(vectors, logits, folder) if fits else None


def kept(folder: Path, opened: Callable[[Path], T | None], make: Callable[[Path], None]) -> T:
    """What `folder` in the cache holds, as `opened` reads it (None: nothing that is whole); `make` fills it first if
    need be. It is filled aside and renamed, by one process at a time. Raises `Refused` for a disk that has no room."""
    found = opened(folder)
    if found is not None:
        return found
    aside = folder.parent / f".{folder.name}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):  # a second process waits, then finds it
            found = opened(folder)
            if found is None:
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                aside.mkdir()
                try:
                    make(aside)
                    shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been opened
                    aside.rename(folder)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
                found = opened(folder)
    except OSError as error:
        raise Refused(
            f"{folder.name} cannot be kept in {folder.parent} ({error.strerror or error}).\n"
            "Make room or name another folder with TASVIR_CACHE."
        ) from None
    assert found is not None
    return found


def channels_first(images: np.ndarray, channels: int) -> Tensor:
    """uint8 [N,H,W,C] to a tensor [N,channels,H,W]; grey is repeated."""
    tensor = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    return tensor.expand(-1, channels, -1, -1) if tensor.shape[1] == 1 else tensor


@contextmanager
def exact() -> Iterator[None]:
    """Full float32 and the same kernels each time, also on a GPU; what was set before is put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def shown(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more are done; shows a bar on a terminal once the work takes long."""
    begun, done = time.monotonic(), 0
    with ExitStack() as stack:
        tell: Callable[[int], None] | None = None

        def advance(count: int) -> None:
            nonlocal done, tell
            done += count
            if tell is not None:
                tell(count)
            elif time.monotonic() - begun > PATIENCE:
                tell = stack.enter_context(progress(total, what))
                tell(done)

        yield advance
