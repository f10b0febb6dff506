"""What a trained run draws: samples and reconstructions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasvir.commands.words import Eta, Folder, Guidance, Number, Sampler, Source, Step, Steps
from tasvir.config import Positive, Refused, Seed


@dataclass(frozen=True)
class Sample:
    """Draw new pictures; each has its own seed, so the same seed is the same picture in any number."""

    run: Folder
    out: Path
    """x.png one grid, x.npz arrays, x.gif or x.webp or x.mp4 a film, else a folder of PNGs with an index.csv."""
    number: Number = 64
    """Pictures; of each class, with --label each."""
    label: str | None = None
    """Class name or number, for recipes that know classes (`tasvir recipes` marks them); `each` draws all, a row each,
    the same seeds for every one."""
    prior: Literal["model", "mixture"] = "model"
    """Where latents come from: the model's own prior, or a mixture of Gaussians fitted once to the latents of training
    pictures and kept in the run's folder (Ghosh et al. 2020); for models that encode and decode."""
    noise: Literal["normal", "uniform", "exponential"] | None = None
    """Distribution of the latent noise, always of zero mean and unit variance; left out, the one it was trained with.
    """
    truncation: Positive | None = None
    """Less variety for better pictures, in GANs: latent values are kept within ± this (Brock et al. 2019); StyleGANs
    draw w towards its mean by this factor, 0.7 for example (Karras et al. 2019)."""
    sampler: Sampler = None
    steps: Steps = None
    guidance: Guidance = None
    eta: Eta = None
    seed: Seed = 0
    """Seed of the first picture; the next have the next seeds."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures
        from tasvir.diffusion.telling import shown
        from tasvir.spaces import has_styles

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "sample" if self.prior == "model" else None, self.step)
        how = opened.sampling(sampler=self.sampler, steps=self.steps, guidance=self.guidance, eta=self.eta)
        classes = opened.run.pictures.classes
        seeds = list(range(self.seed, self.seed + self.number))
        columns, names = None, []
        if self.label == "each" and opened.conditional and "each" not in classes:
            labels: list[int] | None = [label for label in range(len(classes)) for _ in seeds]
            seeds, columns, names = seeds * len(classes), self.number, list(classes)
        else:
            labels = opened.labels(self.label, self.number)
        with shown(opened, len(seeds), how):
            images = opened.samples(seeds, self.noise, labels, self.prior, self.truncation, how)
        said = pictures.write(
            images, self.out, columns=columns, labels=labels, seeds=seeds, classes=classes, row_names=names
        )
        if self.truncation is not None:
            by = f"{self.truncation:g}"
            said += f"; w drawn to its mean by {by}" if has_styles(opened.model) else f"; latent values within ±{by}"
        print(said)


@dataclass(frozen=True)
class Reconstruct:
    """Pictures (the run's held-out ones if none are named), each beside its reconstruction."""

    run: Folder
    pictures: Source = None
    out: Path = Path("reconstructions.png")
    """x.png pairs side by side, else only the reconstructions: .npz, .gif, .webp, .mp4, a folder."""
    number: Number = 32
    """Pictures."""
    samples: bool = False
    """Reconstruct the model's own samples, of seeds 0 and up."""
    label: str | None = None
    """Class of the pictures, for recipes that know classes; left out, that of the held-out pictures, and for others the
    likeliest."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        if self.samples and self.pictures is not None:
            raise Refused(f"--samples reconstructs the model's own pictures; leave {self.pictures} or --samples out.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "reconstruct", self.step)
        if self.samples:
            opened.require("sample")
            labels = opened.labels(self.label, self.number) or opened.classes_in_turn(self.number)
            real = opened.samples(range(self.number), labels=labels)
        else:
            real = opened.real(self.pictures, self.number)
            labels = opened.labels_beside(self.pictures, len(real), self.label)
        made = opened.reconstructions(real, labels)
        if self.out.suffix.lower() == ".png":
            print(pictures.write(pictures.interleave(real, made), self.out, columns=8))
        else:
            print(pictures.write(made, self.out))
