"""Figures of results: what a notebook shows, and what ``.plot()`` returns."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ironglass.core.catalogue import catalogue
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.results import AttackResult, Attribution, Result
from ironglass.core.uncertainty import Uncertainty

from .figures import figure as figure_of

Array = NDArray[np.float64]
SIDE = 2.1
LISTED = 10


def plot(*results: Result, rows: int = 6, names: Sequence[str] = ()) -> Figure:
    """Returns a figure: maps beside their samples, or samples before and after an attack.

    Signed maps are red where a value speaks for the class, blue where against it, with a line where the smoothed
    map is zero; unsigned ones are brighter where there is more. The colours of each map end at the 99.5th percentile
    of its sizes.

    Args:
        results: attributions of the same samples, side by side; or one attack's result; or one on uncertainty, or a
            study that holds the bins of a reliability diagram.
        rows: samples shown, the first ones.
        names: of the classes.

    Raises:
        InputError: if there is no figure of such results.
    """
    attributions = [result for result in results if isinstance(result, Attribution)]
    if attributions and len(attributions) == len(results):
        if any(other.x.shape != attributions[0].x.shape for other in attributions):
            raise InputError("the attributions are of different samples", "plot those of the same samples together")
        draw = _maps if all(map(_drawable, attributions)) else _bars
        return draw(attributions, rows, names)
    charts = results[0].charts() if len(results) == 1 and isinstance(results[0], Study) else ()
    if charts:
        return figure_of(charts[0])
    if len(results) == 1 and isinstance(results[0], AttackResult) and _drawable(results[0]):
        return _attacked(results[0], rows, names)
    if len(results) == 1 and isinstance(results[0], Uncertainty):
        unsure = importlib.import_module("ironglass.report.unsure")
        drawn: Figure = (unsure.maps if results[0].total.ndim == 3 else unsure.bars)(results[0], rows, names)
        return drawn
    if len(results) == 1 and isinstance(results[0], Study):
        unsure = importlib.import_module("ironglass.report.unsure")
        if unsure.has_bins(results[0]):
            diagram: Figure = unsure.reliability(results[0])
            return diagram
    kinds = ", ".join(sorted({type(result).__name__ for result in results})) or "nothing"
    raise InputError(
        f"there is no figure of {kinds}",
        "plot attributions, one attack on pictures, uncertainty, or a study with figures",
    )


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _drawable(result: Result) -> bool:
    grid = not isinstance(result, Attribution) or result.at is None or result.values.ndim == 4
    return grid and result.x.ndim == 4 and result.x.shape[1] in (1, 3)


def canvas(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Returns an empty figure of rows and columns of pictures."""
    figure = Figure(figsize=(SIDE * columns, SIDE * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([]), axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, [list(line) for line in axes]


def picture(image: Array) -> Array:
    """Returns a sample ``(C, H, W)`` as a picture, its own range from black to white."""
    low, high = min(image.min(), 0.0), max(image.max(), 1.0)
    scaled = (image - low) / (high - low)
    return np.moveaxis(np.repeat(scaled, 3, 0) if len(image) == 1 else scaled, 0, -1)


def _plane(values: Array) -> Array:
    return values.sum(0) if values.ndim == 3 else values


def named(label: int, names: Sequence[str]) -> str:
    """Returns a class's name, or its number."""
    return names[label] if label < len(names) else f"class {label}"


def _maps(attributions: Sequence[Attribution], rows: int, names: Sequence[str]) -> Figure:
    first = attributions[0]
    count = min(rows, len(first))
    figure, axes = canvas(count, 1 + len(attributions))
    for row in range(count):
        shown = picture(array(first.x[row]))
        axes[row][0].imshow(shown)
        axes[row][0].set_ylabel(first.explained(row, lambda label: named(label, names)), fontsize=8)
        for axis, attribution in zip(axes[row][1:], attributions, strict=True):
            _map(axis, _plane(array(attribution.values[row])), shown)
    for axis, attribution in zip(axes[0][1:], attributions, strict=True):
        card = catalogue().get(attribution.method)
        axis.set_title(card.title if card else attribution.method, fontsize=8)
    axes[0][0].set_title("sample", fontsize=8)
    return figure


def _map(axis: Axes, plane: Array, picture: Array) -> None:
    """Draws a map over the faint outline of its sample."""
    top = float(np.quantile(np.abs(plane), 0.995)) or float(np.abs(plane).max()) or 1.0
    signed = bool((plane < 0).any())
    grey = picture.mean(-1)
    rows, columns = (np.arange(n) * m // n for n, m in zip(grey.shape, plane.shape, strict=True))
    plane = plane[rows][:, columns]  # a layer's map may be coarser than the sample it lies over
    if signed:
        axis.imshow(plane, cmap="coolwarm", vmin=-top, vmax=top)
        broad = gaussian_filter(plane, max(plane.shape) / 28)  # of single pixels the line would be a carpet
        if broad.min() < 0 < broad.max() and min(plane.shape) > 1:
            axis.contour(broad, levels=[0.0], colors="#303030", linewidths=0.6, alpha=0.7)
    else:
        axis.imshow(plane, cmap="inferno", vmin=0, vmax=top)
    axis.imshow(grey, cmap="gray", alpha=0.12)


def _bars(attributions: Sequence[Attribution], rows: int, names: Sequence[str]) -> Figure:
    """Draws the values that count most, for inputs that are no pictures."""
    first = attributions[0]
    count = min(rows, len(first))
    figure = Figure(figsize=(3.2 * len(attributions), 1.9 * count + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, len(attributions), squeeze=False)
    for row in range(count):
        for axis, attribution in zip(axes[row], attributions, strict=True):
            flat = array(attribution.values[row]).reshape(-1)
            order = np.argsort(-np.abs(flat), kind="stable")[:LISTED][::-1]
            colours = ["#b40426" if flat[i] > 0 else "#3b4cc0" for i in order]
            axis.barh(range(len(order)), flat[order], color=colours)
            axis.set_yticks(range(len(order)), [f"value {i}" for i in order], fontsize=6)
            axis.tick_params(axis="x", labelsize=6)
            axis.axvline(0, color="#303030", linewidth=0.6)
            axis.set_title(
                f"{attribution.method}: {attribution.explained(row, lambda label: named(label, names))}", fontsize=7
            )
    return figure


def _attacked(result: AttackResult, rows: int, names: Sequence[str]) -> Figure:
    count = min(rows, len(result))
    figure, axes = canvas(count, 3)
    for row in range(count):
        clean, bad = array(result.x[row]), array(result.adversarial[row])
        change = bad - clean
        top = float(np.abs(change).max()) or 1.0
        before, after = (int(scores[row].argmax()) for scores in (result.before, result.after))
        for axis, shown, line in zip(
            axes[row],
            (picture(clean), picture(0.5 + 0.5 * change / top), picture(bad)),
            (named(before, names), f"× {0.5 / top:,.0f}" if change.any() else "none", named(after, names)),
            strict=True,
        ):
            axis.imshow(shown)
            axis.set_xlabel(line, fontsize=8)
        state = ("broken" if change.any() else "wrong before") if bool(result.success[row]) else "holds"
        axes[row][0].set_ylabel(state, fontsize=8)
    for axis, title in zip(axes[0], ("sample", "change, magnified", "after the change"), strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def array(values: object) -> Array:
    """Returns a tensor as float64."""
    return np.asarray(values.detach().cpu().double())  # type: ignore[attr-defined]
