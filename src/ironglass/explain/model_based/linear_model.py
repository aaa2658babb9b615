"""A linear model: logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ironglass.core.errors import InputError

from .columns import Categories, entered, expand, sources, table


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """Scores that are weighted sums of columns; called on rows ``(N, d)`` it gives logits ``(N, classes)``.

    Args:
        weights: in the columns' own units ``(classes, e)``, a column a category.
        center: the columns' means where it was trained ``(e,)``; terms are counted from there.
        bias: the logits of the mean row ``(classes,)``.
        names: of the columns of the table.
        values: the categories of each categorical column.
    """

    weights: Tensor
    center: Tensor
    bias: Tensor
    names: tuple[str, ...]
    values: Mapping[int, tuple[float, ...]]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logits ``(N, classes)``."""
        return (self.bias + self._moved(x) @ self.weights.T).to(x)

    def terms(self, x: Tensor) -> Tensor:
        """Returns what each column adds to each logit ``(N, classes, d)``; with ``bias`` they sum to it."""
        each = self._moved(x)[:, None, :] * self.weights
        owner = torch.tensor([column for column, _ in sources(len(self.names), self.values)])
        return each.new_zeros(*each.shape[:2], len(self.names)).index_add(2, owner, each).to(x)

    @property
    def parts(self) -> int:
        """How many coefficients a person must read; those of two classes mirror each other."""
        scores = len(self.weights) if len(self.weights) > 2 else 1
        return scores * self.weights.shape[1]

    def _moved(self, x: Tensor) -> Tensor:
        return expand(entered(x, len(self.names)), self.values) - self.center


def linear_model(
    x: Tensor, y: Tensor, *, names: Sequence[str] = (), categorical: Categories = (), ridge: float = 1.0
) -> LinearModel:
    r"""Fit logistic regression, the plainest model that explains itself: a weight a column and class.

    .. math:: \min_{W, b} -\sum_i \log \mathrm{softmax}(W z_i + b)_{y_i} + \tfrac\rho2 \|W\|^2

    Here :math:`z` are the columns less their mean, divided by their standard deviation.

    Args:
        x: ``(N, d)`` numbers.
        y: classes ``(N,)`` from 0.
        names: of the columns.
        categorical: the columns that hold categories, or the names of their categories by column.
        ridge: the weight ρ of the penalty.

    Raises:
        InputError: if this is no table with classes, or the penalty is not above 0.
    """
    data = table(x, y, names, categorical)
    if not ridge > 0:
        raise InputError(f"ridge={ridge}", "give a penalty above 0, e.g. 1.0")
    columns = expand(data.x, data.values)
    spread, center = torch.std_mean(columns, 0, correction=0)
    spread = spread.where(spread > 0, 1)
    scaled, hits = (columns - center) / spread, data.hits
    shape = (data.classes, scaled.shape[1] + 1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).reshape(shape)
        logits = scaled @ weights[:, :-1].T + weights[:, -1]
        missed = logits.softmax(1) - hits
        grad = torch.cat([missed.T @ scaled + ridge * weights[:, :-1], missed.sum(0)[:, None]], 1)
        value = -(logits.log_softmax(1) * hits).sum() + ridge / 2 * weights[:, :-1].square().sum()
        return float(value), grad.flatten().numpy()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    weights = torch.from_numpy(found.x).reshape(shape)
    return LinearModel(weights[:, :-1] / spread, center, weights[:, -1], data.names, data.values)
