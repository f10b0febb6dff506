"""Published weights: fetched once, and never unpickled before their sha256 is known to be right."""

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from tasvir.config import Refused
from tasvir.data.items import cache_folder
from tasvir.metrics.features.extraction import shown

PIECE = 1 << 20
"""Bytes that are fetched at a time."""
WAITING = 30
"""Seconds without an answer after which a server is given up."""


@dataclass(frozen=True)
class Weights:
    """A file of weights on the web."""

    name: str
    address: str
    sha256: str
    bytes: int


INCEPTION = Weights(
    name="weights-inception-2015-12-05-6726825d.pth",
    address="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    bytes=95_628_359,
)
"""The FID network (Heusel et al. 2017, arXiv 1706.08500): TensorFlow's of 2015-12-05, converted by torch-fidelity."""


def weights_file(row: Weights, given: Path | None = None) -> Path:
    """Where the weights lie: the file that was given, or else the one in the cache, fetched if it is not there.

    Its sha256 is looked at each time. Raises `Refused` where the file cannot be had or is not the published one.
    """
    path = given or cache_folder() / "weights" / row.name
    try:
        if given is None and not path.exists():
            _fetch(row, path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error).split())
        got = f"{path} cannot be read" if given or path.exists() else f"{row.name} is not in the cache and did not come"
        raise Refused(f"{got} ({reason[:150] or type(error).__name__}).\n{_help(row)}") from None
    if found != row.sha256:
        raise Refused(f"{path} is damaged or another file: its sha256 is {found}.\n{_help(row)}")
    return path


def state_dict(row: Weights, given: Path | None = None) -> dict[str, Tensor]:
    """The tensors of a file of weights by name, on the CPU. Raises `Refused` as `weights_file` does."""
    found: dict[str, Tensor] = torch.load(weights_file(row, given), map_location="cpu", weights_only=True)
    return found


def _help(row: Weights) -> str:
    place = cache_folder() / "weights" / row.name
    size = f"{row.bytes / 1e6:.1f} MB, sha256 {row.sha256}"
    return f"Fetch {row.address} ({size}) and give it with --weights FILE, or put it at {place}."


def _fetch(row: Weights, path: Path) -> None:
    """Fetch into a file beside `path`, which takes its place once its hash is right; else nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process fetched it while this one waited
            return
        try:
            digest = _write(row, aside)
            if digest != row.sha256:
                raise OSError(f"what came has the sha256 {digest}")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def _write(row: Weights, aside: Path) -> str:
    """The sha256 of what the address gave, no more than there should be."""
    digest, length = hashlib.sha256(), 0
    megabytes = -(-row.bytes // PIECE)
    with (
        urllib.request.urlopen(row.address, timeout=WAITING) as answer,
        aside.open("wb") as file,
        shown(megabytes, "fetching weights (MB)") as advance,
    ):
        while length <= row.bytes and (piece := answer.read(PIECE)):
            file.write(piece)
            digest.update(piece)
            length += len(piece)
            advance(1)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
