"""The bare canvas of a figure: its widths, and axes placed to the CSS pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from .palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 760, 312
"""Widths of the two drawings of a figure, in CSS pixels."""

LETTER = 7.1
"""Width of a letter at the figures' font size, in CSS pixels, on the safe side."""


def bare_axes(width: float, height: float, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Returns a bare figure and its axes; every length in CSS pixels."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height), axisbelow=True
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["rail"])
    axes.tick_params(length=0, pad=7, labelcolor=LIGHT["muted"])
    axes.grid(axis="y", color=LIGHT["line"], linewidth=1)
    return figure, axes
