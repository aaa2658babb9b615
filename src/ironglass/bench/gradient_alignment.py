"""Do input gradients look like the input? Of robust models they do, and here is the number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError, suggest
from ironglass.core.findings import Chart, Point, Scatter
from ironglass.core.method import study
from ironglass.core.results import Attribution, Result
from ironglass.core.statistics import bootstrap, wilson
from ironglass.core.values import Avoid, Threat
from ironglass.ops.filters import blur
from ironglass.ops.similarity import SIMILARITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rank": SIMILARITIES["spearman"],
    "ssim": SIMILARITIES["ssim"],
    "hog": SIMILARITIES["hog"],
}
"""How a gradient is compared with the edges of its input."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GradientAlignment(Study):
    """How the sizes of input gradients agree with the edges of the inputs, how rough they are, and how sure models are.

    ``samples (models, columns, N)`` are the figures of each sample, and ``gradients (models, N, H, W)`` the sizes of
    the gradients. After the models there is a row for each one but the first: its difference to the first, with an
    interval of the paired differences.
    """

    samples: Tensor
    gradients: Tensor

    def difference(self, column: str, model: int = 1) -> tuple[float, float, float]:
        """Returns how much higher a model's figure is than the first one's, with its 95 % interval."""
        row, at = len(self.gradients) + model - 1, list(self.column_names).index(column)
        low, value, high = (float(part[row, at]) for part in (self.low, self.values, self.high))
        return value, low, high

    def maps(self) -> tuple[Attribution, ...]:
        """Returns the gradients' sizes as maps, one result a model, to be drawn side by side."""
        return tuple(
            Attribution(x=self.x, method=name, values=sizes.to(self.x.dtype), target=self.y)
            for name, sizes in zip(self.row_names, self.gradients, strict=False)
        )

    def plot(self, *others: Result, rows: int = 6, names: Sequence[str] = ()) -> Figure:
        """Returns a figure of the samples beside the gradients of each model."""
        first, *more = self.maps()
        return first.plot(*more, *others, rows=rows, names=names)

    def charts(self) -> tuple[Chart, ...]:
        """Returns the agreement with the edges against the roughness, a point a model."""
        column = list(self.column_names).index("roughness")
        points = tuple(
            Point(
                label=name,
                x=float(self.values[i, column]),
                y=float(self.values[i, 0]),
                low=float(self.low[i, 0]),
                high=float(self.high[i, 0]),
                chosen=i > 0,
            )
            for i, name in enumerate(self.row_names[: len(self.gradients)])
        )
        scatter = Scatter(
            id=self.method,
            caption=f"Agreement of the input gradients with the edges of the inputs ({self.column_names[0]}) against "
            "their roughness, on the mean over the samples. Above and to the left gradients look more like the inputs. "
            "Hollow: the first model. Whiskers are 95 % intervals",
            x_label="roughness: total variation a unit of gradient",
            y_label=f"agreement with edges ({self.column_names[0]})",
            points=points,
            x_unit="",
        )
        return (scatter,)


@study(
    title="Agreement of input gradients with edges",
    paper="tsipras2019",
    access="gradient",
    cost="2",
    scope="global",
    inputs=("image",),
    lecture="robustness has benefits: interpretable input gradients",
)
def gradient_alignment(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None = None,
    *,
    scores: tuple[str, ...] = ("rank", "ssim", "hog"),
    sigma: float = 0.0,
    seed: int = 0,
) -> GradientAlignment:
    r"""Compare :math:`|\nabla_x L|` of each model with the edges of x, and tell how rough it is.

    .. math:: s = \mathrm{sim}\bigl(|\nabla_x L|, |\nabla x|_{\text{Sobel}}\bigr), \qquad
        r = \frac{\sum |\partial_h g| + |\partial_v g|}{\sum g}, \quad g = |\nabla_x L|

    Both are summed over channels. The gradient of a network trained in the usual way lies beside what the picture
    shows, or all over it; that of an adversarially trained one lies on it. What to read is the sign of the difference
    between two models, and whether its interval holds 0: how large a similarity is depends on the pictures. Ranks are
    the surest guide. Strided convolutions print their lattice on a gradient, which the structural similarity, the
    histograms and the roughness all see: with ``sigma`` it is blurred away, from gradient and edges alike.

    Args:
        scores: ``rank`` for Spearman's correlation, ``ssim`` for the structural similarity, ``hog`` for the correlation
            of the histograms of oriented gradients.
        sigma: of the Gaussian that blurs gradients and edges before they are compared, in pixels; 0 for none.
        seed: of the resampling for the intervals.

    Returns:
        A row a model, then a row for its difference to the first: the scores, the roughness (lower is smoother), the
        confidence of the decision, and the accuracy.

    Raises:
        InputError: if the samples are no pictures, or a score is unknown.
    """
    if x.ndim != 4 or min(x.shape[2:]) < 3:
        raise InputError(f"samples are {tuple(x.shape)}, pictures (N, C, H, W) have edges", "give pictures")
    for score in scores:
        if score not in SCORES:
            raise InputError(f"'{score}' is unknown to gradient_alignment", suggest(score, tuple(SCORES)))
    if sigma < 0:
        raise InputError(f"sigma={sigma}", "give 0 for no blur, or a few pixels")
    edges = _blurred(sobel(x), sigma)
    loss = Avoid(y).loss("ce")
    samples, gradients = [], []
    for model in models.values():
        _, grad, outputs = model.value_and_grad(x, loss)
        size = grad.abs().sum(1)
        top = size.flatten(1).amax(1)[:, None, None]
        size = _blurred(
            size / top.where(top > 0, 1), sigma
        )  # before sums and products, which a gradient of 1e-30 would not survive
        sure = outputs.softmax(1).amax(1)
        figures = [SCORES[score](size, edges) for score in scores]
        figures += [roughness(size), sure, (outputs.argmax(1) == y).to(sure)]
        samples.append(torch.stack([each.double() for each in figures]))
        gradients.append(size)
    table = torch.stack(samples)
    columns = (*scores, "roughness", "confidence", "accuracy")
    names, rows = list(models), [_summary(each, columns, seed) for each in table]
    first, *others = list(models)
    for i, name in enumerate(others, 1):
        names.append(f"{name} less {first}")
        rows.append([_mean(figures, seed) for figures in table[i] - table[0]])
    whole = torch.tensor(rows, dtype=torch.double)
    found = GradientAlignment(
        x=x,
        y=y,
        method="gradient_alignment",
        row_names=tuple(names),
        column_names=columns,
        units=("",) * (len(scores) + 1) + ("share",) * 2,
        values=whole[..., 0],
        low=whole[..., 1],
        high=whole[..., 2],
        counts=torch.full(whole.shape[:2], len(x)),
        caption=f"Agreement of input gradients with the edges of {len(x)} pictures, with 95 % intervals",
        row_head="model",
        seed=seed,
        samples=table,
        gradients=torch.stack(gradients),
    )
    return replace(found, notes=tuple(_notes(found, first, others)))


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    return blur(maps[:, None], sigma)[:, 0] if sigma else maps


def sobel(x: Tensor) -> Tensor:
    """Returns the size of the Sobel gradient, summed over channels ``(N, H, W)``; beyond the rim the nearest pixel."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    parts = F.conv2d(padded, torch.stack([across, across.T])[:, None])
    return parts.square().sum(1).sqrt().reshape(x.shape).sum(1)


def roughness(maps: Tensor) -> Tensor:
    """Returns the total variation of maps ``(N, H, W)`` of sizes, as a part of their sum; 0 where a map is 0."""
    moved = maps.diff(dim=1).abs().sum((1, 2)) + maps.diff(dim=2).abs().sum((1, 2))
    total = maps.abs().sum((1, 2))
    return moved / total.where(total > 0, 1)


def _mean(figures: Tensor, seed: int) -> tuple[float, float, float]:
    values = figures.tolist()
    mean = sum(values) / len(values)
    low, high = bootstrap(values, seed=seed)
    return mean, min(low, mean), max(high, mean)


def _summary(figures: Tensor, columns: Sequence[str], seed: int) -> list[tuple[float, float, float]]:
    """Returns a model's means with their intervals; Wilson's for the accuracy."""
    row = [_mean(each, seed) for each in figures]
    right, total = int(figures[columns.index("accuracy")].sum()), figures.shape[1]
    row[columns.index("accuracy")] = (right / total, *wilson(right, total))
    return row


def _notes(found: GradientAlignment, first: str, others: Sequence[str]) -> list[str]:
    """Returns what the differences say."""
    notes = []
    for i, name in enumerate(others, 1):
        for column in found.column_names[:-2]:
            value, low, high = found.difference(column, i)
            better = value < 0 if column == "roughness" else value > 0
            clear = low > 0 or high < 0
            word = ("smoother" if better else "rougher") if column == "roughness" else ("more" if better else "less")
            what = f"gradients are {word} than" if column == "roughness" else f"gradients agree {word} with edges than"
            said = f"{value:+.3g} [{low:.3g}, {high:.3g}]"
            notes.append(
                f"{name}'s {what} {first}'s by {column}: {said}" + ("." if clear else "; which may be chance.")
            )
    return notes
