"""How well a score tells two groups apart."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor


def auroc(positive: Tensor, negative: Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
    r"""Returns the area under the receiver's operating curve and its interval, by DeLong's variance.

    .. math:: A = \Pr[s^+ > s^-] + \tfrac12 \Pr[s^+ = s^-], \qquad
        \mathrm{Var}\, A = \frac{\mathrm{Var}_i\, V_i}{m} + \frac{\mathrm{Var}_j\, W_j}{n}

    where :math:`V_i` is the share of negatives below a positive i, and :math:`W_j` that of positives above a negative
    j. Where no pair is out of order the variance is 0 and says nothing; then the interval ends at the level that as
    many independent pairs as the smaller group has would not exclude.

    Args:
        positive: scores that should be high ``(m,)``.
        negative: scores that should be low ``(n,)``.
        confidence: coverage aimed at.

    Returns:
        The area, and both ends; not a number where a group is empty.
    """
    if not len(positive) or not len(negative):
        return torch.nan, torch.nan, torch.nan
    m, n = len(positive), len(negative)
    above = _below(positive, negative) / n
    below = 1 - _below(negative, positive) / m
    area = float(above.mean())
    variance = sum(float(part.var()) / len(part) for part in (above, below) if len(part) > 1)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * variance**0.5
    least = 1 - (1 - confidence) ** (1 / min(m, n))
    half = max(half, least) if area in (0.0, 1.0) else half
    return area, max(0.0, area - half), min(1.0, area + half)


def _below(scores: Tensor, others: Tensor) -> Tensor:
    """Returns how many of the others lie below each score, ties by half."""
    ordered = others.double().sort().values
    at = scores.double()
    return (torch.searchsorted(ordered, at).double() + torch.searchsorted(ordered, at, right=True).double()) / 2
