"""Walks through a run's latent space, as rows of pictures or as a film that comes back to where it began."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tasvir.commands.words import Folder, Source, Step
from tasvir.config import Count, Positive, Refused, Seed

FILM = (".gif", ".webp", ".mp4")
RATE = 20
"""Pictures a second of a film."""


@dataclass(frozen=True)
class Interpolate:
    """Walk through the latent space: between pictures where the model encodes, else between random latents.

    A film goes through several latents and back to the first, all walks at once, so that it can go on for ever.
    """

    run: Folder
    pictures: Source = None
    out: Path = Path("interpolation.png")
    """x.png one row for each walk; x.gif, x.webp or x.mp4 a film of all walks; .npz; a folder."""
    number: Annotated[Count | None, tyro.conf.arg(aliases=["-n"])] = None
    """Walks; of each class, with --label each. Left out, 8, or 1 of each class."""
    steps: Annotated[int, tyro.conf.arg()] = 10
    """Pictures in each walk, its two ends included; of a film --frames says how many."""
    path: Literal["linear", "spherical"] | None = None
    """spherical keeps the length of a latent typical (Shoemake 1985); left out, that in z and linear in w."""
    space: Literal["z", "w"] | None = None
    """Where to walk: w is what style-based generators make of z, and the usual one where there is one."""
    label: str | None = None
    """Class to walk within, by name or number; `each` walks through all, along the same latents. Left out, one class
    after another."""
    through: Count = 4
    """Latents that each walk of a film goes through before it is back at the first."""
    frames: Count = 80
    """Pictures of a film, 20 a second."""
    speed: Literal["eased", "constant"] = "eased"
    """Of a film: slower at each latent that it goes through, or the same all the way."""
    truncation: Positive | None = None
    """Less variety for better pictures, in GANs: latent values are kept within ± this; StyleGANs draw w towards its
    mean by this factor, 0.7 for example. See `tasvir sample`."""
    seed: Seed = 0
    """Of the first random latent, where the model does not encode."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures, walks

        if self.steps < 2:
            raise Refused(f"--steps is {self.steps}; a walk has at least 2 pictures.")
        film = self.out.suffix.lower() in FILM
        if film and self.through < 2:
            raise Refused(f"--through is {self.through}; a film goes through at least 2 latents.")
        if film and self.frames < self.through:
            raise Refused(f"--frames is {self.frames}, fewer than the {self.through} latents that it goes through.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "decode", self.step)
        number = self.number or (1 if self.label == walks.EACH else 8)
        stops = self.through if film else 2
        route = walks.Route(self.pictures, number, stops, self.label, self.seed, self.space, self.path, self.truncation)
        at = walks.stops(opened, route)
        if not film:
            images = walks.rows(opened, at, self.steps)
            print(pictures.write(images, self.out, columns=self.steps, row_names=at.names))
            return
        images = walks.films(opened, at, self.frames, self.speed == "eased")
        across = at.number if at.names else None
        sheets = pictures.sheets(images, across, at.names[:: at.number])
        print(pictures.write(sheets, self.out, rate=RATE))
