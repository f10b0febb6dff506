"""Pictures of two levels: each pixel is drawn from Bernoulli(value/255), once for all or anew whenever it is shown.

Static: a picture is drawn once (Salakhutdinov and Murray 2008). Dynamic: training pictures are drawn anew in each batch
(Burda et al. 2016, arXiv 1509.00519), and everything but training batches sees the static draw.
"""

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasvir.config import DataConfig, Refused
from tasvir.data.derive import sent
from tasvir.data.splitting import SPLITS
from tasvir.data.store import Rows, blocks, hash_of

if TYPE_CHECKING:
    from tasvir.data.packing import Dataset

FORMAT = 1
"""Version of the static draw: raising it draws every set anew."""
BINARIZE = 8
"""Stream of random numbers; 0 to 7 belong to shuffling, augmentation and derivation."""
GREY_AGAIN = {"jitter": "enlarges pictures", "cutout": "paints grey squares", "color_jitter": "changes brightness"}
"""Settings that would give binarized pictures other values than black and white, and what they do."""


def drawn_once(images: np.ndarray) -> np.ndarray:
    """[N,H,W,C] uint8 to the same of 0 and 255, each 255 with probability value/255 (to 2⁻³²).

    The draw of a picture is a pure function of its own pixels, by SHAKE-128: the same wherever it lies. What is 0 or
    255 stays.
    """
    found = np.empty(images.shape, np.uint8)
    for picture, into in zip(images, found, strict=True):
        picture = np.ascontiguousarray(picture)
        bits = hashlib.shake_128(picture.data).digest(4 * picture.size)
        chance = np.frombuffer(bits, "<u4").reshape(picture.shape).astype(np.uint64)
        into[:] = (chance * 255 < picture.astype(np.uint64) << np.uint64(32)) * np.uint8(255)
    return found


def draws(shape: tuple[int, ...], seed: int, step: int, batch_size: int, rank: int = 0) -> Tensor:
    """[batch_size,*shape] float32 in [0,1): the chances of this rank's pictures in a step, on the CPU.

    Each picture of the step has a stretch of one stream of its own, so two processes see what one with twice the batch
    sees.
    """
    values = int(np.prod(shape))
    stretch = values + values % 2  # the stream goes by two values
    source = np.random.PCG64((BINARIZE, seed % 2**64, step))
    source.advance(rank * batch_size * stretch // 2)
    found = np.random.Generator(source).random((batch_size, stretch), np.float32)
    return torch.from_numpy(found)[:, :values].unflatten(1, shape)


def drawn(pixels: Tensor, chances: Tensor) -> Tensor:
    """[N,H,W,C] uint8 to [N,C,H,W] float32 of -1 and 1, channels innermost: 1 with probability value/255."""
    chances = sent(chances, pixels.device)
    return (pixels.float().div_(255) > chances).float().mul_(2).sub_(1).permute(0, 3, 1, 2)


def check(config: DataConfig) -> None:
    """Raise `Refused` for settings that do not go with binarized pictures; `none` always passes."""
    if config.binarize == "none":
        return
    usual = DataConfig()
    for setting, does in GREY_AGAIN.items():
        if getattr(config, setting) != getattr(usual, setting):
            name = setting.replace("_", "-")
            raise Refused(f"--data.{name} {does}, which leaves binarized ones neither black nor white; leave it out.")
    if config.derive != "none":
        raise Refused("--data.binarize is for single pictures; leave --data.derive out.")


def binarized(dataset: "Dataset", config: DataConfig) -> "Dataset":
    """A packed set with its pictures drawn once, and for `dynamic` the grey ones to draw from beside them.

    The draws lie beside the pack's own arrays, and are made if they are not there yet. Raises `Refused` for pictures
    in colour, pairs, or a full disk.
    """
    if config.binarize == "none":
        return dataset
    if dataset.pictures.source is not None:
        raise Refused(f"{dataset.name} has pairs, and --data.binarize is for single pictures; leave it out.")
    if dataset.pictures.channels != 1:
        raise Refused(f"The pictures of {dataset.name} are in colour: --data.binarize needs --data.color grey as well.")
    folder = Path(dataset.train.images.filename).parent  # type: ignore[attr-defined]
    hashes = _known(folder) or _made(folder, len(dataset.train) + len(dataset.test))
    splits = {}
    for split in SPLITS:
        grey = getattr(dataset, split)
        images = np.load(folder / f"{split}.binarized.npy", mmap_mode="r")
        splits[split] = replace(grey, images=images, hash=hashes[split])
    if config.binarize == "dynamic":
        splits["train"] = replace(splits["train"], grey=dataset.train.images)
    notes = (*dataset.notes, NOTES[config.binarize])
    return replace(
        dataset,
        **splits,
        pictures=replace(dataset.pictures, levels=2),
        notes=notes,
        description={**dataset.description, "binarize": config.binarize, "hash": hashes, "notes": list(notes)},
    )


NOTES = {
    "static": "Every pixel is black or white, drawn once with its grey value as the probability of white.",
    "dynamic": "Every pixel is black or white, drawn with its grey value as the probability of white: anew whenever a "
    "picture is trained on, once for testing.",
}


def _known(folder: Path) -> dict[str, str] | None:
    """The hashes of the draws in a pack, or None if there are none."""
    try:
        found = json.loads((folder / "binarized.json").read_text())
        return found["hash"] if found["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _made(folder: Path, number: int) -> dict[str, str]:
    """Draw both splits, each file written aside and renamed; two processes at once write the same."""
    print(f"Binarizing {number} pictures.", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix=".binarized.", dir=folder) as name:
            aside = Path(name)
            for split in SPLITS:
                made = aside / f"{split}.binarized.npy"
                shape = np.load(folder / f"{split}.images.npy", mmap_mode="r").shape
                rows, count = Rows(made, shape[1:]), 0
                for block in blocks(folder / f"{split}.images.npy"):
                    rows.write(count, drawn_once(block))
                    count += len(block)
                rows.finish(count)
                made.replace(folder / made.name)
            hashes = {split: hash_of(folder, split, "binarized") for split in SPLITS}
            (aside / "binarized.json").write_text(json.dumps({"format": FORMAT, "hash": hashes}))
            os.replace(aside / "binarized.json", folder / "binarized.json")
    except OSError as error:
        raise Refused(
            f"The binarized pictures cannot be written to {folder} ({error.strerror or error}).\n"
            "Make room or name another folder with TASVIR_CACHE."
        ) from None
    return hashes
