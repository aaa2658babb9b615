"""Projection in a diagonal (Mahalanobis) metric on ball ∩ box ∩ mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.values import Bounds, Threat

from . import lp

HALVINGS = 60


def project_weighted(x: Tensor, weight: Tensor, origin: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    r"""Returns :math:`\arg\min_z \sum_i w_i (z_i - x_i)^2` over the threat's ball around ``origin``, bounds and mask.

    In linf, a box, that is clipping whatever the weights. In l2 and l1 each value of the change is
    :math:`\min(w_i|v_i|/(w_i + \lambda), r_i)` and :math:`\min((|v_i| - \lambda/w_i)_+, r_i)`, with the multiplier
    found by bisection.

    Args:
        x: points ``(N, *shape)``, input units.
        weight: above 0 ``(N, *shape)``.
        origin: the balls' centres ``(N, *shape)``.
        threat: linf, l2 or l1.
        bounds: of the inputs.
    """
    if threat.norm == "linf" or threat.eps == float("inf"):
        return lp.project(x, origin, threat, bounds)
    delta = x - origin
    limit = lp.room(delta, origin, bounds, threat.mask).flatten(1)
    size, weight = delta.abs().flatten(1), weight.flatten(1)
    weight = weight / weight.amax(1, keepdim=True)

    def at(multiplier: Tensor) -> Tensor:
        kept = size / (1 + multiplier / weight) if threat.norm == "l2" else (size - multiplier / weight).clamp(min=0)
        return kept.minimum(limit)

    def over(step: Tensor) -> Tensor:
        return lp.norm(step, threat.norm)[:, None] > threat.eps

    low = size.new_zeros(len(size), 1)
    high = torch.ones_like(low)
    outside = over(at(low))
    while bool((growing := over(at(high))).any()):
        high = torch.where(growing, high * 4, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        long = over(at(middle))
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    step = at(torch.where(outside, high, 0)).reshape_as(delta) * delta.sign()
    return lp.move(origin, step, threat, bounds)
