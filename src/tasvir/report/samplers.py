"""Quality against steps and seconds: a table for people, CSV and JSON for programs, figures, a panel of the report."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tasvir.config import SamplingConfig
from tasvir.diffusion.telling import in_words
from tasvir.metrics.directions import better
from tasvir.metrics.samplers import TABLE
from tasvir.report.charts import Chart, Line, number
from tasvir.report.content import Content, Made
from tasvir.report.export import STAR, cell_text
from tasvir.report.figures import PALETTE
from tasvir.report.measurements import named
from tasvir.report.story import Story
from tasvir.report.table import best, comparable

Way = dict[str, Any]
"""A way of drawing: its settings (`drawn`), `evaluations` and `seconds` for a picture, and `values`, metric → cell."""
ACROSS = {"evaluations": "evaluations of the network for a picture", "seconds": "seconds for a picture"}
"""What quality is shown against."""
TITLE = "Quality against steps"
LIMIT = "_infinity"
"""What the names of numbers end in that stand in files, not in tables and figures."""


def ways(lines: Sequence[dict[str, Any]]) -> list[Way]:
    """Lines of `metrics.samplers.quality` by the way of drawing, of each way the newest."""
    found: dict[str, Way] = {}
    for line in lines:
        key = json.dumps(line["drawn"], sort_keys=True)
        way = found.setdefault(key, {"drawn": line["drawn"], "own": "own_sampling" in line["passport"], "values": {}})
        way |= {name: line[name] for name in ACROSS}
        way["values"][line["metric"]] = {name: line.get(name) for name in ("value", "interval", "n", "real")}
    return list(found.values())


def metrics(some: Sequence[Way], limits: bool = False) -> list[str]:
    """The numbers that some way has."""
    every = dict.fromkeys(metric for way in some for metric in way["values"])
    return [metric for metric in every if limits or not metric.endswith(LIMIT)]


def marked(some: Sequence[Way], metric: str) -> list[bool]:
    """Whether each way is the best, or not to be told from it."""
    cells = {str(place): way["values"][metric] for place, way in enumerate(some) if metric in way["values"]}
    chosen = best(cells, better(metric))
    return [str(place) in chosen for place in range(len(some))]


# --- for a terminal, for programs ---


def told(lines: Sequence[dict[str, Any]], name: str) -> str:
    """Head, table and notes."""
    from rich.console import Console
    from rich.table import Table

    some, passport = ways(lines), lines[0]["passport"]
    features = next((one["passport"] for one in lines if one["passport"]["extractor"] != "none"), passport)["extractor"]
    first, amount = passport["seed"], passport["pictures"]
    table = Table(box=None, pad_edge=False)
    guided = len({way["drawn"]["guidance"] for way in some}) > 1
    numbers = metrics(some)
    heads = [*(["guidance"] if guided else []), "steps", "evaluations", "seconds a picture"]
    table.add_column("sampler", no_wrap=True)
    for head in [*heads, *(f"{named(metric)['metric']} {named(metric)['arrow']}".strip() for metric in numbers)]:
        table.add_column(head, justify="right", no_wrap=True)
    stars = {metric: marked(some, metric) for metric in numbers}
    for place, way in enumerate(some):
        cells = [f"{STAR} " * stars[metric][place] + cell_text(way["values"].get(metric)) for metric in numbers]
        drawn = way["drawn"]
        table.add_row(
            drawn["sampler"],
            *([f"{drawn['guidance']:g}"] if guided else []),
            str(drawn["steps"]),
            f"{way['evaluations']:g}",
            f"{way['seconds']:.3g}",
            *cells,
        )
    starred = any(map(any, stars.values()))
    console = Console(file=io.StringIO(), width=max(Console().width, 120), force_terminal=False)
    console.print(table)
    against = f"against {passport['reference']} {passport['split']}"
    known = "" if features == "none" else f", features: {features}"
    guidance = some[0]["drawn"]["guidance"]
    alike = "" if guided or guidance == 1 else f", guidance {guidance:g}"
    alike += next((f", {word}" for word in ("bfloat16", "float16") if f", {word}" in how_drawn(lines[0])), "")
    return "\n".join(
        [
            f"{name}, step {passport['step']}, {against}{known}; {amount:,} pictures a row, seeds {first} to "
            f"{first + amount - 1}{alike}",
            console.file.getvalue().rstrip(),  # type: ignore[attr-defined]
            *([f"{STAR} the best, and whatever its interval does not tell from it"] if starred else []),
        ]
    )


def how_drawn(line: dict[str, Any]) -> str:
    """What a passport says of sampling."""
    passport = line["passport"]
    return passport.get("sampling") or passport.get("own_sampling", "")


def rows(some: Sequence[Way]) -> list[dict[str, Any]]:
    """A flat row for each way: settings, cost, and every number with the ends of its interval."""
    found = []
    for way in some:
        row = {**way["drawn"], "own": way["own"], "evaluations": way["evaluations"], "seconds": way["seconds"]}
        for metric, cell in way["values"].items():
            low, high = cell["interval"] or (None, None)
            row |= {metric: cell["value"], f"{metric}_low": low, f"{metric}_high": high}
        found.append(row)
    for metric in metrics(some):
        for row, star in zip(found, marked(some, metric), strict=True):
            row[f"{metric}_best"] = star
    return found


def as_csv(some: Sequence[Way]) -> str:
    file, table = io.StringIO(), rows(some)
    writer = csv.DictWriter(file, dict.fromkeys(key for row in table for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


def export(lines: Sequence[dict[str, Any]], name: str, out: Path) -> str:
    """Write a figure (.png, .pdf, .svg), the table (.csv) or a page (.html); returns a sentence about it."""
    from tasvir.report.page import save, write

    some, ending = ways(lines), out.suffix.lower()
    if ending == ".csv":
        save(out, as_csv(some).encode())
        return f"The table is {out}."
    if ending in (".html", ".htm"):
        content = _content([(name, lines)])
        values = {"title": f"{TITLE}: {name}", "heading": f"Samplers of {name}", "runs": []}
        return write("comparison.html", {**values, "panels": [Made(TITLE, "wide", content)]}, out)
    file = io.BytesIO()
    figure(some, name).savefig(file, dpi=130, format=ending[1:])
    save(out, file.getvalue())
    return f"The figure is {out}."


ENDINGS = (".png", ".pdf", ".svg", ".csv", ".html", ".htm")


# --- figures ---


def lines_of(some: Sequence[Way]) -> dict[str, list[Way]]:
    """The ways of one sampler with rising steps, by what they have in common in words."""
    found: dict[str, list[Way]] = {}
    for way in some:
        words = in_words(SamplingConfig(**way["drawn"])).split(", ")
        found.setdefault(", ".join([words[0], *words[2:]]), []).append(way)
    return {name: sorted(members, key=lambda way: way["drawn"]["steps"]) for name, members in found.items()}


def figure(some: Sequence[Way], name: str) -> Figure:
    """A row for each metric: against evaluations of the network, and against seconds; a line for each sampler."""
    numbers = metrics(some)
    drawn = Figure(figsize=(11, 4.2 * len(numbers) + 0.6), layout="constrained")
    FigureCanvasAgg(drawn)
    grid = drawn.subplots(len(numbers), 2, squeeze=False)
    for metric, row in zip(numbers, grid, strict=True):
        for axes, across in zip(row, ACROSS, strict=True):
            _plot(axes, some, metric, across)
    grid[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    drawn.suptitle(f"{TITLE}: {name}".replace("$", r"\$"))
    return drawn


def between(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from below `low` to above `high`."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(place for place, step in enumerate(steps) if step <= low * 1.001)
    last = min((place for place, step in enumerate(steps) if step >= high * 0.999), default=len(steps) - 1)
    return steps[first : last + 1]


def _plot(axes: Axes, some: Sequence[Way], metric: str, across: str) -> None:
    values = []
    for place, (label, members) in enumerate(lines_of(some).items()):
        having = [way for way in members if metric in way["values"]]
        cells = [way["values"][metric] for way in having]
        ends = np.array([cell["interval"] or (cell["value"],) * 2 for cell in cells]).T
        heights = np.array([cell["value"] for cell in cells])
        values += heights.tolist()
        color = PALETTE[place % len(PALETTE)]
        axes.errorbar(
            [way[across] for way in having], heights, yerr=np.abs(ends - heights), label=label,
            color=color, marker="o", markersize=4, linewidth=1.5, elinewidth=0.9,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = between(min(way[across] for way in some), max(way[across] for way in some))
    axes.set_xticks(ticks, minor=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_yscale("log")
    told = named(metric)
    axes.set_xlabel(ACROSS[across])
    axes.set_ylabel(f"{told['metric']} ({told['direction']})" if told["direction"] else told["metric"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


# --- the panel ---


def panel(story: Story) -> Content | None:
    """What `tasvir samplers` measured last in one way of measuring, at one step."""
    lines = [line for line in story.measurements if line.get("table") == TABLE]
    if not lines:
        return None
    alike = [line for line in lines if _measure(line) == _measure(lines[-1])]
    return _content([("", alike)])


def _measure(line: dict[str, Any]) -> str:
    """All that must agree for two ways to stand beside each other, whichever metric."""
    facts = comparable(line)
    kept = ("reference", "split", "hash", "size", "reference_pictures", "pictures")
    return json.dumps([line["passport"]["step"], [facts.get(key) for key in kept]])


def _content(named_lines: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Content:
    """A chart for each metric and what it is shown against."""
    charts, passport = [], named_lines[0][1][-1]["passport"]
    some = [way for _, lines in named_lines for way in ways(lines)]
    for metric in metrics(some):
        told = named(metric)
        for across, words in ACROSS.items():
            drawn = tuple(
                Line(
                    name,
                    np.array([way[across] for way in members if metric in way["values"]], float),
                    np.array([way["values"][metric]["value"] for way in members if metric in way["values"]], float),
                )
                for name, members in lines_of(some).items()
            )
            chosen = _least(some, metric)
            title = f"{told['metric']} {told['arrow']}".strip()
            notes = (f"Best: {chosen}.",) if across == "evaluations" and chosen else ()
            charts.append(Chart(title, drawn, told["direction"], x=words, notes=notes))
    words = (
        f"A line for each sampler, a point for each number of steps; {passport['pictures']:,} pictures each, the same "
        f"seeds, step {passport['step']}."
    )
    own = next((in_words(SamplingConfig(**way["drawn"])) for way in some if way["own"]), "")
    words += f" Unasked, the run draws by {own}." if own else ""
    return Content("charts", words, {"charts": charts, "small": False})


def _least(some: Sequence[Way], metric: str) -> str:
    """The cheapest way that is the best or not to be told from it, in words."""
    chosen = [way for way, star in zip(some, marked(some, metric), strict=True) if star]
    if not chosen:
        return ""
    way = min(chosen, key=lambda way: way["evaluations"])
    found = f"{in_words(SamplingConfig(**way['drawn']))}, {number(way['values'][metric]['value'])}"
    return found if len(chosen) == 1 else f"{found}, the cheapest of {len(chosen)} that cannot be told apart"
