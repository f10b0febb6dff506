"""What usually helps an adversarial training in trouble, as settings to train again with."""

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tasvir.config import as_flag
from tasvir.core import abilities
from tasvir.models import recipe
from tasvir.runs import Run
from tasvir.training.verdict import Name

Settings = dict[str, Any]
"""Paths below `model`, each with its value."""


@dataclass(frozen=True)
class Cure:
    """Settings that the run's recipe has, and that were other ones in the run."""

    what: str
    """What they do, in a few words."""
    words: tuple[str, ...]
    """The words of the command line that make the change."""
    command: str
    """A whole command line: the run's own, with these settings, into a new folder."""


@dataclass(frozen=True)
class Remedy:
    what: str
    settings: Callable[[Any, Any], Settings]
    """From a run's model settings and the recipe's defaults; what is so already may be among them."""


PLAYERS = ("discriminator", "generator")


def _of_the_batch(config: Any) -> bool:
    """Whether batch norm was asked for in the discriminator, where single pictures cannot be penalized."""
    return getattr(config, "discriminator_norm", None) == "batch"


def _steeper(config: Any, usual: Any) -> Settings:
    """R1, where nothing keeps the discriminator's slope small yet."""
    game = config.game.played()
    kept = game.gradient_penalty or game.weight_clip or config.game.r1
    return {} if kept or _of_the_batch(config) else {"game.r1": 1.0}


def _game(name: str, *instead_of: str) -> Callable[[Any, Any], Settings]:
    return lambda config, usual: {"game.name": name} if config.game.name in instead_of else {}


def _usual_rates(config: Any, usual: Any) -> Settings:
    return {f"{player}.learning_rate": getattr(usual, player).learning_rate for player in PLAYERS}


def _slower(*players: str, by: float) -> Callable[[Any, Any], Settings]:
    def settings(config: Any, usual: Any) -> Settings:
        rates = {player: getattr(config, player).learning_rate for player in players}
        return {f"{player}.learning_rate": float(f"{rate / by:.3g}") for player, rate in rates.items() if rate > 0}

    return settings


def _less_momentum(config: Any, usual: Any) -> Settings:
    """A lower first beta, where it is above 0.5."""
    found = {player: getattr(config, player) for player in PLAYERS}
    return {
        f"{player}.betas": (0.5, own.betas[1])
        for player, own in found.items()
        if own.name in ("adam", "adamw") and own.betas[0] > 0.5
    }


def _paired(config: Any, usual: Any) -> Settings:
    """R2 as strong as R1; both in every turn, as published."""
    if config.game.name in ("relativistic", "wasserstein-penalty", "wasserstein-clipping") or _of_the_batch(config):
        return {}
    gamma = config.game.r1 or 1.0
    return {"game.name": "relativistic", "game.r1": gamma, "game.r2": gamma, "game.r1_every": 1}


def _augmented(config: Any, usual: Any) -> Settings:
    return {"augment.name": "diffaugment"} if config.augment.name == "none" else {}


def _told_apart(config: Any, usual: Any) -> Settings:
    """Class losses of twice the weight, or of the recipe's own where they had less."""
    return {"class_weight": max(usual.class_weight, 2 * config.class_weight)}


def _weightier(config: Any, usual: Any) -> Settings:
    """Twice the weight for what generated pictures are told to be; half for the game, where that has none or is mostly
    the content, whose weight is 1."""
    names = () if hasattr(config, "content") else ("l1", "cycle", "feature_matching")
    told = {name: 2 * getattr(config, name) for name in names if getattr(config, name, 0)}
    return told or {"adversarial": config.adversarial / 2}


def _smaller_patches(config: Any, usual: Any) -> Settings:
    smaller = {"whole": 70, 70: 16}
    return {"patch": smaller[config.patch]} if config.patch in smaller else {}


def _steeper_of_pairs(config: Any, usual: Any) -> Settings:
    """R1, where the model learns from pairs, for those of two sets take no penalties, and has no batch norm."""
    return _steeper(config, usual) if hasattr(config, "l1") and config.norm != "batch" else {}


USUAL = Remedy("the recipe's own learning rates", _usual_rates)
R1 = Remedy("a discriminator that is flat around real pictures (R1; Mescheder et al. 2018)", _steeper)
AUGMENTED = Remedy("all that it sees is changed at random (DiffAugment; Zhao et al. 2020)", _augmented)
REMEDIES: dict[Name, tuple[Remedy, ...]] = {
    "discriminator won": (
        USUAL,
        R1,
        Remedy("a discriminator that learns slower", _slower("discriminator", by=4)),
        AUGMENTED,
        Remedy(
            "a game without loss for what is far on the right side",
            _game("hinge", "minimax", "non-saturating", "least-squares"),
        ),
        Remedy(
            "fewer of its steps for one of the generator's",
            lambda config, usual: (
                {"game.discriminator_steps": 1} if config.game.played().discriminator_steps > 1 else {}
            ),
        ),
    ),
    "collapsed": (
        USUAL,
        Remedy("a generator loss that does not saturate", _game("non-saturating", "minimax")),
        R1,
        Remedy("each generated picture held against a real one (Huang et al. 2024)", _paired),
        Remedy("both players learn slower", _slower(*PLAYERS, by=2)),
        AUGMENTED,
    ),
    "class not heeded": (USUAL, Remedy("class losses that weigh more", _told_apart)),
    "oscillating": (
        USUAL,
        Remedy("less momentum, as in DCGAN (Radford et al. 2016)", _less_momentum),
        R1,
        Remedy("both players learn slower", _slower(*PLAYERS, by=2)),
    ),
}
"""What usually helps, by verdict, the likeliest first."""
TOLD = Remedy("what a picture is told to be weighs more against the game", _weightier)
FROM_PICTURES: dict[Name, tuple[Remedy, ...]] = {
    "discriminator won": (
        USUAL,
        TOLD,
        Remedy("a discriminator that sees smaller patches", _smaller_patches),
        Remedy("a discriminator that learns slower", _slower("discriminator", by=4)),
        replace(R1, settings=_steeper_of_pairs),
    ),
    "collapsed": (USUAL, TOLD, Remedy("both players learn slower", _slower(*PLAYERS, by=2))),
    "oscillating": REMEDIES["oscillating"][:2] + REMEDIES["oscillating"][-1:],
}
"""The same for models that make a picture of a picture."""


def cures(run: Run, verdict: Name) -> list[Cure]:
    """What usually helps, as far as the run's recipe has such settings and they were other ones in it."""
    return list(_cures(run, verdict))


def _cures(run: Run, verdict: Name) -> Iterator[Cure]:
    found = recipe(run.config.recipe)
    config, usual = run.config.model, found.config
    remedies = FROM_PICTURES if "translate" in abilities(found.model) else REMEDIES
    if not all(hasattr(config, name) for name in ("game", *PLAYERS)):
        return
    for number, remedy in enumerate(remedies.get(verdict, ()), 1):
        try:
            wanted = remedy.settings(config, usual)
        except AttributeError:  # this recipe has no such setting
            continue
        possible = {path: value for path, value in wanted.items() if has(config, path, value)}
        changed = {path: value for path, value in possible.items() if _at(config, path) != value}
        if not changed or ("game.name" in wanted and len(possible) < len(wanted)):
            continue
        cured = config
        for path, value in changed.items():
            cured = _with(cured, path, value)
        folder = run.folder.with_name(f"{run.name}-cure-{number}")
        again = replace(run, folder=folder, config=replace(run.config, model=cured))
        words = [word for path, value in changed.items() for word in as_flag(f"model.{path}", _plain(value))]
        yield Cure(remedy.what, tuple(words), again.command())


def in_short(found: list[Cure], most: int = 3) -> list[str]:
    """The first of them, a line each that can be pasted; none, if there are none."""
    if not found:
        return []
    return [
        "Usual cures, each to be tried by itself in a new `tasvir train` (the report has whole commands):",
        *(f"  {' '.join(cure.words)}" for cure in found[:most]),
    ]


def has(config: Any, path: str, value: Any) -> bool:
    """Whether there is such a setting, and, where it is one of some words, whether this is one of them."""
    *above, name = path.split(".")
    for part in above:
        config = getattr(config, part, None)
    if not hasattr(config, name):
        return False
    options = typing.get_args(typing.get_type_hints(type(config))[name])
    return not isinstance(value, str) or value in options


def _at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part)
    return config


def _with(config: Any, path: str, value: Any) -> Any:
    """The settings with one of them changed."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: _with(getattr(config, name), rest, value) if rest else value})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
