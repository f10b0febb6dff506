"""The panels of a run's page, as a table: title, the abilities it needs, and the function that makes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasvir import walks
from tasvir.config import Refused
from tasvir.report import diffusion, latents, samplers, translations
from tasvir.report.charts import Chart, Line, count, scatter_of
from tasvir.report.content import Content, Made, missing
from tasvir.report.figures import PALETTE, class_colors
from tasvir.report.measurements import measurements, nearest, precision_recall, while_training
from tasvir.report.sheets import Film, Sheet
from tasvir.report.story import FAILURES, FIRST_SEED, Story
from tasvir.training.loop import EACH, ROWS


@dataclass(frozen=True)
class Panel:
    title: str
    needs: tuple[str, ...]
    """Names from `core.ABILITIES`; the model must have them all."""
    make: Callable[[Story], Content | None]
    """None leaves the panel out; what goes wrong is said in its place."""
    group: str = "pictures"
    """pictures stand side by side; wide panels have a row of their own; half ones share it."""


def make(story: Story, panels: tuple[Panel, ...]) -> list[Made]:
    """All panels that the run can have; before its own stage begins, without those that a model is needed for."""
    made = []
    for panel in panels:
        if not set(panel.needs) <= set(story.abilities):
            continue
        try:
            content = panel.make(story)
        except FAILURES as error:
            content = None if story.before else missing(error)
        if content:
            made.append(Made(panel.title, panel.group, content))
    return made


def samples(story: Story) -> Content:
    opened, classes = story.opened, story.run.pictures.classes
    labels, more, names = None, "", []
    if opened.conditional and classes:
        names = list(classes[:10])
        labels = [label for label in range(len(names)) for _ in range(10)]
        more = f"One row for each {'class' if len(names) == len(classes) else f'of the first {len(names)} classes'}."
    amount = 100 if labels is None else len(labels)
    images = opened.samples(range(FIRST_SEED, FIRST_SEED + amount), labels=labels)
    last = FIRST_SEED + amount - 1
    words = f"{amount} new pictures from {story.weights()}, seeds {FIRST_SEED} to {last}, not selected. {more}"
    return Content(
        "sheet", words, {"sheet": Sheet(images, 10), "alt": "New pictures drawn by the model", "row_names": names}
    )


def timeline(story: Story) -> Content | None:
    frames = story.frames()
    if not frames:
        return Content("words", "Nothing has been drawn while training yet." if story.run.config.train.sample_every else
                       "No pictures were drawn while training (--train.sample-every 0).")  # fmt: skip
    if "sample" in story.abilities:
        words = "The same seeds every time: slide through the steps of training."
    elif "translate" in story.abilities:
        shown = translations.told(frames[max(frames)].names)
        words = f"Held-out pictures: {shown}. Slide through the steps of training."
    else:
        words = "Held-out pictures and, to the right of each, its reconstruction: slide through the steps of training."
    names = row_names(story, frames)
    if names:
        words += " A row for each class, the same seeds in all."
    left_out = len(story.shown) - len(frames)
    if left_out:
        words += f" {len(frames)} of {len(story.shown)} showings."
    above = frames[max(frames)].column_names
    return Content("timeline", words, {"films": [("", Film(frames))], "row_names": names, "column_names": above})


def row_names(story: Story, frames: dict[int, Sheet]) -> list[str]:
    """The class of each row of a timeline, where it has a row for each."""
    sheet, classes = frames[max(frames)], story.run.pictures.classes[:ROWS]
    by_class = story.recipe.model.conditional and "sample" in story.abilities and sheet.columns == EACH
    return list(classes) if by_class and len(sheet.images) == EACH * len(classes) else []


def reconstructions(story: Story) -> Content:
    try:
        real = np.asarray(story.dataset.test.images[:32])
        made = story.opened.reconstructions(real, story.opened.labels_beside(None, len(real)))
        pairs = np.stack([real, made], axis=1).reshape(-1, *real.shape[1:])
        sheet, words = Sheet(pairs, 8, 2), f"by {story.weights()}."
    except FAILURES as error:
        sheet, words = story.drawn_before(error)
    words = f"Held-out pictures and, to the right of each, its reconstruction {words}"
    return Content("sheet", words, {"sheet": sheet, "alt": "Held-out pictures, each beside its reconstruction"})


def manifold(story: Story) -> Content | None:
    if getattr(story.run.config.model, "latent_size", None) != 2:
        return None
    side = 20
    images = story.opened.manifold(side)
    words = "Decoded from the two latent dimensions, each at even quantiles of the standard normal prior."
    if story.opened.conditional and story.run.pictures.classes:
        words += f" Of class {story.run.pictures.classes[0]}."
    sheet = Sheet(images, side, spaced=False)
    return Content("sheet", words, {"sheet": sheet, "alt": "Decoded pictures over the latent plane"})


def scatter(story: Story) -> Content:
    story.dataset  # raises if the pictures are not there  # noqa: B018
    points = story.opened.scatter(2000)
    if not np.isfinite(points.position).all():
        raise Refused("Some latents are not finite.")
    if points.label is None:
        names, groups, colors = [], [np.full(len(points.position), True)], list(PALETTE[:1])
    else:
        present = [label for label in range(len(points.classes)) if (points.label == label).any()]
        names = [points.classes[label] for label in present]
        groups = [points.label == label for label in present]
        every = class_colors(len(points.classes))
        colors = [every[label] for label in present]
    coloured = ", coloured by class" if names else ""
    values = scatter_of(points.position, groups, names, colors, points.axes)
    if len(names) > len(PALETTE):
        values |= {"legend": [], "scale": (points.classes[0], points.classes[-1])}
    return Content("scatter", f"{count(len(points.position))} held-out pictures in the latent space{coloured}.", values)


def interpolations(story: Story) -> Content:
    if "encode" in story.abilities:
        story.dataset  # raises if the pictures are not there  # noqa: B018
    at = walks.stops(story.opened, walks.Route(None, 10, 2, None, 0, "z", "spherical"))
    images, classes = walks.rows(story.opened, at, 10), story.run.pictures.classes
    names = [classes[one] for one in at.classes] if at.classes is not None and classes else []
    between = "two held-out pictures" if "encode" in story.abilities else "two random latents"
    words = f"Each row walks from left to right through the latent space, between {between}."
    values = {"sheet": Sheet(images, 10), "alt": "Walks through the latent space", "row_names": names}
    return Content("sheet", words, values)


def losses(story: Story) -> Content:
    if not story.losses:
        return Content("words", "Nothing has been logged yet.")
    events = tuple(step for _, steps in story.health for step in steps)
    charts = []
    for player, terms in story.losses.items():
        lines = [
            Line(term.replace("_", " "), *story.series[f"{player}/{term}"], PALETTE[position % len(PALETTE)])
            for position, term in enumerate(terms)
        ]
        charts.append(Chart(player, tuple(lines), "loss", events))
        if _far_apart(lines):
            charts += [Chart(f"{player} · {line.name}", (line,), "loss", events) for line in lines]
    words = f"Each point is the mean since the one before (every {count(story.run.config.train.log_every)} steps)"
    smooth = any(
        len(story.series[f"{player}/{term}"][0]) >= 30 for player, terms in story.losses.items() for term in terms
    )
    words += "; bold is smoothed." if smooth else "."
    if events:
        words += " Dashed lines mark where trouble was noticed."
    return Content("charts", words, {"charts": charts, "small": False})


def _far_apart(lines: list[Line]) -> bool:
    """Whether terms are of such different sizes that in one frame each looks flat."""
    finite = [np.abs(line.values[np.isfinite(line.values)]) for line in lines]
    typical = [float(np.median(values)) for values in finite if len(values)]
    return len(typical) > 1 and max(typical) > 5 * min(typical)


ACCURACY = ("accuracy of the discriminator", "share told apart")
DIVERSITY = ("diversity", "of real pictures'")
RESPONSE = ("response to the class", "share of the variance")
UNITS: dict[str, tuple[str, str]] = {
    "real_accuracy": ACCURACY,
    "fake_accuracy": ACCURACY,
    "batch_diversity": DIVERSITY,
    "sample_diversity": DIVERSITY,
    "answer_diversity": ("diversity of answers", "of targets'"),
    "class_response": RESPONSE,
    "real_class_share": RESPONSE,
    "gradient_norm": ("gradient norm", "norm"),
    "gradient_variance": ("variance of the encoder's gradient", "nats²"),
    "score": ("scores", "logit"),
    "won": ("discriminator's loss near zero", "share of steps"),
    "augmentation": ("adaptive augmentation", "probability"),
    "overfitting": ("overfitting of the discriminator", "mean sign of real scores"),
    "active_units": ("active latent units", "units"),
    "kl_per_dimension": ("KL per latent dimension", "nats"),
    "pictures_per_second": ("speed", "pictures/s"),
    "skipped": ("updates skipped", "in all"),
}
"""Ending of a watched value's name → title and unit of its chart, in the order of the charts; others come between."""


LAST = list(UNITS).index("pictures_per_second")
"""Where charts of other values stand."""


def title_and_unit(name: str) -> tuple[str, str]:
    """Of the chart of a watched value."""
    series = name.rpartition("/")[2]
    return next((row for ending, row in UNITS.items() if series.endswith(ending)), (series.replace("_", " "), "value"))


def watched(story: Story) -> Content | None:
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in story.watched:
        kinds.setdefault(title_and_unit(name), []).append(name)
    if not kinds:
        return None
    charts = []
    order = list(UNITS.values())
    for title, unit in sorted(kinds, key=lambda kind: order.index(kind) if kind in order else LAST):
        names = kinds[title, unit]  # those of one kind share a chart
        alike = len({name.rpartition("/")[2] for name in names}) < len(names)
        short = {name: name.rpartition("/")[0 if alike else 2].replace("_", " ") for name in names}
        charts.append(Chart(title, tuple(Line(short[name], *story.series[name]) for name in names), unit))
    return Content("charts", "Logged, but not trained on.", {"charts": charts, "small": True})


def data(story: Story) -> Content:
    about = story.run.dataset
    counts, pictures = about.get("counts", {}), story.run.pictures
    rows: list[tuple[str, Any]] = [("name", about.get("name", story.run.data_words))]
    if str(about.get("name")) != story.run.data_words:
        rows.append(("source", story.run.data_words))
    splits = (("train", "training pictures"), ("test", "held out"))
    rows += [(what, count(counts[split])) for split, what in splits if split in counts]
    rows.append(("each", f"{pictures.size}×{pictures.size} px, {'grey' if pictures.channels == 1 else 'colour'}"))
    if pictures.classes:
        shown = pictures.classes[:40]
        rows.append(
            (
                f"{len(pictures.classes)} classes",
                ", ".join(shown) + (" …" if len(shown) < len(pictures.classes) else ""),
            )
        )
    if about.get("resize"):
        rows.append(("made to fit by", about["resize"]))
    if about.get("skipped"):
        rows.append(("left out", f"{len(about['skipped'])} files that could not be used"))
    rows += [(f"hash of {split}", digest) for split, digest in about.get("hash", {}).items()]
    return Content("facts", "", {"rows": rows, "notes": [str(note) for note in about.get("notes", [])]})


def again(story: Story) -> Content:
    return Content(
        "command", "Trains this run again, to the same bits on the same machine.", {"command": story.run.command()}
    )


def settings(story: Story) -> Content:
    own = sum(value != usual for value, usual in story.settings.values())
    words = f"{own} of {len(story.settings)} differ from the recipe's defaults and are marked."
    return Content("settings", words, {"rows": story.settings})


PANELS: tuple[Panel, ...] = (
    Panel("Samples", ("sample",), samples),
    Panel("Held-out pictures", ("translate",), translations.held_out),
    Panel("Source against answer", ("translate",), translations.divided),
    Panel("Through training", (), timeline),
    Panel("Several answers", ("translate",), translations.answers),
    Panel("Details", ("translate",), translations.details),
    Panel("From picture to noise", ("stepwise",), diffusion.forward),
    Panel("From noise to picture", ("stepwise",), diffusion.reverse),
    Panel("Guidance", ("stepwise",), diffusion.guidance),
    Panel("Samples by number of steps", ("stepwise",), diffusion.steps),
    Panel("Reconstructions", ("reconstruct",), reconstructions),
    Panel("Manifold", ("decode",), manifold),
    Panel("Latent space", ("encode",), scatter),
    Panel("Interpolations", ("decode",), interpolations),
    Panel("Style mixing", ("sample", "decode"), latents.styles),
    Panel("Traversals", ("encode", "decode"), latents.traversals),
    Panel("Categories", ("decode", "categorize"), latents.categories),
    Panel("Continuous codes", ("decode", "categorize"), latents.continuous_codes),
    Panel("Attribute arithmetic", ("encode", "decode"), latents.arithmetic),
    Panel("Own samples, reconstructed", ("sample", "reconstruct"), latents.own_samples),
    Panel("Nearest training pictures", (), nearest),
    Panel("Prior against aggregate posterior", ("encode", "decode", "sample"), latents.aggregate, "wide"),
    Panel("Samples from a mixture", ("encode", "decode"), latents.mixture, "wide"),
    Panel("Codebook usage", ("tokenize",), latents.codebook, "wide"),
    Panel("Measurements", (), measurements, "wide"),
    Panel("Measured while training", (), lambda story: while_training([story]), "wide"),
    Panel(samplers.TITLE, ("stepwise",), samplers.panel, "wide"),
    Panel("Error by level of noise", ("stepwise",), diffusion.by_noise, "wide"),
    Panel("Losses", (), losses, "wide"),
    Panel("Also watched", (), watched, "wide"),
    Panel("Precision and recall", (), lambda story: precision_recall([story]), "half"),
    Panel("The pictures", (), data, "half"),
    Panel("Train it again", (), again, "wide"),
    Panel("Settings", (), settings, "wide"),
)
