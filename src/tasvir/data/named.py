"""Sets by name: drawn here, from scikit-learn, or through torchvision, fetched only if they are not there."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.config import DataConfig, Refused
from tasvir.data.arrays import read_idx
from tasvir.data.decoding import LARGEST_FILE, Decoded, Frame, Unreadable, decode, fit
from tasvir.data.items import Items, Source, cache_folder

CARTOONS = 5000, 500
"""Training and test pictures of the built-in set, unless a limit says otherwise."""
CARTOONS_VERSION = 1
CLASS = "hair_style"
"""Attribute of a cartoon that is its class, unless another is asked for."""
TEN_DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def from_arrays(parts: dict[str, tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], size: int) -> Items:
    """`parts` maps train and test, or `all`, to uint8 pictures [N,H,W] or [N,H,W,C] with labels [N]."""
    images = np.concatenate([images if images.ndim == 4 else images[..., None] for images, _ in parts.values()])
    labels = np.concatenate([labels for _, labels in parts.values()])
    splits = [split for split, (images, _) in parts.items() for _ in images]

    def picture(number: int, frame: Frame) -> Decoded:
        return Decoded(images[number] if frame.size == size else fit(images[number], frame), size)

    return Items(
        names=[f"picture {number}" for number in range(len(images))],
        picture=picture,
        contents=lambda number: (images[number].tobytes(),),
        encoded=False,
        labels=labels.astype(int).tolist(),
        classes=classes,
        splits=None if "all" in parts else splits,
        channels=images.shape[-1],
        slow=False,
    )


def _digits(config: DataConfig) -> Source:
    def read() -> Items:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 to 0..255
        return from_arrays({"all": (images, labels)}, TEN_DIGITS, 8)

    notes = ("digits: 1797 handwritten digits of 8x8, from scikit-learn.",)
    return Source("digits", "digits", 1, 8, read, notes, layout="named")


def _cartoons(config: DataConfig) -> Source:
    from tasvir.data.cartoons import ATTRIBUTES, LARGEST, SMALLEST, attributes, cartoon

    attribute = CLASS if config.labels is None else config.labels
    training, testing = max(config.limit or 0, CARTOONS[0]), CARTOONS[1]

    def picture(number: int, frame: Frame) -> Decoded:
        drawn = min(max(frame.size, SMALLEST), LARGEST)
        return Decoded(fit(cartoon(number, drawn)[0], frame), drawn)

    def read() -> Items:
        test = [11 * number + 10 for number in range(testing)]  # every eleventh cartoon is for testing
        train = [number + number // 10 for number in range(training)]
        numbers = train + test
        return Items(
            names=[f"cartoon {number}" for number in numbers],
            picture=lambda place, frame: picture(numbers[place], frame),
            contents=lambda place: (numbers[place].to_bytes(8, "big"),),
            encoded=False,
            labels=[attributes(number, 0)[attribute] for number in numbers] if attribute in ATTRIBUTES else None,
            classes=tuple(ATTRIBUTES.get(attribute, ())),
            splits=["train"] * training + ["test"] * testing,
            channels=3,
        )

    note = f"cartoons: drawn faces, built in, {training} for training and {testing} for testing"
    return Source(
        name="cartoons",
        address=["cartoons", training, attribute],
        fingerprint=[CARTOONS_VERSION, testing],
        size=None,
        read=read,
        notes=(f"{note}; the class is {attribute}." if attribute in ATTRIBUTES else f"{note}.",),
        attributes=tuple(ATTRIBUTES),
        layout="named",
    )


def _root(config: DataConfig) -> Path:
    return (config.root or Path(os.environ.get("TASVIR_DATA") or cache_folder() / "datasets")).expanduser()


def _fetch(name: str, kind: str, root: Path, where: Path, **options: Any) -> Any:
    """A torchvision set, downloaded only if it is not there. Raises `Refused` when it cannot be had."""
    import torchvision  # 5 s: only when it is really needed

    make = getattr(torchvision.datasets, kind)
    try:
        return make(root, download=False, **options)
    except Exception:  # not there, or damaged: torchvision says so in several ways
        waiting = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(30)
            root.mkdir(parents=True, exist_ok=True)
            return make(root, download=True, **options)
        except Exception as error:
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise Refused(
                f"{name} is not in {root} and could not be fetched ({reason}).\n"
                f"Put its files, as torchvision lays them out, into {where}; "
                "or name the folder that has them with --data.root or TASVIR_DATA."
            ) from None
        finally:
            socket.setdefaulttimeout(waiting)


def _torchvision(
    config: DataConfig, name: str, kind: str, size: int, splits: dict[str, dict], classes: tuple[str, ...] = ()
) -> Source:
    """A set that torchvision holds in memory as one array for each split."""
    root = _root(config)

    def read() -> Items:
        parts = {}
        for split, options in splits.items():
            made = _fetch(name, kind, root, root, **options)
            images = np.asarray(made.data)
            images = images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] == 3 else images
            parts[split] = (images, np.asarray(made.targets if hasattr(made, "targets") else made.labels))
        return from_arrays(parts, classes or tuple(map(str, made.classes)), size)

    notes = (f"{name}: with its official training and test split.",)
    return Source(name, [name, str(root.resolve())], 1, size, read, notes, layout="named")


def _torchvision_files(config: DataConfig, name: str, kind: str, splits: dict[str, list[dict]]) -> Source:
    """A set that torchvision keeps as picture files of any size; its parts are taken together as train and test."""
    root = _root(config)

    def read() -> Items:
        paths: list[Path] = []
        labels: list[int] = []
        places: list[str] = []
        classes: tuple[str, ...] = ()
        for split, parts in splits.items():
            for options in parts:
                made = _fetch(name, kind, root, root, **options)
                found, known = _files_of(made)
                paths += found
                labels += known
                places += [split] * len(found)
                classes = tuple(map(str, getattr(made, "classes", ()))) or classes
        numbers = max(labels, default=-1) + 1
        if numbers and len(classes) < numbers:
            classes = tuple(str(number) for number in range(numbers))

        def content(number: int) -> bytes:
            try:
                with paths[number].open("rb") as file:
                    return file.read(LARGEST_FILE)
            except OSError as error:
                raise Unreadable(error.strerror or "cannot be opened") from None

        return Items(
            names=[str(path) for path in paths],
            picture=lambda number, frame: decode(content(number), frame),
            contents=lambda number: (content(number),),
            labels=labels if numbers else None,
            classes=classes if numbers else (),
            splits=None if "" in splits else places,
            sorted=True,
        )

    split = "with its official training and test split" if "" not in splits else "split by content"
    return Source(name, [name, str(root.resolve())], 1, None, read, (f"{name}: {split}.",), layout="named")


def _files_of(made: Any) -> tuple[list[Path], list[int]]:
    """The picture files of a torchvision set, and their labels if it has classes. Its kinds name them differently."""
    for samples in ("samples", "_samples"):
        if hasattr(made, samples):
            return [Path(file) for file, _ in getattr(made, samples)], [
                int(label) for _, label in getattr(made, samples)
            ]
    if hasattr(made, "filename"):  # CelebA
        folder = Path(made.root) / made.base_folder / "img_align_celeba"
        return [folder / file for file in made.filename], []
    files = made._image_files if hasattr(made, "_image_files") else made._images
    return [Path(file) for file in files], [int(label) for label in made._labels]


def _idx(config: DataConfig, name: str, kind: str, classes: tuple[str, ...]) -> Source:
    """MNIST and its kin, read here: torchvision would want to extract the files, also into read-only folders."""
    root = _root(config)
    raw = root / kind / "raw"
    parts = {"train": "train", "test": "t10k"}
    stems = [f"{part}-{what}" for part in parts.values() for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if any(_idx_path(raw, stem) is None for stem in stems):
        _fetch(name, kind, root, raw)
    files = [_idx_path(raw, stem) for stem in stems]
    if None in files:
        raise Refused(f"{raw} lacks some of {', '.join(stems)} (each may end in .gz): put them there.")

    def read() -> Items:
        arrays = [read_idx(file) for file in files if file is not None]
        return from_arrays(dict(zip(parts, zip(arrays[0::2], arrays[1::2], strict=True), strict=True)), classes, 28)

    stats = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file is not None]
    notes = (f"{name}: with its official training and test split.",)
    return Source(name, [name, str(root.resolve())], stats, 28, read, notes, layout="named")


def _idx_path(raw: Path, stem: str) -> Path | None:
    return next((path for path in (raw / stem, raw / f"{stem}.gz") if path.is_file()), None)


TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
SPLIT_WORD = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_TEST = {"train": [{"split": "train"}], "test": [{"split": "test"}]}
THREE_PARTS = {"train": [{"split": "train"}], "test": [{"split": "val"}, {"split": "test"}]}


def _rows(make: Callable[..., Source], **rows: dict[str, Any]) -> dict[str, Callable[[DataConfig], Source]]:
    """Rows of the table: underscores in a name become hyphens."""
    names = {name.replace("_", "-"): options for name, options in rows.items()}
    return {name: partial(make, name=name, **options) for name, options in names.items()}


DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "cartoons": _cartoons,
    "digits": _digits,
    **_rows(
        _idx,
        mnist={"kind": "MNIST", "classes": TEN_DIGITS},
        fashion_mnist={"kind": "FashionMNIST", "classes": CLOTHES},
        kmnist={"kind": "KMNIST", "classes": KUZUSHIJI},
    ),
    **_rows(
        _torchvision,
        cifar10={"kind": "CIFAR10", "size": 32, "splits": TRAIN_FLAG},
        cifar100={"kind": "CIFAR100", "size": 32, "splits": TRAIN_FLAG},
        svhn={"kind": "SVHN", "size": 32, "splits": SPLIT_WORD, "classes": TEN_DIGITS},
        stl10={"kind": "STL10", "size": 96, "splits": SPLIT_WORD},
        usps={"kind": "USPS", "size": 16, "splits": TRAIN_FLAG, "classes": TEN_DIGITS},
    ),
    **_rows(
        _torchvision_files,
        celeba={
            "kind": "CelebA",
            "splits": {"train": [{"split": "train"}], "test": [{"split": "valid"}, {"split": "test"}]},
        },
        dtd={"kind": "DTD", "splits": THREE_PARTS},
        eurosat={"kind": "EuroSAT", "splits": {"": [{}]}},
        fgvc_aircraft={"kind": "FGVCAircraft", "splits": THREE_PARTS},
        flowers102={"kind": "Flowers102", "splits": THREE_PARTS},
        food101={"kind": "Food101", "splits": TRAIN_TEST},
        gtsrb={"kind": "GTSRB", "splits": TRAIN_TEST},
        imagenette={"kind": "Imagenette", "splits": {"train": [{"split": "train"}], "test": [{"split": "val"}]}},
        oxford_pets={
            "kind": "OxfordIIITPet",
            "splits": {"train": [{"split": "trainval"}], "test": [{"split": "test"}]},
        },
    ),
}
