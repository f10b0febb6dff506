"""What goes wrong in training, noticed while it runs and said in words, with what to try.

How the two players of an adversarial training do is told by `verdict.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Rule:
    """A watched value that is bad for some logged steps in a row means trouble."""

    series: str
    """Name of the value in the log, with or without the player before it."""
    bad: Callable[[float], bool]
    lines: int
    """Logged lines in a row before it is said."""
    sentence: str


RULES: tuple[Rule, ...] = (
    Rule(
        "kl_per_dimension",
        lambda nats: nats < 1e-3,
        5,
        "The posterior has collapsed: the latent says almost nothing about the picture. "
        "Try a lower --model.beta, a smaller --model.latent-size, or longer training.",
    ),
    Rule(
        "active_units",
        lambda units: units < 1,
        5,
        "No latent unit is active: every picture is encoded alike. Try a lower --model.beta.",
    ),
    Rule(
        "sample_diversity",
        lambda ratio: ratio < 0.1,
        2,
        "The samples are all alike: they differ by less than a tenth of what real pictures do. "
        "Try a lower learning rate, or an earlier checkpoint.",
    ),
    Rule(
        "answer_diversity",
        lambda ratio: ratio < 0.1,
        2,
        "The answers hardly depend on the source: they differ by less than a tenth of what the targets do. "
        "Try longer training, or another learning rate.",
    ),
    Rule(
        "hole",
        lambda share: share == 0,
        1,
        "No source has a hole, a mid-grey part to be painted in, so nothing is learned. "
        "Use plain pictures with --data.derive masked, or the recipe pix2pix.",
    ),
    Rule(
        "skipped",
        lambda updates: updates > 0,
        1,
        "Updates were skipped because a loss or gradient was not finite. "
        "If it goes on, try a lower learning rate, --model.*.clip 1, or --train.precision float32.",
    ),
)


@dataclass
class Health:
    """Which rules have been bad for how many logged lines in a row; a rule speaks once until it is well again."""

    streaks: dict[str, int] = field(default_factory=dict)

    def check(self, values: dict[str, float]) -> list[str]:
        """Sentences for what has just become bad. `values` are a log line's numbers by `player/series`."""
        said = []
        for rule in RULES:
            found = [value for name, value in values.items() if name.rpartition("/")[2] == rule.series]
            if not found:
                continue
            streak = self.streaks.get(rule.series, 0) + 1 if any(rule.bad(value) for value in found) else 0
            self.streaks[rule.series] = streak
            if streak == rule.lines:
                said.append(rule.sentence)
        return said


def relative_diversity(samples: np.ndarray, real: np.ndarray) -> float:
    """Mean distance between two samples over that between two real pictures; both uint8 [N,H,W,C]. 1 is as varied."""
    return float(mean_distances(samples).mean() / max(mean_distances(real).mean(), 1e-12))


def answer_among(names: Sequence[str]) -> str:
    """Which of the sets that a model shows side by side is what it makes of the sources."""
    return "translated" if "translated" in names else names[names.index("target") - 1 if "target" in names else 1]


def class_response(samples: np.ndarray, classes: int) -> float:
    """The share of the variance of samples that is due to the class that was asked for, in [0,1].

    `samples` are uint8 [classes·S,H,W,C], class after class, the same S seeds in each: the variance over the classes of
    one seed, mean over seeds, pixels and channels, over the variance of all. 0 where the class changes nothing.
    """
    values = samples.reshape(classes, -1, *samples.shape[1:]).astype(np.float32) / 255
    return float(values.var(axis=0).mean() / max(values.var(axis=(0, 1)).mean(), 1e-12))


def class_share(images: np.ndarray, label: np.ndarray) -> float:
    """The share of the variance of real pictures uint8 [N,H,W,C] that lies between their classes [N], in [0,1].

    The estimate of a one-way analysis of variance, so that few pictures do not make it larger. A generator that draws
    like them has at least as large a `class_response`, for what noise and class do together adds to that.
    """
    values = images.reshape(len(images), -1).astype(np.float32) / 255
    counts = np.unique(label, return_counts=True)[1].astype(float)
    number, groups = len(values), len(counts)
    if groups < 2 or number <= groups:
        return 0.0
    means = np.stack([values[label == one].mean(0) for one in np.unique(label)])
    between = float((counts[:, None] * (means - values.mean(0)) ** 2).sum())
    inside = (float(((values - values.mean(0)) ** 2).sum()) - between) / (number - groups)
    each = (number - float((counts**2).sum()) / number) / (groups - 1)
    due = max(0.0, (between / (groups - 1) - inside) / each)
    return due / max(due + inside, 1e-12)


def mean_distances(images: np.ndarray) -> np.ndarray:
    """Each picture's mean distance to the others, [N], in pixels from 0 to 1; uint8 [N,H,W,C], at least two."""
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(np.asarray(images).reshape(len(images), -1) / 255)).sum(1) / (len(images) - 1)
