"""What was measured of estimators, as a table for people, CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasvir.estimators.distributions import names
from tasvir.estimators.measuring import Measured, Problem


def told(problem: Problem, found: Sequence[Measured], samples: int) -> str:
    """A table for every parameter, of the estimates from that many samples."""
    lines = [f"d/dθ E[f(z)] for f(z) = {problem.f.text}, z {problem.distribution}: {_theta(problem)}"]
    for parameter in dict.fromkeys(row.parameter for row in found):
        rows = [row for row in found if row.parameter == parameter and row.samples == samples]
        if not rows:
            continue
        table = Table(box=None, pad_edge=False)
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right", no_wrap=True)
        for row in rows:
            table.add_row(
                row.estimator,
                "unbiased" if row.unbiased else "biased",
                f"{row.mean:.5g}",
                f"{row.bias:+.2g} ± {row.bias_error:.2g}",
                f"{row.variance:.4g} ± {row.variance_error:.1g}",
                f"{row.seconds * 1e6:.2f}",
                f"{row.evaluations:g}",
                f"{row.variance_time * 1e6:.3g}",
            )
        how = f"exactly {rows[0].exact:.6g}; {samples} samples an estimate, {rows[0].repetitions} estimates"
        lines += ["", f"with respect to the {parameter}: {how}", _text(table)]
    return "\n".join(lines)


HEADINGS = (
    "estimator",
    "said to be",
    "mean",
    "bias ± its error",
    "variance",
    "µs",
    "evaluations of f",
    "variance × µs",
)


def write(found: Sequence[Measured], problem: Problem, folder: Path) -> list[Path]:
    """estimators.csv and estimators.json in a folder."""
    table, whole = folder / "estimators.csv", folder / "estimators.json"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measured)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in found)
    whole.write_text(as_json(problem, found))
    return [table, whole]


def as_json(problem: Problem, found: Sequence[Measured]) -> str:
    about = {**asdict(problem), "parameters": problem.theta.tolist()}
    return json.dumps({**about, "measured": [asdict(row) for row in found]}, indent=1)


def _theta(problem: Problem) -> str:
    labels = names(problem.distribution, len(problem.theta))
    return ", ".join(f"{label} {value:g}" for label, value in zip(labels, problem.theta.tolist(), strict=True))


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=max(Console().width, 120), force_terminal=False)
    console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
