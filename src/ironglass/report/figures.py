"""Curves and bars as inline SVG: text stays text, colours are CSS variables, the same numbers give the same bytes.

Every figure comes wide and narrow, so that its text keeps a readable size on a phone.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ironglass.core.findings import Bars, Chart, Curve, Matrix, Scatter, Series

from . import matrix, scatter
from .canvas import WIDE, bare_axes
from .palette import LIGHT
from .svg import SETTINGS, inline
from .text import SHARE, number, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_ROWS = 40
"""More bars than this are left to the table beside the figure."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a line differs from the others of its figure: by hue, dash and marker at once."""

    colour: str
    dash: tuple[float, ...]
    marker: str
    width: float = 2.0


LOOKS: dict[str, tuple[Look, ...]] = {
    "attack": (
        Look("attack-1", (), "o"),
        Look("attack-2", (7, 2), "s"),
        Look("attack-3", (7, 2, 1.5, 2), "^"),
        Look("attack-4", (4, 1.5), "D"),
        Look("attack-1", (1.5, 1.5), "<"),
        Look("attack-2", (10, 2, 2, 2, 2, 2), ">"),
        Look("attack-3", (3, 2), "p"),
        Look("attack-4", (12, 3), "h"),
    ),
    "proof": (Look("proof", (), "v", 3.2), Look("proof", (2.2, 1), "<", 3.2), Look("proof", (5, 1, 1, 1), ">", 3.2)),
    "estimate": (Look("estimate", (1, 1.2), "P"), Look("estimate", (3, 1.2, 1, 1.2), "*")),
    "control": (Look("control", (1, 2), "X", 1.6), Look("control", (3, 3), "d", 1.6)),
    "clean": (Look("ink", (10, 3), "", 1.2), Look("ink", (2, 3), "", 1.2)),
}
_PART_HATCHES = ("", "///", "\\\\\\", "..")


def looks(series: Sequence[Series]) -> list[Look]:
    """Returns one look a line: the role's first look for its first line, and so on, around again when they run out."""
    seen: dict[str, int] = {}
    chosen = []
    for line in series:
        index = seen[line.role] = seen.get(line.role, -1) + 1
        chosen.append(LOOKS[line.role][index % len(LOOKS[line.role])])
    return chosen


def draw(chart: Chart, width: int = WIDE, prefix: str = "") -> str:
    """Returns the chart as an SVG element without ids of its own that could clash, fonts, or fetched resources.

    Args:
        chart: what to draw.
        width: in CSS pixels at natural size; below 500 the labels move under the axes.
        prefix: of the element's ids, unique in the page; made of the chart's id where it is not given.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", chart.id.lower())
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts draw the text, not ours
        return inline(_drawn(chart, width), f"{prefix or slug}-{width}")


def figure(chart: Chart, width: int = WIDE) -> Figure:
    """Returns the chart as a matplotlib figure, for notebooks and files."""
    with matplotlib.rc_context(SETTINGS):
        drawn = _drawn(chart, width)
    drawn.set_facecolor(LIGHT["panel"])
    drawn.axes[0].set_facecolor("none")
    FigureCanvasAgg(drawn)
    return drawn


def _drawn(chart: Chart, width: int) -> Figure:
    if isinstance(chart, Matrix):
        return matrix.heat(chart, width)
    if isinstance(chart, Scatter):
        return scatter.spread(chart, width)
    return _curve(chart, width) if isinstance(chart, Curve) else _bars(chart, width)


def describe(chart: Chart) -> str:
    """Returns the chart's text equivalent, made of the numbers that it draws."""
    if isinstance(chart, Matrix):
        return matrix.describe(chart)
    if isinstance(chart, Scatter):
        return scatter.describe(chart)
    if isinstance(chart, Curve):
        lines = [
            f"{one_line(line.label)}: " + ", ".join(f"{number(y, chart.y_unit)} at {number(x)}" for x, y in _ends(line))
            for line in chart.series
        ]
        return f"Line chart of {one_line(chart.y_label)} against {one_line(chart.x_label)}. {'; '.join(lines)}."
    rows = [
        f"{one_line(label)}: "
        + ", ".join(f"{one_line(part)} {number(value, SHARE)}" for part, value in zip(chart.parts, row, strict=True))
        for label, row in zip(chart.labels, chart.values, strict=True)
    ]
    more = f" And {len(rows) - 12} more in the table." if len(rows) > 12 else ""
    return f"Bar chart. {'; '.join(rows[:12])}.{more}"


def gradient(colormap: str, stops: int = 11) -> str:
    """Returns a colour map as CSS: ``#3b4cc0, …, #b40426``."""
    colours = matplotlib.colormaps[colormap]
    return ", ".join(
        "#" + "".join(f"{round(255 * channel):02x}" for channel in colours(index / (stops - 1))[:3])
        for index in range(stops)
    )


def _ends(line: Series) -> list[tuple[float, float]]:
    """Returns the first and last point of a line, and its lowest and highest where they lie between."""
    points = list(zip(line.x, line.y, strict=True))
    if not points:
        return []
    by_y = sorted(points, key=lambda point: point[1])
    return [point for point in points if point in (points[0], points[-1], by_y[0], by_y[-1])][:6]


def _curve(curve: Curve, width: int) -> Figure:
    wide = width >= 500
    names = [one_line(line.label, 64) for line in curve.series]
    wrapped = ["\n".join(textwrap.wrap(name, 22)[:3]) for name in names]
    longest = max((len(part) for name in wrapped for part in name.split("\n")), default=0)
    right = 24 + 6.9 * longest if wide else 14
    key = 0 if wide else 20.5 * len(names)
    figure, axes = bare_axes(width, (370 if wide else 262) + key, left=46, right=right, top=36, bottom=50 + key)
    _scale(axes, curve)
    _open_gap(axes, curve)
    for line, look in zip(curve.series, looks(curve.series), strict=True):
        colour = LIGHT[look.colour]
        if line.low and line.high:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            color=colour,
            linewidth=look.width,
            dashes=look.dash or (None, None),
            marker=look.marker or None,
            markersize=6.5,
            markerfacecolor=LIGHT["panel"],
            markeredgecolor=colour,
            markeredgewidth=1.6,
            clip_on=False,
            label="",
        )
    axes.set_xlabel(one_line(curve.x_label, 70 if wide else 40), color=LIGHT["muted"], labelpad=8)
    axes.annotate(
        one_line(curve.y_label, 80 if wide else 40),
        (0, 1),
        (-38, 15),
        xycoords="axes fraction",
        textcoords="offset points",
        color=LIGHT["muted"],
    )
    if wide:
        _name_lines(axes, curve, wrapped)
    else:
        _key(figure, axes, curve, names)
    return figure


def _bars(bars: Bars, width: int) -> Figure:
    wide = width >= 500
    rows = list(zip(bars.labels, bars.values, strict=True))[:DRAWN_ROWS]
    names = [one_line(label, 26 if wide else 16) for label, _ in rows]
    key = 34 if len(bars.parts) > 1 else 10
    left = 16 + 7.1 * max((len(name) for name in names), default=0)
    pitch = 40 if len(bars.parts) > 1 else 26
    figure, axes = bare_axes(width, pitch * len(rows) + key + 42, left=left, right=44, top=key, bottom=36)
    furthest = max((sum(values) for _, values in rows), default=1.0)
    axes.set_xlim(0, 1 if len(bars.parts) > 1 and furthest > 0.5 else max(furthest * 1.02, 1e-9))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), names, color=LIGHT["ink"])
    axes.xaxis.set_major_locator(MaxNLocator(5 if wide else 3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: number(share, SHARE).replace(".0%", "%")))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LIGHT["line"], linewidth=1)
    for row, (_, values) in enumerate(rows):
        start = 0.0
        for part, value in enumerate(values):
            _segment(axes, row, start, value, part, alone=len(bars.parts) == 1)
            start += value
    if len(bars.parts) > 1:
        handles = [Patch(label=one_line(part, 28), **_fill(index)) for index, part in enumerate(bars.parts)]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(left / width if wide else 0.0, 1.0),
            ncols=len(handles),
            frameon=False,
            borderpad=0,
            borderaxespad=0.2,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.4 if wide else 0.9,
            labelcolor=LIGHT["ink"],
        )
    return figure


def _segment(axes: Axes, row: int, start: float, value: float, part: int, alone: bool) -> None:
    """Draws one part of a bar and writes its share into it, where it fits, or after a bar of one part."""
    axes.barh(row, value, left=start, height=0.62, **_fill(part))
    shown = number(value, SHARE)
    room = value / axes.get_xlim()[1] * axes.bbox.width
    if alone:
        axes.annotate(shown, (start + value, row), (6, 0), textcoords="offset points", va="center", color=LIGHT["ink"])
    elif room > 8.2 * len(shown) + 8:
        box = {"boxstyle": "round,pad=0.18", "facecolor": LIGHT[f"part-{part % 4 + 1}"], "edgecolor": "none"}
        axes.text(start + value / 2, row, shown, ha="center", va="center", color=LIGHT["ink"], bbox=box)


def _fill(part: int) -> dict[str, Any]:
    """Returns how a part of a bar looks: its tint, its edge and its hatch."""
    return {
        "facecolor": LIGHT[f"part-{part % 4 + 1}"],
        "edgecolor": LIGHT[f"edge-{part % 4 + 1}"],
        "hatch": _PART_HATCHES[part % 4],
        "linewidth": 1.2,
    }


def _scale(axes: Axes, curve: Curve) -> None:
    """Fixes both axes: shares run from 0 to 100 %; a logarithmic axis with a zero is linear up to its next value."""
    xs = sorted({x for line in curve.series for x in line.x})
    positive = [x for x in xs if x > 0]
    if curve.log_x and positive:
        if xs[0] > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=positive[0])
        axes.xaxis.set_minor_locator(NullLocator())
    elif 2 <= len(xs) <= 8 and min(b - a for a, b in itertools.pairwise(xs)) > 0.1 * (xs[-1] - xs[0]):
        axes.set_xticks(xs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(round(x, 12))))
    if xs and xs[0] < xs[-1]:
        axes.set_xlim(xs[0], xs[-1])
    if curve.y_unit == SHARE:
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    else:
        ys = [y for line in curve.series for y in (*line.y, *line.low, *line.high)]
        span = (max(ys) - min(ys) or abs(max(ys)) or 1.0) if ys else 1.0
        axes.set_ylim(min([0.0, *ys]) if min(ys, default=0.0) < 0.5 * span else min(ys) - 0.1 * span)
        axes.set_ylim(top=max(ys, default=1.0) + 0.08 * span)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    unit = SHARE if curve.y_unit == SHARE else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(round(y, 12), unit).replace(".0%", "%")))


def _open_gap(axes: Axes, curve: Curve) -> None:
    """Tints what lies between the strongest attack and the strongest proof: neither broken nor proven."""

    def envelope(role: str, choose: Any) -> dict[float, float]:
        values: dict[float, float] = {}
        for line in curve.series:
            if line.role == role:
                for x, y in zip(line.x, line.y, strict=True):
                    values[x] = choose(values.get(x, y), y)
        return values

    attacked, proven = envelope("attack", min), envelope("proof", max)
    shared = sorted(attacked.keys() & proven.keys())
    if len(shared) < 2 or any(proven[x] > attacked[x] for x in shared):
        return
    above, below = [attacked[x] for x in shared], [proven[x] for x in shared]
    axes.fill_between(shared, below, above, facecolor=LIGHT["part-2"], edgecolor=LIGHT["rail"], hatch="//", linewidth=0)
    widest = max(range(len(shared)), key=lambda index: above[index] - below[index])
    if above[widest] - below[widest] > 0.12:
        box = {"boxstyle": "round,pad=0.3", "facecolor": LIGHT["part-2"], "edgecolor": "none"}
        inner = min(max(widest, 1), len(shared) - 2) if len(shared) > 2 else widest
        middle = (above[inner] + below[inner]) / 2
        axes.text(shared[inner], middle, "open", ha="center", va="center", color=LIGHT["muted"], bbox=box)


def _name_lines(axes: Axes, curve: Curve, names: list[str]) -> None:
    """Writes each line's name at its end, moved apart where the ends are close, with a thread back to the line."""
    height = axes.bbox.height
    lines = [index for index, line in enumerate(curve.series) if line.x]
    ends = {index: axes.transData.transform((curve.series[index].x[-1], curve.series[index].y[-1])) for index in lines}
    order = sorted(lines, key=lambda index: -float(ends[index][1]))
    sizes = [16.0 * (names[index].count("\n") + 1) + 3 for index in order]
    tops = _apart([float(ends[index][1] - axes.bbox.y0) for index in order], sizes, height + 12)
    for index, centre, look in zip(order, tops, [looks(curve.series)[index] for index in order], strict=True):
        x, y = curve.series[index].x[-1], curve.series[index].y[-1]
        axes.annotate(
            names[index],
            (x, y),
            (axes.bbox.x1 + 20, axes.bbox.y0 + centre),
            textcoords="figure points",
            va="center",
            color=LIGHT[look.colour],
            linespacing=1.15,
            arrowprops={
                "arrowstyle": "-",
                "color": LIGHT["edge-2"],
                "linewidth": 0.9,
                "linestyle": (0, (1, 2.5)),
                "shrinkA": 2,
                "shrinkB": 7,
                "relpos": (0, 0.5),
            },
        )


def _apart(centres: list[float], sizes: list[float], height: float) -> list[float]:
    """Moves labels, given from top to bottom, so that none overlap and all lie within the height if they fit."""
    placed: list[float] = []
    ceiling = height
    for centre, size in zip(centres, sizes, strict=True):
        placed.append(min(centre, ceiling - size / 2))
        ceiling = placed[-1] - size / 2
    floor = min(0.0, height - sum(sizes)) - 6
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = max(placed[index], floor + sizes[index] / 2)
        floor = placed[index] + sizes[index] / 2
    return placed


def _key(figure: Figure, axes: Axes, curve: Curve, names: list[str]) -> None:
    """Lists the lines under the axes, each with a piece of itself."""
    figure.legend(
        axes.get_lines(),
        [one_line(name, 36) for name in names],
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        frameon=False,
        borderpad=0,
        borderaxespad=0.3,
        handlelength=3.2,
        labelspacing=0.6,
        labelcolor=[LIGHT[look.colour] for look in looks(curve.series)],
    )
