"""What a trained run draws: samples, reconstructions, walks through its latent space."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tasvir.commands.words import Folder, Number, Source, Step
from tasvir.config import Count, Refused, Seed


@dataclass(frozen=True)
class Sample:
    """Draw new pictures; each has its own seed, so the same seed is the same picture in any number."""

    run: Folder
    out: Path
    """x.png one grid, x.npz arrays, x.gif or x.webp or x.mp4 a film, else a folder of PNGs with an index.csv."""
    number: Number = 64
    label: str | None = None
    """Class name or number, for recipes that know classes."""
    noise: Literal["normal", "uniform", "exponential"] = "normal"
    """Distribution of the latent noise, always of zero mean and unit variance."""
    seed: Seed = 0
    """Seed of the first picture; the next have the next seeds."""
    step: Step = None
    """Checkpoint to draw from, or `best`; left out, the newest."""

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "sample", self.step)
        labels = opened.labels(self.label, self.number)
        seeds = range(self.seed, self.seed + self.number)
        images = opened.samples(seeds, self.noise, labels)
        print(pictures.write(images, self.out, labels=labels, seeds=seeds, classes=opened.run.pictures.classes))


@dataclass(frozen=True)
class Reconstruct:
    """Pictures (the run's held-out ones if none are named), each beside its reconstruction."""

    run: Folder
    pictures: Source = None
    out: Path = Path("reconstructions.png")
    """x.png pairs side by side, else only the reconstructions: .npz, .gif, .webp, .mp4, a folder."""
    number: Number = 32
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "reconstruct", self.step)
        real = opened.real(self.pictures, self.number)
        made = opened.reconstructions(real)
        if self.out.suffix.lower() == ".png":
            print(pictures.write(pictures.interleave(real, made), self.out, columns=8))
        else:
            print(pictures.write(made, self.out))


@dataclass(frozen=True)
class Interpolate:
    """Walk through the latent space: between pictures where the model encodes, else between random latents."""

    run: Folder
    pictures: Source = None
    out: Path = Path("interpolation.png")
    """x.png one row for each walk; x.gif, x.webp or x.mp4 all walks as a film; .npz; a folder."""
    number: Number = 8
    """Walks."""
    steps: Annotated[int, tyro.conf.arg()] = 10
    """Pictures in each walk, its two ends included."""
    path: Literal["linear", "spherical"] = "spherical"
    """spherical keeps the length of a latent typical (Shoemake 1985)."""
    seed: Seed = 0
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        if self.steps < 2:
            raise Refused(f"--steps is {self.steps}; a walk has at least 2 pictures.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "decode", self.step)
        walks = opened.walks(self.pictures, self.number, self.steps, self.path, self.seed)
        print(pictures.write(walks, self.out, columns=self.steps))


@dataclass(frozen=True)
class Manifold:
    """A grid over a two-dimensional latent space, its coordinates at even quantiles of the normal prior."""

    run: Folder
    out: Path = Path("manifold.png")
    side: Count = 20
    """Pictures along each side."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        pictures.check_out(self.out)
        images = drawing.Opened(self.run, "decode", self.step).manifold(self.side)
        print(pictures.write(images, self.out, columns=self.side))


@dataclass(frozen=True)
class Scatter:
    """Held-out pictures as points of the latent space (its two main directions if it has more), coloured by class."""

    run: Folder
    out: Path = Path("scatter.png")
    """.png or .svg"""
    number: Number = 2000
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing
        from tasvir.report import figures

        if self.out.suffix.lower() not in (".png", ".svg"):
            raise Refused(f"--out {self.out} must end in .png or .svg.")
        points = drawing.Opened(self.run, "encode", self.step).scatter(self.number)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            figures.scatter(points).savefig(self.out, dpi=150)
        except OSError as error:
            raise Refused(f"--out {self.out} cannot be written: {error.strerror or error}.") from None
        print(f"{len(points.position)} points in {self.out}")


@dataclass(frozen=True)
class Encode:
    """Pictures (the run's held-out ones if none are named) to latents: an .npz of `latents` [N,D], and `labels`."""

    run: Folder
    pictures: Source = None
    out: Path = Path("latents.npz")
    number: Number = 1000
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        if self.out.suffix.lower() != ".npz":
            raise Refused(f"--out {self.out} must end in .npz.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "encode", self.step)
        latents = opened.latents(self.pictures, self.number)
        labels = opened.dataset.test.labels if self.pictures is None else None
        arrays = {"latents": latents} | ({} if labels is None else {"labels": labels[: self.number]})
        pictures.write_arrays(self.out, arrays)
        print(f"{len(latents)} latents of {latents.shape[1]} numbers in {self.out}")


@dataclass(frozen=True)
class Decode:
    """Latents (an .npz with `latents` [N,D], as `tasvir encode` writes) to pictures."""

    run: Folder
    latents: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LATENTS")]
    out: Path = Path("decoded.png")
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "decode", self.step)
        print(pictures.write(opened.decoded(drawing.read_latents(self.latents, opened.model.latent_size)), self.out))
