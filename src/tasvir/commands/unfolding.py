"""The two ways of diffusion, to be looked at: from pictures to noise, and from noise to pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from tasvir.commands.words import Eta, Folder, Guidance, Sampler, Source, Step, Steps
from tasvir.config import Count, Refused, Seed

if TYPE_CHECKING:
    from tasvir.diffusion.showing import Moment
    from tasvir.drawing import Opened

LEAST = 96
"""Height in px that pictures of a film have at least, so that its captions have room."""
FILM = (".gif", ".webp", ".mp4")
SECONDS, RATES = 5, (2, 20)
"""About how long a film is, where so many pictures a second, at least and at most, allow it."""


def opened_stepwise(run: Path, step: int | str | None) -> "Opened":
    """Raises `Refused` for a run that does not draw in steps."""
    from tasvir import drawing

    opened = drawing.Opened(run, "sample", step)
    if not opened.model.stepwise:
        raise Refused(f"{opened.run.config.recipe} draws a picture at once; this is for diffusion models.")
    return opened


@dataclass(frozen=True)
class Noising:
    """Pictures (the run's held-out ones if none are named) at growing levels of noise, one row for each picture.

    Above each column stands its level, as the model counts them, and the signal-to-noise ratio. `--denoised` has below
    each row what the model makes of each: the mean of all clean pictures that it could be.
    """

    run: Folder
    pictures: Source = None
    out: Path = Path("noising.png")
    """x.png; .npz arrays `noisy`, `expected`, `alpha` and `sigma`; x.gif, x.webp or x.mp4 a film; a folder."""
    number: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 4
    """Pictures."""
    at: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PART …")] = ()
    """Places on the way, from 0, clean, to 1, noise; left out, --columns of them."""
    columns: Annotated[Count | None, tyro.conf.arg()] = None
    """So many places, as far from each other; left out, 9, or 50 in a film."""
    denoised: bool = False
    """What the model makes of each noisy picture below it."""
    label: str | None = None
    """Class that the model is told, by name or number; left out, that of held-out pictures, and none of others."""
    guidance: Guidance = None
    seed: Seed = 0
    """Of the first picture's noise, which is the same at all levels; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import pictures
        from tasvir.data.workers import progress
        from tasvir.diffusion import showing
        from tasvir.diffusion.telling import told

        film = self.out.suffix.lower() in FILM
        if self.at and self.columns is not None:
            raise Refused("--at and --columns both say which places are meant; leave one out.")
        if any(not 0 <= part <= 1 for part in self.at):
            wrong = next(part for part in self.at if not 0 <= part <= 1)
            raise Refused(f"--at {wrong:g} is no part of the way: 0 is a clean picture, 1 noise.")
        pictures.check_out(self.out)
        opened = opened_stepwise(self.run, self.step)
        how = opened.sampling(guidance=self.guidance)
        real = opened.real(self.pictures, self.number)
        labels = opened.labels_beside(self.pictures, len(real), self.label)
        parts = self.at or tuple(np.linspace(0, 1, self.columns or (50 if film else 9)).tolist())
        levels = showing.places(opened.model.process, parts)
        total = len(real) * int((levels.sigma > 0).sum())
        with progress(total, "noisy pictures") as advance, told(opened.model.network, advance):
            moments = showing.noised(opened, real, levels, labels, self.seed, how)
        lines = ["noisy", "expected"] if self.denoised else ["noisy"]
        names = ["with noise", showing.guess(opened.model)] * len(real) if self.denoised else []
        captions = [f"{showing.caption(opened.model.process, moment.level)}\n{showing.ratio(moment.level)}"
                    for moment in moments]  # fmt: skip
        print(write(moments, lines, self.out, captions, names, [caption.replace("\n", ", ") for caption in captions]))


@dataclass(frozen=True)
class Unfold:
    """How pictures come out of noise: what a sampler has at the beginning of each step, and what it then expects.

    As a picture, a strip for each seed, its columns some of the steps, and below each noisy picture the clean one that
    the model expects; as a film, all steps of several seeds at once. The last are the pictures of `tasvir sample`.
    """

    run: Folder
    out: Path = Path("unfolding.png")
    """x.png strips; x.gif, x.webp or x.mp4 a film; .npz arrays `noisy`, `expected`, `alpha` and `sigma`; a folder."""
    number: Annotated[Count | None, tyro.conf.arg(aliases=["-n"])] = None
    """Seeds; left out, 4, or 16 in a film."""
    columns: Annotated[Count, tyro.conf.arg()] = 9
    """Of a strip, the picture at the end included; of fewer steps all."""
    frames: Count = 100
    """Of a film, at most."""
    show: Literal["both", "noisy", "expected"] = "both"
    """Noisy pictures, or the clean ones that are expected of them."""
    label: str | None = None
    """Class to draw, by name or number; left out, each in its turn."""
    sampler: Sampler = None
    steps: Steps = None
    guidance: Guidance = None
    eta: Eta = None
    seed: Seed = 0
    """Of the first picture; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import pictures
        from tasvir.diffusion import showing
        from tasvir.diffusion.telling import shown

        pictures.check_out(self.out)
        film = self.out.suffix.lower() in FILM
        opened = opened_stepwise(self.run, self.step)
        how = opened.sampling(sampler=self.sampler, steps=self.steps, guidance=self.guidance, eta=self.eta)
        assert how is not None
        seeds = range(self.seed, self.seed + (self.number or (16 if film else 4)))
        labels = opened.labels(self.label, len(seeds)) or opened.classes_in_turn(len(seeds))
        wanted = showing.chosen(how.steps, (self.frames if film else self.columns) - 1)
        with shown(opened, len(seeds), how):
            moments = showing.unfolded(opened, seeds, labels, how, wanted)
        lines = ["noisy", "expected"] if self.show == "both" else [str(self.show)]
        told = [showing.caption(opened.model.process, moment.level) for moment in moments[:-1]]
        captions = [f"step {step + 1}\n{one}" for step, one in zip(wanted, told, strict=True)]
        classes, words = opened.run.pictures.classes, {"noisy": "noisy", "expected": showing.guess(opened.model)}
        names = [f"{classes[labels[place]] if labels else f'seed {seed}'}, {words[line]}" if line == lines[0]
                 else words[line] for place, seed in enumerate(seeds) for line in lines]  # fmt: skip
        frames = [f"{step + 1}/{how.steps}, {one}" for step, one in zip(wanted, told, strict=True)]
        print(write(moments, lines, self.out, [*captions, "picture"], names, [*frames, "picture"]))


def write(
    moments: "list[Moment]",
    lines: list[str],
    out: Path,
    captions: list[str],
    names: list[str],
    frames: list[str],
) -> str:
    """A strip, with captions above its columns and names before its rows; a film, with one of `frames` above each of
    its pictures; arrays; or a folder. Returns a sentence about what was written.
    """
    from tasvir import pictures
    from tasvir.diffusion.showing import strip

    images = strip(moments, lines)
    if out.suffix.lower() == ".npz":
        found = {line: np.stack([getattr(moment, line) for moment in moments]) for line in ("noisy", "expected")}
        levels = {name: np.array([float(getattr(moment.level, name)) for moment in moments])
                  for name in ("alpha", "sigma")}  # fmt: skip
        pictures.write_arrays(out, found | levels)
        return f"{len(moments)} levels of {len(moments[0].noisy)} pictures in {out}"
    if out.suffix.lower() not in FILM:
        return pictures.write(images, out, columns=len(moments), row_names=names, column_names=captions)
    made = []
    for moment, caption in zip(moments, frames, strict=True):
        sides = [pictures.grid(getattr(moment, line), least=LEAST) for line in lines]
        both = np.stack([np.asarray(side).reshape(side.height, side.width, -1) for side in sides])
        sheet = pictures.named_grid(both, (), [caption, "expected"][: len(lines)])
        made.append(np.asarray(sheet).reshape(sheet.height, sheet.width, -1))
    rate = min(max(round(len(made) / SECONDS), RATES[0]), RATES[1])
    pictures.write(np.stack([*made, *[made[-1]] * rate]), out, rate=rate)  # the last stays for a second
    return f"{len(made)} pictures of {made[0].shape[1]}×{made[0].shape[0]} px in {out}"
