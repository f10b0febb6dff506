"""Sets by name, folders and zips of pictures: what is in there, found without decoding any of it."""

import gzip
import hashlib
import os
import socket
import stat
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.config import DataConfig, Refused, nearest
from tasvir.data.decoding import LARGEST_FILE, Unreadable, decode, fit

ENDINGS = frozenset(("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm"))
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation"), "test"),
}
CARTOONS = 5000, 500
"""Training and test pictures of the built-in set, unless a limit says otherwise."""
CARTOONS_VERSION = 1
TEN_DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@dataclass(frozen=True)
class Items:
    """The pictures of a source, by number; none of them decoded yet."""

    names: list[str]
    picture: Callable[[int, int], tuple[np.ndarray, int]]
    """Number and size to ([size,size,1 or 3] uint8, the picture's own shorter side). Raises `Unreadable`."""
    content: Callable[[int], bytes]
    """What a picture's place in train or test is decided by. Raises `Unreadable`."""
    labels: list[int] | None = None
    classes: tuple[str, ...] = ()
    splits: list[str] | None = None
    """`train` or `test` for each picture, where that is settled."""
    channels: int | None = None
    """Where it is known beforehand."""
    slow: bool = True
    """Whether several cores are worth their start."""
    sorted: bool = False
    """Whether neighbours are alike, as files in class folders are: every split is then put into another order."""


@dataclass(frozen=True)
class Source:
    """Where pictures come from, recognized but not read."""

    name: str
    fingerprint: Any
    """Plain values that change whenever the pictures may have changed."""
    size: int | None
    """Height and width that the set has of its own; None when any will do."""
    read: Callable[[], Items]
    notes: tuple[str, ...] = ()
    """Plain sentences: what was recognized."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Files that cannot even be listed, with the reason."""
    attributes: tuple[str, ...] = ()
    """What can be the class, for sets that leave the choice."""


def find(config: DataConfig) -> Source:
    """The set, folder or zip that `config.source` names. Raises `Refused` when there is none."""
    name = config.source
    path = absolute(name)
    if name in DATASETS:
        source = DATASETS[name](config)
        if path.exists():
            note = f"The set called {name} is used, not what lies at that path: write ./{name} for that."
            source = replace(source, notes=(*source.notes, note))
    elif path.is_dir():
        source = _folder(path)
    elif path.is_file():
        source = _zip(path)
    else:
        raise Refused(
            f"There is no data set or path '{name}'.{nearest(name, DATASETS)}\n"
            f"Give the path of a folder or zip of pictures, or one of {', '.join(DATASETS)}."
        )
    if config.labels in (None, "none") or config.labels in source.attributes:
        return source if config.labels != "none" else _unlabelled(source)
    if source.attributes:
        raise Refused(
            f"{source.name} has no attribute '{config.labels}'.{nearest(config.labels, source.attributes)}\n"
            f"It has {', '.join(source.attributes)}; or say none."
        )
    raise Refused(
        f"--data.labels is '{config.labels}', but {source.name} has no attributes to choose from.\n"
        "Leave it out for the set's own classes, or say none for no classes."
    )


def absolute(name: str) -> Path:
    """A path as it was typed, from the root. Raises `Refused` for what can be no path."""
    try:
        path = Path(os.path.expanduser(name)).resolve()
        path.exists()
    except (OSError, ValueError) as error:
        raise Refused(f"{name[:80]!r} is no path: {getattr(error, 'strerror', None) or error}.") from None
    if not name.strip():
        raise Refused("--data is empty: give the path of a folder or zip of pictures, or a set by name.")
    return path


def _unlabelled(source: Source) -> Source:
    def read() -> Items:
        return replace(source.read(), labels=None, classes=())

    return replace(source, read=read, fingerprint=[source.fingerprint, "none"])


def cache_folder() -> Path:
    """Where tasvir keeps what it can make again: TASVIR_CACHE, or .cache/tasvir in the home folder."""
    return Path(os.environ.get("TASVIR_CACHE") or Path.home() / ".cache" / "tasvir").expanduser()


# Sets held as arrays


def _from_arrays(parts: dict[str, tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], size: int) -> Items:
    """`parts` maps train and test, or `all`, to uint8 pictures [N,H,W] or [N,H,W,C] with labels [N]."""
    images = np.concatenate([images if images.ndim == 4 else images[..., None] for images, _ in parts.values()])
    labels = np.concatenate([labels for _, labels in parts.values()])
    splits = [split for split, (images, _) in parts.items() for _ in images]

    def picture(number: int, wanted: int) -> tuple[np.ndarray, int]:
        return (images[number] if wanted == size else fit(images[number], wanted)), size

    return Items(
        names=[f"picture {number}" for number in range(len(images))],
        picture=picture,
        content=lambda number: images[number].tobytes(),
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
        return _from_arrays({"all": (images, labels)}, TEN_DIGITS, 8)

    return Source("digits", ["digits", 1], 8, read, ("digits: 1797 handwritten digits of 8x8, from scikit-learn.",))


def _cartoons(config: DataConfig) -> Source:
    from tasvir.data.cartoons import ATTRIBUTES, LARGEST, SMALLEST, attributes, cartoon

    attribute = "hair_style" if config.labels is None else config.labels
    training, testing = max(config.limit or 0, CARTOONS[0]), CARTOONS[1]

    def picture(number: int, size: int) -> tuple[np.ndarray, int]:
        drawn = min(max(size, SMALLEST), LARGEST)
        return fit(cartoon(number, drawn)[0], size), drawn

    def read() -> Items:
        test = [11 * number + 10 for number in range(testing)]  # every eleventh cartoon is for testing
        train = [number + number // 10 for number in range(training)]
        numbers = train + test
        return Items(
            names=[f"cartoon {number}" for number in numbers],
            picture=lambda place, size: picture(numbers[place], size),
            content=lambda place: numbers[place].to_bytes(8, "big"),
            labels=[attributes(number, 0)[attribute] for number in numbers] if attribute in ATTRIBUTES else None,
            classes=tuple(ATTRIBUTES.get(attribute, ())),
            splits=["train"] * training + ["test"] * testing,
            channels=3,
        )

    note = f"cartoons: drawn faces, built in, {training} for training and {testing} for testing"
    return Source(
        name="cartoons",
        fingerprint=["cartoons", CARTOONS_VERSION, training, testing, attribute],
        size=None,
        read=read,
        notes=(f"{note}; the class is {attribute}." if attribute in ATTRIBUTES else f"{note}.",),
        attributes=tuple(ATTRIBUTES),
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
    config: DataConfig, kind: str, size: int, splits: dict[str, dict], classes: tuple[str, ...] = ()
) -> Source:
    name, root = config.source, _root(config)

    def read() -> Items:
        parts = {}
        for split, options in splits.items():
            made = _fetch(name, kind, root, root, **options)
            images = np.asarray(made.data)
            images = images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] == 3 else images
            parts[split] = (images, np.asarray(made.targets if hasattr(made, "targets") else made.labels))
        return _from_arrays(parts, classes or tuple(made.classes), size)

    fingerprint = [name, 1, str(root.resolve())]
    return Source(name, fingerprint, size, read, (f"{name}: with its official training and test split.",))


def _idx(config: DataConfig, kind: str, classes: tuple[str, ...]) -> Source:
    """MNIST and its kin, read here: torchvision would want to extract the files, also into read-only folders."""
    name, root = config.source, _root(config)
    raw = root / kind / "raw"
    parts = {"train": "train", "test": "t10k"}
    stems = [f"{part}-{what}" for part in parts.values() for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if any(_idx_path(raw, stem) is None for stem in stems):
        _fetch(name, kind, root, raw)
    files = [_idx_path(raw, stem) for stem in stems]
    if None in files:
        raise Refused(f"{raw} lacks some of {', '.join(stems)} (each may end in .gz): put them there.")

    def read() -> Items:
        arrays = [_read_idx(file) for file in files if file is not None]
        return _from_arrays(dict(zip(parts, zip(arrays[0::2], arrays[1::2], strict=True), strict=True)), classes, 28)

    stats = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file is not None]
    return Source(name, [name, 1, stats], 28, read, (f"{name}: with its official training and test split.",))


def _idx_path(raw: Path, stem: str) -> Path | None:
    return next((path for path in (raw / stem, raw / f"{stem}.gz") if path.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes (two zeros, type 8, number of dimensions; the dimensions; the values), plain or gzipped."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
        if data[:3] != b"\0\0\x08":
            raise ValueError("it is no IDX file of bytes")
        shape = np.frombuffer(data, ">i4", data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise Refused(f"{path} cannot be read ({error}). Fetch it again.") from None


TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
SPLIT_WORD = {"train": {"split": "train"}, "test": {"split": "test"}}

DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "cartoons": _cartoons,
    "digits": _digits,
    "mnist": partial(_idx, kind="MNIST", classes=TEN_DIGITS),
    "fashion-mnist": partial(_idx, kind="FashionMNIST", classes=CLOTHES),
    "kmnist": partial(_idx, kind="KMNIST", classes=KUZUSHIJI),
    "cifar10": partial(_torchvision, kind="CIFAR10", size=32, splits=TRAIN_FLAG),
    "cifar100": partial(_torchvision, kind="CIFAR100", size=32, splits=TRAIN_FLAG),
    "svhn": partial(_torchvision, kind="SVHN", size=32, splits=SPLIT_WORD, classes=TEN_DIGITS),
    "stl10": partial(_torchvision, kind="STL10", size=96, splits=SPLIT_WORD),
    "usps": partial(_torchvision, kind="USPS", size=16, splits=TRAIN_FLAG, classes=TEN_DIGITS),
}


# Folders and zips


@dataclass
class _Listing:
    """What lies in a folder or zip."""

    pictures: list[tuple[str, int, int]] = field(default_factory=list)  # name with /, bytes, time of change
    others: Counter[str] = field(default_factory=Counter)  # endings of files that are no pictures
    unlisted: list[tuple[str, str]] = field(default_factory=list)  # what cannot be looked into, and why

    def add(self, name: str, size: int, changed: int) -> None:
        ending = os.path.splitext(name)[1].lower().lstrip(".")
        if ending in ENDINGS:
            self.pictures.append((name, size, changed))
        else:
            self.others[f".{ending}" if ending else "without an ending"] += 1


def _hidden(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))


def _folder(path: Path) -> Source:
    root, listing, seen = path.resolve(), _Listing(), set()

    def unlisted(error: OSError) -> None:
        listing.unlisted.append((str(error.filename), error.strerror or "cannot be listed"))

    for where, folders, files in os.walk(root, onerror=unlisted, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(folder for folder in folders if not _hidden(folder))
        inside = "" if Path(where) == root else Path(where).relative_to(root).as_posix() + "/"
        for file in sorted(files):
            if _hidden(file):
                continue
            try:
                about = os.stat(os.path.join(where, file))
            except OSError as error:
                listing.unlisted.append((inside + file, error.strerror or "cannot be looked at"))
                continue
            if stat.S_ISREG(about.st_mode):
                listing.add(inside + file, about.st_size, about.st_mtime_ns)

    def content(name: str) -> bytes:
        try:
            with open(root / name, "rb") as file:
                return file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise Unreadable(error.strerror or "cannot be opened") from None

    return _of_files(path.name or str(root), "folder", root, listing, content)


def _zip(path: Path) -> Source:
    root, listing = path.resolve(), _Listing()
    try:
        with zipfile.ZipFile(root) as archive:
            for entry in archive.infolist():  # in place: an entry called ../x is only a name
                if not entry.is_dir() and not any(_hidden(part) for part in entry.filename.split("/")):
                    listing.add(entry.filename, entry.file_size, entry.CRC)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise Refused(
            f"{path} is neither a folder nor a zip that can be read ({error}).\nGive a folder or a zip of pictures."
        ) from None

    handles: dict[tuple[int, int], zipfile.ZipFile] = {}  # a file's position is shared: one for each process and thread

    def content(name: str) -> bytes:
        me = os.getpid(), threading.get_ident()
        try:
            if me not in handles:
                handles[me] = zipfile.ZipFile(root)
            with handles[me].open(name) as file:
                return file.read(LARGEST_FILE + 1)
        except Exception as error:  # wrong checksum, password, unknown compression
            raise Unreadable(f"cannot be taken out of the zip: {error}") from None

    return _of_files(path.stem, "zip", root, listing, content)


def _of_files(name: str, kind: str, root: Path, listing: _Listing, load: Callable[[str], bytes]) -> Source:
    listing.pictures.sort()
    names = [picture[0] for picture in listing.pictures]
    others = ", ".join(f"{count} {ending}" for ending, count in sorted(listing.others.items()))
    if not names:
        what = f"only other files ({others})" if others else "nothing"
        raise Refused(
            f"There are no pictures in {root}: {what} was found.\nPictures end in {', '.join(sorted(ENDINGS))}."
        )
    splits, labels, classes, notes = _recognize(names)
    if others:
        notes.append(f"{sum(listing.others.values())} other files were left aside: {others}.")

    def content(number: int) -> bytes:
        data = load(names[number])
        if len(data) > LARGEST_FILE:
            raise Unreadable(f"larger than {LARGEST_FILE >> 20} MiB")
        return data

    def read() -> Items:
        return Items(
            names=names,
            picture=lambda number, size: decode(content(number), size),
            content=content,
            labels=labels,
            classes=classes,
            splits=splits,
            sorted=True,
        )

    digest = hashlib.sha256(repr(listing.pictures).encode()).hexdigest()
    return Source(
        name=name,
        fingerprint=[kind, str(root), digest],
        size=None,
        read=read,
        notes=(f"{name}: a {kind} with {len(names)} picture files.", *notes),
        skipped=tuple(listing.unlisted),
    )


def _recognize(names: list[str]) -> tuple[list[str] | None, list[int] | None, tuple[str, ...], list[str]]:
    """Split and label of every file, the classes, and sentences about them, from how the folders are laid out."""
    notes: list[str] = []
    parts = [name.split("/") for name in names]
    parts = _without_common(parts)
    splits: list[str] | None = [SPLIT_FOLDERS.get(part[0].lower(), "") if len(part) > 1 else "" for part in parts]
    if set(splits or ()) == {"train", "test"}:
        notes.append(f"The folders {_list(part[0] for part in parts)} are taken as training and test split.")
        parts = _without_common([part[1:] for part in parts])
    else:
        splits = None
    classes = tuple(sorted({part[0] for part in parts})) if all(len(part) > 1 for part in parts) else ()
    outside = [part[0] for part in parts if len(part) == 1]
    if outside and len(outside) < len(parts):
        notes.append(
            f"There are no classes: {len(outside)} pictures lie outside the sub-folders ({_list(outside, 3)})."
        )
    if len(classes) < 2:
        return splits, None, (), notes
    notes.append(f"The {len(classes)} sub-folders are taken as classes: {_list(classes)}.")
    places = {name: place for place, name in enumerate(classes)}
    return splits, [places[part[0]] for part in parts], classes, notes


def _without_common(parts: list[list[str]]) -> list[list[str]]:
    """Paths without the folders that all of them lie in."""
    levels = zip(*(part[:-1] for part in parts), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return [part[common:] for part in parts]


def _list(words: Iterable[str], most: int = 12) -> str:
    unique = sorted(set(words))
    return ", ".join(unique[:most]) + (f" and {len(unique) - most} more" if len(unique) > most else "")
