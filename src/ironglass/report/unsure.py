"""Figures of uncertainty: where a model is unsure, and whether its confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ironglass.core.diagnosis import Study
from ironglass.core.uncertainty import Uncertainty

from .plots import SIDE, array, canvas, named, picture

KINDS = ("aleatoric", "epistemic")
BINS = ("counts", "confidence", "accuracy")


def maps(found: Uncertainty, rows: int, names: Sequence[str]) -> Figure:
    """Draws samples, answers, and both kinds of uncertainty, brighter where there is more, on one scale."""
    count = min(rows, len(found))
    figure, axes = canvas(count, 2 + len(KINDS))
    top = max(float(array(getattr(found, kind)[:count]).max()) for kind in KINDS) or 1.0
    labels = array(found.labels()[:count])
    classes = found.mean.shape[1]
    for row in range(count):
        if found.x.ndim == 4 and found.x.shape[1] in (1, 3):
            axes[row][0].imshow(picture(array(found.x[row])))
        axes[row][1].imshow(labels[row], cmap="tab20" if classes <= 20 else "cividis", vmin=0, vmax=max(classes - 1, 1))
        for axis, kind in zip(axes[row][2:], KINDS, strict=True):
            axis.imshow(array(getattr(found, kind)[row]), cmap="inferno", vmin=0, vmax=top)
            axis.set_xlabel(f"mean {float(found.of(kind)[row]):.3g}", fontsize=8)
    for axis, title in zip(axes[0], ("sample", "answer", *KINDS), strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def bars(found: Uncertainty, rows: int, names: Sequence[str]) -> Figure:
    """Draws a bar a sample, its parts beside each other."""
    count = min(rows, len(found))
    figure = Figure(figsize=(2.4 * SIDE, 0.35 * count + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    start = np.zeros(count)
    for kind, colour in zip(KINDS, ("#9aa7c7", "#b5560b"), strict=True):
        value = array(getattr(found, kind)[:count])
        axis.barh(range(count), value, left=start, color=colour, label=kind)
        start = start + value
    lines = [f"{named(int(label), names)}, {100 * float(p.max()):.0f} %" for label, p in _answers(found, count)]
    axis.set_yticks(range(count), lines, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("uncertainty", fontsize=8)
    axis.legend(fontsize=7, frameon=False)
    return figure


def _answers(found: Uncertainty, count: int) -> list[tuple[int, np.ndarray]]:
    mean = array(found.mean[:count])
    return [(int(row.argmax()), row) for row in mean]


def reliability(found: Study) -> Figure:
    """Draws accuracy over confidence, a bar a bin as dark as it is full, and the diagonal of a calibrated model."""
    groups = _groups(found)
    figure = Figure(figsize=(1.5 * SIDE * len(groups), 1.5 * SIDE), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (name, prefix) in zip(axes, groups.items(), strict=True):
        counts, confidence, accuracy = (array(found.extras[prefix + part]) for part in BINS)
        _bins(axis, counts, confidence, accuracy)
        axis.set_title(name, fontsize=8)
    axes[0].set_ylabel("accuracy", fontsize=8)
    return figure


def _bins(axis: Axes, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(counts) + 1)
    full = counts / max(counts.max(), 1)
    for left, share, height in zip(edges, full, accuracy, strict=False):
        axis.bar(left, height, 1 / len(counts), align="edge", color="#3b4cc0", alpha=0.15 + 0.75 * float(share))
    seen = counts > 0
    axis.plot(confidence[seen], accuracy[seen], "o", color="#303030", markersize=3)
    axis.plot((0, 1), (0, 1), "--", color="#303030", linewidth=0.8)
    axis.set_xlim(0, 1), axis.set_ylim(0, 1)
    axis.set_xlabel("confidence", fontsize=8)
    axis.tick_params(labelsize=7)


def has_bins(found: object) -> bool:
    """Returns whether a study holds the bins of a reliability diagram."""
    return isinstance(found, Study) and bool(_groups(found))


def _groups(found: Study) -> dict[str, str]:
    """Returns the models whose bins a study holds, and how their extras begin."""
    ends = [name.removesuffix(BINS[0]) for name in found.extras if name.endswith(BINS[0])]
    return {prefix.removesuffix(": ") or found.options.get("of", ""): prefix for prefix in ends}
