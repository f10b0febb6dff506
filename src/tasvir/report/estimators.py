"""Figures of gradient estimators: variance against samples and time, bias; and variance while runs were trained."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tasvir.config import Refused
from tasvir.estimators.measuring import Measured, Problem
from tasvir.estimators.table import ESTIMATORS
from tasvir.report.figures import PALETTE
from tasvir.runs import Run

SHOWN = 3
"""Parameters that get a row of the figure, at most."""
SERIES = "gradient_variance"
MARKERS = "osD^vP<>X*hd"
NOTHING = 1e-25
"""Variances below it are rounding, and are named instead of drawn."""


def estimators(problem: Problem, found: Sequence[Measured]) -> Figure:
    """A row for each parameter: variance against samples, variance against seconds, bias with its standard error."""
    parameters = list(dict.fromkeys(row.parameter for row in found))[:SHOWN]
    figure = _figure(15, 4.6 * len(parameters) + 0.8)
    grid = figure.subplots(len(parameters), 3, squeeze=False)
    for line, parameter in zip(grid, parameters, strict=True):
        rows = [row for row in found if row.parameter == parameter]
        for axes, horizontal in zip(line, ("samples", "seconds"), strict=False):
            _variances(axes, rows, horizontal)
        line[0].set_title(f"variance of d/d {parameter}, exactly {rows[0].exact:.4g}", fontsize=10)
        line[1].set_title("the same against compute time", fontsize=10)
        _biases(line[2], rows)
    handles: dict = {}
    for axes in grid.flat:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right center", frameon=False)
    values = ", ".join(f"{value:g}" for value in problem.theta.tolist())
    figure.suptitle(f"f(z) = {problem.f.text}, z {problem.distribution} ({values})".replace("$", ""))
    return figure


def _variances(axes: Axes, rows: Sequence[Measured], horizontal: str) -> None:
    exact = []
    for name, color, marker in _styles():
        mine = [row for row in rows if row.estimator == name]
        if not mine:
            continue
        if max(row.variance for row in mine) < NOTHING:
            exact.append(name)
            continue
        axes.errorbar(
            [getattr(row, horizontal) for row in mine],
            [row.variance for row in mine],
            yerr=[row.variance_error for row in mine],
            color=color, marker=marker, markersize=5, linewidth=1.4, label=name,
        )  # fmt: skip
    axes.set_xscale("log", base=2 if horizontal == "samples" else 10)
    axes.set_yscale("log")
    axes.set_ylabel("variance")
    axes.set_xlabel("samples in an estimate" if horizontal == "samples" else "seconds for an estimate")
    if horizontal == "samples":
        counts = sorted({row.samples for row in rows})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_formatter(NullFormatter())
    if exact:
        words = "no variance:\n" + "\n".join(exact)
        axes.text(0.03, 0.03, words, transform=axes.transAxes, va="bottom", fontsize=8, color="0.35")
    _plain(axes)


def _biases(axes: Axes, rows: Sequence[Measured]) -> None:
    """Side by side for each number of samples, in units of the axis, with ±2 standard errors."""
    names = [style for style in _styles() if any(row.estimator == style[0] for row in rows)]
    counts = sorted({row.samples for row in rows})
    for position, (name, color, marker) in enumerate(names):
        offset = (position / max(len(names) - 1, 1) - 0.5) * 0.7
        mine = [row for row in rows if row.estimator == name]
        axes.errorbar(
            [counts.index(row.samples) + offset for row in mine],
            [row.bias for row in mine],
            yerr=[2 * row.bias_error for row in mine],
            color=color, marker=marker, markersize=5, linewidth=0, elinewidth=1.4, label=name,
        )  # fmt: skip
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlabel("samples in an estimate")
    axes.set_ylabel("bias")
    axes.set_title("bias, ± 2 standard errors", fontsize=10)
    _plain(axes)


def variance_while_training(folders: Sequence[Path]) -> Figure:
    """Variance of the encoder's gradient against step, a line for each run that logged it.

    Raises `Refused` for a run that did not.
    """
    figure = _figure(8, 4.8)
    axes = figure.add_subplot()
    for position, folder in enumerate(folders):
        run = Run.open(folder)
        every = [(line["step"], name, value) for line in run.lines() for name, value in line.items()]
        points = {step: value for step, name, value in every if name.rpartition("/")[2] == SERIES}
        if not points:
            raise Refused(
                f"{folder} has no {SERIES} in its log: train discrete-vae for at least --model.variance-every steps."
            )
        steps = sorted(points)
        estimator, draws = (getattr(run.config.model, name, "") for name in ("estimator", "draws"))
        words = f"{estimator}, {draws} draw{'s' * (draws != 1)}"
        axes.plot(steps, [points[step] for step in steps], color=PALETTE[position % len(PALETTE)], label=words)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("variance of the gradient, nats²")
    axes.legend(frameon=False)
    _plain(axes)
    return figure


def _styles() -> list[tuple[str, str, str]]:
    """Name, colour and marker of every estimator, the same in every figure."""
    colors = [matplotlib.colors.to_hex(color) for color in matplotlib.colormaps["tab20"](np.arange(20))]
    order = [*PALETTE, colors[4], "#111111"]
    return [(name, order[i % len(order)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(ESTIMATORS)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
