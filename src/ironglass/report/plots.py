"""Figures of results: what a notebook shows, and what ``.plot()`` returns."""

from __future__ import annotations

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
        results: attributions of the same samples, side by side; or one attack's result.
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
    kinds = ", ".join(sorted({type(result).__name__ for result in results})) or "nothing"
    raise InputError(
        f"there is no figure of {kinds}", "plot attributions, one attack on pictures, or a study with figures"
    )


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _drawable(result: Result) -> bool:
    grid = not isinstance(result, Attribution) or result.at is None or result.values.ndim == 4
    return grid and result.x.ndim == 4 and result.x.shape[1] in (1, 3)


def _figure(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(SIDE * columns, SIDE * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([]), axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, [list(line) for line in axes]


def _picture(image: Array) -> Array:
    """Returns a sample ``(C, H, W)`` as a picture, its own range from black to white."""
    low, high = min(image.min(), 0.0), max(image.max(), 1.0)
    scaled = (image - low) / (high - low)
    return np.moveaxis(np.repeat(scaled, 3, 0) if len(image) == 1 else scaled, 0, -1)


def _plane(values: Array) -> Array:
    return values.sum(0) if values.ndim == 3 else values


def _named(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _maps(attributions: Sequence[Attribution], rows: int, names: Sequence[str]) -> Figure:
    first = attributions[0]
    count = min(rows, len(first))
    figure, axes = _figure(count, 1 + len(attributions))
    for row in range(count):
        picture = _picture(_array(first.x[row]))
        axes[row][0].imshow(picture)
        axes[row][0].set_ylabel(first.explained(row, lambda label: _named(label, names)), fontsize=8)
        for axis, attribution in zip(axes[row][1:], attributions, strict=True):
            _map(axis, _plane(_array(attribution.values[row])), picture)
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
            flat = _array(attribution.values[row]).reshape(-1)
            order = np.argsort(-np.abs(flat), kind="stable")[:LISTED][::-1]
            colours = ["#b40426" if flat[i] > 0 else "#3b4cc0" for i in order]
            axis.barh(range(len(order)), flat[order], color=colours)
            axis.set_yticks(range(len(order)), [f"value {i}" for i in order], fontsize=6)
            axis.tick_params(axis="x", labelsize=6)
            axis.axvline(0, color="#303030", linewidth=0.6)
            axis.set_title(
                f"{attribution.method}: {attribution.explained(row, lambda label: _named(label, names))}", fontsize=7
            )
    return figure


def _attacked(result: AttackResult, rows: int, names: Sequence[str]) -> Figure:
    count = min(rows, len(result))
    figure, axes = _figure(count, 3)
    for row in range(count):
        clean, bad = _array(result.x[row]), _array(result.adversarial[row])
        change = bad - clean
        top = float(np.abs(change).max()) or 1.0
        before, after = (int(scores[row].argmax()) for scores in (result.before, result.after))
        for axis, picture, line in zip(
            axes[row],
            (_picture(clean), _picture(0.5 + 0.5 * change / top), _picture(bad)),
            (_named(before, names), f"× {0.5 / top:,.0f}" if change.any() else "none", _named(after, names)),
            strict=True,
        ):
            axis.imshow(picture)
            axis.set_xlabel(line, fontsize=8)
        state = ("broken" if change.any() else "wrong before") if bool(result.success[row]) else "holds"
        axes[row][0].set_ylabel(state, fontsize=8)
    for axis, title in zip(axes[0], ("sample", "change, magnified", "after the change"), strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def _array(values: object) -> Array:
    return np.asarray(values.detach().cpu().double())  # type: ignore[attr-defined]
