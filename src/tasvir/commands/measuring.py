"""What is told of recipes and runs: their numbers, tables, pages."""

import json
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tasvir.cli import parse
from tasvir.commands.words import Eta, Guidance, Number, Sampler, Step, Steps, check_recipe
from tasvir.config import Count, CountOrZero, DataConfig, Refused, Seed

Folders = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN …]")]


@dataclass(frozen=True)
class Recipes:
    """What there is, what each can do, and what it was measured to reach; with a name, its networks and settings."""

    recipe: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RECIPE")] = None
    json: bool = False
    """For programs."""

    def __call__(self) -> None:
        from tasvir import listing

        if self.recipe is not None:
            check_recipe(self.recipe)
        print(listing.recipes(self.recipe, self.json))


_ALONE = ("size", "split", "features", "weights", "labels", "prior", "sampler", "steps", "guidance", "eta")
"""Settings of `tasvir evaluate` that mean nothing for pairs, nor for a run on whole pictures of another set."""

_SAMPLING = ("sampler", "steps", "guidance", "eta")
"""Settings of how a run draws in steps."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run, or pictures that any software made; each number comes with its passport (docs/metrics.md).

    A run is held against its held-out pictures, and its numbers are appended to its measurements.jsonl.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    generated: str | None = None
    """Instead of a run: a folder, archive or arrays of pictures made by any software."""
    reference: str | None = None
    """What these are held against: a folder, an archive, or a set by name. With a run that translates: other pictures,
    translated whole at their own sizes."""
    pairs: bool = False
    """Hold each generated picture against the real one of the same name, at its own size."""
    size: Count | None = None
    """Height and width at which generated pictures are measured; left out, the reference's own or theirs."""
    labels: str | None = None
    """Which attribute of the reference is the class, for sets that have several."""
    metrics: tuple[str, ...] = ()
    """Which, by name or by the names of their numbers; left out, all that fit and need nothing to be fetched."""
    features: str | None = None
    """In which features distances are measured: classifier, inception, dinov2, clip, pixels, timm:NAME,
    torchvision:NAME; left out, classifier for drawn sets with classes, else inception."""
    weights: Path | None = None
    """File with the weights of the features inception, where they cannot be fetched."""
    number: Number = 10_000
    """Pictures to measure with, at most."""
    split: Literal["test", "train", "all"] | None = None
    """Part of the reference that pictures are held against; left out, test, but all of a --reference folder that has
    no split of its own."""
    draws: Count | None = None
    """Draws of the latent behind each picture's importance-weighted bound; left out, 50, or 5 above 64 px."""
    border: CountOrZero | None = None
    """Pixels cut from every side before super-resolution is judged; left out, the scale of a run that enlarges, else
    0."""
    prior: Literal["model", "mixture"] = "model"
    """Whence latents are drawn for samples of a run: its model's own prior, or a Gaussian mixture fitted to the
    encodings of its training pictures."""
    sampler: Sampler = None
    steps: Steps = None
    guidance: Guidance = None
    eta: Eta = None
    seed: Seed = 0
    """Of the first sample, and of whatever else is drawn at random."""
    step: Step = None
    """Checkpoint to measure, or `best`; left out, the newest."""
    out: Path | None = None
    """File that the numbers of generated pictures are appended to (.jsonl), for `tasvir compare`."""
    figures: Path | None = None
    """Folder for figures of generated pictures; a run has its own."""
    json: bool = False
    """For programs."""

    @classmethod
    def from_words(cls, words: list[str]) -> "Evaluate":
        """As any command; its help lists the metrics that there are."""
        return parse(_listing_metrics() if {"-h", "--help"} & set(words) else cls, words, "tasvir evaluate")

    def __call__(self) -> None:
        self._check()
        from tasvir.metrics import evaluate

        protocol = evaluate.Protocol(
            self.metrics,
            self.features,
            self.weights,
            self.number,
            self.seed,
            self.split,
            self.draws,
            self.border,
            self.prior,
            {name: getattr(self, name) for name in _SAMPLING},
        )
        if self.run is not None:
            found = evaluate.of_run(self.run, protocol, self.step, reference=self.reference)
        else:
            assert self.generated is not None and self.reference is not None
            reference = DataConfig(source=(self.reference,), size=self.size, labels=self.labels)
            found = evaluate.of_pictures(self.generated, reference, protocol, self.out, self.figures, self.pairs)
        print(json.dumps(found, indent=1) if self.json else evaluate.told(found))

    def _check(self) -> None:
        """Raise `Refused` for flags that do not go together."""
        if self.run is None and self.generated is None:
            raise Refused(
                "`tasvir evaluate` wants a run folder, or pictures made by other software:\n"
                "tasvir evaluate RUN, or tasvir evaluate --generated DIR --reference DIR|NAME."
            )
        if self.run is not None and self.generated is not None:
            raise Refused(f"Name either a run ({self.run}) or --generated {self.generated}, not both.")
        own = ("pairs", "size", "labels", "out", "figures")
        usual = {field.name: field.default for field in fields(self)}
        if self.run is not None:
            given = [name for name in own if getattr(self, name) != usual[name]]
            if given:
                raise Refused(
                    f"--{given[0]} goes with --generated; a run is measured on the pictures it was trained to imitate."
                )
            if self.reference and (given := [name for name in _ALONE if getattr(self, name) != usual[name]]):
                raise Refused(f"--{given[0]} does not go with --reference, whose pictures a run translates whole.")
        elif self.reference is None:
            raise Refused(
                f"--generated {self.generated} wants --reference: a folder of real pictures, or a set by name."
            )
        elif self.pairs and (given := [name for name in _ALONE if getattr(self, name) != usual[name]]):
            raise Refused(f"--{given[0]} does not go with --pairs, which measures pictures as they are, in pairs.")
        elif self.step is not None:
            raise Refused("--step is of a run; generated pictures have none.")
        elif self.prior != "model":
            raise Refused("--prior is of a run; generated pictures have none.")
        elif given := [name for name in _SAMPLING if getattr(self, name) is not None]:
            raise Refused(f"--{given[0]} is of a run; generated pictures have been drawn.")
        if self.out is not None and self.out.suffix != ".jsonl":
            raise Refused(f"--out {self.out} must end in .jsonl; its lines are what `tasvir compare` reads.")
        if self.out is not None:
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                self.out.open("a").close()
            except OSError as error:
                raise Refused(f"--out {self.out} cannot be written: {error.strerror or error}.") from None


def _listing_metrics() -> type[Evaluate]:
    """`Evaluate` with the names of all metrics in what is said of `--metrics`."""
    from tasvir.metrics.table import METRICS

    said = (
        "Which, by these names or by those of their numbers; left out, all that fit and need nothing to be fetched: "
        f"{' '.join(METRICS)}."
    )
    listed = Annotated[tuple[str, ...], tyro.conf.arg(help=said)]
    field: tuple[str, Any, Any] = ("metrics", listed, ())
    return make_dataclass("Evaluate", [field], bases=(Evaluate,), frozen=True, namespace={"__doc__": Evaluate.__doc__})


@dataclass(frozen=True)
class Compare:
    """One table and one page for several runs; numbers whose passports differ are kept apart, with the reason."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN|FILE.jsonl …")]
    """Run folders, and files of what `tasvir evaluate --generated DIR --out FILE.jsonl` measured."""
    out: Path = Path("comparison.html")
    """The page; or x.csv or x.tex, the table alone."""
    json: bool = False
    """For programs."""

    def __call__(self) -> None:
        from tasvir.report import compare

        print(compare.compare(_several(self.runs, 2, "compare"), self.out, self.json))


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page for a run (report.html in its folder), or for several."""

    runs: Folders
    out: Path | None = None
    """The page; left out, report.html in the run folder (comparison.html for several)."""

    def __call__(self) -> None:
        from tasvir.report import page

        folders = _several(self.runs, 1, "report")
        out = self.out or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
        print(page.report(folders, out))


def _several(folders: tuple[Path, ...], least: int, command: str) -> tuple[Path, ...]:
    if len(folders) < least:
        wanted = "1 run folder" if least == 1 else f"{least} run folders or .jsonl files of measurements"
        raise Refused(f"`tasvir {command}` wants at least {wanted}.")
    return folders
