"""Walks through a run's latent space, as rows of pictures or as a film that comes back to where it began."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tasvir.commands.words import Folder, Guidance, Step
from tasvir.config import Count, Positive, Refused, SamplingConfig, Seed

if TYPE_CHECKING:
    from tasvir.drawing import Opened

Sources = Annotated[
    tyro.conf.Positional[tuple[str, ...]],
    tyro.conf.arg(
        metavar="[PICTURES …]",
        help="Pictures, a folder or zip of them, or a set by name; `held-out` takes the run's own. Left out, the "
        "held-out ones, but random latents in models that do not encode, and in diffusion models.",
    ),
]
FILM = (".gif", ".webp", ".mp4")
RATE = 20
"""Pictures a second of a film."""


@dataclass(frozen=True)
class Interpolate:
    """Walk through the latent space: between pictures where the model encodes, else between random latents.

    In diffusion models it is the noise that pictures are made of: that of given pictures is found by going the way of
    sampling back (DDIM inversion, Song et al. 2021), and every point of the walk is drawn without further noise.

    A film goes through several latents and back to the first, all walks at once, so that it can go on for ever.
    """

    run: Folder
    pictures: Sources = ()
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
    guidance: Guidance = None
    sampling_steps: Annotated[
        Count | None, tyro.conf.arg(help="Of diffusion models: levels of noise between a picture and its noise.")
    ] = None
    seed: Seed = 0
    """Of the first random latent, where there are no pictures."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures, walks
        from tasvir.diffusion.telling import shown

        if self.steps < 2:
            raise Refused(f"--steps is {self.steps}; a walk has at least 2 pictures.")
        film = self.out.suffix.lower() in FILM
        if film and self.through < 2:
            raise Refused(f"--through is {self.through}; a film goes through at least 2 latents.")
        if film and self.frames < self.through:
            raise Refused(f"--frames is {self.frames}, fewer than the {self.through} latents that it goes through.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, None, self.step)
        opened.require("sample" if opened.model.stepwise else "decode")
        how = self._how(opened)
        number = self.number or (1 if self.label == walks.EACH else 8)
        stops = self.through if film else 2
        between = self.pictures[0] if len(self.pictures) == 1 else self.pictures or None
        route = walks.Route(between, number, stops, self.label, self.seed, self.space, self.path, self.truncation, how)
        at = walks.stops(opened, route)
        if not film:
            with shown(opened, len(at.latents) * self.steps, how):
                images = walks.rows(opened, at, self.steps)
            print(pictures.write(images, self.out, columns=self.steps, row_names=at.names))
            return
        with shown(opened, len(at.latents) * self.frames, how):
            images = walks.films(opened, at, self.frames, self.speed == "eased")
        across = at.number if at.names else None
        sheets = pictures.sheets(images, across, at.names[:: at.number])
        print(pictures.write(sheets, self.out, rate=RATE))

    def _how(self, opened: "Opened") -> SamplingConfig | None:
        """How a diffusion model is to draw. Raises `Refused` for its settings with other models."""
        from tasvir.diffusion.inversion import deterministic

        asked = {"sampling-steps": self.sampling_steps, "guidance": self.guidance}
        given = " and ".join(f"--{name}" for name, value in asked.items() if value is not None)
        if given and not opened.model.stepwise:
            raise Refused(f"{opened.run.config.recipe} draws a picture at once; {given} is for diffusion models.")
        how = opened.sampling(steps=self.sampling_steps, guidance=self.guidance)
        return None if how is None else deterministic(how)
