"""Named points, the intervals of their heights, and the line that was fitted through those chosen."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ironglass.core.findings import Point, Scatter

from .canvas import bare_axes
from .palette import LIGHT
from .text import NONE, interval, number, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SIZE, LETTER, LINE = 11.0, 6.3, 14.0
"""Of the points' names: font size, and a letter's width and height in CSS pixels."""
Box = tuple[float, float, float, float]
PLACES = tuple(
    (side, step * LINE) for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 6, -6) for side in (1, -1, 0) if side or step
)
"""Where a name may stand: right of its point, left of it, or over its middle, so many pixels up; the first is best."""


def spread(scatter: Scatter, width: int) -> Figure:
    """Returns the points as a figure of that width in CSS pixels."""
    wide = width >= 500
    figure, axes = bare_axes(width, 400 if wide else 300, left=52, right=22, top=36, bottom=50)
    points = [point for point in scatter.points if point.x > 0 or not scatter.log_x]
    _scale(axes, scatter, points)
    if scatter.line is not None:
        line = scatter.line
        if line.low and line.high:
            axes.fill_between(line.x, line.low, line.high, color=LIGHT["estimate"], alpha=0.14, linewidth=0)
        axes.plot(line.x, line.y, color=LIGHT["estimate"], linewidth=1.8, dashes=(6, 2))
    for point in points:
        colour = LIGHT["attack-1" if point.chosen else "control"]
        if point.low is not None and point.high is not None:
            axes.plot([point.x] * 2, [point.low, point.high], color=colour, linewidth=1.3, alpha=0.6)
        face = colour if point.chosen else LIGHT["panel"]
        axes.plot(point.x, point.y, "o", markersize=7, markerfacecolor=face, markeredgecolor=colour, clip_on=False)
    _name(axes, scatter, points, 30 if wide else 13)
    axes.set_xlabel(one_line(scatter.x_label, 70 if wide else 40), color=LIGHT["muted"], labelpad=8)
    axes.annotate(
        one_line(scatter.y_label, 80 if wide else 40),
        (0, 1),
        (-44, 15),
        xycoords="axes fraction",
        textcoords="offset points",
        color=LIGHT["muted"],
    )
    return figure


def _scale(axes: Axes, scatter: Scatter, points: list[Point]) -> None:
    xs = [point.x for point in points] or [1.0]
    ys = [y for point in points for y in (point.y, point.low, point.high) if y is not None] or [0.0, 1.0]
    if scatter.log_x:
        axes.set_xscale("log")
        low, high = math.log10(min(xs)), math.log10(max(xs))
        pad = max(0.08 * (high - low), 0.06)
        axes.set_xlim(10 ** (low - pad), 10 ** (high + pad))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        pad = max(0.06 * (max(xs) - min(xs)), 0.01)
        axes.set_xlim(min(xs) - pad, max(xs) + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    span = max(ys) - min(ys) or abs(max(ys)) or 1.0
    axes.set_ylim(0 if 0 <= min(ys) < 0.6 * span else min(ys) - 0.1 * span, max(ys) + 0.12 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x, scatter.x_unit)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y, "share" if scatter.y_unit == "share" else "")))


def _tick(value: float, unit: str) -> str:
    return number(float(f"{value:.6g}"), "share" if unit == "share" else "").replace(".0%", "%")


def _name(axes: Axes, scatter: Scatter, points: list[Point], letters: int) -> None:
    """Writes each point's name beside it, at the first place free of names, points, whiskers and the line."""
    at = [tuple(map(float, axes.transData.transform((point.x, point.y)))) for point in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    for point, (x, _) in zip(points, at, strict=True):
        if point.low is not None and point.high is not None:
            low, high = (float(axes.transData.transform((point.x, edge))[1]) for edge in (point.low, point.high))
            taken.append((x - 1, low, x + 1, high))
    if scatter.line is not None:
        ends = axes.transData.transform(list(zip(scatter.line.x, scatter.line.y, strict=True)))
        taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in _dense(ends.tolist())]
    frame = axes.bbox
    for point, (x, y) in sorted(zip(points, at, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])):
        name = one_line(point.label, letters)
        wide = LETTER * len(name)
        boxes = {place: _box(x, y, wide, *place) for place in PLACES}
        inside = [place for place, box in boxes.items() if _within(box, frame)] or [(1, 0.0)]
        side, dy = min(inside, key=lambda place: sum(_overlap(boxes[place], other) for other in taken))
        box = _box(x, y, wide, side, dy)
        taken.append(box)
        axes.annotate(
            name,
            ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
            xycoords="figure points",
            ha="center",
            va="center",
            fontsize=SIZE,
            color=LIGHT["ink" if point.chosen else "muted"],
        )
        if abs(dy) > LINE:
            axes.annotate(
                "",
                (x, y),
                ((box[0] + box[2]) / 2 if side == 0 else box[0] if side == 1 else box[2], (box[1] + box[3]) / 2),
                xycoords="figure points",
                textcoords="figure points",
                arrowprops={"arrowstyle": "-", "color": LIGHT["edge-2"], "linewidth": 0.8, "shrinkB": 5},
            )


def _dense(ends: list[list[float]]) -> list[tuple[float, float]]:
    """Returns points a few pixels apart along a line of pixels."""
    steps = 12
    return [
        (x + (u - x) * i / steps, y + (v - y) * i / steps)
        for (x, y), (u, v) in itertools.pairwise(ends)
        for i in range(steps)
    ]


def _within(box: Box, frame: Bbox) -> bool:
    return bool(frame.x0 - 20 < box[0] and box[2] < frame.x1 + 20 and frame.y0 < box[1] and box[3] < frame.y1 + 12)


def _box(x: float, y: float, wide: float, side: int, dy: float) -> Box:
    left = x + 9 if side == 1 else x - 9 - wide if side == -1 else x - wide / 2
    return left, y + dy - LINE / 2, left + wide, y + dy + LINE / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def describe(scatter: Scatter) -> str:
    """Returns the scatter's text equivalent."""
    named = [
        f"{one_line(point.label)} {number(point.y, scatter.y_unit)} at {number(point.x, scatter.x_unit)}"
        for point in scatter.points
    ]
    more = f" And {len(named) - 12} more in the table." if len(named) > 12 else ""
    head = f"Scatter of {one_line(scatter.y_label)} against {one_line(scatter.x_label)}. "
    fit = f" Line: {one_line(scatter.line.label)}." if scatter.line is not None else ""
    return f"{head}{'; '.join(named[:12])}.{more}{fit}"


def table(scatter: Scatter) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the scatter's heads and rows as text."""
    rows: list[tuple[str, ...]] = [
        (
            point.label,
            number(point.x, scatter.x_unit),
            number(point.y, scatter.y_unit),
            NONE if point.low is None else interval(point.low, point.high, scatter.y_unit),
            "yes" if point.chosen else "no",
        )
        for point in scatter.points
    ]
    return ("", scatter.x_label, scatter.y_label, "95% interval", "on the line"), rows
