"""Hugging Face `datasets` folders, parquet and Arrow files of pictures, read in place.

PyArrow alone reads them: no code that comes with a set is run, nothing is unpickled, nothing is fetched.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tasvir.config import Refused, nearest
from tasvir.data.files import ENDINGS
from tasvir.data.layouts import SPLIT_FOLDERS
from tasvir.data.rows import TableFile, arrow, grouped, open_table

if TYPE_CHECKING:
    import pyarrow

PICTURE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "class_label", "class_name", "category", "target", "y")
"""Columns that hold classes, by name; the first that is there is taken."""
MOST_ROWS = 200_000_000
FEW = 16
"""Pictures from which on a folder is one of pictures, whatever tables lie beside them."""
LOOKED_AT = 5000
"""Entries of a folder that are looked at to recognize it."""


def recognized(path: Path) -> bool:
    """Whether `path` is a parquet or Arrow file, a folder of parquet, or one saved by `datasets`. Opens no file."""
    if path.is_file():
        return path.suffix.lower() in (".parquet", ".arrow")
    if not path.is_dir():
        return False
    if _is_saved(path):
        return True
    tables = pictures = looked = 0
    for where, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        if len(Path(where).relative_to(path).parts) >= 3:
            folders.clear()
        for file in files:
            ending = os.path.splitext(file)[1].lower().lstrip(".")
            tables += ending == "parquet"
            pictures += ending in ENDINGS
            looked += 1
            if ending == "tar" or pictures >= FEW:  # tables beside shards or pictures only describe them
                return False
            if looked >= LOOKED_AT:
                return tables > 0
    return tables > 0


def _is_saved(path: Path) -> bool:
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


class Names(Sequence[str]):
    """What the pictures are called: the file and, from 0, the row; made when asked for."""

    def __init__(self, files: Sequence[str], starts: np.ndarray, rows: np.ndarray):
        self.files, self.starts, self.rows = files, starts, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        row = int(self.rows[number])
        file = int(np.searchsorted(self.starts, row, "right")) - 1
        return f"{self.files[file]} row {row - int(self.starts[file])}"


@dataclass(frozen=True)
class Table:
    """The pictures of a table, by number."""

    name: str
    names: Sequence[str]
    content: Callable[[int], bytes]
    """The encoded picture file of a row. Raises `Unreadable`."""
    labels: list[int] | None
    classes: tuple[str, ...]
    splits: list[str] | None
    """`train` or `test` for each picture, where the files' names say so."""
    notes: tuple[str, ...]
    """Plain sentences: what was recognized, which columns were chosen, what was left out."""
    stamps: np.ndarray
    """[count] uint64, changes when the picture's file does."""
    attributes: tuple[str, ...]
    """Columns that can be the class."""
    fingerprint: list[Any]
    """Plain values that change whenever the pictures may have changed."""

    @property
    def count(self) -> int:
        return len(self.names)


def read(path: Path, labels: str | None = None) -> Table:
    """What is in the table at `path`; pictures are read when asked for. `labels` names the column of classes, or none.

    Raises `Refused` when PyArrow is not installed, a file is damaged or missing, there is no column of pictures, or
    `labels` is no column of classes.
    """
    arrow()
    root = path.resolve()
    notes: list[str] = []
    paths, splits = _saved(root, notes) if root.is_dir() and _is_saved(root) else _parquet(root, notes)
    files = [open_table(file, _inside(root, file)) for file in paths]
    features = _features(files[0].schema)
    column = _picture_column(files, features, notes)
    groups = grouped(files, column, f"{re.sub(r'[^A-Za-z0-9._-]+', '-', root.stem)[:40]}", notes)
    counts = [sum(rows for _, rows in file.groups) for file in files]
    total = sum(counts)
    if total > MOST_ROWS:
        raise Refused(f"{path} says it has {total} rows; {MOST_ROWS} is the most that is read.")
    attributes = _attributes(files, features)
    values, classes = _labels(files, features, attributes, labels, notes)
    rows = np.arange(total)
    if values is not None:
        rows = np.flatnonzero(values >= 0)
        if len(rows) < total:
            notes.append(f"{total - len(rows)} rows have no label and are left out; --data.labels none keeps them.")
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    which = np.searchsorted(starts, rows, "right") - 1
    stamped = np.array([file.stamp for file in files], np.uint64)
    return Table(
        name=root.stem,
        names=Names([file.name for file in files], starts, rows),
        content=lambda number: groups.content(int(rows[number])),
        labels=None if values is None else values[rows].tolist(),
        classes=classes,
        splits=None if splits is None else [splits[file] for file in which],
        notes=(f"{root.name}: {len(files)} table{'s' * (len(files) > 1)} with {total} rows.", *notes),
        stamps=stamped[which] + (rows - starts[which]).astype(np.uint64),
        attributes=attributes,
        fingerprint=[[file.name, file.stamp] for file in files],
    )


# Which files, and what they are for


def _inside(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file != root else root.name


def _parquet(root: Path, notes: list[str]) -> tuple[list[Path], list[str] | None]:
    """The files, and what each is for where their names say so."""
    if root.is_file():
        return [root], None
    files = sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() == ".parquet"
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )
    if not files:
        raise Refused(f"There is no parquet file in {root}.")
    names = [_inside(root, file) for file in files]
    _note_missing(names, notes)
    return files, _splits([_split_word(name) for name in names], notes)


def _note_missing(names: list[str], notes: list[str]) -> None:
    """Say where files numbered like train-00001-of-00003 are not all there."""
    found: Counter[tuple[str, int]] = Counter()
    for name in names:
        numbered = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\b.*", name)
        if numbered:
            found[numbered[1], int(numbered[2])] += 1
    for (name, wanted), count in found.items():
        if count < wanted:
            notes.append(f"Only {count} of the {wanted} files of {name} are there.")


def _saved(root: Path, notes: list[str]) -> tuple[list[Path], list[str] | None]:
    """The same for a folder that `datasets` saved: of one split, or of several with their names."""
    if not (root / "dataset_dict.json").is_file():
        return _saved_split(root), None
    named = _json(root / "dataset_dict.json").get("splits")
    if not isinstance(named, list) or not named or not all(_plain(split) for split in named):
        raise Refused(f"{root / 'dataset_dict.json'} names no splits. Save the set again with datasets.")
    files, words = [], []
    for split in named:
        if not (root / split).is_dir():
            raise Refused(f"{root} lacks its split '{split}': there is no folder of that name.\nSave the set again.")
        found = _saved_split(root / split)
        files += found
        words += [_split_word(split) or split] * len(found)
    return files, _splits(words, notes)


def _saved_split(folder: Path) -> list[Path]:
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise Refused(f"{folder} was saved by an old version of datasets. Load it there and save it again.")
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError):
        names = []
    if not names or not all(_plain(name) for name in names):
        raise Refused(f"{folder / 'state.json'} names no data files. Save the set again with datasets.")
    for name in names:
        if not (folder / name).is_file():
            raise Refused(f"{folder} lacks its file {name}. Save or fetch the set again.")
    return [folder / name for name in names]


def _plain(name: object) -> bool:
    """Whether it is the name of something in a folder, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read ({str(error)[:100]}). Save the set again with datasets.") from None


def _split_word(name: str) -> str:
    """The word in a file's name, or else in its folders' from the inside out, that tells a split; "" if none does."""
    for part in reversed(name.split("/")):
        for word in re.split(r"[^a-z0-9]+", part.lower()):
            if word in SPLIT_FOLDERS:
                return word
    return ""


def _splits(words: list[str], notes: list[str]) -> list[str] | None:
    known = [SPLIT_FOLDERS.get(word, "") for word in words]
    if not {"train", "test"} <= set(known):
        return None
    testing = sorted({word for word, split in zip(words, known, strict=True) if split == "test"})
    notes.append(f"Their names say which are for training and which for testing ({', '.join(testing)}).")
    if "" in known:
        others = sorted({word for word, split in zip(words, known, strict=True) if not split})
        notes.append(f"Others ({', '.join(others) or 'without a split in their name'}) are taken for training.")
    return [split or "train" for split in known]


# Columns


def _features(schema: "pyarrow.Schema") -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata say of the columns; nothing where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {column: feature for column, feature in features.items() if isinstance(feature, dict)}


def _picture_column(files: "list[TableFile]", features: dict[str, dict[str, Any]], notes: list[str]) -> str:
    types = arrow().types
    columns = files[0].columns()
    ranks: dict[str, tuple[bool, bool, int]] = {}
    for place, (column, kind) in enumerate(columns.items()):
        struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        binary = kind.field("bytes").type if struct else kind
        if types.is_binary(binary) or types.is_large_binary(binary):
            said = features.get(column, {}).get("_type", "Image" if struct else "Value")
            if said not in ("Image", "Value"):  # sound and films have the same columns
                continue
            image = said == "Image"
            named = PICTURE_COLUMNS.index(column) if column in PICTURE_COLUMNS else len(PICTURE_COLUMNS) + place
            ranks[column] = (not image, column not in PICTURE_COLUMNS, named)
    if not ranks:
        told = ", ".join(f"{column} ({kind})" for column, kind in list(columns.items())[:8])
        raise Refused(
            f"{files[0].name} has no column of pictures; it has {told[:300] or 'no columns'}.\n"
            "A column of pictures holds encoded files: binary, or a struct with a binary field called bytes."
        )
    chosen = min(ranks, key=lambda column: ranks[column])
    for file in files:
        if file.columns().get(chosen) != columns[chosen]:
            raise Refused(f"{file.name} has no column '{chosen}' like that of {files[0].name}: give them one by one.")
    others = sorted(ranks.keys() - {chosen})
    notes.append(f"The pictures are in column '{chosen}'" + (f"; {', '.join(others)} left aside." if others else "."))
    return chosen


def _attributes(files: "list[TableFile]", features: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    types = arrow().types
    found = []
    for column, kind in files[0].columns().items():
        plain = types.is_integer(kind) or types.is_boolean(kind) or types.is_dictionary(kind)
        plain = plain or types.is_string(kind) or types.is_large_string(kind)
        named = column.lower() in LABEL_COLUMNS or features.get(column, {}).get("_type") == "ClassLabel"
        if plain and named and all(column in file.columns() for file in files):
            found.append(column)
    return tuple(sorted(found, key=lambda column: (*LABEL_COLUMNS, column.lower()).index(column.lower())))


def _labels(
    files: "list[TableFile]",
    features: dict[str, dict[str, Any]],
    attributes: tuple[str, ...],
    wanted: str | None,
    notes: list[str],
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """[rows] int64, -1 where a row has no label, and the classes."""
    if wanted is not None and wanted not in ("none", *attributes):
        raise Refused(
            f"There is no column '{wanted}' of classes.{nearest(wanted, attributes)}\n"
            + (f"There is {', '.join(attributes)}; or say none." if attributes else "Leave --data.labels out.")
        )
    if wanted == "none" or not attributes:
        return None, ()
    column = wanted or attributes[0]
    values = [value for file in files for value in file.values(column)]
    names = features.get(column, {}).get("names")
    if isinstance(names, list) and all(isinstance(value, int) for value in values if value is not None):
        classes = tuple(str(name) for name in names)
        found = [value if value is not None and 0 <= value < len(classes) else -1 for value in values]
    else:
        distinct = {value for value in values if value is not None}
        if len(distinct) > max(2, len(values) // 2):
            notes.append(f"Column '{column}' holds no classes: it has {len(distinct)} different values.")
            return None, ()
        ordered = sorted(distinct)
        places: dict[Any, int] = {value: place for place, value in enumerate(ordered)}
        classes = tuple(str(value) for value in ordered)
        found = [places.get(value, -1) for value in values]
    if len(classes) < 2 or max(found, default=-1) < 0:
        notes.append(f"Column '{column}' says nothing: there are no labels in it.")
        return None, ()
    others = [attribute for attribute in attributes if attribute != column]
    choice = f" (--data.labels can also be {', '.join(others)})" if others else ""
    notes.append(f"The {len(classes)} classes are those of column '{column}'{choice}.")
    return np.array(found, np.int64), classes
