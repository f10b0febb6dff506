"""What several commands take: a run folder, pictures, a number of them, a checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from tasvir.config import Count, CountOrZero

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Source = Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="PICTURES")]
Step = CountOrZero | Literal["best"] | None
Label = str | None
Number = Annotated[Count, tyro.conf.arg(aliases=["-n"])]
