"""Robustness needs more samples: the Gaussian model, where all of it has a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.findings import Chart, Curve, Series
from ironglass.core.method import experiment
from ironglass.core.statistics import bootstrap

Array = NDArray[np.float64]
COLUMNS = ("standard", "robust", "standard error there", "robust error there")
UNITS = ("samples", "samples", "share", "share")
MOST = 1 << 40
DRAWN = 100_000
"""The largest dimension in which classifiers are drawn."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SampleComplexity(Study):
    """Samples needed in each dimension, a row each, and the errors of classifiers learned from so many.

    ``x`` holds the dimensions ``(rows, 1)``. ``growth`` are the exponents of the standard and the robust number of
    samples in the dimension, between the two largest.
    """

    growth: tuple[float, float]

    def charts(self) -> tuple[Chart, ...]:
        """Returns the samples against the dimension, and the error against the samples in the smallest one."""
        dimension = int(self.x[0])
        spread, eps, needed = (float(self.options[name]) for name in ("spread", "eps", "error"))
        most = max(4.0, 4 * float(self.values[0, 1]))
        counts = np.unique(np.geomspace(1, most, 20).round()).tolist()
        curves = {
            f"{name} error": tuple(limit_error(count, dimension, spread, radius) for count in counts)
            for name, radius in (("standard", 0.0), ("robust", eps))
        }
        errors = Curve(
            id="sample-complexity-error",
            caption=f"Error of the mean classifier against the samples it is learned from, in {dimension:,} dimensions:"
            f" a robust error of {needed:.0%} (linf, eps {eps:g}) takes many times the samples of a standard error of "
            f"{needed:.0%}",
            x_label="training samples",
            y_label="error",
            log_x=True,
            series=tuple(
                Series(label=name, x=tuple(counts), y=ys, role="attack" if name.startswith("robust") else "estimate")
                for name, ys in curves.items()
            ),
        )
        dimensions = tuple(self.x[:, 0].tolist())
        standard, robust = (tuple(self.values[:, column].tolist()) for column in (0, 1))
        growth = Curve(
            id="sample-complexity",
            caption=f"Samples needed for an error of {needed:.0%} against the dimension d. The robust number grows as "
            f"d to the power {self.growth[1]:.2f} at the end, the standard one as {self.growth[0]:.2f}",
            x_label="dimension",
            y_label="samples needed",
            y_unit="samples",
            log_x=True,
            series=(
                Series(label="robust", x=dimensions, y=robust, role="attack"),
                Series(label="standard", x=dimensions, y=standard, role="estimate"),
            ),
        )
        return growth, errors


@experiment(
    title="Sample complexity of robustness",
    paper="schmidt2018",
    access="labels",
    cost="0",
    scope="global",
    lecture="robustness is not free: it needs more data",
)
def sample_complexity(
    *,
    dimensions: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    spread: float = 0.8,
    eps: float = 0.5,
    error: float = 0.01,
    draws: int = 20,
    seed: int = 0,
) -> SampleComplexity:
    r"""Count the samples that a small standard error takes, and those that a small robust error takes.

    The labels are ±1 with equal chance, :math:`x \sim N(y\theta, \sigma^2 I_d)` with entries of θ that are ±1 and
    :math:`\sigma = c\, d^{1/4}`. The classifier is the sign of :math:`\langle w, x\rangle` with
    :math:`w = \frac1n \sum_i y_i x_i`, of which

    .. math:: \mathrm{err} = \Phi\Bigl(-\frac{\langle w, \theta\rangle}{\sigma \|w\|_2}\Bigr), \qquad
        \mathrm{err}_\varepsilon =
        \Phi\Bigl(-\frac{\langle w, \theta\rangle - \varepsilon \|w\|_1}{\sigma \|w\|_2}\Bigr)

    The first is small after a few samples whatever the dimension. The second needs :math:`\sigma/\sqrt n` to be small
    beside :math:`1/\varepsilon`, which takes samples in proportion to :math:`\sqrt d`; up to a logarithm no other way
    of learning needs fewer.

    Args:
        dimensions: d, rising.
        spread: c.
        eps: radius in linf, below 1, where the classes would meet.
        error: that is to be reached.
        draws: classifiers drawn in each dimension up to 100,000, to see that the closed form tells what they do.
        seed: of the draws.

    Returns:
        A row a dimension: the samples needed, by the closed form, and the errors of classifiers drawn with so many.

    Raises:
        InputError: if an option is out of range, or no number of samples reaches the error.
    """
    if not dimensions or min(dimensions) < 2 or not 0 < error < 0.5 or not 0 <= eps < 1 or spread <= 0 or draws < 1:
        raise InputError(
            f"dimensions={dimensions}, spread={spread}, eps={eps}, error={error}, draws={draws}",
            "dimensions ≥ 2, spread > 0, 0 ≤ eps < 1, 0 < error < 0.5, draws ≥ 1",
        )
    generator = np.random.default_rng(seed)
    rows = []
    for dimension in sorted(set(dimensions)):
        needs = [needed(dimension, spread, radius, error) for radius in (0.0, eps)]
        row: list[tuple[float, float, float]] = [(count, count, count) for count in map(float, needs)]
        for count, radius in zip(needs, (0.0, eps) if dimension <= DRAWN else (), strict=False):
            seen = drawn_errors(count, dimension, spread, radius, draws, generator)
            row.append((float(seen.mean()), *bootstrap(seen.tolist(), seed=seed)))
        rows.append((row + [(math.nan,) * 3] * 2)[:4])
    table = torch.tensor(rows, dtype=torch.double)
    grid = torch.tensor(sorted(set(dimensions)), dtype=torch.double)
    growth = _growth(grid, table[..., 0])
    return SampleComplexity(
        x=grid[:, None],
        y=torch.zeros(len(grid), dtype=torch.long),
        method="sample_complexity",
        row_names=tuple(f"{dimension:,.0f}" for dimension in grid.tolist()),
        column_names=COLUMNS,
        units=UNITS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.where(table[..., 0].isnan(), 0, draws),
        caption=f"Samples needed for an error of {error:.0%}, and the errors of {draws} classifiers learned from so "
        f"many; the robust ones at eps {eps:g} in linf",
        row_head="dimension",
        seed=seed,
        notes=(
            f"At the end the robust number of samples grows as d to the power {growth[1]:.2f}, the standard one as "
            f"{growth[0]:.2f}; they tend to 1/2 and 0.",
            f"In {grid[-1]:,.0f} dimensions robustness takes {table[-1, 1, 0] / table[-1, 0, 0]:,.0f} times the "
            "samples.",
        ),
        growth=growth,
    )


def standard_error(weights: Array, means: Array, sigma: float) -> Array:
    r"""Returns :math:`\Phi(-\langle w, \theta\rangle / \sigma\|w\|_2)`: the error of each row of weights ``(k, d)``."""
    return robust_error(weights, means, sigma, 0.0)


def robust_error(weights: Array, means: Array, sigma: float, eps: float) -> Array:
    r"""Returns the error where every value of a sample may move by eps against the label ``(k,)``.

    The worst move of a linear classifier takes :math:`\varepsilon\|w\|_1` off its margin, so the error is
    :math:`\Phi\bigl((\varepsilon\|w\|_1 - \langle w, \theta\rangle) / \sigma\|w\|_2\bigr)`.
    """
    margin = weights @ means - eps * np.abs(weights).sum(1)
    errors: Array = ndtr(-margin / (sigma * np.linalg.norm(weights, axis=1)))
    return errors


def limit_error(count: float, dimension: int, spread: float, eps: float) -> float:
    r"""Returns the error for so many samples, where the sums over the dimensions stand for their means.

    With :math:`s = \sigma/\sqrt n` an entry of w is :math:`N(\pm 1, s^2)`, of mean size
    :math:`m(s) = s\sqrt{2/\pi}\, e^{-1/2s^2} + 1 - 2\Phi(-1/s)`; so the error is
    :math:`\Phi\bigl(-\sqrt d\,(1 - \varepsilon\, m(s)) / \sigma\sqrt{1 + s^2}\bigr)`.
    """
    sigma = spread * dimension**0.25
    noise = sigma / math.sqrt(count)
    size = noise * math.sqrt(2 / math.pi) * math.exp(-0.5 / noise**2) + 1 - 2 * float(ndtr(-1 / noise))
    return float(ndtr(-math.sqrt(dimension) * (1 - eps * size) / (sigma * math.sqrt(1 + noise**2))))


def needed(dimension: int, spread: float, eps: float, error: float) -> int:
    """Returns the fewest samples whose `limit_error` is at most ``error``.

    Raises:
        InputError: if none is enough: the classes overlap too much in so few dimensions.
    """
    limit = float(ndtr(-math.sqrt(dimension) * (1 - eps) / (spread * dimension**0.25)))
    if limit >= error:
        least = (float(-ndtri(error)) * spread / (1 - eps)) ** 4
        raise InputError(
            f"in {dimension} dimensions no classifier has an error of {error:g} at eps {eps:g}",
            f"dimensions above {least:,.0f}, or a smaller spread",
        )
    low, high = 0, 1
    while limit_error(high, dimension, spread, eps) > error and high < MOST:
        low, high = high, 2 * high
    while high - low > 1:  # the error falls with the samples
        middle = (low + high) // 2
        low, high = (low, middle) if limit_error(middle, dimension, spread, eps) <= error else (middle, high)
    return high


def drawn_errors(
    count: int, dimension: int, spread: float, eps: float, draws: int, generator: np.random.Generator
) -> Array:
    """Returns the exact errors of classifiers that are each learned from ``count`` fresh samples ``(draws,)``.

    The mean of the labelled samples is itself normal around θ, so it is drawn at once.
    """
    sigma = spread * dimension**0.25
    means = np.where(generator.random(dimension) < 0.5, -1.0, 1.0)
    noise = sigma / math.sqrt(count)
    errors = [
        robust_error(means + noise * generator.standard_normal((1, dimension)), means, sigma, eps) for _ in range(draws)
    ]
    return np.concatenate(errors)


def _growth(dimensions: torch.Tensor, values: torch.Tensor) -> tuple[float, float]:
    """Returns how both numbers of samples grow between the last two dimensions, as exponents; 0 for a single one."""
    if len(dimensions) < 2:
        return 0.0, 0.0
    step = float((dimensions[-1] / dimensions[-2]).log())
    standard, robust = ((values[-1, :2] / values[-2, :2]).log() / step).tolist()
    return standard, robust
