"""The panels of runs that draw in steps: from pictures to noise and back, what guidance and the number of steps do, and
how well a clean picture is told from a noisy one."""

from collections.abc import Mapping, Sequence

import numpy as np

from tasvir.config import Refused
from tasvir.diffusion import showing
from tasvir.report.charts import Chart, Line
from tasvir.report.content import Content
from tasvir.report.sheets import Sheet
from tasvir.report.story import FIRST_SEED, Story

STRIPS, MOMENTS = 4, 8
"""Pictures shown on their way, and at how many places."""
GUIDANCES = (0.0, 1.0, 2.0, 4.0)
STEPS = (2, 5, 10, 20, 50)
BESIDE = 8
"""Seeds shown for each guidance and number of steps."""
JUDGED, LEVELS = 64, 9
"""Held-out pictures whose noise is taken off, and levels of it."""


def forward(story: Story) -> Content:
    opened = story.opened
    process = opened.model.process
    real = np.asarray(story.dataset.test.images[:STRIPS])
    levels = showing.places(process, np.linspace(0, 1, MOMENTS).tolist())
    moments = showing.noised(opened, real, levels, opened.labels_beside(None, len(real)), FIRST_SEED)
    words = (
        "Held-out pictures with more and more noise, and below each what the model expects it to be: the mean of all "
        f"clean pictures that it could be. By {story.weights()}."
    )
    return _strip(story, moments, words, [showing.caption(process, moment.level) for moment in moments])


def reverse(story: Story) -> Content:
    opened = story.opened
    how, seeds = opened.model.sampling(), range(FIRST_SEED, FIRST_SEED + STRIPS)
    wanted = showing.chosen(how.steps, MOMENTS - 1)
    moments = showing.unfolded(opened, seeds, opened.classes_in_turn(STRIPS), how, wanted)
    words = (
        f"How new pictures come out of noise by {how.sampler} in {how.steps} steps: what there is at the beginning of "
        f"a step, and below it the picture that is then expected. By {story.weights()}."
    )
    told = [showing.caption(opened.model.process, moment.level) for moment in moments[:-1]]
    return _strip(story, moments, words, [*told, "picture"])


def _strip(story: Story, moments: list[showing.Moment], words: str, columns: list[str]) -> Content:
    sheet = Sheet(showing.strip(moments, ("noisy", "expected")), len(moments))
    names = ["noisy", showing.guess(story.opened.model)] * len(moments[0].noisy)
    values = {"sheet": sheet, "alt": "Pictures and their noise", "row_names": names, "column_names": columns}
    return Content("sheet", words, values)


def guidance(story: Story) -> Content | None:
    opened = story.opened
    if not opened.conditional or opened.model.distilled:
        return None
    rows = [(f"{value:g}", {"guidance": value}) for value in GUIDANCES]
    words = (
        "The same seeds and classes with growing guidance: 0 does not heed the class, 1 draws it as it was learned, "
        f"more exaggerates it. By {story.weights()}."
    )
    return _same_seeds(story, rows, words)


def steps(story: Story) -> Content | None:
    opened = story.opened
    rows = []
    for number in STEPS:
        try:
            opened.model.sampling(steps=number)
        except Refused:
            break
        rows.append((f"{number}", {"steps": number}))
    words = f"The same seeds in more and more steps of {opened.model.sampling().sampler}. By {story.weights()}."
    return _same_seeds(story, rows, words) if rows else None


def _same_seeds(story: Story, rows: Sequence[tuple[str, Mapping[str, float]]], words: str) -> Content:
    """A row of samples for each of several settings of sampling."""
    opened, seeds = story.opened, range(FIRST_SEED, FIRST_SEED + BESIDE)
    labels = opened.classes_in_turn(BESIDE)
    images = [opened.samples(seeds, labels=labels, how=opened.model.sampling(**asked)) for _, asked in rows]
    sheet, classes = Sheet(np.concatenate(images), BESIDE), story.run.pictures.classes
    columns = [classes[label] for label in labels] if labels else []
    values = {
        "sheet": sheet,
        "alt": "Samples of the same seeds",
        "row_names": [name for name, _ in rows],
        "column_names": columns if max(map(len, columns), default=0) <= 12 else [],
    }
    return Content("sheet", words, values)


def by_noise(story: Story) -> Content:
    """Squared errors of noisy pictures and of what is expected of them, over the level of noise."""
    opened = story.opened
    real = np.asarray(story.dataset.test.images[:JUDGED])
    levels = showing.places(opened.model.process, np.linspace(0, 1, LEVELS + 2)[1:-1].tolist())
    moments = showing.noised(opened, real, levels, opened.labels_beside(None, len(real)), FIRST_SEED)
    clean = _values(real)
    noise = np.array([-showing.decibels(moment.level) for moment in moments])
    error = np.array([float(((_values(moment.expected) - clean) ** 2).mean()) for moment in moments])
    mean = float(((clean - clean.mean(0)) ** 2).mean())
    lines = (
        Line("expected picture", noise, error),
        Line("mean picture", noise, np.full(len(noise), mean)),
    )
    words = (
        f"Mean squared error of the expected clean picture, of pixels from -1 to 1, on {len(real)} held-out pictures; "
        f"beside it that of the mean picture, which needs no model. By {story.weights()}."
    )
    chart = Chart("Error by level of noise", lines, "mean squared error", x="noise against picture, dB")
    return Content("charts", words, {"charts": [chart], "small": False})


def _values(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) / 127.5 - 1
