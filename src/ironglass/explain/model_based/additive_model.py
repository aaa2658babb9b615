"""A generalized additive model: a curve a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.findings import Curve, Series

from .columns import Categories, Table, entered, table


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Scores that are sums of one curve a column; called on rows ``(N, d)`` it gives logits ``(N, classes)``.

    Args:
        edges: where each column's bins meet; a category has a bin of its own.
        shapes: a height a bin and class for each column ``(bins, classes)``; 0 on the mean of the training rows. A
            categorical column has a last bin of height 0, for categories that were not seen.
        intercept: the mean logits ``(classes,)``.
        names: of the columns.
        values: the categories of each categorical column.
        losses: the penalized loss after each round of the fit.
    """

    edges: tuple[Tensor, ...]
    shapes: tuple[Tensor, ...]
    intercept: Tensor
    names: tuple[str, ...]
    values: Mapping[int, tuple[float, ...]]
    losses: tuple[float, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logits ``(N, classes)``: the intercept and the terms, added up."""
        return (self.intercept + self._terms(x).sum(2)).to(x)

    def terms(self, x: Tensor) -> Tensor:
        """Returns what each column adds to each logit ``(N, classes, d)``: the whole explanation of the decision."""
        return self._terms(x).to(x)

    def importance(self, x: Tensor) -> Tensor:
        """Returns the mean size of each column's term over rows and classes ``(d,)``."""
        return self._terms(x).abs().mean((0, 1)).to(x)

    def curve(self, column: int, label: int = 1) -> Curve:
        """Returns the shape function of a column for a class: what it adds to the logit, over its values."""
        shape = self.shapes[column][:, label]
        if column in self.values:
            at, heights = torch.tensor(self.values[column], dtype=torch.double), shape[:-1]
        else:
            edges = self.edges[column]  # a step has two ends; the outer bins have one
            at, heights = edges.repeat_interleave(2), shape.repeat_interleave(2)[1:-1]
        return Curve(
            id=f"shape-{column}",
            caption=f"What {self.names[column]} adds to the logit of class {label}",
            x_label=self.names[column],
            y_label="logits",
            series=(
                Series(label=self.names[column], x=tuple(at.tolist()), y=tuple(heights.tolist()), role="estimate"),
            ),
            y_unit="logits",
        )

    @property
    def parts(self) -> int:
        """How many curves a person must read; those of two classes mirror each other."""
        scores = len(self.intercept) if len(self.intercept) > 2 else 1
        return scores * sum(bool(shape.any()) for shape in self.shapes)

    def _terms(self, x: Tensor) -> Tensor:
        rows = entered(x, len(self.names))
        return torch.stack([shape[place] for shape, place in zip(self.shapes, self._places(rows), strict=True)], 2)

    def _places(self, rows: Tensor) -> list[Tensor]:
        return [_place(rows[:, j].contiguous(), edges, self.values.get(j)) for j, edges in enumerate(self.edges)]


def additive_model(
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] = (),
    categorical: Categories = (),
    bins: int = 32,
    rounds: int = 100,
    smooth: float = 4.0,
    ridge: float = 0.5,
    tol: float = 1e-5,
) -> AdditiveModel:
    r"""Fit a curve a column by cyclic boosting (lou2012), so that each logit is a sum that can be read.

    .. math:: f_k(x) = b_k + \sum_j s_{jk}(x_j),\qquad
              \min_{b, s} -\sum_i \log\mathrm{softmax}(f(x_i))_{y_i}
              + \sum_{jk} \Big(\tfrac\lambda2 \sum_b (s_{jk,b+1} - s_{jk,b})^2 + \tfrac\rho2 \|s_{jk}\|^2\Big)

    The curves are steps over the quantiles of a column. A round takes the columns in turn; each step minimizes a
    parabola that touches the loss and never lies below it (bohning1992), so that no step makes it larger.

    Args:
        x: ``(N, d)`` numbers.
        y: classes ``(N,)`` from 0.
        names: of the columns.
        categorical: the columns that hold categories, or their names by column; nothing smooths between those.
        bins: of a column of numbers, at most.
        rounds: over all columns, at most.
        smooth: the weight λ of the jumps between neighbouring bins.
        ridge: the weight ρ of the size.
        tol: ends the fit where a round lowers the loss by no more than this, a row.

    Raises:
        InputError: if this is no table with classes, or an option is out of range.
    """
    data = table(x, y, names, categorical)
    if bins < 2 or rounds < 1 or smooth < 0 or not ridge > 0:
        raise InputError(
            f"bins={bins}, rounds={rounds}, smooth={smooth}, ridge={ridge}: out of range",
            "give bins ≥ 2, rounds ≥ 1, smooth ≥ 0, ridge > 0",
        )
    edges, places, shapes = _binned(data, bins)
    hits = data.hits
    intercept = ((hits.sum(0) + 1) / (hits + 1).sum() * len(hits)).log()
    intercept = intercept - intercept.mean()
    laplace, solved, counts = [], [], []
    for column, shape in enumerate(shapes):
        count = torch.bincount(places[column], minlength=len(shape)).double()
        jumps = torch.eye(len(shape), dtype=torch.double).diff(dim=0)
        penalty = ridge * torch.eye(len(shape), dtype=torch.double)
        penalty += 0 if column in data.values else smooth * jumps.T @ jumps
        laplace.append(penalty)
        solved.append(torch.linalg.inv(torch.diag(count / 2) + penalty))
        counts.append(count)
    scores = intercept.expand(len(hits), -1).clone()
    losses: list[float] = []
    while len(losses) < rounds:
        step = (hits - scores.softmax(1)).mean(0) * 2
        intercept, scores = intercept + step, scores + step
        for column, place in enumerate(places):
            pull = torch.zeros_like(shapes[column]).index_add(0, place, hits - scores.softmax(1))
            step = solved[column] @ (pull - laplace[column] @ shapes[column])
            shapes[column] = shapes[column] + step
            scores = scores + step[place]
        paid = sum(float((shape * (cost @ shape)).sum()) / 2 for shape, cost in zip(shapes, laplace, strict=True))
        losses.append(float(-(scores.log_softmax(1) * hits).sum()) + paid)
        if len(losses) > 1 and losses[-2] - losses[-1] <= tol * len(hits):
            break
    for column, count in enumerate(counts):
        mean = count @ shapes[column] / count.sum()
        seen = (count > 0)[:, None] if column in data.values else torch.ones(1, 1, dtype=torch.bool)
        shapes[column] = (shapes[column] - mean).where(seen, 0)
        intercept = intercept + mean
    return AdditiveModel(tuple(edges), tuple(shapes), intercept, data.names, data.values, tuple(losses))


def _binned(data: Table, bins: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Returns the edges of the columns' bins, the bin of each row, and curves of height 0."""
    edges, places, shapes = [], [], []
    for column in range(len(data.names)):
        cells, values = data.x[:, column].contiguous(), data.values.get(column)
        if values is None:
            shares = torch.arange(1, bins, dtype=torch.double) / bins
            found = set(cells.quantile(shares, interpolation="midpoint").tolist()) - {float(cells.max())}
            cuts = torch.tensor(sorted(found), dtype=torch.double)
        else:
            cuts = torch.tensor(values, dtype=torch.double)
        edges.append(cuts)
        places.append(_place(cells, cuts, values))
        shapes.append(torch.zeros(len(cuts) + 1, data.classes, dtype=torch.double))
    return edges, places, shapes


def _place(cells: Tensor, edges: Tensor, values: Sequence[float] | None) -> Tensor:
    """Returns the bin of each cell: of numbers the one up to the next edge; of a category its own, or the last."""
    place = torch.searchsorted(edges, cells)
    if values is None:
        return place
    known = edges[place.clamp(max=len(edges) - 1)] == cells
    return place.where(known, len(edges))
