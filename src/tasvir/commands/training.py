"""Training a run, and going on with it."""

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tasvir.cli import parse
from tasvir.commands.fitting import check_pictures, few_pictures, of_too_few
from tasvir.commands.stages import built, steps_done, train_all
from tasvir.commands.words import Folder, check_recipe
from tasvir.config import Count, CountOrZero, DataConfig, Foundation, Pictures, Refused, RunConfig, Seed, TrainConfig
from tasvir.models import FOUNDATION

if TYPE_CHECKING:
    from tasvir.core import Model, Recipe
    from tasvir.runs import Run


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
    asked: tyro.conf.Suppress[tuple[str, ...]] = ()
    on: tyro.conf.Suppress[Path | None] = None
    first: tyro.conf.Suppress[Any] = None

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

        check_recipe(words[0])
        chosen = recipe(words[0])
        if not asked and not any(word == "--data" or word.startswith("--data=") for word in words):
            raise Refused(
                f"`tasvir train {words[0]}` wants --data: a folder or zip of pictures, or a set by name "
                "(cartoons, digits, mnist, cifar10 …)."
            )
        if chosen.foundation is None and any(word == "--on" or word.startswith("--on=") for word in words):
            raise Refused(f"{words[0]} stands on no other run; leave --on out.")
        below = None if chosen.foundation is None else recipe(chosen.foundation)
        kind = _train_kind(type(chosen.config), None if below is None else type(below.config))
        first = {} if below is None else {"first": _usual_first(below)}
        default = kind(
            data=chosen.data, train=chosen.train, model=chosen.config, recipe=words[0], asked=asked_for(words), **first
        )
        return parse(kind, words[1:], f"tasvir train {words[0]}", default=default)

    def __call__(self) -> int:
        from tasvir.data import load
        from tasvir.data.packing import TooFew
        from tasvir.data.settling import settled
        from tasvir.models import recipe
        from tasvir.runs import Run, check_vacant
        from tasvir.training import processes
        from tasvir.training.precision import choose_device

        choose_device(self.train.device)
        processes.start(self.train.device)
        kind = recipe(self.recipe).model
        below = self._below()
        data, said = settled(_anywhere(self.data), recipe(self.recipe).data, self.asked)
        out = self.out or _free_folder(
            f"{self.recipe}-{'-'.join(Path(name).stem.lower() for name in data.source)[:80]}"
        )
        if processes.is_writer():
            check_vacant(out)
        else:
            processes.wait()
        if below is not None:
            data = _as_below(data, below.pictures, self.asked)
        if data.size is not None and not kind.accepts(data.size):
            raise Refused(f"{self.recipe} takes pictures of {kind.sizes}, not {data.size} px: set --data.size.")
        try:
            dataset = load(data, lambda native: _fitting_size(kind, native))
        except TooFew as error:
            raise of_too_few(self.recipe, error) from None
        if processes.is_writer():
            processes.wait()
        check_pictures(self.recipe, dataset.pictures)
        if below is not None and _shape(below.pictures) != _shape(dataset.pictures):
            raise Refused(
                f"{self.on} was trained on pictures of {_shape_words(below.pictures)}, and these are of "
                f"{_shape_words(dataset.pictures)}: {_to_agree(below.pictures, dataset.pictures, data)}."
            )
        knows = below is not None and getattr(below.config.model, "conditional", False)
        if below is not None and knows and below.pictures.classes != dataset.pictures.classes:
            raise Refused(f"{self.on} knows other classes than these pictures have: take those it was trained on.")
        run = Run(out, self._config(data, below), dataset.pictures, dataset.description)
        stages = [(run, built(run))]
        if run.config.foundation is not None and below is None:
            nested = replace(run, folder=out / FOUNDATION, config=self._first_config(data, run.config.foundation))
            check_pictures(nested.config.recipe, dataset.pictures)
            stages.insert(0, (nested, built(nested, "first.train")))
        notes = [*dataset.notes, *said, *filter(None, [few_pictures(*stage, dataset) for stage in stages])]

        def begin() -> None:
            check_vacant(out, besides=FOUNDATION if len(stages) > 1 else "")
            for stage, _ in stages:  # the last one's config last: with it the folder is a run
                stage.create()
            for note in notes:
                print(note, file=sys.stderr)

        return train_all(stages, dataset, begin)

    def _below(self) -> "Run | None":
        """The run named by --on. Raises `Refused` if it is none, or not one to stand on."""
        from tasvir.models import recipe
        from tasvir.runs import Run
        from tasvir.training import foundation

        if self.on is None:
            return None
        below = Run.open(self.on)
        foundation.check(self.recipe, below)
        if self.first != _usual_first(recipe(str(recipe(self.recipe).foundation))):
            raise Refused("--first.* sets up a stage to be trained, and --on names a run that was: leave one out.")
        return below

    def _config(self, data: DataConfig, below: "Run | None") -> RunConfig:
        from tasvir.data.sources import absolute
        from tasvir.models import recipe
        from tasvir.training import foundation

        found = None
        if below is not None:
            found = foundation.described(below, str(absolute(str(self.on))))
        elif self.first is not None:
            found = Foundation(str(recipe(self.recipe).foundation), self.first.model, FOUNDATION)
        return RunConfig(self.recipe, self.seed, data, self.train, self.model, found)

    def _first_config(self, data: DataConfig, below: Foundation) -> RunConfig:
        return RunConfig(below.recipe, self.seed, data, self.first.train, below.model)


def asked_for(words: list[str]) -> tuple[str, ...]:
    """Which settings of the data the words of a command line give."""
    return tuple(word.removeprefix("--data.").partition("=")[0] for word in words if word.startswith("--data."))


def _anywhere(data: DataConfig) -> DataConfig:
    """The settings with absolute paths, so that a run finds its pictures from any folder."""
    from tasvir.data.shards import is_address
    from tasvir.data.sources import DATASETS, absolute

    def whole(name: str) -> str:
        if name in DATASETS or is_address(name):
            return name
        return str(absolute(name)) if "{" in name or absolute(name).exists() else name

    return replace(data, source=tuple(map(whole, data.source)), root=data.root and absolute(str(data.root)))


def _as_below(data: DataConfig, pictures: Pictures, asked: tuple[str, ...]) -> DataConfig:
    """The settings with the size and the scale of the run below, where they were not asked for."""
    if "size" not in asked:
        data = replace(data, size=pictures.size)
    scale: Any = _scale(pictures)
    if data.derive == "low-resolution" and "scale" not in asked and scale in (2, 3, 4):
        data = replace(data, scale=scale)
    return data


def _scale(pictures: Pictures) -> int:
    return 1 if pictures.source is None else pictures.size // pictures.source.size


def _shape(pictures: Pictures | None) -> tuple[Any, ...]:
    return () if pictures is None else (pictures.size, pictures.channels, _shape(pictures.source))


def _shape_words(pictures: Pictures) -> str:
    words = f"{pictures.size} px in {'grey' if pictures.channels == 1 else 'colour'}"
    return words if pictures.source is None else f"{words} from sources of {_shape_words(pictures.source)}"


def _to_agree(wanted: Pictures, given: Pictures, data: DataConfig) -> str:
    """What makes pictures like the wanted ones."""
    size = [f"--data.size {wanted.size}"] if wanted.size != given.size else []
    color = [f"--data.color {'grey' if wanted.channels == 1 else 'rgb'}"] if wanted.channels != given.channels else []
    derived = data.derive == "low-resolution" and _scale(wanted) != _scale(given)
    scale = [f"--data.scale {_scale(wanted)}"] if derived else []
    found = " and ".join(size + color + scale)
    return f"set {found}" if found else "take pictures with sources like those"


def _train_kind(config: type, below: type | None) -> type[Train]:
    """`Train` with the model's own settings, and those of the stage before it, for the command line to read."""
    import dataclasses

    fields: list[Any] = [("data", DataConfig), ("train", TrainConfig), ("model", config)]
    if below is not None:
        fields += [
            ("on", Annotated[Path | None, tyro.conf.arg(help=ON)], None),
            ("first", Annotated[_first_kind(below), tyro.conf.arg(help="The stage before.")], None),
        ]
    return dataclasses.make_dataclass(
        "Train", fields, bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__}
    )


ON = "A run to stand on, which stays as it is; left out, one is trained first, with the settings --first.*"


@cache
def _first_kind(config: Any) -> Any:
    """The settings of the stage that is trained first, by those of its model."""
    import dataclasses

    return dataclasses.make_dataclass("First", [("train", TrainConfig), ("model", config)], frozen=True)


def _usual_first(below: "Recipe") -> Any:
    kind: Any = type(below.config)
    return _first_kind(kind)(below.train, below.config)


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


@dataclass(frozen=True)
class Steps:
    steps: CountOrZero | None = None
    """Train up to this many steps instead of the number the run was begun with; of two stages, it is the last one's."""


@dataclass(frozen=True)
class StepsBefore:
    steps: Count | None = None
    """The same for the first of two stages, while it is not finished."""


@dataclass(frozen=True)
class StageBefore:
    train: StepsBefore = StepsBefore()


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its newest checkpoint, exactly as if it had never stopped."""

    run: Folder
    train: Steps = Steps()
    first: StageBefore = StageBefore()

    def __call__(self) -> int:
        from tasvir.training.allocator import keep_freed_memory

        keep_freed_memory()
        from tasvir.data import load
        from tasvir.runs import Run
        from tasvir.training import foundation, processes

        run = Run.open(self.run)
        processes.start(run.config.train.device)
        checkpoint = run.latest() if any(run.checkpoint_folder.glob("[0-9]*")) else None
        began = checkpoint.step if checkpoint else 0
        stages = self._stages(run, began)
        run = stages[-1]
        notes = [f"{sentence} Going on from step {began}." for sentence in run.damaged()]
        notes += filter(None, [foundation.changed(run) if checkpoint else None])
        finished = checkpoint is not None and began >= run.config.train.steps
        if finished:
            notes.append(f"{self.run} has all its {began} steps; --train.steps N goes on to N.")
        for note in notes if processes.is_writer() else ():
            print(note, file=sys.stderr)
        if finished:
            processes.stop()
            return 0
        dataset = load(replace(run.config.data, size=run.pictures.size))
        if dataset.pictures != run.pictures or dataset.changed_since(run.dataset):
            unlike = run.unlike(dataset.pictures)
            raise Refused(
                f"The pictures of {run.data_words} are not those the run was trained on{unlike and f': {unlike}'}.\n"
                "Put them back as they were, or train anew."
            )

        def begin() -> None:
            for stage in stages:
                stage.write_config()
            print(f"Going on from step {steps_done(stages[0])} to {stages[0].config.train.steps}.", file=sys.stderr)

        return train_all([(stage, built(stage)) for stage in stages], dataset, begin)

    def _stages(self, run: "Run", began: int) -> "list[Run]":
        """What is still to be trained, to the steps that were asked for. Raises `Refused` if those make no sense."""
        stages = _unfinished(run)
        if self.first.train.steps is not None and len(stages) == 1:
            raise Refused(f"{self.run} has no stage before that is still to be trained; leave --first.train.steps out.")
        if self.train.steps is not None and self.train.steps < 1 and len(stages) > 1:
            raise Refused(
                f"--train.steps is {self.train.steps}; it is of the last stage, which has not begun, and must be at "
                "least 1.\n--first.train.steps is of the stage that is being trained."
            )
        asked = [(stages[-1], self.train.steps, began, "--train.steps")]
        if len(stages) > 1:
            asked.insert(0, (stages[0], self.first.train.steps, steps_done(stages[0]), "--first.train.steps"))
        return [_to_steps(*one) for one in asked]


def _to_steps(run: "Run", steps: int | None, done: int, flag: str) -> "Run":
    if steps is None:
        return run
    if steps < done:
        raise Refused(f"{run.folder} is at step {done} already; {flag} {steps} is less.")
    return replace(run, config=replace(run.config, train=replace(run.config.train, steps=steps)))


def _unfinished(run: "Run") -> "list[Run]":
    """The stages of a run that are still to be trained, the first one first.

    Raises `Refused` if what it stands on is gone before its own training began.
    """
    from tasvir.runs import Run

    below = run.config.foundation
    if below is None or run.checkpoints() or below.run != FOUNDATION:
        return [run]
    assert run.foundation is not None
    return [Run.open(run.foundation), run]
