"""Whether confidence can be believed: calibration, its error, and the temperature that mends it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.errors import InputError


class Reliability(NamedTuple):
    """Predictions in bins of equal width of their confidence, each ``(bins,)``.

    Args:
        counts: predictions in the bin.
        confidence: their mean confidence; 0 in an empty bin.
        accuracy: the share of them that is right.
        error: the expected calibration error, of all bins.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    error: float


def reliability(probabilities: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    r"""Bins predictions by confidence, and compares confidence and accuracy.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\, |\mathrm{acc}_b - \mathrm{conf}_b|

    Bins are :math:`(k / B, (k + 1) / B]`.

    Args:
        probabilities: ``(N, K, …)``; places count as samples.
        y: labels ``(N, …)``.
        bins: B.

    Raises:
        InputError: if there are no bins.
    """
    if bins < 1:
        raise InputError(f"bins={bins}", "give at least 1, e.g. 15")
    top = probabilities.max(1)
    confidence, right = top.values.flatten().double(), (top.indices == y).flatten().double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    sums = (torch.bincount(place, weight, minlength=bins) for weight in (confidence, right))
    sure, hit = (total / count.clamp(min=1) for total in sums)
    return Reliability(count.long(), sure, hit, float((count * (hit - sure).abs()).sum() / count.sum()))


def temperature(scores: Tensor, y: Tensor) -> float:
    r"""Returns the temperature of least cross-entropy (guo2017).

    .. math:: \min_T\, -\frac1N \sum_n \log \mathrm{softmax}(z_n / T)_{y_n}

    The loss is convex in :math:`1 / T`, so that bisection of its slope finds it, between 1/1000 and 1000.

    Args:
        scores: logits ``(N, K)``.
        y: labels ``(N,)``.
    """
    z = scores.double()
    own = z.gather(1, y[:, None])[:, 0]

    def slope(inverse: float) -> float:
        p = (z * inverse).softmax(1)
        return float((p * z).sum(1).sub(own).mean())

    low, high = 1e-3, 1e3
    if slope(low) >= 0:
        return float(1 / low)
    if slope(high) <= 0:
        return 1 / high
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float((low * high) ** -0.5)
