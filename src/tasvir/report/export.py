"""The table of measurements as text: for a terminal, as CSV, as LaTeX."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from tasvir import __version__
from tasvir.report.charts import number
from tasvir.report.measurements import ARROWS, in_groups, legend, named, passports, spread
from tasvir.report.table import OWN, Column

STAR = "*"
MARKED = "the best of its row, and whatever its interval does not tell from it"
NOTHING = "Nothing has been measured yet; `tasvir evaluate RUN` does."


def ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their metric for a person beside it, by groups."""
    found = in_groups({**named(row["metric"]), "row": row} for row in rows)
    return [{**one["row"], **{key: one[key] for key in ("group", "arrow", "direction")}} for one in found]


def real(row: dict[str, Any]) -> float | None:
    """What real pictures reach in a row: by one protocol it is the same for all, and told by the last that knows it."""
    known = [cell["real"] for cell in row["values"].values() if cell.get("real") is not None]
    return known[-1] if known else None


def notes_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each note once: (whose, note)."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, cell in row["values"].items():
            if cell.get("note"):
                found.setdefault(cell["note"], []).append(f"{row['metric'].replace('_', ' ')} of {name}")
    return [(", ".join(whose), note) for note, whose in found.items()]


def cell_text(cell: dict[str, Any] | None) -> str:
    """A value and its interval."""
    if cell is None:
        return "–"
    interval = cell.get("interval")
    return number(cell["value"]) + (f" {spread(cell['value'], interval)}" if interval else "")


def terminal(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """The rows for a terminal; those set apart come last, their reasons below with letters. The best are starred."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return NOTHING
    rows = ordered(rows)
    letters: dict[str, str] = {}
    console = Console(file=io.StringIO(), width=max(80, shutil.get_terminal_size((120, 40)).columns))
    for apart in (False, True):
        chosen = [row for row in rows if bool(row["apart"]) == apart]
        if not chosen:
            continue
        reached = any(real(row) is not None for row in chosen)
        table = Table(box=SIMPLE_HEAD, title="Set apart" if apart else "", title_justify="left", padding=(0, 1))
        table.add_column("metric")
        for column in columns:
            table.add_column(Text(column.name), justify="right", overflow="fold")
        if reached:
            table.add_column("real", justify="right")
        for row in chosen:
            cells = [_starred(row, column.name) for column in columns]
            limit = real(row)
            last = ["" if limit is None else number(limit)] if reached else []
            letter = f"({_letter(row['apart'], letters)})" if apart else ""
            name = " ".join(filter(None, [row["metric"], row["arrow"], letter]))
            table.add_row(*map(Text, [name, *cells, *last]))
        console.print(table)
    text = [line.rstrip() for line in console.file.getvalue().strip("\n").splitlines()]  # type: ignore[attr-defined]
    text += [f"  ({letter}) {why}" for why, letter in letters.items()]
    text += ["", legend(rows)]
    if any(row["best"] for row in rows):
        text.append(f"{STAR} {MARKED}")
    return "\n".join([*text, *(f"{whose}: {note}" for whose, note in notes_of(rows))])


def _starred(row: dict[str, Any], name: str) -> str:
    return (f"{STAR} " if name in row["best"] else "") + cell_text(row["values"].get(name))


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """A line for each metric, way of measuring and run; after its numbers, its passport (all fields of any)."""
    lines = []
    for row in ordered(rows):
        for name in (column.name for column in columns if column.name in row["values"]):
            cell = row["values"][name]
            low, high = cell["interval"] or (None, None)
            line = {"metric": row["metric"], "run": name, "value": cell["value"], "low": low, "high": high}
            line |= {"n": cell["n"], "real": cell["real"], "apart": row["apart"], "note": cell["note"]}
            facts = row["passport"] | {key: cell[key] for key in OWN if key in cell}
            lines.append(line | {f"passport_{key}" if key in line else key: value for key, value in facts.items()})
    file = io.StringIO()
    head = ["metric", "run", "value", "low", "high", "n", "real", "apart", "note"]
    writer = csv.DictWriter(file, dict.fromkeys([*head, *(key for line in lines for key in line)]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in line.items()} for line in lines)
    return file.getvalue()


def _field(value: Any) -> Any:
    """Words and numbers as they are, nothing as nothing, other values as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_latex(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    r"""A `tabular` for booktabs, to be \input: runs as columns, metrics as rows, the best in bold.

    Rows set apart have a second one; reasons and notes stand below, with letters.
    """
    rows = ordered(rows)
    letters: dict[str, str] = {}
    passport = [f"% {metrics}: {'; '.join(map(' '.join, facts))}" for metrics, facts in passports(passported(rows))]
    words = [
        f"% Made by tasvir {__version__}; needs \\usepackage{{booktabs}}. Intervals are of 95 %.",
        f"% Bold: {MARKED}.",
        *(" ".join(line.split()) for line in passport),
    ]
    for apart in (False, True):
        chosen = [row for row in rows if bool(row["apart"]) == apart]
        if chosen:
            if apart and len(chosen) < len(rows):
                words += ["\\par\\medskip", "% set apart: not comparable with the rows above"]
            words += _tabular(chosen, [column.name for column in columns], letters)
    for text, letter in letters.items():
        words.append(f"\\par{{\\footnotesize {_raised(letter)}~{escaped(text)}\\par}}")
    return "\n".join(words) + "\n"


def _tabular(rows: Sequence[dict[str, Any]], names: Sequence[str], letters: dict[str, str]) -> list[str]:
    reached = any(real(row) is not None for row in rows)
    head = ["metric", *(escaped(name) for name in names), *(["real pictures"] if reached else [])]
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\toprule", " & ".join(head) + " \\\\", "\\midrule"]
    for row in rows:
        arrow = SIGNS.get(row["arrow"], "")
        cells = [escaped(row["metric"].replace("_", " ")) + arrow + _raised(_letter(row["apart"], letters))]
        for name in names:
            cell = row["values"].get(name)
            if cell is None:
                cells.append("--")
                continue
            text = latex_number(cell["value"], cell.get("interval"))
            text = f"\\textbf{{{text}}}" if name in row["best"] else text
            cells.append(text + _raised(_letter(cell.get("note"), letters)))
        if reached:
            limit = real(row)
            cells.append("" if limit is None else latex_number(limit, None))
        lines.append(" & ".join(cells) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _letter(text: str | None, letters: dict[str, str]) -> str:
    """The letter that stands for a text below the table, the same for the same text; none for none."""
    if not text:
        return ""
    place = len(letters)
    first = chr(ord("a") + place // 26 - 1) if place >= 26 else ""
    return letters.setdefault(text, first + chr(ord("a") + place % 26))


def _raised(letter: str) -> str:
    return f"\\textsuperscript{{{letter}}}" if letter else ""


def passported(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their passports as pairs, as `passports` takes them."""
    return [{"metric": row["metric"].replace("_", " "), "passport": list(row["passport"].items())} for row in rows]


SIGNS = {ARROWS["higher"]: " $\\uparrow$", ARROWS["lower"]: " $\\downarrow$", ARROWS["real"]: " $\\approx$"}
SPECIAL = {letter: f"\\{letter}" for letter in "_%&#{}$"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "…": "\\ldots{}",
    "–": "--",
    "—": "---",
    "\u202f": "\\,",
    "\u00a0": "~",
    "×": "$\\times$",
    "±": "$\\pm$",
    "−": "$-$",
    "≈": "$\\approx$",
    "∞": "$\\infty$",
}
"""Character → how LaTeX writes it; other letters are left as they are, in UTF-8."""


def escaped(text: str) -> str:
    """Any words as LaTeX's."""
    return "".join(SPECIAL.get(letter, letter) for letter in text.translate(CONTROLS))


CONTROLS = dict.fromkeys((*range(32), 127), " ")


def latex_number(value: float, interval: Sequence[float] | None) -> str:
    r"""A value, with half its interval to two digits and as many decimals as that has; without one, four digits."""
    if not math.isfinite(value):
        return "--"
    half = (interval[1] - interval[0]) / 2 if interval else 0.0
    half = float(f"{half:.1e}") if math.isfinite(half) else 0.0
    size = max(abs(value), half)
    power = math.floor(math.log10(size)) if size else 0
    power = power if power < -4 or power > 6 else 0
    scale = 10.0**-power
    digits = 1 - math.floor(math.log10(half * scale)) if half else 3 - math.floor(math.log10(size * scale or 1))
    shown = _digits(value * scale, digits) if half else _trimmed(_digits(value * scale, digits))
    text = f"{shown} $\\pm$ {_digits(half * scale, digits)}" if half else shown
    if power:
        text = f"({text})" if half else text
        text += f" $\\times 10^{{{power}}}$"
    return text


def _digits(value: float, decimals: int) -> str:
    """With so many decimals, thousands apart from ten thousand on, and a minus that is one."""
    text = f"{round(abs(value), decimals):,.{max(0, decimals)}f}"
    text = text.replace(",", "\\,") if abs(value) >= 10_000 else text.replace(",", "")
    return ("$-$" if value < 0 and float(text.replace("\\,", "")) else "") + text


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


FORMATS: dict[str, Callable[[Sequence[dict[str, Any]], Sequence[Column]], str]] = {".csv": as_csv, ".tex": as_latex}
"""Ending of a file → the table in it."""
