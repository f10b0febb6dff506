"""A run's latent space: to and from latents, walks, single dimensions, directions between classes, the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tasvir.commands.words import Folder, Label, Number, Source, Step
from tasvir.config import Count, Refused

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Steps = Annotated[int, tyro.conf.arg()]
Prior = Literal["model", "mixture"]


@dataclass(frozen=True)
class Manifold:
    """A grid over a two-dimensional latent space, its coordinates at even quantiles of the normal prior."""

    run: Folder
    out: Path = Path("manifold.png")
    """x.png one grid; .npz; x.gif, x.webp or x.mp4 a film; a folder."""
    side: Count = 20
    """Pictures along each side."""
    label: Label = None
    """Class to draw, for recipes that know classes; left out, the first."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures

        pictures.check_out(self.out)
        images = drawing.Opened(self.run, "decode", self.step).manifold(self.side, self.label)
        print(pictures.write(images, self.out, columns=self.side))


@dataclass(frozen=True)
class Traverse:
    """A picture (the run's first held-out one if none is named) with one latent dimension changed at a time.

    A row for each dimension, those that tell most first: by their KL divergence from the prior, else by the variance
    of the encodings. Of a model with codes (infogan), random latents with one code changed at a time: every category,
    and continuous codes from -2 to 2.
    """

    run: Folder
    pictures: Source = None
    out: Path = Path("traversals.png")
    """x.png rows with their names; x.gif, x.webp or x.mp4 a film; .npz; a folder."""
    number: Number = 10
    """Rows: dimensions; of models with codes, random latents of each categorical code, and categories of each
    continuous one."""
    steps: Steps = 9
    """Pictures of each."""
    along: Literal["deviations", "quantiles"] = "deviations"
    """From -3 to 3 deviations of the prior (of the encodings where it is not N(0,1)), or quantiles of the encodings."""
    label: Label = None
    """Class of the picture, for recipes that know classes."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, latent_space, pictures

        _check_steps(self.steps)
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, None, self.step)
        if getattr(opened.model, "latent_codes", ()):
            if self.pictures is not None or self.label is not None:
                raise Refused("Codes are changed in random latents: leave pictures and --label out.")
            print(pictures.write_sheets(latent_space.code_traversals(opened, self.number, self.steps), self.out))
            return
        walked = latent_space.traversals(opened, self.pictures, self.number, self.steps, self.along, self.label)
        rows, columns = walked.rows, walked.columns
        said = pictures.write(walked.images, self.out, columns=self.steps, row_names=rows, column_names=columns)
        print(f"{said}; the order of the dimensions is that of {walked.pictures} held-out pictures")


@dataclass(frozen=True)
class Arithmetic:
    """Pictures (the run's held-out ones if none are named) with the direction from one class to another added.

    The direction is the difference of the two classes' mean latents, over training pictures.
    """

    run: Folder
    pictures: Source = None
    minus: str = tyro.MISSING
    """Class that is left, by name or number."""
    plus: str = tyro.MISSING
    """Class that is gone to."""
    attribute: str | None = None
    """Which attribute the two are values of, for sets that have several (as --data.labels); left out, the run's."""
    strengths: tuple[float, ...] = (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2)
    """How many times the direction is added; 0 is the reconstruction."""
    out: Path = Path("arithmetic.png")
    """x.png a row for each picture, which stands before it; else only what was made: .npz, .gif, .webp, .mp4, a folder.
    """
    number: Number = 8
    """Pictures."""
    label: Label = None
    """Class of the pictures, for recipes that know classes."""
    step: Step = None

    def __call__(self) -> None:
        import numpy as np

        from tasvir import drawing, latent_space, pictures

        if not self.strengths or not np.isfinite(self.strengths).all():
            raise Refused("--strengths needs at least one number, and all of them finite.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "encode", self.step)
        real, walked = latent_space.arithmetic(
            opened,
            self.pictures,
            self.number,
            self.minus,
            self.plus,
            self.strengths,
            self.attribute,
            self.label,
        )
        images, columns = walked.images, len(self.strengths)
        if self.out.suffix.lower() == ".png":
            rows = images.reshape(len(real), columns, *images.shape[1:])
            images = np.concatenate([real[:, None], rows], axis=1).reshape(-1, *images.shape[1:])
            columns += 1
        print(pictures.write(images, self.out, columns=columns, column_names=["picture", *walked.columns]))


@dataclass(frozen=True)
class Scatter:
    """Held-out pictures as points of the latent space (brought into the plane if it has more), coloured by class."""

    run: Folder
    out: Path = Path("scatter.png")
    """.png or .svg"""
    method: Literal["pca", "tsne", "umap"] = "pca"
    """Two principal components, t-SNE (seconds for thousands), or UMAP (needs the package umap-learn)."""
    number: Number = 2000
    """Held-out pictures, 3 or more."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing
        from tasvir.report import figures

        _check_figure(self.out)
        _check_number(self.number)
        points = drawing.Opened(self.run, "encode", self.step).scatter(self.number, self.method)
        _save(lambda: figures.scatter(points), self.out)
        print(f"{len(points.position)} points in {self.out}")


@dataclass(frozen=True)
class Aggregate:
    """The prior against the aggregate posterior: densities of the dimensions that tell most, and both in the plane."""

    run: Folder
    out: Path = Path("aggregate.png")
    """.png or .svg"""
    prior: Prior = "model"
    """The model's own, or the mixture that `tasvir sample --prior mixture` draws from."""
    number: Number = 2000
    """Held-out pictures, 3 or more, and as many draws from the prior."""
    dimensions: Count = 6
    """Latent dimensions to show by themselves."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, latent_space
        from tasvir.report import figures

        _check_figure(self.out)
        _check_number(self.number)
        opened = drawing.Opened(self.run, "encode", self.step)
        found = latent_space.aggregate(opened, self.number, self.dimensions, self.prior)
        _save(lambda: figures.aggregate(found), self.out)
        print(
            f"{len(found.posterior)} draws from the {found.prior_name}, and one from the posterior of each of "
            f"{found.pictures} held-out pictures, in {self.out}"
        )


@dataclass(frozen=True)
class Encode:
    """Pictures (the run's held-out ones if none are named) to latents: an .npz of `latents` [N,D], and `labels`.

    Models with discrete codes write `codes` [N,T] as well.
    """

    run: Folder
    pictures: Source = None
    out: Path = Path("latents.npz")
    """.npz"""
    number: Number = 1000
    """Pictures."""
    label: Label = None
    """Class of the pictures, for recipes that know classes."""
    step: Step = None

    def __call__(self) -> None:
        import numpy as np

        from tasvir import drawing, pictures
        from tasvir.core import Encodes, Tokenizes

        if self.out.suffix.lower() != ".npz":
            raise Refused(f"--out {self.out} must end in .npz.")
        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, None, self.step)
        if not isinstance(opened.model, Tokenizes):
            opened.require("encode")
        real = opened.real(self.pictures, self.number)
        labels = opened.labels_beside(self.pictures, len(real), self.label)
        if isinstance(opened.model, Encodes):
            labels = opened.classes_of(real, labels)
        arrays, said = {}, []
        if isinstance(opened.model, Encodes):
            arrays["latents"] = opened.encoded(real, labels)
            said.append(f"{len(real)} latents of {opened.model.latent_size} numbers")
        if isinstance(opened.model, Tokenizes):
            arrays["codes"] = opened.tokenized(real)
            said.append(f"{len(real)} pictures as {arrays['codes'].shape[1]} codes each")
        known = labels if labels is not None or self.pictures is not None else opened.dataset.test.labels
        if known is not None:
            arrays["labels"] = np.asarray(known[: len(real)], np.int64)
        pictures.write_arrays(self.out, arrays)
        print(f"{' and '.join(said)} in {self.out}")


@dataclass(frozen=True)
class Decode:
    """Latents or codes (an .npz with `latents` [N,D] or `codes` [N,T], as `tasvir encode` writes) to pictures."""

    run: Folder
    latents: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LATENTS")]
    """The .npz to read."""
    out: Path = Path("decoded.png")
    """x.png one grid; .npz; x.gif, x.webp or x.mp4 a film; a folder."""
    label: Label = None
    """Class to decode for, in recipes that know classes; left out, the `labels` of the file."""
    step: Step = None

    def __call__(self) -> None:
        import torch

        from tasvir import drawing, pictures
        from tasvir.core import Decodes, Tokenizes
        from tasvir.encoded import read_encoded
        from tasvir.spaces import has_styles, space_of

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, None, self.step)
        model, classes = opened.model, len(opened.run.pictures.classes)
        if not isinstance(model, Tokenizes):
            opened.require("decode")
        size = model.latent_size if isinstance(model, Decodes) else None
        grids = model.grids if isinstance(model, Tokenizes) else ()
        found = read_encoded(self.latents, size, grids, classes, has_styles(model))
        if found.latents is None and found.w is not None:
            images = opened.pictured(space_of(model, opened.run.config.recipe, "w"), torch.from_numpy(found.w))
        elif found.latents is None:
            assert found.codes is not None
            if self.label is not None:
                raise Refused(f"{self.latents} has codes, which are decoded without a class; leave --label out.")
            images = opened.detokenized(found.codes)
        else:
            labels = opened.labels(self.label, len(found.latents)) or found.labels
            if opened.conditional and labels is None:
                raise Refused(f"{opened.run.config.recipe} decodes for a class: say which with --label.")
            images = opened.decoded(found.latents, labels)
        print(pictures.write(images, self.out))


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise Refused(f"--steps is {steps}; a walk has at least 2 pictures.")


def _check_number(number: int) -> None:
    if number < 3:
        raise Refused(f"--number is {number}; a plane needs at least 3 pictures.")


def _check_figure(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".svg"):
        raise Refused(f"--out {out} must end in .png or .svg.")


def _save(draw: "Callable[[], Figure]", out: Path) -> None:
    """Draw a figure and write it. Raises `Refused` if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw().savefig(out, dpi=150)
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None
