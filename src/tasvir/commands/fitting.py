"""Whether pictures fit what is to be trained on them, and what else could be, in words."""

from typing import TYPE_CHECKING

from tasvir.config import Pictures, Refused
from tasvir.models import RECIPES, recipe

if TYPE_CHECKING:
    from tasvir.core import Model
    from tasvir.data import Dataset
    from tasvir.data.packing import TooFew
    from tasvir.runs import Run

FEW = 2000
"""Training pictures below which discriminators soon know the set by heart, as a rule."""
NAMED = 8
"""Recipes that are named, at most."""


def check_pictures(name: str, pictures: Pictures) -> None:
    """Raise `Refused` if the recipe cannot be trained on such pictures; where they lack classes, it names others."""
    kind = recipe(name).model
    lacks = kind.lacks(pictures)
    if lacks is None:
        return
    if "labels" in kind.needs and not pictures.classes and kind.accepts(pictures.size):
        able = without_labels(name, pictures)
        more = f" and {len(able) - NAMED} more" if len(able) > NAMED else ""
        lacks += f".\nThese need no classes: {', '.join(able[:NAMED])}{more}"
    raise Refused(f"{name} {lacks}.")


def without_labels(name: str, pictures: Pictures) -> list[str]:
    """Recipes that can be trained on pictures without classes, those of the same family first."""

    def family(other: str) -> str:
        return RECIPES[other].partition(".")[0]

    able = [other for other in RECIPES if recipe(other).model.lacks(pictures) is None]
    return sorted(able, key=lambda other: family(other) != family(name))


def of_too_few(name: str, error: "TooFew") -> Refused:
    """What is refused where there are too few pictures to train anything on, with what else the recipe lacks, and what
    it can do with few."""
    from tasvir.data.packing import MINIMUM
    from tasvir.nn.augmentation import AugmentConfig

    chosen, said = recipe(name), str(error)
    if "labels" in chosen.model.needs and not error.classes:
        said += f"\n{name} needs classes as well, and these have none: put each class into a folder of its own."
    if hasattr(chosen.config, "augment"):
        how = ".name ada or diffaugment" if isinstance(chosen.config.augment, AugmentConfig) else " 0.12"
        said += f"\nFrom {MINIMUM} pictures on, {name} can augment them: --model.augment{how}."
    return Refused(said)


def few_pictures(run: "Run", model: "Model", dataset: "Dataset") -> str | None:
    """A sentence if there are so few pictures that an adversarial recipe should augment them; None if not.

    Raises `Refused` where there is but one, and batch norm, which needs pictures that differ.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    from tasvir.nn.augmentation import AugmentConfig

    augment, count = getattr(run.config.model, "augment", None), len(dataset.train)
    if not isinstance(augment, AugmentConfig) or dataset.stream is not None:
        return None
    if count < 2 and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        raise Refused(f"There is {count} picture to train on; {run.config.recipe} has batch norm and needs at least 2.")
    if count >= FEW or augment.name != "none":
        return None
    return (
        f"There are only {count} pictures to train on, and a discriminator soon knows so few by heart: "
        "--model.augment.name ada or diffaugment keeps it from that."
    )
