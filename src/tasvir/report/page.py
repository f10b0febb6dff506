"""One self-contained HTML page for one run or several: no script, style, font or picture comes from anywhere else."""

import datetime
import os
import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasvir import __version__
from tasvir.config import Refused, flag
from tasvir.metrics.conditional import at_chance
from tasvir.report import charts, content, panels, sheets
from tasvir.report.figures import PALETTE
from tasvir.report.story import FAILURES, Story
from tasvir.report.table import plain
from tasvir.training.cures import cures
from tasvir.training.verdict import PREFIX, TROUBLE, Referee

BUDGET = 5_000_000
"""Bytes a page may have."""


def report(folders: tuple[Path, ...], out: Path) -> str:
    """Write the page of one run, or of several beside each other, to `out`; returns a sentence about it.

    Raises `Refused` if a folder is no run or `out` cannot be written.
    """
    if len(folders) > 1:
        from tasvir.report.compare import named, page_of

        return page_of(named(folders), out)
    story = Story(folders[0])
    made = panels.make(story, panels.PANELS)
    pictures = [panel for panel in made if panel.group == "pictures"]
    values = {
        "title": f"{story.run.config.recipe} on {story.run.dataset.get('name', story.run.data_words)}",
        "story": story,
        "facts": [*facts(story), *foundation(story, out.parent)],
        "verdict": verdict(story),
        "health": health(story),
        "notes": [*filter(None, [unfinished(story), older(story)]), *story.notes],
        "pictures": list(zip(pictures, spans(len(pictures)), strict=True)),
        "others": beside([panel for panel in made if panel.group != "pictures"]),
    }
    return write("run.html", values, out)


def facts(story: Story) -> list[tuple[str, str, str]]:
    """What is told at the top: (what, value, more about it)."""
    config, counts = story.run.config, story.run.dataset.get("counts", {})
    seen = story.step * config.train.batch_size
    epochs = f"{seen / counts['train']:.3g} times each" if counts.get("train") and seen else ""
    pixels, color = story.run.pictures.size, "grey" if story.run.pictures.channels == 1 else "colour"
    found = [
        ("step", charts.count(story.step), f"of {charts.count(story.steps)}"),
        *best(story),
        ("pictures seen", charts.count(seen), epochs),
        (
            "trained on",
            charts.count(counts["train"]) if "train" in counts else "?",
            f"pictures, {pixels}×{pixels} {color}",
        ),
    ]
    if story.seconds:
        _steps, _speeds = story.series["pictures_per_second"]
        speed = story.step * config.train.batch_size / story.seconds
        found.append(("training time", duration(story.seconds), f"{charts.number(float(f'{speed:.3g}'))} pictures/s"))
    try:
        parameters = sum(parameter.numel() for parameter in story.opened.model.parameters())
        found.append(("parameters", amount(parameters), "in all networks"))
    except FAILURES:
        pass
    machines = dict.fromkeys(line["on"] for line in story.lines if "on" in line)
    if machines:
        found.append(("on", list(machines)[-1].split(",")[0], "; ".join(machines)))
    return [*found, ("seed", str(config.seed), "")]


def best(story: Story) -> list[tuple[str, str, str]]:
    """The step kept as best, and by which measurement; nothing where none was kept."""
    if story.best is None:
        return []
    during = [line for line in story.measurements if "during" in line]
    found = [line for line in during if line.get("passport", {}).get("step") == story.best]
    more = f"by {found[0]['metric'].replace('_', ' ')}, {charts.number(found[0]['value'])}" if found else ""
    return [("best step", charts.count(story.best), more)]


def foundation(story: Story, beside: Path) -> list[tuple[str, Any, Any]]:
    """What the run stands on, with a link to its own report if there is one, from a page in the folder `beside`."""
    from markupsafe import Markup

    below, folder = story.run.config.foundation, story.run.foundation
    if below is None or folder is None:
        return []
    page = folder / "report.html"
    name: Any = below.recipe
    if page.is_file():
        link = Path(os.path.relpath(page, beside)).as_posix()
        name = Markup('<a href="{}">{}</a>').format(quote(link), below.recipe)
    weights = f"step {charts.count(below.step)}, weights {below.weights[:12]}" if below.weights else "not finished"
    return [("stands on", name, f"{weights}, in {below.run}")]


def verdict(story: Story) -> dict[str, Any] | None:
    """How an adversarial training goes, since when, what usually helps, and what was said before; else None."""
    referee = Referee.of(story.lines)
    if referee.verdict is None:
        return None
    name, why, turns = referee.verdict.name, referee.verdict.why, referee.history
    if name == "healthy" and (found := unheeded(story)):
        name, why = "class not heeded", found
    return {
        "name": name,
        "kind": "bad" if name in TROUBLE else "good" if name == "healthy" else "open",
        "why": why,
        "since": turns[-1][0],
        "cures": cures(story.run, name),
        "turns": [(step, said.name, said.name in TROUBLE) for step, said in turns] if len(turns) > 2 else [],
    }


def unheeded(story: Story) -> str:
    """A sentence where the newest label agreement is about that of a generator that does not heed the class."""
    classes = len(story.run.pictures.classes)
    found = [line for line in story.measurements if line["metric"] == "label_agreement"]
    if not found or not at_chance(found[-1]["value"], classes):
        return ""
    step = found[-1].get("passport", {}).get("step")
    at = f" at step {charts.count(step)}" if isinstance(step, int) else ""
    return (
        f"A classifier sees the class that was asked for in {found[-1]['value']:.0%} of the samples{at}; "
        f"by chance it would be {1 / classes:.0%}."
    )


def older(story: Story) -> str:
    """A sentence where the newest checkpoint, which the page shows, is not the one kept as best."""
    newest = story.run.checkpoints()
    return story.run.better(newest[-1].step) if newest else ""


def health(story: Story) -> list[tuple[str, str]]:
    """Sentences of trouble, each with its steps in words."""
    told = []
    for sentence, steps in story.health:
        if sentence.startswith(PREFIX):  # a verdict, which is told by itself
            continue
        at = ", ".join(charts.count(step) for step in steps[:6]) + (
            f" and {len(steps) - 6} more" if len(steps) > 6 else ""
        )
        told.append((sentence, f"step{'s' if len(steps) > 1 else ''} {at}" if steps else ""))
    sentence, known = unheeded(story), verdict(story)
    return [*told, *([(sentence, "")] if sentence and (known is None or known["why"] != sentence) else [])]


def unfinished(story: Story) -> str:
    """A sentence if the run has not all its steps yet."""
    if story.before:
        return f"Training is {story.before}; `tasvir resume` goes on."
    if story.step >= story.steps:
        return ""
    if story.step == 0:
        return f"Training has not made a step that was saved or logged yet; it is to make {charts.count(story.steps)}."
    return f"Training is at step {charts.count(story.step)} of {charts.count(story.steps)}; `tasvir resume` goes on."


def duration(seconds: float) -> str:
    """3 h 12 min, 4 min 5 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if rest else "under 1 s"


def amount(number: int) -> str:
    """A large number in short: 12.3 million."""
    for size, word in ((1_000_000_000, "billion"), (1_000_000, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return charts.count(number)


def spans(number: int) -> list[int]:
    """Twelfths of a wide window's width for so many panels of pictures, so that every row is full."""
    rows = {0: [], 1: [12], 2: [6, 6], 4: [6, 6, 6, 6], 5: [4, 4, 4, 6, 6]}
    return rows.get(number) or [*[4] * (number - number % 3), *[12 // (number % 3 or 1)] * (number % 3)]


def beside(panels: list[content.Made]) -> list[tuple[content.Made, int]]:
    """Panels with their twelfths of the width: two half ones in a row share it, one alone fills it."""
    found: list[tuple[content.Made, int]] = []
    for panel in panels:
        if panel.group == "half" and found and found[-1][0].group == "half" and found[-1][1] == 12:
            found[-1] = (found[-1][0], 6)
            found.append((panel, 6))
        else:
            found.append((panel, 12))
    return found


def write(template: str, values: dict[str, Any], out: Path) -> str:
    """Render within `BUDGET`, pictures and curves getting less and less until it fits, and write."""
    for allowance in (1.0, 0.7, 0.5, 0.3, 0.15, 0.05):
        page = _render(template, values, allowance).encode()
        if len(page) <= BUDGET:
            break
    else:
        raise Refused(
            f"The page would have {len(page) / 1e6:.1f} MB, more than {BUDGET / 1e6:.0f}; report fewer runs at once."
        )
    save(out, page)
    return f"The page is {out} ({size(len(page))}); it opens from disk in any browser."


def save(out: Path, content: bytes) -> None:
    """Write a file and the folders above it. Raises `Refused` if that cannot be done."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None


def size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{max(1, round(number / 1000))} kB"


def _render(template: str, values: dict[str, Any], allowance: float) -> str:
    import jinja2

    now = datetime.datetime.now()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasvir.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"flag": flag, "plain": plain, "codes": codes, "count": charts.count}
    environment.globals |= {
        "embed": partial(sheets.embed, allowance=allowance),
        "embed_films": partial(sheets.embed_films, allowance=allowance),
        "draw": partial(charts.draw, allowance=allowance),
        "palette": PALETTE,
        "now": f"{now.day} {now:%B %Y, %H:%M}",
        "version": __version__,
    }
    return environment.get_template(template).render(values)


def codes(text: str) -> Any:
    """Words between backquotes, and settings as --a.b, as <code>; everything escaped."""
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]+)`|((?<!\S)--[a-z][\w.*-]*\w)", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 3 else escape(part)
        for position, part in enumerate(parts)
        if part
    )
