"""The panels made of measurements, for one run or several: numbers, precision-recall curves, what was measured while
training, and the training pictures nearest to samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from tasvir.metrics.directions import ENLARGED, MEAN, SOURCE, better, group, order
from tasvir.report.charts import Chart, Line, count, number
from tasvir.report.content import Content
from tasvir.report.figures import PALETTE
from tasvir.report.sheets import Sheet, cut
from tasvir.report.story import Story
from tasvir.report.table import Column, comparable, loss_of, plain, standing

TITLES = {
    "distribution": "Samples against real pictures",
    "classes": "Classes of samples",
    "pairs": "Reconstructions and pairs",
    "likelihood": "Likelihood",
    "latents": "Latent space",
    "memorization": "Memorization",
    "other": "Others",
}
"""Group of metrics (`directions.GROUPS`) → its heading, in the order of the page."""
ARROWS = {"higher": "↑", "lower": "↓", "real": "≈"}
DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "real": "best near what real pictures reach",
}
"""What is better → a sign and words for it."""
BASELINES = {SOURCE: "source as it is", ENLARGED: "bicubic", MEAN: "mean picture"}
"""What the name of a number that a translation should beat begins with → what that is of."""
SKEWED = 0.15
"""By what share of its width an interval's sides may differ to be told as ±: resampling alone leaves as much."""


def measurements(story: Story) -> Content:
    """All numbers of a run in groups; of each way of measuring and step, the newest."""
    rows: dict[str, dict[str, Any]] = {}
    for line in standing(story.measurements):
        key = f"{line['metric']} {comparable(line)} {line.get('passport', {}).get('step')}"
        rows.pop(key, None)
        reference = line.get("passport", {}).get("reference")
        own = reference in (None, story.run.dataset.get("name"))
        rows[key] = measured(line) | {"reference": "" if own else str(reference)}
    for key, row in list(rows.items()):
        for prefix, name in BASELINES.items():
            if key.startswith(prefix) and (beside := rows.get(key.removeprefix(prefix))):
                beside["baselines"].append((name, row["value"]))
                del rows[key]
    expected: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in story.recipe.expect:
        found = expected.setdefault((one.command, one.passport), [])
        found.append((one.metric.replace("_", " "), number(one.value)))
    words = "" if rows else f"Nothing has been measured yet; `tasvir evaluate {story.run.folder}` does."
    ordered = in_groups(rows.values())
    values = {
        "groups": {title: list(members) for title, members in groupby(ordered, lambda row: row["group"])},
        "passports": passports(ordered),
        "legend": legend(ordered),
        "expected": expected,
        "recipe": story.run.config.recipe,
    }
    return Content("measurements", words, values)


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """A line of measurements.jsonl as words."""
    interval = line.get("interval")
    return {
        **named(line["metric"]),
        "value": number(line["value"]),
        "interval": spread(line["value"], interval) if interval else "",
        "real": number(line["real"]) if isinstance(line.get("real"), int | float) else "",
        "n": count(line["n"]) if isinstance(line.get("n"), int) else "",
        "step": count(step) if isinstance(step := line.get("passport", {}).get("step"), int) else "",
        "note": line.get("note") or "",
        "baselines": [],
        "reference": "",
        "drawn": line.get("passport", {}).get("sampling", ""),
        "passport": list(line.get("passport", {}).items()),
    }


def named(metric: str) -> dict[str, str]:
    """A metric for a person: its name, group, arrow, and what the arrow says."""
    direction = better(metric) or ""
    return {
        "metric": metric.replace("_", " "),
        "group": TITLES[group(metric)],
        "arrow": ARROWS.get(direction, ""),
        "direction": DIRECTIONS.get(direction, ""),
    }


def in_groups(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one group beside each other, in the order of `directions.GROUPS`, and of the metrics there."""
    return sorted(rows, key=lambda row: order(row["metric"].replace(" ", "_")))


def legend(rows: Iterable[dict[str, Any]]) -> str:
    """What the arrows of some rows mean."""
    used = {row["arrow"]: row["direction"] for row in rows if row["arrow"]}
    return " · ".join(f"{arrow} {words}" for arrow, words in sorted(used.items()))


def spread(value: float, interval: list[float]) -> str:
    """A 95 % interval as ± half of it, or from its low to its high end where the value is far from its middle."""
    low, high = value - interval[0], interval[1] - value
    if abs(low - high) <= SKEWED * abs(low + high):
        return f"± {number(float(f'{(low + high) / 2:.2g}'))}"
    return f"({number(interval[0])} to {number(interval[1])})"


def passports(rows: Iterable[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What all passports share, and then what else each says, once, under the names of the metrics that carry it."""
    rows = [row for row in rows if row["passport"]]
    told = [{key.replace("_", " "): plain(value) for key, value in row["passport"]} for row in rows]
    shared = [pair for pair in told[0].items() if all(pair in one.items() for one in told)] if len(told) > 1 else []
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row, one in zip(rows, told, strict=True):
        found.setdefault(tuple(pair for pair in one.items() if pair not in shared), []).append(row["metric"])
    own = [(", ".join(dict.fromkeys(metrics)), list(pairs)) for pairs, metrics in found.items() if pairs]
    return [("all of them", shared), *own] if shared else own


def precision_recall(columns: Sequence[Column]) -> Content | None:
    """The curves of Sajjadi et al. 2018; those measured in the same way share a chart."""
    charts: dict[str, tuple[str, dict[str, Line]]] = {}
    for column, color in zip(columns, colors(len(columns)), strict=True):
        for line in standing(column.measurements):
            curve = _curve(line)
            if curve is not None:
                facts = comparable(line)
                title = f"{facts.get('extractor', 'unknown')} features, {_pictures(facts)}"
                _, lines = charts.setdefault(repr(sorted(facts.items(), key=str)), (title, {}))
                lines[column.name] = Line(column.name, *curve, color)
    if not charts:
        return None
    drawn = [
        Chart(title, tuple(lines.values()), "precision", x="recall", bounds=(0, 1, 0, 1))
        for title, lines in charts.values()
    ]
    words = (
        "How much of the samples is like real pictures (precision) at each share of the real ones that they cover "
        "(recall); a perfect model reaches the upper right corner. Sajjadi et al. 2018."
    )
    return Content("charts", words, {"charts": drawn, "small": False, "square": True})


def _curve(line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """(recall, precision) of a line that has a curve, by rising recall."""
    curve = line.get("curve") or {}
    try:
        recall, precision = (np.array(curve[axis], float) for axis in ("recall", "precision"))
    except (KeyError, TypeError, ValueError):
        return None
    if recall.ndim != 1 or recall.shape != precision.shape or not len(recall):
        return None
    order = np.lexsort((-precision, recall))
    return recall[order], precision[order]


def _pictures(facts: dict[str, Any]) -> str:
    return f"{count(facts['pictures'])} pictures" if isinstance(facts.get("pictures"), int) else "pictures not told"


def while_training(columns: Sequence[Column]) -> Content | None:
    """Each metric that was measured at several steps, or while training, against the step; the best step is marked."""
    charts: dict[str, tuple[dict[str, Any], dict[str, dict[int, dict[str, Any]]]]] = {}
    for column in columns:
        for line in (line for line in column.measurements if "table" not in line):
            step = line.get("passport", {}).get("step")
            if isinstance(step, int):
                facts = comparable(line)
                key = f"{line['metric']} {sorted(facts.items(), key=str)}"
                _, found = charts.setdefault(key, (line, {}))
                found.setdefault(column.name, {})[step] = line
    every = dict(zip([column.name for column in columns], colors(len(columns)), strict=True))
    drawn = []
    for line, found in charts.values():
        curves = {
            name: steps
            for name, steps in found.items()
            if len(steps) > 1 or any("during" in one for one in steps.values())
        }
        if curves:
            drawn.append((line["metric"], _course(line, curves, every)))
    if not drawn:
        return None
    drawn.sort(key=lambda pair: order(pair[0]))
    words = "Each metric at the steps at which it was measured in the same way. A dot marks the best step."
    return Content("charts", words, {"charts": [chart for _, chart in drawn], "small": True})


def _course(line: dict[str, Any], found: dict[str, dict[int, dict[str, Any]]], every: dict[str, str]) -> Chart:
    """The chart of one metric: column → step → its line."""
    told = named(line["metric"])
    lines, notes = [], []
    for name, by_step in found.items():
        steps = sorted(by_step)
        values = np.array([by_step[step]["value"] for step in steps], float)
        place = best_place(line["metric"], [by_step[step] for step in steps])
        lines.append(Line(name, np.array(steps, float), values, every[name], place))
        if place is not None and len(steps) > 1:
            owner = f"{name}: best" if len(found) > 1 else "Best"
            notes.append(f"{owner} at step {count(steps[place])}, {number(values[place])}.")
    unit = ", ".join(words for words in (told["direction"], _pictures(comparable(line))) if words)
    return Chart(f"{told['metric']} {told['arrow']}".strip(), tuple(lines), unit, notes=tuple(notes))


def best_place(metric: str, lines: Sequence[dict[str, Any]]) -> int | None:
    """Which of some measurements of one metric is best, the first of equal ones; None where nothing is better."""
    losses = [loss_of(line, better(metric)) for line in lines]
    known = [place for place, loss in enumerate(losses) if loss]
    return min(known, key=lambda place: losses[place] or ()) if known else None


def nearest(story: Story) -> Content | None:
    """The picture that `tasvir evaluate` left of samples beside the training pictures nearest to them."""
    file = story.run.folder / "figures" / "nearest.png"
    if not file.is_file():
        return None
    with Image.open(file) as picture:
        try:
            sheet = cut(picture, story.run.pictures.size)
        except ValueError:  # made otherwise: as it is
            sheet, part = Sheet(np.asarray(picture.convert("RGB"))[None], 1), ""
        else:
            rows = len(sheet.images) // sheet.columns
            shown = min(rows, sheet.columns)
            sheet = replace(sheet, images=sheet.images[: shown * sheet.columns], lead=5)
            part = f" The first {shown} of {rows} rows of figures/{file.name}." if shown < rows else ""
    words = (
        "In the first column, the samples that lie nearest to training pictures; to the right of each, these pictures. "
        f"They should be alike and not the same: a model that copies has memorized. {_memorized(story)}{part}"
    )
    return Content("sheet", words, {"sheet": sheet, "alt": "Samples, each beside the training pictures nearest to it"})


def _memorized(story: Story) -> str:
    """The newest number on memorization, in words."""
    found = [line for line in story.measurements if line["metric"] == "memorization"]
    if not found:
        return ""
    real = f" ({number(found[-1]['real'])} for real ones)" if found[-1].get("real") is not None else ""
    return (
        f"A sample lies nearer to them than an unseen real picture with probability {number(found[-1]['value'])}{real}."
    )


def colors(amount: int) -> list[str]:
    """A colour for each column, the same in all charts of a page."""
    return [PALETTE[position % len(PALETTE)] for position in range(amount)]
