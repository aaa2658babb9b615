"""A curve as a matplotlib figure, for notebooks; pages draw theirs as SVG."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ironglass.core.findings import Curve

COLOURS = ("#3b4cc0", "#b40426", "#e08214", "#542788", "#1b7837", "#4d4d4d", "#01665e", "#8c510a")
MARKERS = "osD^vPX*"


def figure(curve: Curve) -> Figure:
    """Returns a curve's lines with their 95 % intervals as whiskers; each has a colour and a marker of its own.

    Args:
        curve: what to draw; shares are drawn as percentages.
    """
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    for place, line in enumerate(curve.series):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        style = "--" if line.role == "attack" else "-"
        axes.plot(line.x, line.y, color=colour, marker=marker, markersize=5, linestyle=style, label=line.label)
        if line.low and line.high:
            axes.vlines(line.x, line.low, line.high, color=colour, alpha=0.35, linewidth=1.2)
    if curve.log_x:
        axes.set_xscale("log")
    if curve.y_unit == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    axes.set_title(curve.caption, fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(curve.series) > 1:
        axes.legend(fontsize=8, frameon=False)
    return drawn
