"""Curves and points as numbers from 0 to 1000 for inline SVG, with ticks; the page sets their text as HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasvir.report.figures import PALETTE

POINTS = 500
"""Most points of one line."""
DECADES = 1.5
"""Spans of positive values from here on get a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """One named curve."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    """[N] float, of which some may not be finite."""
    color: str = ""
    """Left out, the palette's next."""
    mark: int | None = None
    """Which point gets a dot."""


@dataclass(frozen=True)
class Chart:
    """Lines over the steps of training, in one frame."""

    title: str
    lines: tuple[Line, ...]
    unit: str
    """What the values are, in a word or two."""
    events: tuple[int, ...] = ()
    """Steps to mark."""
    x: str = "step"
    notes: tuple[str, ...] = ()
    """Sentences to stand below it."""
    bounds: tuple[float, float, float, float] | None = None
    """Axes from and to (left, right, bottom, top), and lines drawn as they are; None fits axes and smooths lines."""


@dataclass(frozen=True)
class Drawn:
    """A chart ready for the template; positions are in thousandths of the frame from its top left."""

    title: str
    unit: str
    x: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[dict[str, Any]]
    events: list[float]
    notes: list[str] = field(default_factory=list)
    domain: tuple[float, float] = (0.0, 1.0)


def draw(chart: Chart, allowance: float = 1.0) -> Drawn | None:
    """Positions of everything in a chart; None if it has no finite value."""
    notes = list(chart.notes)
    lines = []
    for position, line in enumerate(chart.lines):
        good = np.isfinite(line.values)
        if not good.all():
            count = int((~good).sum())
            notes.append(
                f"{line.name}: {count} value{'s were' if count > 1 else ' was'} not finite and cannot be drawn."
            )
        if good.any():
            color = line.color or PALETTE[position % len(PALETTE)]
            mark = None if line.mark is None or not good[line.mark] else int(good[: line.mark].sum())
            lines.append(Line(line.name, line.steps[good], line.values[good], color, mark))
    if not lines:
        return None
    if chart.bounds:
        first, last, low, high = chart.bounds
        logarithmic = False
    else:
        first, last = min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)
        first = 0.0 if 0 <= first < 0.1 * last else first
        values = np.concatenate([line.values for line in lines])
        logarithmic = bool(values.min() > 0 and math.log10(values.max() / values.min()) >= DECADES)
        low, high, cut = _range(np.log10(values) if logarithmic else values)
        if cut:
            notes.append("A few extreme values lie outside the frame.")
    ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high, 5)

    def across(steps: np.ndarray | float) -> Any:
        return (steps - first) / max(last - first, 1e-12) * 1000

    def down(heights: np.ndarray | float) -> Any:
        return (high - heights) / (high - low) * 1000

    drawn = []
    for line in lines:
        heights = np.log10(line.values) if logarithmic else line.values
        few = max(20, int(POINTS * allowance))
        kept = _extremes(heights, few)
        smoothed = None if chart.bounds else _smooth(heights)
        thin = None if smoothed is None else _path(across(line.steps[kept]), down(heights[kept]))
        evenly = np.unique(np.linspace(0, len(heights) - 1, min(few, len(heights))).round().astype(int))
        bold = kept if smoothed is None else evenly
        bold_path = _path(across(line.steps[bold]), down((heights if smoothed is None else smoothed)[bold]))
        told = evenly[:: max(1, math.ceil(len(evenly) / 200))]
        mark = 0 if len(heights) == 1 else line.mark
        drawn.append(
            {
                "name": line.name,
                "color": line.color,
                "thin": thin,
                "bold": bold_path,
                "dot": None if mark is None else (float(across(line.steps[mark])), float(down(heights[mark]))),
                "last": "" if chart.bounds else number(float(line.values[-1])),
                "told": [[float(f"{line.steps[i]:.10g}"), float(f"{line.values[i]:.4g}")] for i in told],
            }
        )
    return Drawn(
        title=chart.title,
        unit=chart.unit + (", log scale" if logarithmic else ""),
        x=chart.x,
        x_ticks=[(float(across(at)), short(at)) for at in _ticks(first, last, 5)]
        if last > first
        else [(0.0, short(last))],
        y_ticks=[(float(down(at)), number(10**at if logarithmic else at)) for at in ticks],
        lines=drawn,
        events=[float(across(step)) for step in chart.events if first <= step <= last],
        notes=notes,
        domain=(float(first), float(last)),
    )


def _range(heights: np.ndarray) -> tuple[float, float, bool]:
    """Lowest and highest of the frame with a margin; a few extreme values do not squeeze all others together."""
    low, high = float(heights.min()), float(heights.max())
    inner_low, inner_high = (float(q) for q in np.quantile(heights, (0.01, 0.99)))
    cut = len(heights) >= 50 and high - low > 4 * (inner_high - inner_low) > 0
    if cut:
        middle = inner_high - inner_low
        low, high = max(low, inner_low - middle), min(high, inner_high + middle)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - max(0.5 * abs(low), 0.5), high + max(0.5 * abs(high), 0.5)
    margin = 0.06 * (high - low)
    return low - margin, high + margin, cut


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from low to high."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, all or every so many; 2 and 5 times them too where there are few."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    every = max(1, math.ceil((high - low) / 6))
    ticks = [power + math.log10(factor) for power in powers if power % every == 0 for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _extremes(heights: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many points, the lowest and highest of each stretch among them, so that no peak is lost."""
    if len(heights) <= most:
        return np.arange(len(heights))
    kept = {0, len(heights) - 1}
    for stretch in np.array_split(np.arange(len(heights)), max(1, most // 2 - 1)):
        kept |= {int(stretch[heights[stretch].argmin()]), int(stretch[heights[stretch].argmax()])}
    return np.array(sorted(kept))


def _smooth(heights: np.ndarray) -> np.ndarray | None:
    """A Gaussian mean over a fiftieth of the line to either side; None for lines of less than 30 points."""
    if len(heights) < 30:
        return None
    width = len(heights) / 60
    reach = math.ceil(3 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(np.ones(len(heights)), weights, "same")
    return np.convolve(heights, weights, "same") / total


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """An SVG path through points."""
    points = [f"{a:.1f} {b:.1f}".replace(".0", "") for a, b in zip(x, np.clip(y, -200, 1200), strict=True)]
    return "M" + "L".join(points)


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """A number for a person: four digits, thin spaces between thousands, powers of ten as such."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if value and not 1e-4 <= abs(value) < 1e7:
        mantissa, _, power = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return ("" if mantissa == "1" else f"{mantissa}·") + "10" + str(int(power)).translate(SUPERSCRIPT)
    if abs(value) >= 1000:
        return count(round(value)).replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def count(value: float) -> str:
    """A whole number with thin spaces between its thousands."""
    return f"{int(value):,}".replace(",", "\u202f") if abs(value) >= 10_000 else f"{int(value)}"


def short(step: float) -> str:
    """A step on an axis: 1500, 20k, 1.5M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if step >= max(size, 10_000):
            return f"{step / size:.4g}{letter}"
    return f"{step:.4g}"


def cloud(
    position: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[list[str], list[tuple[float, str]], list[tuple[float, str]]]:
    """Points [N,2] as one SVG path of dots for each group (boolean [N]), in a square frame; and the
    ticks of both axes.
    """
    low, high = position.min(0), position.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6) * 1.06
    x = (position[:, 0] - middle[0] + half) / (2 * half) * 1000
    y = (middle[1] + half - position[:, 1]) / (2 * half) * 1000
    paths = ["".join(f"M{a:.0f} {b:.0f}h0" for a, b in zip(x[group], y[group], strict=True)) for group in groups]
    across = [
        ((at - middle[0] + half) / (2 * half) * 1000, number(at))
        for at in _ticks(middle[0] - half, middle[0] + half, 5)
    ]
    down = [
        ((middle[1] + half - at) / (2 * half) * 1000, number(at))
        for at in _ticks(middle[1] - half, middle[1] + half, 5)
    ]
    return paths, across, down


def scatter_of(
    position: np.ndarray,
    groups: Sequence[np.ndarray],
    names: Sequence[str],
    colors: Sequence[str],
    axes: tuple[str, str],
) -> dict[str, Any]:
    """What the page's macro `scatter` draws of points [N,2] in named and coloured groups (boolean [N])."""
    paths, across, down = cloud(position, groups)
    return {
        "dots": list(zip(paths, colors, strict=True)),
        "legend": list(zip(names, colors, strict=False)),
        "scale": None,
        "colors": list(colors),
        "x_ticks": across,
        "y_ticks": down,
        "axes": axes,
    }
