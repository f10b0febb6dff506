"""The table of recipes: one line each, read without importing a model until its recipe is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from tasvir.config import Refused, nearest

if TYPE_CHECKING:
    from tasvir.core import Recipe

RECIPES: dict[str, str] = {
    "ae": "autoencoders.ae",
    "vae": "autoencoders.vae",
    "vae-2d": "autoencoders.vae",
    "vae-256": "autoencoders.vae_256",
    "gan": "adversarial.gan",
    "dcgan": "adversarial.dcgan",
    "lsgan": "adversarial.dcgan",
    "wgan": "adversarial.dcgan",
    "wgan-gp": "adversarial.dcgan",
}


def recipe(name: str) -> "Recipe":
    """The recipe of that name: an entry of `RECIPES` in its module. Raises `Refused`, naming the nearest ones."""
    if name not in RECIPES:
        raise Refused(
            f"There is no recipe {name!r}.{nearest(name, RECIPES)}\n`tasvir recipes` lists all: {', '.join(RECIPES)}."
        )
    return import_module(f"tasvir.models.{RECIPES[name]}").RECIPES[name]
