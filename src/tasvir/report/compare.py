"""Several runs beside each other: one table, one page. Numbers share a row only if they were measured the same way."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.report import page
from tasvir.report.charts import Chart, Line, count, number
from tasvir.report.figures import PALETTE
from tasvir.report.page import duration, write
from tasvir.report.panels import FIRST_SEED, Content, Made, measured, passports, reason, spread, title_and_unit
from tasvir.report.sheets import Film, Sheet
from tasvir.report.story import FAILURES, Story

OWN = ("step", "run", "recipe", "seed", "machine", "device", "command", "time", "date", "tasvir", "torch")
"""What a passport says of the one run and its machine, and not of how was measured."""
BUDGETS = {"film": 2_400_000, "sheet": 1_200_000}
"""Bytes for the pictures of all runs together."""


def compare(folders: tuple[Path, ...], out: Path, as_json: bool) -> str:
    """Write the page of several runs to `out`; returns their measurements as a table for a terminal, or as JSON.

    Raises `Refused` if a folder is no run or `out` cannot be written.
    """
    stories = named(folders)
    said = page_of(stories, out)
    rows = rows_of(stories)
    if as_json:
        return json.dumps(rows, indent=1)
    return f"{terminal_table(rows, stories)}\n{said}"


def named(folders: Sequence[Path]) -> list[Story]:
    """The runs, each with a name of its own: its folder's, or its whole path where two folders have one name."""
    stories = [Story(folder) for folder in dict.fromkeys(folders)]
    names = [story.name for story in stories]
    for story in stories:
        if names.count(story.name) > 1:
            story.name = str(story.run.folder)
    return stories


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    """What must agree for two numbers of one metric to stand in one row: the passport's part on how was measured."""
    facts = {key: value for key, value in line.get("passport", {}).items() if key not in OWN}
    return facts if "pictures" in facts or "n" not in line else {**facts, "pictures": line["n"]}


def rows_of(stories: Sequence[Story]) -> list[dict[str, Any]]:
    """One row for each metric and way of measuring: `metric`, `passport` (what agrees), `values` of each run's newest
    measurement, and `apart`: None, or in words why it does not stand in the metric's main row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for story in stories:
        for line in story.measurements:
            facts = comparable(line)
            key = json.dumps([line["metric"], facts], sort_keys=True)
            row = rows.setdefault(key, {"metric": line["metric"], "passport": facts, "values": {}, "apart": None})
            own = {key: value for key, value in line.get("passport", {}).items() if key in OWN}
            row["values"][story.name] = {key: line.get(key) for key in ("value", "interval", "n", "real")} | own
    found = []
    for metric in dict.fromkeys(row["metric"] for row in rows.values()):
        alike = sorted((row for row in rows.values() if row["metric"] == metric), key=lambda row: -len(row["values"]))
        for position, row in enumerate(alike):
            others = alike[1:2] if position == 0 else alike[:1]
            if position or len(row["values"]) < 2:
                row["apart"] = difference(row, others[0]) if others else f"Only {_names(row)} was measured by it."
        found += alike
    return found


def difference(row: dict[str, Any], other: dict[str, Any]) -> str:
    """In which fields of their passports two rows of one metric differ."""
    ours, theirs = row["passport"], other["passport"]
    fields = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]
    if "hash" in fields and {"reference", "split"} & set(fields):
        fields.remove("hash")  # another set has another hash
    told = [f"{field.replace('_', ' ')} {_short(ours.get(field))}, not {_short(theirs.get(field))}" for field in fields]
    return f"Measured differently from {_names(other)}: {'; '.join(told)}."


def _names(row: dict[str, Any]) -> str:
    return ", ".join(row["values"])


def _short(value: Any) -> str:
    text = "not told" if value is None else page.plain(value)
    return text[:10] + "…" if len(text) >= 40 and text.isalnum() else text


def terminal_table(rows: list[dict[str, Any]], stories: Sequence[Story]) -> str:
    """The rows for a terminal; those set apart come last, each with its reason."""
    import io

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "Nothing has been measured yet; `tasvir evaluate RUN` does."
    console = Console(file=io.StringIO(), width=max(80, shutil.get_terminal_size((120, 40)).columns))
    for apart in (False, True):
        chosen = [row for row in rows if bool(row["apart"]) == apart]
        if not chosen:
            continue
        table = Table(box=SIMPLE_HEAD, title="Set apart" if apart else "", title_justify="left", padding=(0, 1))
        table.add_column("metric")
        for story in stories:
            table.add_column(Text(story.name), justify="right", overflow="fold")
        if apart:
            table.add_column("why", ratio=1)
        for row in chosen:
            cells = [_cell(row["values"].get(story.name)) for story in stories]
            table.add_row(Text(row["metric"]), *cells, *([Text(row["apart"])] if apart else []))
        console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())  # type: ignore[attr-defined]


def _cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return "–"
    interval = value["interval"]
    return number(value["value"]) + (f" {spread(value['value'], interval)}" if interval else "")


def page_of(stories: list[Story], out: Path) -> str:
    """Write the comparison page; returns a sentence about it."""
    made = []
    for title, group, make in PANELS:
        try:
            content = make(stories)
        except FAILURES as error:
            content = Content("words", f"This could not be drawn. {reason(error)}")
        if content:
            made.append(Made(title, group, content))
    runs = [
        {
            "name": story.name,
            "recipe": story.run.config.recipe,
            "data": story.run.dataset.get("name", story.run.data_words),
            "summary": story.recipe.summary,
            "step": f"step {count(story.step)} of {count(story.steps)}",
            "time": duration(story.seconds) + " of training" if story.seconds else "",
            "health": page.health(story),
            "command": story.run.command(),
        }
        for story in stories
    ]
    title = " and ".join(story.name for story in stories)
    return write("comparison.html", {"title": title, "runs": runs, "panels": made}, out)


def samples(stories: list[Story]) -> Content | None:
    """Every run's timeline under one slider."""
    shown = {story.name: story.frames() for story in stories if "sample" in story.abilities}
    films = [(name, Film(frames, BUDGETS["film"] // len(shown))) for name, frames in shown.items() if frames]
    left_out = [story.name for story in stories if not shown.get(story.name)]
    if not films:
        return None
    words = "The same seeds in every run. Slide through training, each run by its own share."
    if left_out:
        words += f" Left out, as there are no samples: {', '.join(left_out)}."
    return Content("timeline", words, {"films": films})


def reconstructions(stories: list[Story]) -> Content | None:
    """Held-out pictures through every run that reconstructs; runs of the same pictures stand below one another."""
    able = [story for story in stories if "reconstruct" in story.abilities]
    groups: dict[str, list[Story]] = {}
    for story in able:
        hashes = story.run.dataset.get("hash", {})
        groups.setdefault(f"{hashes.get('test')} {story.run.pictures}", []).append(story)
    strips: list[tuple[str, Sheet | str]] = []
    most = BUDGETS["sheet"] // max(1, len(able) + len(groups))
    for members in groups.values():
        try:
            real = np.asarray(members[0].dataset.test.images[:16])
        except FAILURES as error:
            strips += [(story.name, f"This could not be drawn. {reason(error)}") for story in members]
            continue
        strips.append(("held-out pictures", Sheet(real, 16, most=most)))
        for story in members:
            try:
                strips.append((story.name, Sheet(story.opened.reconstructions(real), 16, most=most)))
            except FAILURES as error:
                strips.append((story.name, f"This could not be drawn. {reason(error)}"))
    if not strips:
        return None
    words = "Held-out pictures, and below them what each run makes of them."
    if len(able) < len(stories):
        words += f" Left out, as they cannot encode: {', '.join(s.name for s in stories if s not in able)}."
    return Content("strips", words, {"strips": strips})


def interpolations(stories: list[Story]) -> Content | None:
    """A few walks through the latent space of every run that has one."""
    able = [story for story in stories if "decode" in story.abilities]
    strips: list[tuple[str, Sheet | str]] = []
    for story in able:
        try:
            walks = story.opened.walks(None, 4, 16, "spherical", FIRST_SEED)
            strips.append((story.name, Sheet(walks, 16, most=BUDGETS["sheet"] // len(able))))
        except FAILURES as error:
            strips.append((story.name, f"This could not be drawn. {reason(error)}"))
    words = "Each row walks through the latent space: between two held-out pictures where a run can encode them."
    return Content("strips", words, {"strips": strips}) if strips else None


def curves(stories: list[Story]) -> Content | None:
    """A chart for each player's term; runs that have the same one share it."""
    names = dict.fromkeys(f"{player}/{term}" for s in stories for player, terms in s.losses.items() for term in terms)
    charts = []
    for name in names:
        having = [story.name for story in stories if name in story.series]
        title = name.replace("/", " · ")
        charts.append(Chart(title if len(having) > 1 else f"{having[0]}: {title}", _overlaid(stories, name), "loss"))
    if not charts:
        return Content("words", "Nothing has been logged yet.")
    words = "Losses of the same player and name share a chart; whether their settings agree is told below."
    return Content("charts", words, {"charts": charts, "small": False})


def watched(stories: list[Story]) -> Content | None:
    """The same for values that are only logged."""
    charts = []
    for name in dict.fromkeys(name for story in stories for name in story.watched):
        lines = _overlaid(stories, name)
        if len(lines) > 1:
            title, unit = title_and_unit(name)
            player = name.rpartition("/")[0]
            charts.append(Chart(f"{player} · {title}" if player else title, lines, unit))
    if not charts:
        return None
    return Content("charts", "Logged, but not trained on.", {"charts": charts, "small": True})


def _overlaid(stories: list[Story], name: str) -> tuple[Line, ...]:
    """A line for each run that has the series; a run has one colour in all charts."""
    return tuple(
        Line(story.name, *story.series[name], PALETTE[position % len(PALETTE)])
        for position, story in enumerate(stories)
        if name in story.series
    )


def measurements(stories: list[Story]) -> Content:
    rows = rows_of(stories)
    if not rows:
        return Content("words", "Nothing has been measured yet; `tasvir evaluate RUN` does.")
    told = [
        {
            "metric": row["metric"].replace("_", " "),
            "cells": [_cell(row["values"].get(story.name)) for story in stories],
            "apart": row["apart"],
            "passport": measured({"metric": "", "value": 0.0, "passport": row["passport"]})["passport"],
        }
        for row in rows
    ]
    words = "Numbers share a row only if they were measured the same way."
    return Content(
        "compared", words, {"names": [s.name for s in stories], "together": [row for row in told if not row["apart"]],
                            "apart": [row for row in told if row["apart"]], "passports": passports(told)}
    )  # fmt: skip


def settings(stories: list[Story]) -> Content:
    """Settings whose values differ; those that only some of the recipes have, and agree in, are kept apart."""
    paths = dict.fromkeys(["recipe", *(path for story in stories for path in story.settings)])
    differing, own = [], []
    for path in paths:
        values = [_setting(story, path) for story in stories]
        if len(set(values) - {NONE}) > 1:
            differing.append((path, values))
        elif NONE in values:
            own.append((path, values))
    if not differing and not own:
        return Content("words", "All settings are the same.")
    words = "All other settings are the same."
    return Content("differing", words, {"names": [story.name for story in stories], "rows": differing, "own": own})


NONE = "·"
"""Stands where a run's recipe has no such setting."""


def _setting(story: Story, path: str) -> str:
    if path == "recipe":
        return story.run.config.recipe
    return page.plain(story.settings[path][0]) if path in story.settings else NONE


PANELS = (
    ("Samples from the same seeds", "wide", samples),
    ("Reconstructions", "wide", reconstructions),
    ("Interpolations", "wide", interpolations),
    ("Measurements", "wide", measurements),
    ("Losses", "wide", curves),
    ("Also watched", "wide", watched),
    ("Settings that differ", "wide", settings),
)
"""Title, group and function of each panel of a comparison."""
