"""Several runs beside each other: one table, one page. Numbers share a row only if they were measured the same way."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasvir.config import Refused
from tasvir.report import export, page
from tasvir.report.charts import Chart, Line, count, number
from tasvir.report.content import Content, Made, missing, reason
from tasvir.report.measurements import colors, legend, passports, precision_recall, spread, while_training
from tasvir.report.page import duration, save, write
from tasvir.report.panels import title_and_unit
from tasvir.report.sheets import Film, Sheet
from tasvir.report.story import FAILURES, FIRST_SEED, Story
from tasvir.report.table import Column, Elsewhere, plain, rows_of
from tasvir.report.translations import of_several

BUDGETS = {"film": 2_400_000, "sheet": 1_200_000}
"""Bytes for the pictures of all runs together."""
PAGES = (".html", ".htm")


def compare(folders: tuple[Path, ...], out: Path, as_json: bool) -> str:
    """Write the page of several runs, or their table as CSV or LaTeX, to `out`; returns their measurements as a table
    for a terminal, or as JSON. Among the folders there may be .jsonl files with measurements of other pictures.

    Raises `Refused` if a folder is no run, a file no such file, or `out` cannot be written.
    """
    ending = out.suffix.lower()
    if ending not in (*PAGES, *export.FORMATS):
        raise Refused(f"--out {out} must end in .html for a page, or in {' or '.join(export.FORMATS)} for a table.")
    columns = named(folders)
    rows = rows_of(columns)
    if ending in PAGES:
        said = page_of(columns, out)
    else:
        save(out, export.FORMATS[ending](rows, columns).encode())
        said = f"The table is {out}."
    if as_json:
        return json.dumps(rows, indent=1)
    return f"{export.terminal(rows, columns)}\n{said}"


def named(folders: Sequence[Path]) -> list[Column]:
    """The runs, and after them the files of measurements, each with a name of its own: its folder's or file's, or its
    whole path where two have one name.
    """
    files = [folder for folder in dict.fromkeys(folders) if folder.suffix == ".jsonl" and not folder.is_dir()]
    stories = [Story(folder) for folder in dict.fromkeys(folders) if folder not in files]
    others = [Elsewhere.read(file) for file in files]
    columns: list[Column] = [*stories, *others]
    paths = [*(story.run.folder for story in stories), *files]
    names = [column.name for column in columns]
    for column, path in zip(columns, paths, strict=True):
        if names.count(column.name) > 1:
            column.name = str(path)
    return columns


def page_of(columns: Sequence[Column], out: Path) -> str:
    """Write the comparison page; returns a sentence about it."""
    stories = [column for column in columns if isinstance(column, Story)]
    made = []
    for title, whose, make in PANELS:
        given = stories if whose == "runs" else columns
        try:
            content = make(given) if given else None
        except FAILURES as error:
            content = missing(error)
        if content:
            made.append(Made(title, "wide", content))
    runs = [
        {
            "name": story.name,
            "recipe": story.run.config.recipe,
            "data": story.run.dataset.get("name", story.run.data_words),
            "step": f"step {count(story.step)} of {count(story.steps)}",
            "best": "" if story.best is None else f"best at step {count(story.best)}",
            "time": duration(story.seconds) + " of training" if story.seconds else "",
            "verdict": page.verdict(story),
            "health": page.health(story),
            "command": story.run.command(),
        }
        for story in stories
    ]
    title = " and ".join(column.name for column in columns)
    amounts = (
        (len(stories), "run", "runs"),
        (len(columns) - len(stories), "file of measurements", "files of measurements"),
    )
    heading = " and ".join(f"{amount} {one if amount == 1 else many}" for amount, one, many in amounts if amount)
    return write("comparison.html", {"title": title, "heading": heading, "runs": runs, "panels": made}, out)


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
                labels = story.opened.labels_beside(None, len(real))
                strips.append((story.name, Sheet(story.opened.reconstructions(real, labels), 16, most=most)))
            except FAILURES as error:
                strips.append((story.name, f"This could not be drawn. {reason(error)}"))
    if not strips:
        return None
    words = "Held-out pictures, and below them what each run makes of them."
    if len(able) < len(stories):
        words += f" Left out, as they cannot encode: {', '.join(s.name for s in stories if s not in able)}."
    return Content("strips", words, {"strips": strips})


def translations(stories: list[Story]) -> Content | None:
    """The same held-out pictures, translated by each run."""
    return of_several(stories, BUDGETS["sheet"])


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
        Line(story.name, *story.series[name], color)
        for story, color in zip(stories, colors(len(stories)), strict=True)
        if name in story.series
    )


def measurements(columns: Sequence[Column]) -> Content:
    """The table: what was measured alike, and what is set apart."""
    rows = export.ordered(rows_of(columns))
    if not rows:
        return Content("words", export.NOTHING)
    names = [column.name for column in columns]
    groups: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["apart"], []).append(row)
    values = {
        "together": _tabled(groups.pop(None, []), names),
        "apart": {
            why: _tabled(some, [n for n in names if any(n in row["values"] for row in some)])
            for why, some in groups.items()
        },
        "passports": passports(export.passported(rows)),
        "legend": legend(rows),
        "marked": export.MARKED if any(row["best"] for row in rows) else "",
        "notes": export.notes_of(rows),
    }
    return Content("compared", "Numbers share a row only if they were measured the same way.", values)


def _tabled(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Some rows for the page, with a cell for each name: value, interval, and whether it is marked."""
    told = []
    for row in rows:
        limit = export.real(row)
        cells = [(*_cell(row["values"].get(name)), name in row["best"]) for name in names]
        words = {"metric": row["metric"].replace("_", " "), "real": "" if limit is None else number(limit)}
        told.append(row | words | {"cells": cells})
    return {"names": names, "rows": told}


def _cell(cell: dict[str, Any] | None) -> tuple[str, str]:
    """A value, and its interval."""
    if cell is None:
        return "–", ""
    return number(cell["value"]), spread(cell["value"], cell["interval"]) if cell["interval"] else ""


def settings(stories: list[Story]) -> Content | None:
    """Settings whose values differ; those that only some of the recipes have, and agree in, are kept apart."""
    if len(stories) < 2:
        return None
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
    return plain(story.settings[path][0]) if path in story.settings else NONE


PANELS: tuple[tuple[str, str, Callable[[Any], Content | None]], ...] = (
    ("Samples from the same seeds", "runs", samples),
    ("Reconstructions", "runs", reconstructions),
    ("The same pictures, translated", "runs", translations),
    ("Interpolations", "runs", interpolations),
    ("Measurements", "all", measurements),
    ("Precision and recall", "all", precision_recall),
    ("Measured while training", "all", while_training),
    ("Losses", "runs", curves),
    ("Also watched", "runs", watched),
    ("Settings that differ", "runs", settings),
)
"""Title of each panel of a comparison; whether it is of the runs only, or of other measurements too; its function."""
