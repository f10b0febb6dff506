"""What several commands take: a run folder, pictures, a number of them, a checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from tasvir.config import Count, CountOrZero, Fraction, NonNegative, Refused, SamplerName

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="A folder that `tasvir train` made.")]
Source = Annotated[
    tyro.conf.Positional[str | None],
    tyro.conf.arg(
        metavar="[PICTURES]", help="A picture, a folder or zip of them, or a set by name; left out, the held-out ones."
    ),
]
Step = Annotated[
    CountOrZero | Literal["best"] | None, tyro.conf.arg(help="Checkpoint to take, or `best`; left out, the newest.")
]
Label = str | None
Number = Annotated[Count, tyro.conf.arg(aliases=["-n"])]
Sampler = Annotated[
    SamplerName | None,
    tyro.conf.arg(help="Of diffusion models: how noise becomes a picture; left out, as the recipe says."),
]
Steps = Annotated[Count | None, tyro.conf.arg(help="Of diffusion models: levels of noise on the way to a picture.")]
Guidance = Annotated[
    NonNegative | None,
    tyro.conf.arg(help="Of diffusion models that know classes: 1 as learned, more exaggerates it, 0 ignores it."),
]
Eta = Annotated[
    Fraction | None,
    tyro.conf.arg(help="Of the sampler ddim: how much of the noise is drawn anew at each step, 0 to 1."),
]


def check_recipe(name: str) -> None:
    """Raise `Refused` for the name of a command in the place of a recipe's."""
    from tasvir.cli import COMMANDS
    from tasvir.models import RECIPES

    if name in COMMANDS and name not in RECIPES:
        raise Refused(f"{name} is no recipe but a command: `tasvir {name} --help` says how it is used.")
