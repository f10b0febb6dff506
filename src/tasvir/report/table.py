"""The table of measurements: what may share a row, what is set apart and why, and which numbers of a row are best."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasvir.config import Refused
from tasvir.metrics.directions import Direction, better, loss
from tasvir.report.charts import count

OWN = (
    *("step", "run", "recipe", "averaged", "seed", "generated", "generated_hash"),
    "own_sampling",  # the recipe's answer, as its networks are; what was asked for instead is `sampling`
    *("of", "pairs"),  # how many latent dimensions it has; how many pairs its samples of one class make
    *("machine", "device", "command", "time", "date", "tasvir", "torch"),
)
"""What a passport says of the one run, its pictures and its machine, and not of how was measured."""
ABOUT = ("accuracy", "accuracy_pictures", "classes", "components", "fitted")
"""What an extractor tells of itself."""
FOLLOWS = {
    "reference": ("hash", "weights", *ABOUT),
    "split": ("hash", "reference_pictures"),
    "pictures": ("reference_pictures",),
    "hash": ("weights", *ABOUT),
    "size": ("weights", *ABOUT, "generated_size", "generated_resize"),
    "channels": ("weights", *ABOUT, "generated_channels"),
    "generated_size": ("generated_resize",),
    "extractor": ("weights", "extractor_resize", *ABOUT),
    "weights": ABOUT,
}
"""Field of a passport → fields that differ because it does, and need not be named beside it."""
PHRASES = {
    "reference": "other reference: {}, not {}",
    "hash": "other pictures of it: {}, not {}",
    "size": "{} px, not {}",
    "pictures": "{} pictures, not {}",
    "reference_pictures": "held against {} pictures, not {}",
    "extractor": "other features: {}, not {}",
    "weights": "other weights of the features: {}, not {}",
    "extractor_resize": "resized otherwise for the features: {}, not {}",
    "resize": "made to fit otherwise: {}, not {}",
    "generated_size": "generated pictures of other sizes (px): {}, not {}",
    "generated_channels": "generated pictures of {} channels, not {}",
    "generated_resize": "generated pictures made to fit otherwise: {}, not {}",
    "sampling": "drawn otherwise: {}, not {}",
}
"""Field → how a difference in it is told; others are told by their names."""
UNCHANGED = {"generated_size": "size", "generated_channels": "channels"}
"""Field that is told only of generated pictures that were changed → the field that says it of all others."""
UNSAID = {"sampling": "as runs do unasked"}
"""Field that is told only where it was asked for → what holds elsewhere."""
LONGEST = 60
"""Letters of a value in a reason."""


class Column(Protocol):
    """A run (`Story`), or the measurements of pictures made by other software."""

    name: str

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """Lines as in measurements.jsonl, oldest first."""


@dataclass
class Elsewhere:
    """The measurements of pictures that no run here made."""

    name: str
    measurements: list[dict[str, Any]]
    file: Path

    @classmethod
    def read(cls, file: Path) -> "Elsewhere":
        """From a file that `tasvir evaluate --generated` wrote; named after it. Raises `Refused` if it is none."""
        advice = f"`tasvir evaluate --generated DIR --reference NAME --out {file.name}` writes one."
        if not file.is_file():
            raise Refused(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}.\n{advice}")
        try:
            texts = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{file} cannot be read: {error}.") from None
        lines = []
        for position, text in enumerate(texts, start=1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                line = None
            if is_measurement(line):
                lines.append(line)
            elif text.strip() and (line is not None or position < len(texts)):  # the last may have been cut short
                raise Refused(f"{file} is no file of measurements: its line {position} is none.\n{advice}")
        if not lines:
            raise Refused(f"{file} has no measurements.\n{advice}")
        return cls(file.stem, lines, file)


def is_measurement(line: Any) -> bool:
    """Whether a line of a file is one of measurements.jsonl."""
    return (
        isinstance(line, dict)
        and isinstance(line.get("metric"), str)
        and isinstance(line.get("value"), int | float)
        and isinstance(line.get("passport", {}), dict)
    )


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    """What must agree for two numbers of one metric to stand in one row: the passport's part on how was measured."""
    facts = {key: value for key, value in line.get("passport", {}).items() if key not in OWN}
    return facts if "pictures" in facts or "n" not in line else {**facts, "pictures": line["n"]}


def _key(line: dict[str, Any]) -> str:
    """What two numbers of one row agree in: the reference's name is nothing, where its pixels are known to agree."""
    facts = comparable(line)
    if facts.get("hash"):
        facts = {key: value for key, value in facts.items() if key != "reference"}
    return json.dumps([line["metric"], facts], sort_keys=True)


def standing(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what was measured while training, where the same metric was measured otherwise too; else its newest.

    Without tables of their own (`tasvir samplers`).
    """
    lines = [line for line in lines if "table" not in line]
    after = {line["metric"] for line in lines if "during" not in line}
    newest = {line["metric"]: place for place, line in enumerate(lines) if "during" in line}
    return [
        line
        for place, line in enumerate(lines)
        if "during" not in line or (line["metric"] not in after and newest[line["metric"]] == place)
    ]


def rows_of(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """One row for each metric and way of measuring.

    `metric`; `passport`: what agrees; `values`: of each column its newest measurement; `apart`: None, or in words why
    it does not stand in the metric's main row; `better`: `higher`, `lower`, `real` (nearest to what real pictures
    reach) or None; `best`: the columns marked for it (function `best`).
    """
    rows: dict[str, dict[str, Any]] = {}
    newest: dict[str, tuple[str, int]] = {}
    for column in columns:
        for place, line in enumerate(standing(column.measurements)):
            facts, key = comparable(line), _key(line)
            newest[key] = max(newest.get(key, ("", 0)), (str(line.get("time", "")), place))
            row = rows.setdefault(key, {"metric": line["metric"], "passport": facts, "values": {}, "apart": None})
            told = {key: line.get(key) for key in ("value", "interval", "n", "real", "note")}
            own = {key: value for key, value in line.get("passport", {}).items() if key in OWN}
            row["values"][column.name] = told | own
    found = []
    for metric in dict.fromkeys(row["metric"] for row in rows.values()):
        keys = [key for key, row in rows.items() if row["metric"] == metric]
        keys.sort(key=lambda key: (len(rows[key]["values"]), newest[key]), reverse=True)
        alike = [rows[key] for key in keys]
        for position, row in enumerate(alike):
            if _same_pictures(row, alike[0]):
                row["passport"] |= {key: name for key, name in alike[0]["passport"].items() if key == "reference"}
            if position:
                row["apart"] = difference(row, alike[0])
            elif len(row["values"]) < 2:
                others = [other for other in alike if other["values"].keys() != row["values"].keys()]
                row["apart"] = difference(row, others[0]) if others else f"Only {_names(row)} was measured by it."
            row["better"] = better(metric)
            row["best"] = best(row["values"], row["better"])
        found += alike
    return found


def best(values: dict[str, dict[str, Any]], direction: Direction | None) -> list[str]:
    """Who has the best of comparable values, and whoever's interval overlaps the best one's: the numbers do not tell
    them apart. Nobody where there is nothing to compare.
    """
    losses = {name: found for name, cell in values.items() if (found := loss_of(cell, direction))}
    if len(losses) < 2:
        return []
    _, _, limit = min(losses.values())
    return [name for name, (_, low, _) in losses.items() if low <= limit]


def loss_of(cell: dict[str, Any], direction: Direction | None) -> tuple[float, float, float] | None:
    """A value and both ends of its interval on a scale where less is better; None where nothing is better."""
    value, real = cell["value"], cell.get("real")
    ends = [value, *(cell.get("interval") or ())]
    losses = [found for end in ends if (found := loss(direction, end, real)) is not None]
    if not losses or not math.isfinite(value):
        return None
    reached = direction == "real" and min(ends) <= real <= max(ends)
    return losses[0], 0.0 if reached else min(losses), max(losses)


def difference(row: dict[str, Any], other: dict[str, Any]) -> str:
    """In which fields of their passports two rows of one metric differ, without those that only follow."""
    ours, theirs = row["passport"], other["passport"]
    fields = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]
    if _same_pictures(row, other):
        fields = [field for field in fields if field != "reference"]
    following = {follower for field in fields for follower in FOLLOWS.get(field, ())}
    told, here, there = [], [], []
    for field in fields:
        name = field.replace("_", " ")
        if field in following:
            continue
        one, two = _said(ours, field), _said(theirs, field)
        if one is None:
            here.append(name)
        elif two is None:
            there.append(name)
        else:
            told.append(PHRASES.get(field, name + " {}, not {}").format(_short(one), _short(two)))
    told += [f"not told: {', '.join(here)}"] if here else []
    told += [f"not told there: {', '.join(there)}"] if there else []
    whom = "the newer measurement" if row["values"].keys() == other["values"].keys() else _names(other)
    return f"Measured differently from {whom}: {'; '.join(told)}."


def _said(passport: dict[str, Any], field: str) -> Any:
    found = passport.get(field)
    return passport.get(UNCHANGED.get(field, ""), UNSAID.get(field)) if found is None else found


def _same_pictures(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows are of the same real pixels, whatever these are called."""
    return bool(row["passport"].get("hash")) and row["passport"]["hash"] == other["passport"].get("hash")


def _names(row: dict[str, Any]) -> str:
    return ", ".join(row["values"])


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    text = plain(value)
    if len(text) >= 40 and text.isalnum():  # a hash
        return text[:10] + "…"
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def plain(value: Any) -> str:
    """A setting's or a passport's value for a person."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)
