"""The loop: one function that trains every family, keeps the run folder up to date, and can be stopped any time."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasvir import pictures
from tasvir.config import TrainConfig
from tasvir.core import Model, Noise, Reconstructs, Samples, Translates
from tasvir.data.batches import Batches, FromShards, pictures_of, stream, to_uint8
from tasvir.runs import Run
from tasvir.training import foundation, processes
from tasvir.training.cures import cures, in_short
from tasvir.training.health import Health, answer_among, class_response, class_share, relative_diversity
from tasvir.training.precision import autocast, choose_device
from tasvir.training.progress import Reporter
from tasvir.training.state import State, mixed_seed, summary
from tasvir.training.verdict import TROUBLE, Referee, Verdict

if TYPE_CHECKING:
    from tasvir.data import Dataset

SHOWN = 64
"""Samples drawn at every showing, from seeds 0 to 63."""
EACH, ROWS = 8, 10
"""Pictures of each class that a conditional model draws, and classes, at most."""
LARGE = 128
"""Size in px above which only half as many held-out pictures are shown."""
REAL = 1000
"""Real pictures, at most, from which it is told how much classes differ."""
ACROSS = 1536
"""Px that pictures side by side take in a row, at most, unless a single group is wider."""
FEWEST = 100
"""Steps between showings after each epoch, at least: a tiny set would have thousands."""
SOON = 5
"""Steps after which several processes notice that they were asked to stop."""


class Stopped(Exception):
    """Training cannot go on; the message says why and what to try."""


def train(
    run: Run, dataset: "Dataset", model: Model | None = None, measure: Callable[[int], list[str]] | None = None
) -> Literal["done", "interrupted"]:
    """Train a run from its newest checkpoint, or from nothing, to `train.steps`.

    `model` is the untrained model where it was built already. `measure` is called in the writing process with the step
    of a checkpoint every `train.evaluate_every` steps, and returns what there is to say. Raises `Stopped` if losses
    stay non-finite, `OutOfSpace` if a checkpoint cannot be written, `OSError` if another file of the run cannot.
    """
    settings, seed = run.config.train, run.config.seed
    device = choose_device(settings.device)
    if model is None:
        torch.manual_seed(mixed_seed(seed))
        model = run.build()
    if model.foundation is not None and not run.checkpoints():
        foundation.settle(model, run)
    state = State(model, run, device)
    if run.checkpoints():
        state.load(run.latest())
    if settings.compile:
        state.compile()
    writer = processes.is_writer()
    reporter = Reporter(state.step, settings.steps, settings.batch_size * processes.count(), loud=writer)
    dataset = foundation.extended(dataset, foundation.prepared(state.model, run, dataset, device, reporter.say))
    batches = stream(
        as_two_sets(dataset) if state.model.unpaired else dataset,
        settings.batch_size,
        seed,
        device,
        channels_last=settings.channels_last,
        rank=processes.rank(),
        processes=processes.count(),
        say=reporter.say if writer else None,
    )
    keeper = Keeper(run, state, dataset, reporter, measure) if writer else None
    try:
        with interruption() as asked:
            if state.step == 0:
                state.save()
                if keeper:
                    keeper.show()
            elif keeper:
                keeper.measure()  # a kill may have come between this checkpoint and its measurement
            while state.step < settings.steps:
                verdict = _advance(state, batches, keeper, asked)
                if verdict == "interrupted":
                    return "interrupted"
                if verdict == "not finite":
                    _go_back(state, reporter)
            return "done"
    finally:
        reporter.close()
        if keeper:
            keeper.close()


def as_two_sets(dataset: "Dataset") -> "Dataset":
    """Pairs as pictures and sources that do not belong together."""
    return replace(dataset, pictures=replace(dataset.pictures, matched=False))


def showing(settings: TrainConfig, pictures: int) -> int:
    """Steps between showings, with so many training pictures (0 where they are streamed); 0 is never."""
    if settings.sample_every != "epoch":
        return settings.sample_every
    if not pictures:
        return settings.checkpoint_every
    return max(FEWEST, pictures // (settings.batch_size * processes.count()))


def _advance(state: State, batches: Batches | FromShards, keeper: "Keeper | None", asked: list[int]) -> str:
    """Train on until the end, an interruption, or too many skipped updates; says which."""
    settings = state.run.config.train
    meter = Meter()
    for step, batch in batches.iterate(state.step, settings.steps):
        meter.add(state.advance(batch))
        done = step + 1
        last = done == settings.steps
        stopping = bool(asked)
        if processes.count() > 1:  # all must stop at the same step; asking is an exchange, so only now and then
            stopping = done % SOON == 0 and processes.any_of(stopping, state.device)
        if done % settings.log_every == 0 or last:
            if processes.any_of(bool(state.longest_row >= settings.patience), state.device):
                return "not finite"
            if keeper:
                keeper.log(meter.means())
            meter = Meter()
        measuring = bool(settings.evaluate_every) and (last or done % settings.evaluate_every == 0)
        due = last or stopping or measuring or done % settings.checkpoint_every == 0
        if due and (last or stopping or not processes.any_of(bool(state.skipped_in_row > 0), state.device)):
            state.save()
            if keeper and measuring:
                keeper.measure()
        if keeper and keeper.showing and (last or done % keeper.showing == 0):
            keeper.show()
        if stopping and not last:
            return "interrupted"
    return "done"


def _go_back(state: State, reporter: Reporter) -> None:
    """Load the last checkpoint with a third of the learning rate; the second time, stop."""
    patience, again = state.run.config.train.patience, state.rate_factor < 1
    what = f"{patience} updates in a row were not finite (NaN or infinite loss or gradient)"
    if again or not state.run.checkpoints():
        raise Stopped(
            f"Training stopped at step {state.step}: {what}, also after going back with a lower learning rate.\n"
            "Try a lower learning rate, gradient clipping (--model.*.clip 1), or --train.precision float32."
        )
    broken, skipped = state.step, state.skipped.clone()
    state.load(state.run.latest())
    state.rate_factor = 1 / 3
    state.skipped = skipped
    sentence = f"{what} by step {broken}: went back to step {state.step} with a third of the learning rate."
    reporter.say(sentence)
    reporter.restart(state.step)
    if processes.is_writer():
        state.run.forget_after(state.step)
        state.run.log({"step": state.step, "health": [sentence]})


def save_compared(compared: dict[str, Tensor], out: Path) -> None:
    """What belongs side by side, [N,C,H,W] in [-1,1] each, as a PNG grid with its name above every picture."""
    sets = pictures.alike(*map(to_uint8, compared.values()))
    across = max(1, ACROSS // (len(sets) * sets[0].shape[2])) * len(sets)
    captions = list(compared) * len(sets[0])
    pictures.save_captioned(pictures.interleave(*sets), captions, min(across, len(captions)), out, group=len(sets))


class Meter:
    """Means of scalars that stay on the device until they are asked for; values that are not finite are left out."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            finite = torch.isfinite(value).float()
            self.sums[name] = self.sums.get(name, 0) + torch.nan_to_num(value.float(), 0.0, 0.0, 0.0)
            self.counts[name] = self.counts.get(name, 0) + finite

    def means(self) -> dict[str, float]:
        """Mean by name, without those that were never finite; the one wait for the device."""
        if not self.sums:
            return {}
        table = torch.stack([torch.stack(list(self.sums.values())), torch.stack(list(self.counts.values()))])
        sums, counts = table.tolist()
        return {name: sums[i] / counts[i] for i, name in enumerate(self.sums) if counts[i]}


class Keeper:
    """What the writing process does besides training: log lines, TensorBoard, pictures, health."""

    def __init__(
        self,
        run: Run,
        state: State,
        dataset: "Dataset",
        reporter: Reporter,
        measure: Callable[[int], list[str]] | None,
    ):
        self.run, self.state, self.reporter, self._measure = run, state, reporter, measure
        self.health = Health()
        self.events = None
        self.showing = showing(run.config.train, len(dataset.train))
        self.test = dataset.test if len(dataset.test.images) else dataset.train
        number = min(16 if dataset.pictures.size <= LARGE else 8, len(self.test.images))
        self.held_out = pictures_of(dataset, self.test, range(number), state.device)
        run.forget_after(state.step)
        self.referee = Referee.of(run.lines())
        run.log({"step": state.step, "began": datetime.now(UTC).isoformat(timespec="seconds"), "on": machine(state)})

    def log(self, means: dict[str, float]) -> None:
        """One line of log.jsonl, the same to TensorBoard and the screen, and the health rules on it."""
        skipped = float(self.state.skipped)
        told, verdict = self._judged({"step": self.state.step, **means})
        speed = self.reporter.update(self.state.step, summary(means), verdict)
        said = self.health.check({**means, "skipped": skipped})
        line = {"step": self.state.step, "pictures_per_second": round(speed, 2), **means, "skipped": skipped}
        self._write(line, said, told, verdict)
        if self.run.config.train.tensorboard:
            for name, value in line.items():
                if name != "step":
                    self._events().add_scalar(name, value, self.state.step)

    def measure(self) -> None:
        """Measure the checkpoint of this step, if it is one to be measured and was not yet."""
        settings, step = self.run.config.train, self.state.step
        due = settings.evaluate_every and (step % settings.evaluate_every == 0 or step == settings.steps)
        if self._measure is None or not due:
            return
        for sentence in self._measure(step):
            self.reporter.say(sentence)
        self.reporter.restart(step)

    def show(self) -> None:
        """The same seeds and the same held-out pictures, every time; of a conditional model a row for each class."""
        model, step = self.state.drawn, self.state.step
        training = model.training
        model.eval()
        folder = self.run.folder / "samples"
        with torch.no_grad(), autocast(self.state.device, self.state.dtype):
            if isinstance(model, Samples):
                seeds, label = self._shown()
                drawn = to_uint8(model.sample(Noise(seeds), label))
                self._save(drawn, label, folder / f"{step:08d}.png")
                self._check_diversity(drawn, label)
            if isinstance(model, Translates):
                compared = model.compared(self.held_out)
                save_compared(compared, folder / f"{step:08d}.png")
                self._check_answers(to_uint8(compared[answer_among(list(compared))]))
            if isinstance(model, Reconstructs):
                real, label = self.held_out.image, self.held_out.label
                told = {"label": label} if self._conditional and label is not None else {}
                pairs = pictures.interleave(to_uint8(real), to_uint8(model.reconstruct(real, **told)))
                name = f"{step:08d}-reconstructions.png" if isinstance(model, Samples) else f"{step:08d}.png"
                pictures.grid(pairs, columns=8, least=28).save(folder / name)
        model.train(training)

    @property
    def _conditional(self) -> bool:
        return bool(getattr(self.state.model, "conditional", False))

    def _shown(self) -> tuple[list[int], Tensor | None]:
        """Seeds of the pictures that are drawn, and their classes where the model draws for one: the same seeds in
        every row."""
        classes = min(len(self.run.pictures.classes), ROWS) if self._conditional else 0
        if not classes:
            return list(range(SHOWN)), None
        label = torch.arange(classes, device=self.state.device).repeat_interleave(EACH)
        return list(range(EACH)) * classes, label

    def _save(self, drawn: np.ndarray, label: Tensor | None, file: Path) -> None:
        """A grid, of a conditional model with the class above each picture."""
        if label is None:
            pictures.grid(drawn, least=28).save(file)
        else:
            names = [self.run.pictures.classes[one] for one in label.tolist()]
            pictures.save_captioned(drawn, names, EACH, file)

    @cached_property
    def _real_class_share(self) -> float:
        """How much classes differ, of those that are shown (see `class_share`)."""
        if self.test.labels is None:
            return 0.0
        label = np.asarray(self.test.labels[:REAL])
        chosen = np.flatnonzero(label < ROWS)
        return class_share(np.asarray(self.test.images[: len(label)])[chosen], label[chosen])

    def _check_diversity(self, drawn: np.ndarray, label: Tensor | None) -> None:
        if self.state.step and len(self.test.images) > 1:
            ratio = relative_diversity(drawn, np.asarray(self.test.images[:SHOWN]))
            line = {"step": self.state.step, "sample_diversity": ratio}
            if label is not None and len(drawn) > EACH:
                line["class_response"] = class_response(drawn, len(drawn) // EACH)
                line["real_class_share"] = self._real_class_share
            self._noticed(line)

    def _check_answers(self, answers: np.ndarray) -> None:
        """How much answers to the held-out sources differ, against how much the pictures to be reached do."""
        targets = to_uint8(self.held_out.image)
        if self.state.step and len(targets) > 1 and answers.shape == targets.shape:
            self._noticed({"step": self.state.step, "answer_diversity": relative_diversity(answers, targets)})

    def _noticed(self, line: dict[str, Any]) -> None:
        """Log what was seen in pictures; the verdict tells it where there is one, and else the health rules."""
        told, verdict = self._judged(line)
        self._write(line, [] if verdict else self.health.check(line), told, verdict)

    def _judged(self, line: dict[str, Any]) -> tuple[Verdict | None, str]:
        """The verdict on an adversarial training, if this line changes it, and its name, if there is one."""
        if self.referee.last > line["step"]:  # training went back to a checkpoint
            self.referee = Referee.of(self.run.lines())
        changed = self.referee.add(line)
        return changed, self.referee.verdict.name if self.referee.verdict else ""

    def _write(self, line: dict[str, Any], said: list[str], told: Verdict | None, verdict: str) -> None:
        """Log a line, and say what has just become bad and how the verdict has changed."""
        if told is not None and told.name in TROUBLE:
            said = [*said, "\n".join([str(told), *in_short(cures(self.run, told.name))])]
        self.run.log(line | ({"verdict": verdict} if verdict else {}) | ({"health": said} if said else {}))
        if told is not None and told.name == "healthy":
            said = [*said, str(told)]
        for sentence in said:
            self.reporter.say(sentence)

    def _events(self):  # type: ignore[no-untyped-def]
        if self.events is None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(self.run.folder / "events"), purge_step=self.state.step)
        return self.events

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def machine(state: State) -> str:
    """What this training runs on, in words."""
    precision = str(state.dtype).removeprefix("torch.")
    if state.device.type == "cuda":
        hardware = torch.cuda.get_device_name(state.device)
    else:
        hardware = f"{state.device.type}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    several = f", {processes.count()} processes" if processes.count() > 1 else ""
    return f"{hardware}{several}, {precision}, torch {torch.__version__}"


@contextmanager
def interruption() -> Iterator[list[int]]:
    """While inside, Ctrl-C and SIGTERM fill the yielded list instead of ending the process; a second Ctrl-C ends it."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
