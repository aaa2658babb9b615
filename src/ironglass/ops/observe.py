"""Mask, observe, fit: the model's answers to samples with parts taken away, and the linear model that they follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest

from .targets import at, probability

VALUES = 1 << 22
"""Input values that are made at a time."""
STORED = 1 << 25
"""Values that the answers and masks of the samples in work may hold together."""
Output = Literal["logit", "probability"]
OUTPUTS = ("logit", "probability")


def chunks(samples: int, count: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yields which samples, and which of the ``count`` inputs made of each, are worked on together.

    Args:
        samples: how many.
        count: inputs a sample.
        size: values an input.
    """
    width = min(max(VALUES // size, 1), count)
    height = max(VALUES // (size * count), 1)
    for top in range(0, samples, height):
        for left in range(0, count, width):
            yield slice(top, min(top + height, samples)), slice(left, min(left + width, count))


def blocks(samples: int, values: int) -> Iterator[slice]:
    """Yields the samples in blocks, so that their ``values`` each do not fill the memory."""
    size = max(STORED // max(values, 1), 1)
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


def observe(
    model: Model, make: Callable[[slice, slice], Tensor], x: Tensor, count: int, rows: Tensor | None = None
) -> Tensor:
    """Returns the logits of ``count`` inputs made of each sample ``(n, count, classes)``.

    Args:
        model: what is asked; every input is charged to its sample.
        make: the inputs ``(n' * s, *shape)`` of some of the ``n`` samples, numbers ``part`` of each, sample by sample.
        x: all samples ``(N, *shape)``.
        count: inputs a sample.
        rows: which samples ``(n,)``; all of them if None.
    """
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    found: Tensor | None = None
    for which, part in chunks(len(rows), count, x[0].numel()):
        some, width = rows[which], part.stop - part.start
        scores = model.scores(make(which, part), some.repeat_interleave(width))
        if found is None:
            found = scores.new_empty(len(rows), count, scores.shape[1])
        found[which, part] = scores.reshape(len(some), width, -1)
    assert found is not None
    return found


def outcome(scores: Tensor, target: Tensor, output: Output) -> Tensor:
    """Returns what is explained: the target's logit, or its probability ``(n, S)``, in float64.

    Args:
        scores: logits ``(n, S, classes)``.
        target: class a sample, long ``(n,)``, or a pair of classes ``(n, 2)``.
        output: ``logit`` or ``probability``.

    Raises:
        InputError: if there is no such output.
    """
    if output not in OUTPUTS:
        raise InputError(f"no output is called '{output}'", suggest(output, OUTPUTS))
    flat, aim = scores.flatten(0, 1), target.repeat_interleave(scores.shape[1], 0)
    values = probability(flat, aim) if output == "probability" else at(flat, aim).double()
    return values.reshape(scores.shape[:2])


class Fit(NamedTuple):
    """A weighted ridge regression: its weights, its constant, and the share of the variance that it explains."""

    weights: Tensor
    constant: Tensor
    quality: Tensor
    interval: Tensor


def ridge(z: Tensor, y: Tensor, weight: Tensor, alpha: float) -> Fit:
    r"""Fits linear models to what was observed, in closed form and float64.

    .. math:: \min_{\beta, c} \sum_i \omega_i (y_i - c - z_i^\top \beta)^2 + \alpha \|\beta\|^2

    The interval is the half-width of a 95 % confidence interval from the residuals themselves, whatever their law
    (the sandwich estimator); residuals of rows 2k and 2k + 1, a mask and its opposite, may depend on each other.

    Args:
        z: what stayed ``(n, S, P)``.
        y: what the model said ``(n, S, K)``: all K outputs are fitted at once.
        weight: of each row ``(n, S)``.
        alpha: penalty; with 0 a part that nothing tells apart gets weight 0.

    Returns:
        Weights ``(n, P, K)``, constants ``(n, K)``, weighted R² ``(n, K)``, and the interval ``(n, P, K)``.
    """
    z, y, weight = z.double(), y.double(), weight.double()[..., None]
    total = weight.sum(1, keepdim=True)
    middle, level = (weight * z).sum(1, keepdim=True) / total, (weight * y).sum(1, keepdim=True) / total
    centred, change = z - middle, y - level
    weighted = weight * centred
    normal = centred.mT @ weighted
    normal.diagonal(dim1=1, dim2=2).add_(alpha)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(normal)) if alpha > 0 else torch.linalg.pinv(normal)
    weights = inverse @ (weighted.mT @ change)
    residual = change - centred @ weights
    left, all_ = (weight * residual**2).sum(1), (weight * change**2).sum(1)
    exact = all_ <= 1e-24 * total[:, 0] * (1 + level[:, 0] ** 2)
    quality = (1 - left / all_.where(~exact, 1)).where(~exact, 1)
    freedom = max(z.shape[1] - z.shape[2] - 1, 1)
    return Fit(
        weights,
        (level - middle @ weights)[:, 0],
        quality,
        1.96 * (_sandwich(inverse, weighted, residual) * (z.shape[1] / freedom)).sqrt(),
    )


def _sandwich(inverse: Tensor, weighted: Tensor, residual: Tensor) -> Tensor:
    """Returns the variance of each weight ``(n, P, K)``, pairs of rows taken together."""
    influence = weighted @ inverse
    found = []
    for column in residual.unbind(2):
        moves = influence * column[..., None]
        if moves.shape[1] % 2:
            moves = torch.nn.functional.pad(moves, (0, 0, 0, 1))
        found.append(moves.reshape(len(moves), -1, 2, moves.shape[2]).sum(2).square_().sum(1))
    return torch.stack(found, 2)
