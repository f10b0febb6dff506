"""Which recipes suit a set of pictures, with the command that trains each."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from tasvir.config import DataConfig, Pictures, Refused, flag
from tasvir.data.check import Findings
from tasvir.data.packing import MINIMUM
from tasvir.data.settling import settle
from tasvir.data.splitting import is_chosen

if TYPE_CHECKING:
    from tasvir.core import Recipe

DERIVING = ("derive", "scale", "mask", "sigma", "fit", "overlap")
"""Settings of a recipe's own that decide which pictures suit it."""
FEW = 5000
"""Pictures of a small set."""


@dataclass(frozen=True)
class Suit:
    """Whether a recipe suits a set."""

    recipe: str
    command: str | None
    """How to train it; None if it does not suit."""
    why: str
    size: int | None = None
    """Height and width in pixels that the command says."""


USES = {"labels": "the classes", "source": "the pairs"}


def suiting(found: Findings) -> list[Suit]:
    """All recipes: those that suit first, with the command; the others with the reason."""
    from tasvir.models import RECIPES, recipe

    few = _few(found) or (None if found.beside is None else _few(found.beside))
    suits = [_suit(name, recipe(name), found, few) for name in RECIPES]
    return sorted(suits, key=lambda suit: (suit.command is None, not suit.why.startswith("uses")))


def _few(found: Findings, tiles: np.ndarray | None = None) -> str | None:
    """Why nothing can be trained on so few; None if there are enough. `tiles` is how many each picture gives."""
    count = found.readable.sum() if tiles is None else tiles.sum()
    if count < MINIMUM:
        what = "pictures" if tiles is None else f"tiles, and these pictures give {count}"
        return f"needs at least {MINIMUM} {what}"
    fraction, seed = found.config.fraction, found.config.choice_seed
    digests = {number: found.pictures["digest"][number].tobytes() for number in np.flatnonzero(found.readable).tolist()}
    there = ~found.left_out if tiles is None else tiles > 0
    used = [n for n, digest in digests.items() if there[n] and is_chosen(digest, fraction, seed)]
    train = {digests[number] for number in used if not found.testing[number]}
    lendable = not found.settled and len(train) > 1
    test = lendable or any(found.testing[number] for number in used)
    why = f", of which --data.fraction {fraction:g} leaves none" if fraction < 1 else ", and there is none"
    return None if train and test else f"needs pictures for {'testing' if train else 'training'}{why}"


def _suit(name: str, chosen: "Recipe", found: Findings, few: str | None) -> Suit:
    """The recipe at the size that suits it and the pictures, with those of its own settings that go with them.

    `few` is why there are too few whole pictures, if there are.
    """
    asked = found.config
    try:
        found, left_out = _settled(found, chosen.data)
    except Refused as error:
        return Suit(name, None, _reason(error))
    model, made_for, side = chosen.model, chosen.data.size, found.side
    if found.config.size is None and made_for and side and 2 * side < made_for:
        return Suit(name, None, f"is made for {made_for} px, and these have {side}")

    def accepts(size: int) -> bool:
        return model.accepts(size) and _unfit(found, size) is None

    size = found.config.size or size_to_begin(accepts, side, made_for)
    if found.tiled:
        sides = [found, *([found.beside] if found.beside else [])]
        few = next(filter(None, [_few(one, one.tiles(size, found.config.overlap)) for one in sides]), None)
    lacking = few or _unfit(found, size) or model.lacks(_pictures(found, size))
    if found.config.derive == "low-resolution" and found.config.size is None and not accepts(size):
        lacking = f"takes pictures of {model.sizes}, and none near is divisible by --data.scale {found.config.scale}"
    if lacking:
        return Suit(name, None, lacking)
    uses = " and ".join(USES[need] for need in model.needs if need in USES)
    if not uses and getattr(chosen.config, "conditional", False) and _pictures(found, size).classes:
        uses = USES["labels"]
    if "source" in model.needs and found.config.derive != "none":
        uses = f"pairs that it makes of them (--data.derive {found.config.derive})"
    shown = f"{'tiles of ' if found.tiled else ''}{size} px, {'grey' if found.channels() == 1 else 'colour'}"
    why = f"uses {uses}, {shown}" if uses else shown
    more = [option for option in (128, 256) if size < option <= (side or 0) and accepts(option)]
    if more and found.config.size is None:
        why += f"; {more[-1]} px would do as well, and take longer"
    why += "".join(f"; {note}" for note in left_out)
    return Suit(name, shlex.join(["tasvir", "train", name, *data_words(asked, size)]), why, size)


def _settled(found: Findings, usual: DataConfig) -> tuple[Findings, list[str]]:
    """The findings with the recipe's settings where none were asked for, and what of these gives way to the set.

    Raises `Refused` where they cannot go together.
    """
    nothing = DataConfig()
    own = {name: getattr(usual, name) for name in DERIVING if getattr(found.config, name) == getattr(nothing, name)}
    asked = [name for name in DERIVING if name not in own]
    config, left_out = settle(replace(found.config, **own), usual, asked, found.source)
    found = found if config == found.config else replace(found, config=config)
    return found, [note.partition(": ")[2].rstrip(".") for note in left_out]


def _reason(error: Refused) -> str:
    """The last sentence of what was refused, to stand among other reasons."""
    first, _, last = str(error).partition("\n")
    return (last or first).rstrip(".").replace("Give only", "needs only", 1)


def _unfit(found: Findings, size: int) -> str | None:
    """Why the settings do not go with pictures of this height and width; None if they do."""
    config = found.config
    if config.jitter is not None and config.jitter < size:
        return f"--data.jitter is {config.jitter}, smaller than {size} px"
    if config.derive != "none":
        from tasvir.data import derive

        try:
            derive.check(config.derive, channels=found.channels(), size=size, scale=config.scale, mask=config.mask)
        except Refused as error:
            return str(error).rstrip(".")
    return None


def _pictures(found: Findings, size: int) -> Pictures:
    """What a model is told of the pictures at this height and width."""
    config, channels, source = found.config, found.channels(), None
    if found.paired:
        source = Pictures(found.channels(1), size)
    elif found.beside is not None:
        source = Pictures(found.beside.channels(), size)
    elif config.derive != "none":
        from tasvir.data.derive import source_shape

        source = Pictures(*source_shape(config.derive, channels, size, config.scale))
    classes = found.items.classes if found.labels is not None else ()
    return Pictures(channels, size, tuple(classes), source, matched=found.beside is None)


def size_to_begin(accepts: Callable[[int], bool], side: int | None, made_for: int | None) -> int:
    """A height and width to begin with: the pictures' own, but no more than the recipe was made for, or 64 px.

    `side` is the shorter side that they have, None if any will do. Where nothing near is accepted, it is returned all
    the same.
    """
    usual = max(64, made_for or 0)
    most = min(side or usual, usual)
    powers = [size for size in (256, 128, 64, 32, 16, 8) if size <= most]
    sizes = [*([side] if side == most else []), *powers, *range(most, 3, -1), *range(most, 4 * most + 1)]
    return next((size for size in sizes if accepts(size)), most)


def data_words(config: DataConfig, size: int) -> list[str]:
    """What says `config` on the command line, at this height and width."""
    words = ["--data", *config.source]
    for setting in fields(config):
        value = getattr(config, setting.name)
        if setting.name not in ("source", "size") and value != setting.default:
            words += [flag(f"data.{setting.name}"), *([] if value is True else [str(value)])]
    return [*words, "--data.size", str(size)]


def size_to_train(suits: Sequence[Suit], found: Findings) -> int | None:
    """The height and width that was asked for, or that the first command has."""
    return found.config.size or next((suit.size for suit in suits if suit.command), None)


def hint(found: Findings) -> str:
    """A sentence for small sets; nothing for others."""
    train = found.counts()["train"]
    if found.tiled or found.config.flip or not 0 < train < FEW:
        return ""
    word = "pairs" if found.paired else "pictures"
    return f"There are only {train:,} {word} to learn from: add --data.flip where left and right do not matter."
