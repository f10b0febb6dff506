"""Figures drawn by matplotlib, for files; the report page draws its own."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tasvir.drawing import Points

if TYPE_CHECKING:
    from tasvir.latent_space import Aggregate

# Petroff 2021, arXiv 2107.02270: ten colours that stay apart with every common colour blindness
PALETTE = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")


AGGREGATE = (PALETTE[1], PALETTE[0])
"""Colours of the prior and of the aggregate posterior."""


def class_colors(number: int) -> Sequence[str]:
    """A colour for each of `number` classes: apart for up to ten, else along one scale from dark to light."""
    if number <= len(PALETTE):
        return PALETTE[:number]
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 1, number))]


def scatter(points: Points) -> Figure:
    """Points of the plane coloured by class, with a legend for up to ten classes and a scale for more."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size = float(np.clip(12_000 / max(len(points.position), 1), 4, 30))
    style: dict[str, Any] = {"s": size, "alpha": 0.8, "linewidths": 0}
    if points.label is None:
        axes.scatter(*points.position.T, color=PALETTE[0], **style)
    elif len(points.classes) <= len(PALETTE):
        for number, (name, color) in enumerate(zip(points.classes, class_colors(len(points.classes)), strict=True)):
            chosen = points.label == number
            if chosen.any():
                axes.scatter(*points.position[chosen].T, color=color, label=_plain(name), **style)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=(40 / size) ** 0.5)
    else:
        drawn = axes.scatter(
            points.position[:, 0],
            points.position[:, 1],
            c=points.label,
            cmap="viridis",
            vmin=0,
            vmax=len(points.classes) - 1,
            **style,
        )
        scale = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[0, len(points.classes) - 1])
        scale.ax.set_yticklabels([_plain(points.classes[0]), _plain(points.classes[-1])])
    axes.set_xlabel(points.axes[0])
    axes.set_ylabel(points.axes[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure


def aggregate(found: "Aggregate") -> Figure:
    """Densities of single latent dimensions under the prior and the aggregate posterior, and draws of both."""
    rows = max(1, math.ceil(len(found.marginals) / 2))
    figure = Figure(figsize=(13, max(5.0, 1.9 * rows)), layout="constrained")
    FigureCanvasAgg(figure)
    plan = figure.add_gridspec(rows, 4)
    names = found.prior_name, f"aggregate posterior of {found.pictures:,} held-out pictures"
    colors = dict(zip(names, AGGREGATE, strict=True))
    for position, marginal in enumerate(found.marginals):
        axes = figure.add_subplot(plan[position // 2, position % 2])
        for (name, color), values in zip(colors.items(), (marginal.prior, marginal.posterior), strict=True):
            axes.fill_between(marginal.at, values, color=color, alpha=0.25, linewidth=0)
            axes.plot(marginal.at, values, color=color, linewidth=1.5, label=name)
        axes.set_title(marginal.name, fontsize=10, loc="left")
        axes.set_ylabel("density", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    plane = figure.add_subplot(plan[:, 2:])
    size = float(np.clip(10_000 / max(len(found.posterior), 1), 4, 12))
    for name, color in colors.items():
        plane.scatter([], [], s=size, color=color, label=name)
    points, drawn = np.concatenate([found.prior, found.posterior]), np.repeat(list(colors.values()), len(found.prior))
    mixed = np.random.default_rng(0).permutation(len(points))  # so that neither hides the other
    plane.scatter(points[mixed, 0], points[mixed, 1], s=size, alpha=0.5, linewidths=0, color=drawn[mixed])
    plane.set_xlabel(found.axes[0])
    plane.set_ylabel(found.axes[1])
    plane.set_aspect("equal", adjustable="datalim")
    plane.grid(alpha=0.25)
    plane.set_axisbelow(True)
    plane.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *plane.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, markerscale=2.5
    )
    return figure


def _plain(name: str) -> str:
    """A class name as it is: dollar signs are no mathematics, and a leading underscore does not hide it."""
    return ("\u200b" + name if name.startswith("_") else name).replace("$", r"\$")
