"""Robustness may be at odds with accuracy: a toy where the bound is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.findings import Chart, Curve, Series
from ironglass.core.method import experiment

Array = NDArray[np.float64]
COLUMNS = ("standard accuracy", "robust accuracy", "no classifier can be above")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RobustnessAtOdds(Study):
    """Linear classifiers of the toy, a row each, with their exact accuracies and the bound.

    ``best (points, 2)`` are standard and robust accuracy of the best classifiers there are, from the most robust to
    the most accurate.
    """

    best: torch.Tensor
    chance: float

    def charts(self) -> tuple[Chart, ...]:
        """Returns robust accuracy against standard accuracy: the bound, the best classifiers, the linear ones."""
        lowest = min(self.chance, float(self.values[:, 0].min()))
        ends = np.array([lowest, max(self.chance, lowest), float(self.best[:, 0].max())])
        limits = Series(
            label="bound, for any classifier", x=tuple(ends), y=tuple(bound(ends, self.chance).tolist()), role="control"
        )
        (best_x, best_y), (x, y) = (pairs[:, :2].T.tolist() for pairs in (self.best.flip(0), self.values.flip(0)))
        best = Series(label="best there is", x=tuple(best_x), y=tuple(best_y), role="estimate")
        linear = Series(label="linear classifiers", x=tuple(x), y=tuple(y), role="attack")
        curve = Curve(
            id=self.method,
            caption="Robust against standard accuracy: whoever is right more often than the one robust feature is, "
            f"{self.chance:.0%}, leans on features that the attack turns round, and pays for it",
            x_label="standard accuracy",
            y_label="robust accuracy",
            series=(limits, best, linear),
        )
        return (curve,)


@experiment(
    title="Robustness at odds with accuracy",
    paper="tsipras2019",
    access="labels",
    cost="0",
    scope="global",
    lecture="robustness is not free: it may be at odds with accuracy",
)
def robustness_at_odds(
    *, chance: float = 0.95, dimension: int = 100, eta: float | None = None, points: int = 13
) -> RobustnessAtOdds:
    r"""Weigh one robust feature against many weak ones, and see what accuracy costs.

    The label is ±1 with equal chance; :math:`x_1 = y` with probability p, else :math:`-y`, and
    :math:`x_2, \dots, x_{d+1} \sim N(\eta y, 1)`. An attack in linf of size :math:`\varepsilon = 2\eta` turns every
    weak feature round, to :math:`N(-\eta y, 1)`. So of any classifier of standard accuracy :math:`1 - \delta`

    .. math:: \text{robust accuracy} \le \frac{p}{1 - p}\, \delta

    The mean of the weak features is all that a classifier can learn from them; so the best ones are likelihood-ratio
    tests on it, and what they reach is exact too. Linear classifiers take the sign of :math:`a x_1` plus that mean.

    Args:
        chance: p, at least 1/2 and below 1.
        dimension: d, of the weak features.
        eta: η, of each; :math:`2/\sqrt d` if None, with which their mean alone is right 97.7 % of the time.
        points: linear classifiers, from a = 0 to where x_1 decides alone.

    Returns:
        A row a classifier: its exact accuracies, and the bound.

    Raises:
        InputError: if an option is out of range.
    """
    shift = 2 / math.sqrt(dimension) if eta is None and dimension > 0 else eta
    if not 0.5 <= chance < 1 or dimension < 1 or shift is None or shift <= 0 or points < 2:
        raise InputError(
            f"chance={chance}, dimension={dimension}, eta={eta}, points={points}",
            "1/2 ≤ chance < 1, dimension ≥ 1, eta > 0, points ≥ 2",
        )
    reach = shift + 4 / math.sqrt(dimension)  # beyond it the mean of the weak features decides next to nothing
    weights = np.linspace(0, reach, points)
    standard, robust = (linear_accuracy(weights, chance, dimension, shift, size) for size in (0.0, 2 * shift))
    table = torch.tensor(np.stack([standard, robust, bound(standard, chance)], 1))
    best = best_accuracies(chance, dimension, shift)
    found = int(standard.argmax())
    return RobustnessAtOdds(
        x=torch.tensor(weights)[:, None],
        y=torch.zeros(points, dtype=torch.long),
        method="robustness_at_odds",
        row_names=tuple(f"{weight:.3g}" for weight in weights),
        column_names=COLUMNS,
        values=table,
        low=table,
        high=table,
        counts=torch.ones(table.shape, dtype=torch.long),
        caption=f"Linear classifiers by the weight of the robust feature: exact accuracies, p = {chance:g}, "
        f"d = {dimension}, eta = {shift:.3g}, eps = {2 * shift:.3g}",
        row_head="weight a",
        notes=(
            f"The most accurate of these classifiers is right {standard[found]:.1%} of the time and "
            f"{robust[found]:.1%} under attack; the bound for its accuracy is {float(table[found, 2]):.1%}.",
            f"The robust feature alone is right {chance:.1%} of the time, and the attack does not reach it.",
        ),
        best=torch.tensor(best),
        chance=chance,
    )


def bound(standard: Array, chance: float) -> Array:
    r"""Returns :math:`\min(1, \frac{p}{1-p}(1 - \text{standard accuracy}))`."""
    limits: Array = np.minimum(1.0, chance / (1 - chance) * (1 - np.asarray(standard)))
    return limits


def linear_accuracy(weights: Array, chance: float, dimension: int, eta: float, eps: float) -> Array:
    r"""Returns the exact accuracy of the signs of :math:`a x_1` + mean, where each value may move by eps.

    The mean is :math:`N(\eta y, 1/d)`; the worst move takes :math:`\varepsilon (|a| + 1)` off the margin.
    """
    taken, root = eps * (np.abs(weights) + 1), math.sqrt(dimension)
    right, wrong = (ndtr(root * (sign * weights + eta - taken)) for sign in (1, -1))
    accuracies: Array = chance * right + (1 - chance) * wrong
    return accuracies


def accuracies(with_: Array, against: Array, chance: float) -> tuple[Array, Array]:
    r"""Returns standard accuracy, and accuracy once the weak features are turned round, of any symmetric classifier.

    .. math:: p u + (1 - p)(1 - v), \qquad p v + (1 - p)(1 - u)

    Args:
        with_: u, the chance of the answer +1 where x_1 = 1 and the weak features say +1.
        against: v, the same where they say -1.
        chance: p.
    """
    return chance * with_ + (1 - chance) * (1 - against), chance * against + (1 - chance) * (1 - with_)


def best_accuracies(chance: float, dimension: int, eta: float, points: int = 16) -> Array:
    r"""Returns the best pairs of standard and robust accuracy ``(points, 2)``.

    By Neyman and Pearson u and v lie on or below :math:`u = \Phi(\Phi^{-1}(v) + 2\eta\sqrt d)`. From the most accurate
    classifier on, robust accuracy grows as v does, until x_1 decides alone.
    """
    apart = 2 * eta * math.sqrt(dimension)
    # where the slope of u in v is (1 - p) / p, accuracy is greatest: exp(-apart z - apart^2 / 2) = (1 - p) / p
    start = (math.log(chance / (1 - chance)) - apart**2 / 2) / apart
    z = np.linspace(start, max(start, 0.0) + 6, points)
    against, with_ = ndtr(z), ndtr(z + apart)
    return np.stack(accuracies(with_, against, chance), 1)
