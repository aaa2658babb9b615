"""A heat map of shares: dark is 0, bright is 1, and every cell says its number."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from ironglass.core.findings import Cell, Matrix

from .canvas import LETTER, bare_axes
from .palette import LIGHT
from .text import NONE, SHARE, number, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"
ON_DARK, ON_BRIGHT = "#fdfdfd", "#101214"  # not the palette's: a cell keeps its colour in the dark
GAP = 10.0
"""Between the rows and those set apart, in CSS pixels."""


def heat(matrix: Matrix, width: int) -> Figure:
    """Returns the matrix as a figure of that width in CSS pixels; where cells are narrow, their lines are left out."""
    wide = width >= 500
    names = [_wrapped(name, 24 if wide else 13) for name in matrix.rows]
    left = 12 + LETTER * max((len(part) for name in names for part in name.split("\n")), default=0)
    cell = (width - left - 4) / max(len(matrix.columns), 1)
    letters = int(cell / (LETTER if wide else 6.4))
    upright = max((len(word) for name in matrix.columns for word in one_line(name).split()), default=0) > letters
    heads = [one_line(name, 22) if upright else _wrapped(name, letters) for name in matrix.columns]
    top = 30 + (6.6 * max(map(len, heads), default=0) if upright else 16 * max(head.count("\n") + 1 for head in heads))
    room = max((len(each.line) for row in matrix.cells for each in row), default=0) * 5.9 + 6 < cell
    pitch = max(42 if room else 30, *(18 * (name.count("\n") + 1) for name in names), 30)
    apart = GAP if 0 < matrix.apart < len(names) else 0.0
    figure, axes = bare_axes(width, top + pitch * len(names) + apart + 6, left=left, right=4, top=top, bottom=6)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, len(matrix.columns))
    axes.set_ylim(pitch * len(names) + apart, 0)
    starts = [pitch * row + (apart if row >= len(names) - matrix.apart else 0) for row in range(len(names))]
    for start, cells in zip(starts, matrix.cells, strict=True):
        for column, each in enumerate(cells):
            _cell(axes, column, start, pitch, each, room, cell)
    axes.set_yticks([start + pitch / 2 for start in starts], names, color=LIGHT["ink"], linespacing=1.1)
    places = [column + 0.5 for column in range(len(heads))]
    axes.set_xticks(
        places,
        heads,
        color=LIGHT["ink"],
        linespacing=1.1,
        fontsize=12.5 if wide and not upright else 11,
        rotation=90 if upright else 0,
    )
    axes.xaxis.tick_top()
    axes.annotate(
        one_line(matrix.column_label, 80 if wide else 30) + (", numbers in %" if cell <= 44 else ""),
        (0, 1),
        (0, top - 15),
        xycoords="axes fraction",
        textcoords="offset points",
        color=LIGHT["muted"],
    )
    return figure


def _cell(axes: Axes, column: int, start: float, pitch: float, cell: Cell, room: bool, width: float) -> None:
    """Draws one cell: its tint, its number, whole and bare of its sign where cells are narrow, and its line."""
    if cell.value is None:
        look: dict[str, Any] = {"facecolor": LIGHT["part-2"], "edgecolor": LIGHT["rail"], "hatch": "//"}
        axes.add_patch(Rectangle((column + 0.01, start + 1), 0.98, pitch - 2, linewidth=0, **look))
        return
    colour = matplotlib.colormaps[COLOURS](min(max(cell.value, 0.0), 1.0))
    axes.add_patch(Rectangle((column + 0.01, start + 1), 0.98, pitch - 2, facecolor=to_hex(colour), linewidth=0))
    ink = ON_DARK if 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] < 0.46 else ON_BRIGHT
    lines = bool(room and cell.line)
    size = 12.5 * min(1.0, max(width / 32, 0.5))
    at = start + pitch * (0.34 if lines else 0.5)
    shown = _shown(cell.value) if width > 48 else f"{100 * cell.value:.0f}" + ("%" if width > 44 else "")
    axes.text(column + 0.5, at, shown, ha="center", va="center", color=ink, fontweight="bold", fontsize=size)
    if lines:
        line = one_line(cell.line)
        axes.text(column + 0.5, start + pitch * 0.74, line, ha="center", va="center", color=ink, fontsize=10)


def describe(matrix: Matrix) -> str:
    """Returns the matrix's text equivalent."""
    rows = [
        f"{one_line(name)}: "
        + ", ".join(f"{one_line(head)} {_shown(cell.value)}" for head, cell in zip(matrix.columns, row, strict=True))
        for name, row in zip(matrix.rows, matrix.cells, strict=True)
    ]
    more = f" And {len(rows) - 12} more in the table." if len(rows) > 12 else ""
    return f"Heat map, {one_line(matrix.row_label)} by {one_line(matrix.column_label)}. {'; '.join(rows[:12])}.{more}"


def table(matrix: Matrix) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the matrix's heads and rows as text."""
    rows = [
        (name, *(f"{_shown(cell.value)} {cell.line}".strip() for cell in row))
        for name, row in zip(matrix.rows, matrix.cells, strict=True)
    ]
    return (matrix.row_label, *matrix.columns), rows


def _shown(value: float | None) -> str:
    return NONE if value is None else number(value, SHARE).replace(".0%", "%")


def _wrapped(name: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(one_line(name, 72), letters)[:3])
