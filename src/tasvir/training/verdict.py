"""How an adversarial training goes, in words: a verdict from the log's last lines, why, and what usually helps.

It reads only what was logged, so it costs a step nothing, and a resumed run or a report comes to the same words. What
it cannot see: a generator that draws a few kinds of picture well and no others. Recall and class coverage tell that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Name = Literal["too early to say", "healthy", "discriminator won", "collapsed", "class not heeded", "oscillating"]
TROUBLE: tuple[Name, ...] = ("discriminator won", "collapsed", "class not heeded", "oscillating")

POINT = 50
"""Steps, at least, whose mean is one point: shorter log lines are joined, for a mean of few steps is noise."""
FEWEST, RECENT, WINDOW = 10, 10, 20
"""Points before anything is said, points whose median counts, and points in which swings are counted."""
CONFIRMED = 2
"""Log lines in a row that must say the same before the verdict changes to it."""
TELLS_APART = 0.98
"""Accuracy on real and on generated pictures from which on a discriminator tells them all apart."""
WON = 0.9
"""Share of steps with a discriminator loss below 0.05 from which on it has won."""
VANISHED = 0.01
"""Norm of the generator's gradient, against the distance between the two mean scores, below which it learns nothing.
Both grow with the discriminator's scale, so the ratio does not; it was 0.2 to 41 in healthy runs."""
ALIKE = 0.1
"""Diversity against real pictures' below which generated ones are all alike."""
FELL = 0.5, 0.2
"""Diversity from which on a generator drew varied pictures, and below which it then has lost that again."""
VARIED = 0.3
"""Diversity that a generator must have had for its loss to be called a collapse while the discriminator wins."""
SWING = 0.2
"""Change of accuracy, up and down, that counts as a swing."""
SWING_OF_DISTANCE = 1.0
"""The same of the distance between the mean scores, against its median. In games in which only differences of scores
mean anything, and in logs without accuracies, there is nothing else to go by."""
SWINGS = 5
"""Swings within the window that are an oscillation. Healthy runs had at most 2."""

HEEDED = 0.5
"""Class response against the share of the class in real pictures' variance below which the class is not heeded: a
generator that heeds it cannot be below 1; MNIST's were 1.9 to 3.5 from step 500 on."""
HEEDED_FROM = 1000
"""Step from which on the class, or the source, should be heeded."""
TERMS = ("l1", "content", "cycle", "identity", "feature_matching")
"""Losses of a generator that is told what its pictures should be, or what must be found again in them."""
FALLING = 0.02
"""Share by which such a loss must have fallen, from one stretch of training to the next, to be called falling."""
STRETCH = 0.25
"""How much of a training a stretch is; never less than `RECENT` points, nor more than half of it."""
Response = tuple[int, float, float]
"""Step of a showing, `class_response` there, and what it is at least where the class is heeded."""


@dataclass(frozen=True)
class Verdict:
    name: Name
    why: str
    """One sentence, with the numbers that it is based on."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}. {self.why}"


PREFIX = "Verdict: "
"""How a verdict that is said begins."""
Point = Mapping[str, float]
"""Means by series, without the player `discriminator`, and `step`, its last."""


@dataclass
class Referee:
    """Log lines in, one after another; the verdict out. Where no discriminator is logged there is none."""

    verdict: Verdict | None = None
    history: list[tuple[int, Verdict]] = field(default_factory=list)
    """(step, verdict) of every change."""
    last: int = 0
    """The last step that was told of."""
    _points: list[Point] = field(default_factory=list)
    _open: list[Mapping[str, Any]] = field(default_factory=list)
    """Lines that are no whole point yet."""
    _shown: list[float] = field(default_factory=list)
    """`sample_diversity` of every showing."""
    _answers: list[tuple[int, float]] = field(default_factory=list)
    """Step and `answer_diversity` of every showing of a model that makes a picture of a picture."""
    _responses: list[Response] = field(default_factory=list)
    """`class_response` and `real_class_share` of every showing of a conditional model."""
    _asked: tuple[str, int] = ("", 0)
    """Another verdict that the last lines come to, and how many do."""

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> "Referee":
        """What all lines of a log come to; where training went back to a checkpoint, what came the second time."""
        kept: list[Mapping[str, Any]] = []
        for line in lines:
            if isinstance(line.get("step"), int):
                back = bool(kept) and kept[-1]["step"] > line["step"]
                while back and kept and kept[-1]["step"] >= line["step"]:
                    kept.pop()
                kept.append(line)
        found = cls()
        for line in kept:
            found.add(line)
        return found

    def add(self, line: Mapping[str, Any]) -> Verdict | None:
        """The verdict, if this line of the log changes it."""
        self.last = step = line["step"]
        if "sample_diversity" in line:
            self._shown.append(float(line["sample_diversity"]))
            if "class_response" in line:
                self._responses.append((step, line["class_response"], line.get("real_class_share", 0.0)))
        elif "answer_diversity" in line:
            self._answers.append((step, float(line["answer_diversity"])))
        elif any(name.startswith("discriminator") for name in line):
            self._open.append(line)
            if step % POINT == 0 or (step - 1) // POINT > (self._open[0]["step"] - 1) // POINT:
                self._points.append(joined(self._open))
                self._open = []
        else:
            return None
        return self._changed(step) if self._points or self._open else None

    def _changed(self, step: int) -> Verdict | None:
        found = judged(self._points, self._shown, self._responses, self._answers)
        if self.verdict is not None and found.name == self.verdict.name:
            self.verdict, self._asked = found, ("", 0)
            return None
        self._asked = (found.name, self._asked[1] + 1 if self._asked[0] == found.name else 1)
        if self._asked[1] < CONFIRMED and self.verdict is not None and self.verdict.name != "too early to say":
            return None
        self.verdict, self._asked = found, ("", 0)
        self.history.append((step, found))
        return found


def joined(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of some log lines, each series over the lines that have it; all discriminators' are named alike."""
    values: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if "/" in name and isinstance(value, int | float) and np.isfinite(value):
                values.setdefault(_series(name), []).append(float(value))
    return {"step": lines[-1]["step"], **{name: float(np.mean(found)) for name, found in values.items()}}


def _series(name: str) -> str:
    """`discriminators/won` as `won`, `generators/l1` as `generator/l1`."""
    player, _, series = name.partition("/")
    if player.startswith("discriminator"):
        return series
    return f"generator/{series}" if player.startswith("generator") else name


def judged(
    points: Sequence[Point],
    shown: Sequence[float] = (),
    responses: Sequence[Response] = (),
    answers: Sequence[tuple[int, float]] = (),
) -> Verdict:
    """The verdict on a training by its points so far; `shown` is the diversity of the samples drawn at each showing,
    `responses` how much these differ by their class, `answers` the diversity of answers to held-out sources
    at its step.

    Where a generator is also told what its pictures should be, a discriminator that wins, or now wins and now loses,
    is no trouble while what it is told goes on being learned.
    """
    if len(points) < FEWEST:
        return Verdict(
            "too early to say",
            f"It takes {FEWEST} points of at least {POINT} steps to tell, and there are {len(points)}.",
        )
    recent = {name: _median(points[-RECENT:], name) for name in SERIES}
    told = course(points)
    learning = told is not None and told.falling
    won = discriminator_won(recent)
    trouble = won or oscillating(points[-WINDOW:])
    if trouble and told is not None and not learning:
        trouble = Verdict(trouble.name, f"{trouble.why} {told.words}")
    return (
        collapsed(recent, points, shown, won is not None)
        or indifferent(answers)
        or (None if learning else won and trouble)
        or unheeded(responses)
        or (None if learning else trouble)
        or Verdict("healthy", healthy(recent, shown, answers) + (f" {told.words}" if told and learning else ""))
    )


SERIES = (
    *("real_accuracy", "fake_accuracy", "won", "batch_diversity", "real_score", "fake_score"),
    *("gradient_norm", "generator/gradient_norm"),
)
"""What is looked at; any of it may be missing."""


def discriminator_won(recent: Mapping[str, float | None]) -> Verdict | None:
    """It tells all pictures apart, and its loss is near zero; in games whose loss has no such floor, because only
    differences of scores mean anything there, that is what is wanted, until no slope is left for the generator.
    """
    real, fake, won = recent["real_accuracy"], recent["fake_accuracy"], recent["won"]
    right = "" if real is None or fake is None else _right(real, fake)
    if right and min(real or 0, fake or 0) < TELLS_APART:
        return None
    if won is not None:
        if won < WON:
            return None
        loss = f"its loss was below 0.05 in {won:.0%} of the steps"
        return Verdict("discriminator won", f"{_joined(right, loss)}, so the generator learns little from it.")
    slope = _slope(recent)
    if not right or slope is None or slope >= VANISHED:
        return None
    left = f"the generator's gradient is {slope:.1g} of the distance between the mean scores"
    return Verdict("discriminator won", f"{_joined(right, left)}, so the generator learns nothing from it.")


def collapsed(
    recent: Mapping[str, float | None], points: Sequence[Point], shown: Sequence[float], won: bool
) -> Verdict | None:
    """Generated pictures are all alike: in the batches of training, or in the last two showings.

    A generator that never drew anything varied before the discriminator won has not collapsed: it has not begun.
    """
    now = recent["batch_diversity"]
    if now is not None and now < max(ALIKE, FELL[1]):
        begun = [point for point in points[FEWEST:] if "batch_diversity" in point]  # before, it may be mere noise
        most, step = max(((point["batch_diversity"], point["step"]) for point in begun), default=(0.0, 0.0))
        if now < (FELL[1] if most >= FELL[0] else ALIKE) and not (won and most < VARIED):
            was = f", after {most:.2f} at step {int(step):,}" if most >= VARIED else ""
            return Verdict("collapsed", f"Pictures in a generated batch differ by {now:.2g} of what real ones do{was}.")
    if len(shown) >= 2 and max(shown[-2:]) < ALIKE and not (won and max(shown) < VARIED):
        return Verdict("collapsed", f"The samples differ by {shown[-1]:.2g} of what real pictures do.")
    return None


@dataclass(frozen=True)
class Course:
    """How the losses go by which a generator is told what its pictures should be."""

    falling: bool
    words: str
    """A sentence on the one that fell most."""


def course(points: Sequence[Point]) -> Course | None:
    """Whether one of `TERMS` fell from the stretch before to the last one; None where there are none."""
    length = min(max(RECENT, round(STRETCH * len(points))), len(points) // 2)
    found = []
    for term in TERMS:
        before, after = (
            _values(some, f"generator/{term}") for some in (points[-2 * length : -length], points[-length:])
        )
        if before and after and np.mean(before) > 0:
            found.append((float(np.mean(after) / np.mean(before)), term, float(np.mean(before)), float(np.mean(after))))
    if not found:
        return None
    ratio, term, old, new = min(found)
    falling, name = ratio <= 1 - FALLING, term.replace("_", " ")
    how = "still falls" if falling else "does not fall either"
    steps = f"the last {_steps(points[-length - 1 :])} steps"
    return Course(falling, f"The loss {name} {how}: {old:.3g} before {steps}, {new:.3g} in them.")


def indifferent(answers: Sequence[tuple[int, float]]) -> Verdict | None:
    """In the last two showings, held-out sources got much the same answer."""
    late = [diversity for step, diversity in answers if step >= HEEDED_FROM][-2:]
    if len(late) < 2 or max(late) >= ALIKE:
        return None
    return Verdict(
        "collapsed", f"The answers hardly depend on the source: they differ by {late[-1]:.2g} of what the targets do."
    )


def unheeded(responses: Sequence[Response]) -> Verdict | None:
    """In the last two showings, the same noise became much the same picture whatever class was asked for."""
    late = [one for one in responses if one[0] >= HEEDED_FROM][-2:]
    if len(late) < 2 or any(response >= HEEDED * least for _, response, least in late):
        return None
    _, response, least = late[-1]
    return Verdict(
        "class not heeded",
        f"The class makes {response:.2g} of what differs between samples, less than the {least:.2g} that it makes "
        "between real pictures: the same noise becomes much the same picture whatever is asked for.",
    )


def oscillating(points: Sequence[Point]) -> Verdict | None:
    """One player and then the other has the upper hand, again and again."""
    accuracies = {what: _values(points, f"{what}_accuracy") for what in ("real", "fake")}
    by_accuracy = any("won" in point for point in points)
    for what, values in accuracies.items() if by_accuracy else ():
        if (count := swings(values, SWING)) >= SWINGS:
            of = "real" if what == "real" else "generated"
            return Verdict(
                "oscillating",
                f"The discriminator's accuracy on {of} pictures swung {count} times within {_steps(points)} steps, "
                f"between {min(values):.0%} and {max(values):.0%}.",
            )
    distance = [p["real_score"] - p["fake_score"] for p in points if {"real_score", "fake_score"} <= p.keys()]
    middle = float(np.median(np.abs(distance))) if distance else 0.0
    if middle and (count := swings(distance, SWING_OF_DISTANCE * middle)) >= SWINGS:
        return Verdict(
            "oscillating",
            f"The distance between the mean scores of real and generated pictures swung {count} times within "
            f"{_steps(points)} steps, between {min(distance):.3g} and {max(distance):.3g}.",
        )
    return None


def healthy(
    recent: Mapping[str, float | None], shown: Sequence[float], answers: Sequence[tuple[int, float]] = ()
) -> str:
    """What there is to say of a training of which there is nothing bad to say."""
    real, fake, now = recent["real_accuracy"], recent["fake_accuracy"], recent["batch_diversity"]
    right = "" if real is None or fake is None else _right(real, fake)
    varied, whose = (now, "generated pictures") if now is not None else (shown[-1] if shown else None, "samples")
    differ = "" if varied is None else f"{whose} differ by {varied:.2f} of what real ones do"
    if answers and not differ:
        differ = f"answers to different sources differ by {answers[-1][1]:.2f} of what their targets do"
    said = _joined(right, differ) or "No sign of trouble in what was logged"
    return f"{said}."


def swings(values: Sequence[float], least: float) -> int:
    """How often a series goes at least `least` up after having gone as far down, or the other way round.

    The first such move counts too: 0, 1, 0 with `least` 1 are two swings; a series that only rises has one.
    """
    count, direction = 0, 0
    low = high = values[0] if len(values) else 0.0
    for value in values:
        low, high = min(low, value), max(high, value)
        if direction <= 0 and value - low >= least:
            count, direction, high = count + 1, 1, value
        elif direction >= 0 and high - value >= least:
            count, direction, low = count + 1, -1, value
    return count


def _values(points: Sequence[Point], name: str) -> list[float]:
    return [point[name] for point in points if name in point]


def _median(points: Sequence[Point], name: str) -> float | None:
    found = _values(points, name)
    return float(np.median(found)) if found else None


def _slope(recent: Mapping[str, float | None]) -> float | None:
    norm, real, fake = recent["generator/gradient_norm"], recent["real_score"], recent["fake_score"]
    return None if norm is None or real is None or fake is None or real == fake else norm / abs(real - fake)


def _right(real: float, fake: float) -> str:
    return f"the discriminator is right about {real:.0%} of real and {fake:.0%} of generated pictures"


def _joined(*parts: str) -> str:
    said = " and ".join(filter(None, parts))
    return said[:1].upper() + said[1:]


def _steps(points: Sequence[Point]) -> str:
    return f"{int(points[-1]['step'] - points[0]['step']):,}"
