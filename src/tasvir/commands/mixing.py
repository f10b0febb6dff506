"""Style mixing: pictures of the styles of two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tasvir.commands.words import Folder, Step
from tasvir.config import Count, Fraction, Refused, Seed


@dataclass(frozen=True)
class Mix:
    """Pictures with some styles of one source and the others of another, for models with styles (stylegan2).

    The first column has the sources of the styles that --from names, the first row those of all others. Noise inputs
    are the same in all.
    """

    run: Folder
    out: Path = Path("mix.png")
    """x.png the table with its names; x.npz; x.gif, x.webp or x.mp4 a film; a folder."""
    rows: Count = 4
    """Sources before the rows."""
    columns: Count = 6
    """Sources above the columns."""
    part: Annotated[Literal["coarse", "middle", "fine"], tyro.conf.arg(name="from")] = "coarse"
    """Styles that the row's source gives: of the sizes up to 8 px, up to 32 px, or beyond; of small pictures fewer."""
    layers: str | None = None
    """The same by number, as 0-3; coarsest first, two of each size from 4 px on."""
    truncation: Fraction | None = None
    """Draw w towards its mean by this factor, 0.7 for example."""
    seed: Seed = 0
    """Of the first source above the columns; the next have the next seeds, then come those before the rows."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, mixing, pictures

        if self.layers is not None and self.part != "coarse":
            raise Refused("--from and --layers both say which styles are meant; leave one out.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "sample", self.step)
        columns = range(self.seed, self.seed + self.columns)
        rows = range(columns.stop, columns.stop + self.rows)
        found = mixing.table(opened, rows, columns, self.layers or self.part, self.truncation)
        said = pictures.write(
            found.images,
            self.out,
            columns=self.columns + 1,
            row_names=found.rows,
            column_names=found.columns,
        )
        first, last = found.layers
        print(f"{said}; styles {first} to {last} of {opened.model.styles} are those of the first column")
