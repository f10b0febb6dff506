"""One class for each command: its fields are its settings, calling it does the work. Heavy imports wait until then."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tasvir.cli import parse
from tasvir.config import Count, CountOrZero, DataConfig, Refused, RunConfig, Seed, TrainConfig, nearest

if TYPE_CHECKING:
    from tasvir.core import Model
    from tasvir.data import Dataset
    from tasvir.runs import Run

Pictures = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH|NAME")]
Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Folders = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN …]")]
Source = Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="PICTURES")]
Step = CountOrZero | Literal["best"] | None
Number = Annotated[Count, tyro.conf.arg(aliases=["-n"])]


@dataclass(frozen=True)
class Train:
    """Train a recipe. --data says where the pictures come from, --out which folder becomes the run."""

    data: DataConfig
    train: TrainConfig
    model: Any
    seed: Seed = 0
    """Everything random follows from it."""
    out: Path | None = None
    """The run folder; left out, runs/RECIPE-DATA."""
    recipe: tyro.conf.Suppress[str] = ""

    @classmethod
    def from_words(cls, words: list[str]) -> "Train":
        """The recipe's name comes first; it decides what the other words may be."""
        from tasvir.models import RECIPES

        if not words or words[0] in ("-h", "--help"):
            print(
                f"usage: tasvir train RECIPE --data PATH|NAME [--out DIR] [--seed N] …\n\nrecipes: {', '.join(RECIPES)}"
            )
            print("`tasvir train RECIPE --help` lists its settings.")
            raise SystemExit(0)
        if words[0].startswith("-"):
            raise Refused("`tasvir train` wants a recipe first: tasvir train RECIPE --data PATH|NAME.")
        asked = "-h" in words or "--help" in words
        if not asked:
            from tasvir.training.allocator import keep_freed_memory

            keep_freed_memory()
        from tasvir.models import recipe

        chosen = recipe(words[0])
        if not asked and not any(word == "--data" or word.startswith("--data=") for word in words):
            raise Refused(
                f"`tasvir train {words[0]}` wants --data: a folder or zip of pictures, or a set by name "
                "(cartoons, digits, mnist, cifar10 …)."
            )
        kind = _train_kind(type(chosen.config))
        default = kind(data=chosen.data, train=chosen.train, model=chosen.config, recipe=words[0])
        return parse(kind, words[1:], f"tasvir train {words[0]}", default=default)

    def __call__(self) -> int:
        from tasvir.data import load
        from tasvir.models import recipe
        from tasvir.runs import Run, check_vacant
        from tasvir.training import processes
        from tasvir.training.precision import choose_device

        choose_device(self.train.device)
        processes.start(self.train.device)
        kind = recipe(self.recipe).model
        data = _anywhere(self.data)
        out = self.out or _free_folder(
            f"{self.recipe}-{'-'.join(Path(name).stem.lower() for name in data.source)[:80]}"
        )
        if processes.is_writer():
            check_vacant(out)
        else:
            processes.wait()
        if data.size is not None and not kind.accepts(data.size):
            raise Refused(f"{self.recipe} takes pictures of {kind.sizes}, not {data.size} px: set --data.size.")
        dataset = load(data, lambda native: _fitting_size(kind, native))
        if processes.is_writer():
            processes.wait()
        lacks = kind.lacks(dataset.pictures)
        if lacks is not None:
            raise Refused(f"{self.recipe} {lacks}.")
        config = RunConfig(self.recipe, self.seed, data, self.train, self.model)
        run = Run(out, config, dataset.pictures, dataset.description)
        model = _built(run)

        def begin() -> None:
            run.create()
            for note in dataset.notes:
                print(note, file=sys.stderr)
            print(_training_sentence(run, dataset), file=sys.stderr)

        return _train(run, dataset, model, begin)


def _anywhere(data: DataConfig) -> DataConfig:
    """The settings with absolute paths, so that a run finds its pictures from any folder."""
    from tasvir.data.shards import is_address
    from tasvir.data.sources import DATASETS, absolute

    def whole(name: str) -> str:
        if name in DATASETS or is_address(name):
            return name
        return str(absolute(name)) if "{" in name or absolute(name).exists() else name

    return replace(data, source=tuple(map(whole, data.source)), root=data.root and absolute(str(data.root)))


def _built(run: "Run") -> "Model":
    """The untrained model of a run. Raises `Refused` if it cannot be built or trained with these settings."""
    import torch

    from tasvir.models import recipe
    from tasvir.training.state import mixed_seed

    torch.manual_seed(mixed_seed(run.config.seed))
    try:
        model = recipe(run.config.recipe).model(run.config.model, run.pictures)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise Refused(
            f"{run.config.recipe} cannot be built with these settings: {str(error).splitlines()[0]}"
        ) from None
    if run.config.train.batch_size == 1 and any(isinstance(layer, torch.nn.BatchNorm1d) for layer in model.modules()):
        raise Refused(f"--train.batch-size is 1; {run.config.recipe} has batch norm and needs at least 2.")
    return model


def _train_kind(config: type) -> type[Train]:
    """`Train` with the model's own settings, for the command line to read."""
    import dataclasses

    fields = [("data", DataConfig), ("train", TrainConfig), ("model", config)]
    return dataclasses.make_dataclass(
        "Train", fields, bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__}
    )


def _fitting_size(model: "type[Model]", native: int | None) -> int:
    """The set's own size (64 where any will do), or the nearest that the model takes: the next larger, else smaller."""
    wanted = native or 64
    sizes = [*range(wanted, 4 * wanted + 1), *range(wanted - 1, 3, -1)]
    return next((size for size in sizes if model.accepts(size)), wanted)


def _free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on if there is one already."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _training_sentence(run: "Run", dataset: "Dataset") -> str:
    shape = f"{dataset.pictures.size}×{dataset.pictures.size} {'grey' if dataset.pictures.channels == 1 else 'colour'}"
    if dataset.pictures.source is not None:
        shape += f", with {'' if dataset.pictures.matched else 'unmatched '}sources"
    many = f"{len(dataset.train)} pictures" if dataset.stream is None else f"{len(dataset.stream.shards)} shards"
    return (
        f"Training {run.config.recipe} on {dataset.name} ({many}, {shape}; "
        f"{len(dataset.test.images)} held out) for {run.config.train.steps} steps in {run.folder}."
    )


def _train(run: "Run", dataset: "Dataset", model: "Model", begin: Callable[[], None]) -> int:
    """Train with the run's folder held; `begin` is called once it is. Returns the exit code."""
    from tasvir.runs import OutOfSpace
    from tasvir.training import processes
    from tasvir.training.loop import Stopped, train

    measure = _watch(run, dataset) if processes.is_writer() else None
    outcome = "failed"
    try:
        with run.locked() if processes.is_writer() else nullcontext():
            if processes.is_writer():
                begin()
            processes.wait()
            outcome = train(run, dataset, model, measure)
    except (Stopped, OutOfSpace) as error:
        print(f"tasvir: {error}", file=sys.stderr)
    except OSError as error:
        kept = run.checkpoints()
        on = f"\nCheckpoint {kept[-1].step} is whole; `tasvir resume {run.folder}` goes on from it." if kept else ""
        print(f"tasvir: {run.folder} cannot be written: {error.strerror or error}.{on}", file=sys.stderr)
    finally:
        processes.stop()
    if outcome == "failed":
        return 1
    if processes.is_writer():
        step = run.latest().step
        if outcome == "interrupted":
            print(f"Interrupted; all is saved at step {step}. `tasvir resume {run.folder}` goes on.", file=sys.stderr)
        else:
            print(f"Done: {step} steps in {run.folder}. `tasvir report {run.folder}` shows it.", file=sys.stderr)
    return 130 if outcome == "interrupted" else 0


def _watch(run: "Run", dataset: "Dataset") -> Callable[[int], list[str]] | None:
    """What measures the run while it is trained, if that was asked for. Raises `Refused` if it cannot be."""
    if not run.config.train.evaluate_every:
        return None
    from tasvir.metrics.watch import Watch

    return Watch(run, dataset)


@dataclass(frozen=True)
class Steps:
    steps: CountOrZero | None = None
    """Train up to this many steps instead of the number the run was begun with."""


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its newest checkpoint, exactly as if it had never stopped."""

    run: Folder
    train: Steps = Steps()

    def __call__(self) -> int:
        from tasvir.training.allocator import keep_freed_memory

        keep_freed_memory()
        from tasvir.data import load
        from tasvir.runs import Run
        from tasvir.training import processes

        run = Run.open(self.run)
        checkpoint = run.latest() if any(run.checkpoint_folder.glob("[0-9]*")) else None
        began = checkpoint.step if checkpoint else 0
        for sentence in run.damaged():
            print(f"{sentence} Going on from step {began}.", file=sys.stderr)
        if self.train.steps is not None:
            if self.train.steps < began:
                raise Refused(f"{self.run} is at step {began} already; --train.steps {self.train.steps} is less.")
            run = replace(run, config=replace(run.config, train=replace(run.config.train, steps=self.train.steps)))
        if began >= run.config.train.steps:
            print(f"{self.run} has all its {began} steps; --train.steps N goes on to N.", file=sys.stderr)
            return 0
        processes.start(run.config.train.device)
        dataset = load(replace(run.config.data, size=run.pictures.size))
        if dataset.pictures != run.pictures or dataset.changed_since(run.dataset):
            raise Refused(
                f"The pictures of {run.data_words} are not those the run was trained on.\n"
                "Put them back as they were, or train anew."
            )

        def begin() -> None:
            run.write_config()
            print(f"Going on from step {began} to {run.config.train.steps}.", file=sys.stderr)

        return _train(run, dataset, _built(run), begin)


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


@dataclass(frozen=True)
class Recipes:
    """What there is, what each can do, and what it was measured to reach; with a name, its networks and settings."""

    recipe: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RECIPE")] = None
    json: bool = False
    """For programs."""

    def __call__(self) -> None:
        from tasvir import listing

        print(listing.recipes(self.recipe, self.json))


_ALONE = ("size", "split", "features", "weights", "labels")
"""Settings of `tasvir evaluate` that mean nothing for pairs."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run, or pictures that any software made; each number comes with its passport (docs/metrics.md).

    A run is held against its held-out pictures, and its numbers are appended to its measurements.jsonl.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    generated: str | None = None
    """Instead of a run: a folder, archive or arrays of pictures made by any software."""
    reference: str | None = None
    """What these are held against: a folder, an archive, or a set by name."""
    pairs: bool = False
    """Hold each generated picture against the real one of the same name, at its own size."""
    size: Count | None = None
    """Height and width at which generated pictures are measured; left out, the reference's own or theirs."""
    labels: str | None = None
    """Which attribute of the reference is the class, for sets that have several."""
    metrics: tuple[str, ...] = ()
    """Which, by these names or by those of their numbers; left out, all that fit and need nothing to be fetched.
    Sets: frechet kid inception-score precision-recall prd sliced-wasserstein classes label-agreement
    classification-accuracy ms-ssim-diversity diversity nearest-class memorization path-length. Pairs: pixels structure
    lpips super-resolution reconstruction-frechet. Likelihood: bound. Latents: disentanglement."""
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
    border: CountOrZero = 0
    """Pixels cut from every side before super-resolution is judged: the scale factor."""
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

    def __call__(self) -> None:
        self._check()
        from tasvir.metrics import evaluate

        protocol = evaluate.Protocol(
            self.metrics, self.features, self.weights, self.number, self.seed, self.split, self.draws, self.border
        )
        if self.run is not None:
            found = evaluate.of_run(self.run, protocol, self.step)
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
        own = ("reference", "pairs", "size", "labels", "out", "figures")
        usual = {field.name: field.default for field in fields(self)}
        if self.run is not None:
            given = [name for name in own if getattr(self, name) != usual[name]]
            if given:
                raise Refused(
                    f"--{given[0]} goes with --generated; a run is measured on the pictures it was trained to imitate."
                )
        elif self.reference is None:
            raise Refused(
                f"--generated {self.generated} wants --reference: a folder of real pictures, or a set by name."
            )
        elif self.pairs and (given := [name for name in _ALONE if getattr(self, name) != usual[name]]):
            raise Refused(f"--{given[0]} does not go with --pairs, which measures pictures as they are, in pairs.")
        elif self.step is not None:
            raise Refused("--step is of a run; generated pictures have none.")
        if self.out is not None and self.out.suffix != ".jsonl":
            raise Refused(f"--out {self.out} must end in .jsonl; its lines are what `tasvir compare` reads.")
        if self.out is not None:
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                self.out.open("a").close()
            except OSError as error:
                raise Refused(f"--out {self.out} cannot be written: {error.strerror or error}.") from None


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


class Data:
    """`tasvir data` is two commands: check and cache."""

    @staticmethod
    def from_words(words: list[str]) -> "Check | Cache":
        """The second word is the command."""
        kinds = {"check": Check, "cache": Cache}
        if not words or words[0] in ("-h", "--help"):
            print("usage: tasvir data check PATH|NAME [--data.* …] [--out FILE] [--json]")
            print("       tasvir data cache [--clear NAME|all] [--json]")
            print("\ncheck  what is in there, what is wrong with it, which recipes suit it; a contact sheet")
            print("cache  what tasvir keeps to be fast, and clearing it")
            raise SystemExit(0)
        if words[0] not in kinds:
            raise Refused(
                f"There is no command 'data {words[0]}'.{nearest(words[0], kinds)}\n`tasvir data --help` lists all."
            )
        return parse(kinds[words[0]], words[1:], f"tasvir data {words[0]}")


@dataclass(frozen=True)
class Check:
    """Look at all pictures: what is in there, what is wrong with it, and which recipes suit it."""

    pictures: Pictures
    data: DataConfig = DataConfig(source=())
    out: Path | None = None
    """The contact sheet, .png or .jpg; left out, NAME-check.png."""
    json: bool = False
    """Tell it to programs."""

    def __call__(self) -> int:
        from tasvir.data import check, contact, suits
        from tasvir.data.shards import is_address
        from tasvir.data.sources import find

        if self.pictures and self.data.source:
            raise Refused(
                f"The pictures are named twice, {' '.join(self.pictures)} and --data {' '.join(self.data.source)}.\n"
                "Name them once, without --data; several stand one after the other."
            )
        config = replace(self.data, source=self.pictures or self.data.source)
        if not config.source:
            raise Refused("`tasvir data check` wants pictures: the path of a folder or archive, or a set by name.")
        streamed = [name for name in config.source if is_address(name)] or ["--data.stream"] * config.stream
        if streamed:
            raise Refused(
                f"{streamed[0]}: what is streamed is never there as a whole, so it cannot be checked.\n"
                "Fetch a shard to disk and check that: tasvir data check SHARD.tar"
            )
        source = find(config)
        out = self.out or Path(contact.sheet_name(source.name))
        if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise Refused(f"--out {out} must end in .png or .jpg.")
        found = check.check(source, config)
        suited = suits.suiting(found)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            contact.contact_sheet(found).save(out)
        except OSError as error:
            raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None
        if self.json:
            plain = {**contact.plain(found, suited), "contact_sheet": contact.encodable(str(out))}
            print(json.dumps(plain, indent=1, ensure_ascii=False))
        else:
            print(contact.told(found, suited))
            print(f"\nContact sheet: {contact.legible(str(out))}")
        return 0


@dataclass(frozen=True)
class Cache:
    """What is kept in the cache folder (TASVIR_CACHE), largest first; all of it can be made again."""

    clear: tuple[str, ...] = ()
    """Remove what is called so, or begins so; `all` removes everything."""
    json: bool = False
    """Tell it to programs."""

    def __call__(self) -> None:
        from tasvir.data import cache
        from tasvir.data.items import cache_folder

        if self.clear:
            wanted = cache.chosen(self.clear)
            gone = cache.clear(wanted)
            kept = len(wanted) - len(gone)
            busy = f" {kept} stay: they are being made by another process." if kept else ""
            print(f"Removed {len(gone)}, {sum(entry.bytes for entry in gone) / 1e6:,.0f} MB.{busy}")
            return
        found = cache.entries()
        if self.json:
            plain = [
                {
                    "name": e.name,
                    "kind": e.kind,
                    "bytes": e.bytes,
                    "changed": e.changed.isoformat(timespec="seconds"),
                    "about": e.about,
                    "path": str(e.path),
                }
                for e in found
            ]
            print(json.dumps(plain, indent=1, ensure_ascii=False))
            return
        for entry in found:
            told = (
                f"{entry.bytes / 1e6:>9,.1f} MB  {entry.changed:%Y-%m-%d}  {entry.kind:<16} {entry.name}  {entry.about}"
            )
            print(told.rstrip())
        total = f"{sum(entry.bytes for entry in found) / 1e6:>9,.1f} MB in {cache_folder()}"
        print(f"{total}; `tasvir data cache --clear NAME` or `--clear all` removes it.")
