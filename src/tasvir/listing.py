"""`tasvir recipes`: all recipes, or one with its networks, settings and what it was measured to reach."""

import inspect
import io
import json
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from tasvir.config import Pictures, to_plain
from tasvir.core import Recipe, abilities
from tasvir.data.derive import source_shape
from tasvir.diffusion.telling import in_words
from tasvir.models import RECIPES, build, recipe, usual_foundation


def recipes(name: str | None, as_json: bool) -> str:
    """The text of `tasvir recipes [NAME]`. Raises `Refused` for an unknown name."""
    if name is not None:
        plain = describe(name)
        return json.dumps(plain, indent=1) if as_json else _one(plain)
    every = {known: recipe(known) for known in RECIPES}
    if as_json:
        rows = [
            {"recipe": n, "summary": r.summary, "abilities": abilities(r.model), "needs": needs(r)}
            for n, r in every.items()
        ]
        return json.dumps(rows, indent=1)
    table = Table("recipe", "what it is", "sizes", "can", "measured", box=None, pad_edge=False)
    for known, row in every.items():
        can = ", ".join(abilities(row.model))
        what = f"{row.summary} Needs {needs(row)}." if needs(row) else row.summary
        table.add_row(known, what, row.model.sizes, can, _measured(row))
    return _text(table) + "\n\n`tasvir recipes NAME` tells more of one; `tasvir train NAME --help` lists its settings."


NEEDS = {"labels": "classes", "source": "pairs"}
"""What must stand beside pictures, in a word."""


CLASSES = tuple("0123456789")
"""Of the pictures that networks are told for, where a recipe needs classes."""


def _sources(row: Recipe, size: int) -> Pictures | None:
    """What pictures are made of, where a recipe needs that: in colour and of one size, or what it has made of them."""
    if "source" not in row.model.needs:
        return None
    derive = row.data.derive
    return Pictures(3, size) if derive == "none" else Pictures(*source_shape(derive, 3, size, row.data.scale))


def needs(row: Recipe) -> str:
    """What must stand beside the pictures that a recipe is trained on, in words; empty where nothing must."""
    if row.model.few_labels:
        return "few labels"
    named = NEEDS | ({"source": "two sets of pictures"} if row.model.unpaired else {})
    if row.data.derive != "none":
        named |= {"source": "pairs, which are made of any pictures"}
    return ", ".join(named.get(need, need) for need in row.model.needs)


def classes_of(row: Recipe) -> str:
    """What a recipe that can do without classes does where the pictures have any; empty for all others."""
    if "labels" in row.model.needs or not hasattr(row.config, "conditional"):
        return ""
    if not row.config.conditional:
        return "learns classes where --model.conditional is set; then `tasvir sample --label` draws for them"
    return "class-conditional where the pictures have classes: `tasvir sample --label` draws for them"


def describe(name: str) -> dict[str, Any]:
    """A recipe as plain values; its networks built for the size it trains on by default."""
    found = recipe(name)
    size = found.data.size or told_size(found.summary) or 64
    below = usual_foundation(name)
    classes = CLASSES if "labels" in found.model.needs else ()
    model = build(name, found.config, Pictures(3, size, classes, _sources(found, size)), below)
    networks = [
        {
            "player": player,
            "network": next(key for key, module in model.named_modules() if module is network),
            "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        }
        for player, member in model.players().items()
        for network in member.networks
        if any(p.requires_grad for p in network.parameters())
    ]
    return {
        "recipe": name,
        "summary": found.summary,
        "source": (inspect.getdoc(inspect.getmodule(found.model)) or "").strip(),
        "needs": needs(found),
        "classes": classes_of(found),
        "draws": in_words(found.config.sampling) if found.model.stepwise else None,
        "sizes": found.model.sizes,
        "abilities": abilities(found.model),
        "pictures": f"{size}×{size} colour{f' of {len(classes)} classes' if classes else ''}",
        "networks": networks,
        "stands_on": None if below is None else below.recipe,
        "model": to_plain(found.config),
        "train": to_plain(found.train),
        "published": found.published,
        "expect": [to_plain(one) for one in found.expect],
    }


def told_size(summary: str) -> int | None:
    """The size that a recipe's summary says it is for, where it does: `… of 32 px.`"""
    found = re.search(r"for pictures of (\d+) px", summary)
    return int(found[1]) if found else None


NEEDED = {
    "classes": " beside the pictures, and draws for them: `tasvir sample --label`",
    "few labels": ": --data.labelled says how many pictures keep theirs",
}
"""More about what a recipe needs."""


def _one(plain: dict[str, Any]) -> str:
    networks = Table("player", "network", "trainable parameters", box=None, pad_edge=False)
    for row in plain["networks"]:
        networks.add_row(row["player"], row["network"], f"{row['trainable_parameters']:,}")
    lines = [
        f"{plain['recipe']}: {plain['summary']}",
        plain["source"],
        "",
        f"pictures of {plain['sizes']}; can {', '.join(plain['abilities'])}",
        *([f"needs {plain['needs']}{NEEDED.get(plain['needs'], '')}"] if plain["needs"] else []),
        *([plain["classes"]] if plain["classes"] else []),
        *([f"draws in steps: {plain['draws']}; `tasvir sample --sampler … --steps …`"] if plain["draws"] else []),
        *([f"trains {plain['stands_on']} first and stands on it"] if plain["stands_on"] else []),
        "",
        f"networks for {plain['pictures']}:",
        _text(networks),
        "",
        "measured:" if plain["expect"] else "not measured yet",
    ]
    runs: dict[tuple[str, str], list[str]] = {}
    for one in plain["expect"]:
        runs.setdefault((one["command"], one["passport"]), []).append(f"  {one['metric']:<24}{one['value']:.5g}")
    for (command, passport), numbers in runs.items():
        lines += [*numbers, f"  by `{command}`", f"  on {passport}"]
    lines += [f"published: {plain['published']}"] if plain["published"] else []
    return "\n".join([*lines, "", f"`tasvir train {plain['recipe']} --help` lists all settings with their defaults."])


def _measured(row: Recipe) -> str:
    return ", ".join(f"{one.metric} {one.value:.4g}" for one in row.expect[:2]) or "not yet"


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=max(Console().width, 110), force_terminal=False)
    console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
