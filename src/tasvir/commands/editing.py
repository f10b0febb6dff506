"""People's pictures through a trained diffusion run: noise taken away, pictures changed, holes filled."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tasvir.commands.words import Eta, Folder, Guidance, Label, Sampler, Step, Steps
from tasvir.config import Count, Fraction, Positive, Refused, Seed

if TYPE_CHECKING:
    import numpy as np

    from tasvir.drawing import Opened
    from tasvir.editing import Work
    from tasvir.translating import Album, Given

Given_ = Annotated[
    tyro.conf.Positional[str | None],
    tyro.conf.arg(metavar="[PICTURES]", help="A picture, a folder or a zip of them; left out, held-out pictures."),
]
Answers = Annotated[Count, tyro.conf.arg(aliases=["-n"])]
USUAL_NOISE = 0.2
"""Added to held-out pictures, where 1 is from black to white."""
USUAL_STEPS = 50
"""Of inpainting, which takes more than drawing."""


@dataclass(frozen=True)
class Denoise:
    """Pictures of any size with noise, as a diffusion run expects them to be without; large ones go in tiles."""

    run: Folder
    out: Path
    """x.png shows each picture beside the denoised one; a folder has only these, with an index.csv; x.npz, .gif, .mp4
    too, where all are of one size."""
    pictures: Given_ = None
    sigma: Positive | None = None
    """Standard deviation of the noise, where 1 is from black to white; left out, it is estimated from each picture by
    its finest diagonal differences (Donoho and Johnstone 1994), which finds too little where noise was cut off at
    black or white."""
    add: Positive | None = None
    """Add noise of this standard deviation first, and tell the peak signal-to-noise ratio before and after; left out,
    0.2 for held-out pictures, none for others."""
    label: Label = None
    """Class of the pictures, for runs that know classes; left out, none is told."""
    number: Count = 8
    """Held-out pictures, where no others are named."""
    seed: Seed = 0
    """Of the noise added to the first picture; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, editing
        from tasvir.data.workers import progress

        album = _album(self)
        opened = drawing.Opened(self.run, "denoise", self.step)
        labels = opened.labels(self.label, 1)
        added = self.add or (USUAL_NOISE if album is None else None)
        denoiser = editing.Denoiser(opened, self.sigma, added, labels[0] if labels else None)
        given, count = _given(self, opened, album)
        rows = editing.Rows(self.out, "denoised")
        with progress(count, "pictures") as advance:
            for place, one in enumerate(given):
                rows.take(denoiser.row(one, self.seed + place))
                advance(1)
        print(f"{rows.finish()}{denoiser.told()}")


@dataclass(frozen=True)
class Edit:
    """Pictures with noise added, and drawn anew from there (SDEdit): a little changes details, much nearly all."""

    run: Folder
    out: Path
    """x.png shows each picture beside its answers; a folder has only these, with an index.csv; or x.npz, .gif, .mp4."""
    pictures: Given_ = None
    strength: Fraction = 0.6
    """How much of picture and noise together is noise: 0 gives the picture back, 1 is a new one."""
    label: Label = None
    """Class to become, for runs that know classes; left out, none is told."""
    answers: Answers = 1
    """Several for each picture, each from its own seed."""
    number: Count = 8
    """Held-out pictures, where no others are named."""
    sampler: Sampler = None
    steps: Steps = None
    """Of the whole way from noise, of which an edit goes a part."""
    guidance: Guidance = None
    eta: Eta = None
    seed: Seed = 0
    """Of the first answer; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir.editing import Editing

        album = _album(self)
        opened = _stepwise(self, "edit")
        how = opened.sampling(sampler=self.sampler, steps=self.steps, guidance=self.guidance, eta=self.eta)
        assert how is not None
        _write(self, Editing(opened, how, self.strength), album)


@dataclass(frozen=True)
class Inpaint:
    """Holes in pictures filled by a diffusion run (RePaint); what is not masked stays as it is."""

    run: Folder
    out: Path
    """x.png shows each picture, its hole and its answers; a folder has only these, with an index.csv; or x.npz, .gif,
    .mp4."""
    mask: str
    """What is to be filled: a picture, white there, of the size of the pictures; a folder of these by the pictures'
    names; or centre, left, right, top, bottom, random (a square, elsewhere in each picture)."""
    pictures: Given_ = None
    label: Label = None
    """Class of the pictures, for runs that know classes; left out, none is told."""
    answers: Answers = 1
    """Several for each picture, each from its own seed."""
    resamplings: Count = 10
    """How often each piece of the way is gone: more fits the hole better to what is around it, and takes longer."""
    jump: Count = 5
    """Steps of such a piece."""
    number: Count = 8
    """Held-out pictures, where no others are named."""
    sampler: Sampler = "ancestral"
    steps: Steps = None
    """Left out, 50, or as many as it was trained on."""
    guidance: Guidance = None
    eta: Eta = None
    seed: Seed = 0
    """Of the first answer; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir.editing import Filling, Holes

        album = _album(self)
        opened = _stepwise(self, "inpaint")
        model = opened.model
        if model.distilled:
            raise Refused(
                f"{opened.run.config.recipe} was distilled to draw in a few steps, and holes are filled in many: "
                "name the run that it was distilled from."
            )
        if model.shape[1] == 1 < model.pictures.size:
            raise Refused(f"{opened.run.name} draws in latents without places, in which no hole can be kept open.")
        steps = self.steps or min(USUAL_STEPS, getattr(model.process, "steps", USUAL_STEPS))
        if self.resamplings > 1 and self.jump >= steps:
            raise Refused(
                f"--jump {self.jump} goes back {self.jump} steps, and there are {steps}: set --jump lower, or --steps "
                "higher."
            )
        how = opened.sampling(sampler=self.sampler, steps=steps, guidance=self.guidance, eta=self.eta)
        assert how is not None
        holes = Holes(self.mask, opened, self.seed, _say)
        _write(self, Filling(opened, how, self.resamplings, self.jump, holes), album)


# --- what comes in ---


def _album(asked: Any) -> "Album | None":
    """The pictures that are named, none of them read yet. Raises `Refused` for places where answers would be lost."""
    from tasvir import pictures, translating

    pictures.check_out(asked.out)
    if asked.pictures is None:
        return None
    album = translating.album(asked.pictures)
    if album.holds(asked.out):
        raise Refused(f"--out {asked.out} is what is to be changed; name another place.")
    for sentence in album.said:
        _say(sentence)
    return album


def _given(asked: Any, opened: "Opened", album: "Album | None") -> "tuple[Iterator[Given], int]":
    """Every picture in the run's channels and at its own size; and how many there are, if all can be read."""
    from tasvir.data.decoding import Unreadable, with_channels
    from tasvir.translating import Given

    def prepared(pixels: "np.ndarray") -> "np.ndarray":
        if min(pixels.shape[:2]) < 2:
            raise Unreadable(f"{pixels.shape[1]}×{pixels.shape[0]} px: too small, it takes 2 px at least")
        return with_channels(pixels, opened.run.pictures.channels)

    if album is None:
        images = opened.real(None, asked.number)
        return (Given(f"{number:06d}", image) for number, image in enumerate(images)), len(images)
    return album.pictures(opened.run.config.data.background, prepared, _say), len(album.names)


def _stepwise(asked: Any, word: str) -> "Opened":
    """The run. Raises `Refused` if it does not draw in steps, and for a class that it does not know."""
    from tasvir import drawing

    opened = drawing.Opened(asked.run, None, asked.step)
    if not opened.model.stepwise:
        sentence = f"{opened.run.config.recipe} cannot {word}: that takes a diffusion run, of ddpm, edm or flow."
        if opened.run.pictures.source is not None:
            sentence += f"\n`tasvir translate {asked.run} PICTURES --out DIR` does what this run was trained for."
        raise Refused(sentence)
    if asked.guidance is not None and asked.label is None and opened.conditional:
        raise Refused("--guidance is towards a class: name one with --label.")
    return opened


def _write(asked: Any, work: "Work", album: "Album | None") -> None:
    from tasvir.editing import Rows, answered

    labels = work.opened.labels(asked.label, 1)
    given, count = _given(asked, work.opened, album)
    rows, seeds = Rows(asked.out), range(asked.seed, asked.seed + asked.answers)
    for row in answered(work, given, count, seeds, labels[0] if labels else None, _say):
        rows.take(row)
    print(rows.finish())


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
