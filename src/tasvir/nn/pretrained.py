"""Published weights of torchvision's networks: fetched once, never unpickled unsafely, or read from a file given."""

import hashlib
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from tasvir.config import Refused


def place(weights: str) -> tuple[str, Path]:
    """The address of published weights and the file that torchvision keeps them in; `weights` is torchvision's name of
    them, such as `VGG19_Weights`, of which its usual ones are taken."""
    import torchvision

    address = getattr(torchvision.models, weights).DEFAULT.url
    return address, Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]


def at_hand(weights: str) -> bool:
    """Whether published weights lie where torchvision keeps them."""
    return place(weights)[1].is_file()


def fetch(weights: str, what: str, instead: str = "") -> Path:
    """See to it that published weights are there: their file, whose name ends in the first digits of its sha256.

    Raises `Refused` where they cannot be had or are not what they should be, saying `what` needs them and, in a
    sentence, what can be done `instead`.
    """
    address, file = place(weights)
    prefix = _prefix(file)
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), prefix)
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash is another
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Refused(
                f"{what} needs {file.name}, which could not be fetched ({reason}).\n"
                f"Download {address} and put it into {file.parent} (TORCH_HOME moves that folder); its sha256 must "
                f"begin with {prefix}.{instead and f' {instead}'}"
            ) from None
    found = _sha256(file)
    if not found.startswith(prefix):
        raise Refused(
            f"{file} is damaged: its sha256 begins with {found[: len(prefix)]} and not with {prefix}.\n"
            f"Delete it and run again to fetch it, or put {address} there yourself."
        )
    return file


def tensors(
    weights: str, shapes: Mapping[str, tuple[int, ...]], given: Path | None, what: str, instead: str = ""
) -> dict[str, Tensor]:
    """Those tensors of published weights that `shapes` names, float32 on the CPU, from the file `given` or from where
    `fetch` has them.

    A file given may be another network's of the same kind, trained otherwise (`is_published` tells); it is .safetensors
    or a file of PyTorch, of which only tensors are read. Raises `Refused` as `fetch` does, and for a file that cannot
    be read or does not hold these tensors.
    """
    file = given or fetch(weights, what, instead)
    found = _read(file)
    missing = [name for name in shapes if name not in found]
    unlike = [name for name, shape in shapes.items() if name in found and tuple(found[name].shape) != shape]
    if missing or unlike:
        name = (missing + unlike)[0]
        wrong = "has no tensor" if missing else f"has the shape {tuple(found[name].shape)} and not {shapes[name]} for"
        raise Refused(f"{file} {wrong} {name}: {what} needs a file like {place(weights)[0]}.")
    if not all(bool(found[name].isfinite().all()) for name in shapes):
        raise Refused(f"{file} holds values that are not finite: it is damaged, or of a training that went wrong.")
    return {name: found[name].float() for name in shapes}


def is_published(weights: str, given: Path) -> bool:
    """Whether a file is the published one, by its sha256."""
    return _sha256(given).startswith(_prefix(place(weights)[1]))


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror or error}.") from None
    except Exception:  # damaged files make the reader raise almost anything
        raise Refused(f"{file} is damaged, or holds more than weights: it was not read.") from None
    if not isinstance(found, dict):
        raise Refused(f"{file} does not hold weights by name.")
    return {str(name): values for name, values in found.items() if isinstance(values, Tensor)}


def _prefix(file: Path) -> str:
    return file.stem.rpartition("-")[2]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
