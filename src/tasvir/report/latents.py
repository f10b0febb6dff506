"""The panels of a run's page that walk through its latent space. Of large pictures fewer are read."""

import numpy as np

from tasvir import density, latent_space, mixing
from tasvir.report.charts import Chart, Line, count, number, scatter_of
from tasvir.report.content import Content
from tasvir.report.figures import AGGREGATE
from tasvir.report.sheets import Sheet
from tasvir.report.story import FIRST_SEED, Story


def few(story: Story, most: int) -> int:
    """So many pictures of 28 px, and as many larger ones as have as many pixels, but a hundred at least."""
    return int(np.clip(most * 28**2 / story.run.pictures.size**2, 100, most))


def traversals(story: Story) -> Content:
    story.dataset  # raises if the pictures are not there  # noqa: B018
    walked = latent_space.traversals(story.opened, None, 8, 7, known=few(story, latent_space.KNOWN))
    words = (
        "A held-out picture with one latent dimension changed at a time, from −3 to 3 deviations; the dimensions that "
        f"tell most of {count(walked.pictures)} held-out pictures come first."
    )
    return Content("sheet", words, _named(walked, "A picture with single latent dimensions changed"))


def categories(story: Story) -> Content | None:
    return _of_codes(story, True, "A noise in every row and a category in every column: all else stays as it is.")


def continuous_codes(story: Story) -> Content | None:
    words = (
        "One noise, a continuous code in every row from −2 to 2 (while training it is between −1 and 1), within each "
        "category."
    )
    return _of_codes(story, False, words)


def _of_codes(story: Story, categorical: bool, words: str) -> Content | None:
    """The sheet of the first categorical code, or that of the continuous ones."""
    sizes = [code.size > 1 for code in getattr(story.opened.model, "latent_codes", ())]
    if categorical not in sizes:
        return None
    walked = latent_space.code_traversals(story.opened, 8, 9)[0 if categorical else -1]
    return Content("sheet", words, _named(walked, "Pictures with one code changed at a time"))


def _named(walked: latent_space.Walked, alt: str) -> dict[str, object]:
    sheet = Sheet(walked.images, len(walked.columns))
    return {"sheet": sheet, "alt": alt, "row_names": walked.rows, "column_names": walked.columns}


def styles(story: Story) -> Content | None:
    if not hasattr(story.opened.model, "styles"):
        return None
    seeds = range(FIRST_SEED, FIRST_SEED + 10)
    found = mixing.table(story.opened, seeds[6:], seeds[:6], "coarse", None)
    words = (
        f"Coarse styles ({found.layers[0]} to {found.layers[1]} of {story.opened.model.styles}) of the pictures in the "
        "first column, all others of those in the first row; the noise is the same in all."
    )
    sheet = Sheet(found.images, 7, lead=1)
    return Content("sheet", words, {"sheet": sheet, "alt": "Pictures with the styles of two others"})


def arithmetic(story: Story) -> Content | None:
    classes = story.run.pictures.classes
    if len(classes) < 2 or story.dataset.train.labels is None or not len(story.dataset.train):
        return None
    present = np.unique(np.asarray(story.dataset.train.labels))[:2]
    if len(present) < 2:
        return None
    strengths = np.linspace(-2, 2, 9)
    meant = few(story, 500)
    _, walked = latent_space.arithmetic(story.opened, None, 8, int(present[0]), int(present[1]), strengths, meant=meant)
    first, second = (classes[label] for label in present)
    words = (
        f"Held-out pictures moved along the direction from {first} to {second}: the difference of the mean latents of "
        f"up to {meant} training pictures of each, times the number above the column."
    )
    return Content("sheet", words, _named(walked, f"Pictures moved from {first} to {second}"))


def own_samples(story: Story) -> Content:
    opened = story.opened
    labels = opened.classes_in_turn(32)
    drawn = opened.samples(range(FIRST_SEED, FIRST_SEED + 32), labels=labels)
    pairs = np.stack([drawn, opened.reconstructions(drawn, labels)], axis=1).reshape(-1, *drawn.shape[1:])
    words = "The model's own samples and, to the right of each, its reconstruction."
    return Content("sheet", words, {"sheet": Sheet(pairs, 8, 2), "alt": "Samples, each beside its reconstruction"})


def aggregate(story: Story) -> Content | None:
    if "sample" not in story.abilities or "tokenize" in story.abilities:
        return None
    story.dataset  # raises if the pictures are not there  # noqa: B018
    found = latent_space.aggregate(story.opened, few(story, latent_space.KNOWN))
    points = np.concatenate([found.prior, found.posterior])
    from_prior = np.arange(len(points)) < len(found.prior)
    names = ("prior", "aggregate posterior")
    values = scatter_of(points, [from_prior, ~from_prior], names, AGGREGATE, found.axes)
    charts = []
    for marginal in found.marginals:
        lines = [
            Line(name, marginal.at, heights, color)
            for name, heights, color in zip(names, (marginal.prior, marginal.posterior), AGGREGATE, strict=True)
        ]
        top = 1.08 * float(max(marginal.prior.max(), marginal.posterior.max()))
        bounds = (float(marginal.at[0]), float(marginal.at[-1]), 0.0, top)
        charts.append(Chart(marginal.name, tuple(lines), "density", x="value", bounds=bounds))
    words = (
        f"{count(len(found.prior))} draws from the prior and one from the posterior of each of "
        f"{count(len(found.posterior))} held-out pictures. Where the prior lies and no posterior does, samples are of "
        "latents that the decoder never saw."
    )
    return Content("aggregate", words, {**values, "charts": charts})


def mixture(story: Story) -> Content | None:
    opened = story.opened
    pictures = few(story, density.FEW)
    if opened.model.latent_size * 4 > pictures and not density.is_kept(opened):
        return None
    opened.mixture = density.quick(opened, pictures)
    seeds, labels = range(FIRST_SEED, FIRST_SEED + 48), opened.classes_in_turn(48)
    strips = []
    if "sample" in story.abilities:
        strips.append(("own prior", Sheet(opened.samples(seeds, labels=labels), 16)))
    strips.append(("mixture", Sheet(opened.samples(seeds, labels=labels, prior="mixture"), 16)))
    words = (
        "Samples whose latents come from the model's own prior, if it has one, and from a mixture of Gaussians fitted "
        "to the latents of training pictures, as `tasvir sample --prior mixture` draws them."
    )
    if not density.is_kept(opened):
        words += f" Here it is fitted to {count(pictures)} pictures only."
    return Content("strips", words, {"strips": strips})


def codebook(story: Story) -> Content:
    real = np.asarray(story.dataset.test.images[: few(story, 1000)])
    codes, charts, start = story.opened.tokenized(real), [], 0
    for grid in story.opened.model.grids:
        part = codes[:, start : start + grid.side**2]
        start += grid.side**2
        times = np.sort(np.bincount(part.ravel(), minlength=grid.codes))[::-1]
        share = times[times > 0] / times.sum()
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        title = f"{grid.side}×{grid.side} grid"
        notes = (
            f"{len(share)} of {count(grid.codes)} codes are used; perplexity {number(float(f'{perplexity:.3g}'))}.",
        )
        line = Line("share of all codes", np.arange(1, grid.codes + 1), 100 * times / times.sum())
        bounds = (1.0, float(max(2, grid.codes)), 0.0, 1.08 * float(line.values.max()))
        charts.append(Chart(title, (line,), "% of all codes", x="code, most used first", notes=notes, bounds=bounds))
    words = f"How often each code stands for a part of {count(len(real))} held-out pictures."
    return Content("charts", words, {"charts": charts, "small": False})
