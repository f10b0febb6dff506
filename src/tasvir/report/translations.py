"""The panels of runs that make a picture of a picture: held-out ones side by side and under a divider, several answers
to one source, details of what was enlarged, and several runs on the same pictures.
"""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from tasvir.core import Noise
from tasvir.data.batches import to_uint8
from tasvir.pictures import alike, interleave, to_pil
from tasvir.report.charts import number
from tasvir.report.content import Content, reason
from tasvir.report.sheets import Sheet, in_sets
from tasvir.report.story import FAILURES, FIRST_SEED, Story
from tasvir.training.health import answer_among

CHOSEN = 6
"""Held-out pictures that can be looked at under the divider, at most."""
DIVIDED = 1_300_000
"""Bytes for all pictures under the divider together."""
SOURCES, ANSWERS = 6, 4
"""Sources that several answers are given to, and how many."""
DETAILS, DETAIL, ENLARGED = 6, 48, 3
"""Details shown, their side in px at most (and at most half of a picture's), and by how much they are enlarged."""


def side_by_side(sets: dict[str, np.ndarray]) -> Sheet:
    """Sets of pictures, those that belong together beside each other, at one size."""
    return Sheet(interleave(*alike(*sets.values())), len(sets), len(sets), names=tuple(sets))


def held_out(story: Story) -> Content:
    try:
        sheet, words = in_sets(side_by_side(story.compared)), f"by {story.weights()}."
    except FAILURES as error:
        sheet, words = story.drawn_before(error)
    words = f"Held-out pictures: {told(sheet.names)}; {words}{unmatched(story)}"
    return Content("sheet", words, {"sheet": sheet, "alt": "Held-out pictures", "column_names": sheet.column_names})


def told(names: tuple[str, ...]) -> str:
    """What stands side by side, in words."""
    return "source, translated, target" if not names else ", ".join(names)


def unmatched(story: Story) -> str:
    """A sentence where the target is no picture of the source."""
    return "" if story.run.pictures.matched else " The sets are unmatched: a target does not belong to its source."


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Pictures uint8 [N,H,W,C] enlarged to `size` px, by cubic convolution."""
    made = [np.asarray(to_pil(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images]
    return np.stack(made).reshape(len(made), size, size, -1)


def of_one_size(sets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sets, of which smaller ones are enlarged, or left out where one stands enlarged among them already."""
    size, found = max(images.shape[1] for images in sets.values()), {}
    for name, images in sets.items():
        if images.shape[1] == size:
            found[name] = images
        elif "bicubic" not in sets:
            found[f"{name}, bicubic"] = enlarged(images, size)
    return found


def divided(story: Story) -> Content | None:
    """Two of what belongs together on top of each other, with a divider to drag between them."""
    if story.before:
        return None
    sets = of_one_size({name: images[:CHOSEN] for name, images in story.compared.items()})
    names, amount = list(sets), len(next(iter(sets.values())))
    most = DIVIDED // (amount * len(names))
    values = {
        "names": names,
        "right": names.index(answer_among(names)),
        "rows": [
            [Sheet(images[place : place + 1], 1, most=most) for images in sets.values()] for place in range(amount)
        ],
    }
    return Content("divided", "Drag the divider, or move it with the arrow keys.", values)


def answers(story: Story) -> Content | None:
    """Several answers to each source, where noise makes any difference."""
    model, sources = story.opened.model, story.held_out.source
    assert sources is not None
    seeds = range(FIRST_SEED, FIRST_SEED + ANSWERS)

    def answered(source: torch.Tensor, seed: int) -> np.ndarray:
        with torch.no_grad():
            return np.concatenate([to_uint8(model.translate(one[None], Noise([seed]))) for one in source])

    one, other = (answered(sources[:1], seed) for seed in seeds[:2])
    if np.array_equal(one, other):
        return None
    sources = sources[:SOURCES]
    made = [answered(sources, seed) for seed in seeds]
    values = np.stack(made).astype(np.float32)
    spread = np.sqrt(values.var(axis=0, ddof=1).mean(axis=-1, keepdims=True))
    most = max(float(np.quantile(spread, 0.995)), 1.0)
    shown = (spread / most * 255).clip(0, 255).round().astype(np.uint8)
    sets = {"source": to_uint8(sources), **{f"answer {i}": one for i, one in enumerate(made, 1)}, "spread": shown}
    sheet = side_by_side(sets)
    words = (
        f"The model's noise from seeds {seeds[0]} to {seeds[-1]}, by {story.weights()}. Spread is the standard "
        f"deviation of each pixel over the answers: {number(float(f'{spread.mean():.2g}'))} of 255 levels in the mean, "
        f"white from {number(float(f'{most:.2g}'))} on."
    )
    return Content("sheet", words, {"sheet": sheet, "alt": "Several answers", "column_names": sheet.column_names})


def details(story: Story) -> Content | None:
    """The part of each picture in which most happens, enlarged, of models that enlarge."""
    scale = story.opened.model.scale
    if scale == 1:
        return None
    sets = {name: images[:DETAILS] for name, images in story.compared.items()}
    size = max(images.shape[1] for images in sets.values())
    side = max(scale, min(DETAIL, size // 2) // scale * scale)
    corners = [busiest(image, side, scale) for image in sets["target" if "target" in sets else list(sets)[-1]]]
    found = {}
    for name, images in sets.items():
        part = size // images.shape[1]
        cut = [
            image[top // part : (top + side) // part, left // part : (left + side) // part]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
        found[name] = np.stack(cut).repeat(part * ENLARGED, axis=1).repeat(part * ENLARGED, axis=2)
    sheet = side_by_side(found)
    words = (
        f"The {side}×{side} px of each held-out picture in which most happens, every pixel {ENLARGED} times as large; "
        f"by {story.weights()}."
    )
    return Content("sheet", words, {"sheet": sheet, "alt": "Enlarged details", "column_names": sheet.column_names})


def busiest(image: np.ndarray, side: int, step: int = 1) -> tuple[int, int]:
    """(top, left), multiples of `step`, of the square of `side` px with the largest differences between neighbours.

    `image` is uint8 [H,W,C].
    """
    grey = image.astype(np.float32).mean(-1)
    change = np.zeros_like(grey)
    change[1:] += np.abs(np.diff(grey, axis=0))
    change[:, 1:] += np.abs(np.diff(grey, axis=1))
    sums = np.pad(change, ((1, 0), (1, 0))).astype(np.float64).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    inside = inside[::step, ::step]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top) * step, int(left) * step


def of_several(stories: list[Story], most: int) -> Content | None:
    """The same held-out pictures translated by each run that shares data and size with most others."""
    able = [story for story in stories if "translate" in story.abilities]
    groups: dict[str, list[Story]] = {}
    for story in able:
        data, about = story.run.config.data, story.run.dataset
        made = (data.derive, data.scale, data.mask, data.direction, str(story.run.pictures))
        groups.setdefault(repr((about.get("hash", {}).get("test"), *made)), []).append(story)
    members = max(groups.values(), key=len, default=[])
    if len(members) < 2:
        return None
    sets, failed = {}, []
    for story in members:
        try:
            sets[story.name] = story.compared[answer_among(list(story.compared))]
        except FAILURES as error:
            failed.append(f" {story.name} could not be drawn. {reason(error)}")
    if len(sets) < 2:
        return None
    first = next(story for story in members if story.name in sets)
    assert first.held_out.source is not None
    shown = {"source": to_uint8(first.held_out.source), **sets, "target": to_uint8(first.held_out.image)}
    sheet = side_by_side({name: images[:SOURCES] for name, images in shown.items()})
    words = "The same held-out pictures, translated by each run with its averaged weights, if it has any."
    words += unmatched(first)
    left_out = [story.name for story in stories if story not in members]
    if left_out:
        words += f" Left out, as they are not of the same pairs: {', '.join(left_out)}."
    values = {"sheet": replace(sheet, most=most), "alt": "Held-out pictures", "column_names": sheet.column_names}
    return Content("sheet", words + "".join(failed), values)
