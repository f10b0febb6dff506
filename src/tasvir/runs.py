"""The run folder: config, checkpoints, log, pictures, measurements. A kill at any instant loses nothing.

Weights are safetensors and everything else is YAML or JSON: reading a run executes nothing.
"""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import yaml

from tasvir import __version__
from tasvir.config import (
    DataConfig,
    Foundation,
    Pictures,
    Refused,
    RunConfig,
    Seed,
    TrainConfig,
    as_flag,
    from_plain,
    leaves,
    to_plain,
)
from tasvir.models import FOUNDATION, build, recipe

if TYPE_CHECKING:
    from torch import Tensor

    from tasvir.core import Model

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Head:
    """What a config begins with."""

    recipe: str
    seed: Seed


class OutOfSpace(Exception):
    """A checkpoint could not be written; the message says what is left."""


@dataclass(frozen=True)
class Checkpoint:
    """One folder below `checkpoints/`, named after its step."""

    folder: Path

    @property
    def step(self) -> int:
        return int(self.folder.name)

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def tensors(self, file: str) -> dict[str, "Tensor"]:
        """All tensors of `model.safetensors` or `optimizer.safetensors`, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / file)

    def fault(self) -> str | None:
        """Why this checkpoint cannot be read, or None if its files are whole."""
        try:
            sizes = self.state()["files"]
            for file in FILES:
                if file not in sizes:
                    return f"state.json does not tell of {file}"
            for file, size in sizes.items():
                if (self.folder / file).stat().st_size != size:
                    return f"{file} was cut short"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "state.json cannot be read"
        return None


@dataclass(frozen=True)
class Run:
    """A run folder, open: what it was made with, and its files."""

    folder: Path
    config: RunConfig
    pictures: Pictures
    dataset: dict[str, Any]
    """What was trained on: name, content hashes, counts, notes."""

    def create(self) -> "Run":
        """Make the folder and write its config, beside that of a run it stands on.

        Raises `Refused` if it holds anything else already or cannot be written.
        """
        check_vacant(self.folder, besides=FOUNDATION if self.config.foundation else "")
        try:
            self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "samples").mkdir(exist_ok=True)
            self.write_config()
        except OSError as error:
            raise Refused(f"{self.folder} cannot be written: {error.strerror or error}.") from None
        return self

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """Read a run's config. Raises `Refused` if the folder is no run or its config is damaged."""
        folder = Path(folder)
        file = folder / "config.yaml"
        if not file.is_file():
            what = "is not a run folder: it has no config.yaml" if folder.is_dir() else "does not exist"
            raise Refused(f"{folder} {what}.\nA run folder is what `tasvir train` makes.")
        try:
            plain = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Refused(f"{file} cannot be read: {str(error).splitlines()[0]}.") from None
        wanted = ("format", "recipe", "seed", "data", "train", "model", "pictures", "dataset")
        if not isinstance(plain, dict) or not all(key in plain for key in wanted):
            raise Refused(f"{file} is not the config of a run, or was cut short.")
        if not isinstance(plain["format"], int) or not isinstance(plain["dataset"], dict):
            raise Refused(f"{file} is damaged: its format or its dataset is not what tasvir writes.")
        if plain["format"] > FORMAT:
            raise Refused(f"{folder} was written by a newer tasvir ({plain.get('tasvir')}); this is {__version__}.")
        head = from_plain({"recipe": plain["recipe"], "seed": plain["seed"]}, Head, str(file))
        config = RunConfig(
            recipe=head.recipe,
            seed=head.seed,
            data=from_plain(plain["data"], DataConfig, f"{file}, data"),
            train=from_plain(plain["train"], TrainConfig, f"{file}, train"),
            model=from_plain(plain["model"], type(recipe(head.recipe).config), f"{file}, model"),
            foundation=_foundation(plain["foundation"], f"{file}, foundation") if plain.get("foundation") else None,
        )
        return cls(folder, config, from_plain(plain["pictures"], Pictures, f"{file}, pictures"), plain["dataset"])

    def write_config(self) -> None:
        below = self.config.foundation
        plain = {
            "format": FORMAT,
            "tasvir": __version__,
            **to_plain(self.config),
            "model": to_plain(self.config.model),
            "foundation": below and {**to_plain(below), "model": to_plain(below.model)},
            "pictures": to_plain(self.pictures),
            "dataset": self.dataset,
        }
        write_whole(self.folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def data_words(self) -> str:
        """What `--data` was, in one line."""
        return " ".join(self.config.data.source)

    def unlike(self, pictures: Pictures) -> str:
        """How pictures differ in kind from those that the run was trained on, in words; empty if they do not."""
        then, now = self.pictures, pictures
        found = []
        if then.channels != now.channels:
            found.append(f"they were in {_color(then)} and are in {_color(now)} now")
        if len(then.classes) != len(now.classes):
            found.append(f"they were of {_classes(then)} and are of {len(now.classes) or 'no'} now")
        elif then.classes != now.classes:
            new = ", ".join([name for name in now.classes if name not in then.classes][:5])
            found.append(f"their {_classes(then)} are others now{new and f' ({new})'}")
        return ", and ".join(found)

    @property
    def foundation(self) -> Path | None:
        """The folder of the run that this one stands on, which may be gone; None if it stands on nothing."""
        below = self.config.foundation
        return None if below is None else self.folder / below.run

    def before(self) -> str | None:
        """`still in stage 1 of 2 (vq-vae, step 50 of 3000)`, until the stage that this run stands on is finished and
        its own begins; else None.
        """
        below, folder = self.config.foundation, self.foundation
        if below is None or folder is None or below.run != FOUNDATION or self._all_checkpoints():
            return None
        if not (folder / "config.yaml").exists():
            return None
        first = Run.open(folder)
        step = max((kept.step for kept in first.checkpoints()), default=0)
        return f"still in stage 1 of 2 ({below.recipe}, step {step} of {first.config.train.steps})"

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    def command(self) -> str:
        """The command line that trains this run again: the recipe and every setting that is not its default."""
        words = ["tasvir", "train", self.config.recipe, "--data", *self.config.data.source]
        default = recipe(self.config.recipe)
        sections = [
            ("data", self.config.data, default.data),
            ("train", self.config.train, default.train),
            ("model", self.config.model, default.config),
        ]
        below = self.config.foundation
        if below is not None and below.run != FOUNDATION:
            words += ["--on", below.run]
        elif below is not None:
            first = recipe(below.recipe)
            sections.append(("first.model", below.model, first.config))
            if (self.folder / FOUNDATION / "config.yaml").exists():
                trained = Run.open(self.folder / FOUNDATION).config.train
                sections.append(("first.train", trained, first.train))
        for section, ours, theirs in sections:
            for path, value, usual in leaves(section, to_plain(ours), to_plain(theirs)):
                if value != usual and path != "data.source":
                    words += as_flag(path, value)
        return shlex.join([*words, "--seed", str(self.config.seed), "--out", str(self.folder)])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one training. Raises `Refused` if another training has it; a kill lets go of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / ".lock")
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise Refused(
                f"Another training is running in {self.folder}.\nWait for it, or choose another --out."
            ) from None
        except OSError as error:
            raise Refused(f"{self.folder} cannot be written: {error.strerror or error}.") from None
        try:
            yield
        finally:
            lock.release()

    def checkpoints(self) -> list[Checkpoint]:
        """All whole checkpoints, oldest first."""
        return [checkpoint for checkpoint in self._all_checkpoints() if checkpoint.fault() is None]

    def latest(self) -> Checkpoint:
        """The newest whole checkpoint. Raises `Refused` if there is none."""
        whole = self.checkpoints()
        if not whole:
            before = self.before()
            if before:
                raise Refused(f"{self.folder} is {before}; `tasvir resume {self.folder}` goes on.")
            faults = [f"{checkpoint.step}: {checkpoint.fault()}" for checkpoint in self._all_checkpoints()]
            why = f" ({'; '.join(faults)})" if faults else ""
            raise Refused(f"{self.folder} has no checkpoint that can be read{why}.")
        return whole[-1]

    def damaged(self) -> list[str]:
        """A sentence for each checkpoint that cannot be read."""
        return [f"Checkpoint {c.step} is damaged: {c.fault()}." for c in self._all_checkpoints() if c.fault()]

    def _all_checkpoints(self) -> list[Checkpoint]:
        if not self.checkpoint_folder.is_dir():
            return []
        return [Checkpoint(folder) for folder in sorted(self.checkpoint_folder.iterdir()) if folder.name.isdigit()]

    def save(self, step: int, files: dict[str, dict[str, "Tensor"]], state: dict[str, Any]) -> Checkpoint:
        """Write a checkpoint aside, sync it, and rename it into place; then drop all but the newest ones and the best.

        Raises `OutOfSpace` if it could not be written; the checkpoints before it are as they were.
        """
        from safetensors.torch import save

        target = self.checkpoint_folder / f"{step:08d}"
        partial = self.checkpoint_folder / f".{step:08d}.partial"
        try:
            for leftover in self.checkpoint_folder.glob(".*.partial"):  # of a training that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
            sizes = {}
            for file, tensors in files.items():
                content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
                _write_synced(partial / file, content)
                sizes[file] = len(content)
            plain = {"format": FORMAT, "tasvir": __version__, "step": step, **state, "files": sizes}
            _write_synced(partial / "state.json", json.dumps(plain, indent=1).encode())
            _sync_folder(partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync_folder(self.checkpoint_folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            kept = self.checkpoints()
            raise OutOfSpace(
                f"The checkpoint of step {step} could not be written to {self.folder}: "
                f"{'the disk is full' if full else error.strerror or error}.\n"
                + (
                    f"Checkpoint {kept[-1].step} is whole; `tasvir resume {self.folder}` goes on from it."
                    if kept
                    else ""
                )
            ) from None
        self._prune()
        return Checkpoint(target)

    def _prune(self) -> None:
        """Drop all checkpoints but the newest and the best."""
        best = self.best()
        for old in self.checkpoints()[: -self.config.train.keep]:
            if old != best:
                shutil.rmtree(old.folder, ignore_errors=True)

    def best(self) -> Checkpoint | None:
        """The checkpoint that the link `best` names; None where nothing was measured while training."""
        link = self.folder / "best"
        if not link.is_symlink():
            return None
        name = Path(os.readlink(link)).name
        return next((found for found in self.checkpoints() if found.folder.name == name), None)

    def better(self, step: int) -> str:
        """A sentence where the checkpoint kept as best is another one than that of `step`, else nothing."""
        best = self.best()
        if best is None or best.step == step:
            return ""
        return f"Step {step} is the newest; the best by what was measured in training is step {best.step}: --step best."

    def keep_as_best(self, checkpoint: Checkpoint) -> None:
        """Let the link `best` name this checkpoint, which then stays."""
        partial = self.folder / ".best.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(Path("checkpoints") / checkpoint.folder.name, target_is_directory=True)
        partial.replace(self.folder / "best")
        self._prune()

    def build(self) -> "Model":
        """The model, untrained, and its foundation untrained too: a checkpoint holds the weights of both."""
        return build(self.config.recipe, self.config.model, self.pictures, self.config.foundation)

    def load_model(
        self, step: int | str | None = None, averaged: bool = True, device: Any = "cpu"
    ) -> tuple["Model", int]:
        """The model in evaluation mode with the weights of a checkpoint (the newest, or the `best`), and its step.

        `averaged` takes the averaged weights if the run keeps them. Raises `Refused` if there is no such checkpoint.
        """
        checkpoint = self.best() if step == "best" else self.latest()
        if checkpoint is None:
            raise Refused(
                f"{self.folder} has no best checkpoint: nothing was measured while it was trained.\n"
                "--train.evaluate-every N does so; leave --step out for the newest."
            )
        if isinstance(step, int):
            found = [c for c in self.checkpoints() if c.step == step]
            if not found:
                kept = ", ".join(str(c.step) for c in self.checkpoints())
                raise Refused(f"{self.folder} has no checkpoint of step {step}; there are {kept}.")
            checkpoint = found[0]
        model = self.build()
        tensors = self.read(checkpoint, "model.safetensors")
        prefix = "average." if averaged and any(name.startswith("average.") for name in tensors) else "model."
        weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            model.load_state_dict(weights)
        except RuntimeError:
            raise Refused(
                f"The weights in {checkpoint.folder} do not fit the networks of {self.config.recipe}: "
                "another version of it made them."
            ) from None
        return model.to(device).eval().requires_grad_(False), checkpoint.step

    def read(self, checkpoint: Checkpoint, file: str) -> dict[str, "Tensor"]:
        """Tensors of a checkpoint. Raises `Refused` if the file is damaged."""
        from safetensors import SafetensorError

        try:
            return checkpoint.tensors(file)
        except (SafetensorError, OSError) as error:
            raise Refused(f"{checkpoint.folder / file} cannot be read: {error}.") from None

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to `log.jsonl`."""
        append(self.folder / "log.jsonl", line)

    def lines(self, file: str = "log.jsonl") -> list[dict[str, Any]]:
        """All whole lines of `log.jsonl` or `measurements.jsonl`; a last line cut short by a kill is left out."""
        path = self.folder / file
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drop what was logged, drawn and measured in training after `step`: training goes on from there."""
        kept = [line for line in self.lines() if line.get("step", 0) <= step]
        write_whole(self.folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        lines = self.lines("measurements.jsonl")
        kept = [line for line in lines if "during" not in line or line["passport"]["step"] <= step]
        if len(kept) < len(lines):
            write_whole(self.folder / "measurements.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        for picture in (self.folder / "samples").glob("*.png"):
            if picture.name[:8].isdigit() and int(picture.name[:8]) > step:
                picture.unlink()


def _foundation(plain: Any, what: str) -> Foundation:
    """From plain values. Raises `Refused`, naming `what`."""
    if not isinstance(plain, dict) or not isinstance(plain.get("recipe"), str):
        raise Refused(f"{what} names no recipe.")
    found = from_plain(plain, Foundation, what)
    return replace(found, model=from_plain(plain.get("model"), type(recipe(found.recipe).config), f"{what}, model"))


def _color(pictures: Pictures) -> str:
    return "grey" if pictures.channels == 1 else "colour"


def _classes(pictures: Pictures) -> str:
    count = len(pictures.classes)
    return f"{count or 'no'} class{'' if count == 1 else 'es'}"


def check_vacant(folder: Path, besides: str = "") -> None:
    """Raise `Refused` if a run cannot begin in this folder because something is there `besides` one entry."""
    if folder.is_dir() and any(entry.name not in (".lock", besides) for entry in folder.iterdir()):
        hint = f"`tasvir resume {folder}` goes on with it" if (folder / "config.yaml").exists() else "it is not empty"
        raise Refused(f"{folder} exists already: {hint}; choose another --out to begin anew.")


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, whole."""
    partial = path.with_name(f".{path.name}.partial")
    _write_synced(partial, text.encode())
    partial.replace(path)


def append(path: Path, *lines: dict[str, Any]) -> None:
    """Append JSON lines, in one piece."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
