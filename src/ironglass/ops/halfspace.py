r"""The smallest step across a hyperplane, within the box: exact, in every norm.

With :math:`a_i = |w_i|` and the room :math:`r_i` of each value in its useful direction, the least :math:`\|\delta\|`
with :math:`\langle w, \delta\rangle \ge g` moves each value by :math:`\min(t, r_i)` in linf, :math:`\min(t a_i, r_i)`
in l2, and fills the room in the order of :math:`a_i` in l1 (a fractional knapsack) and of :math:`a_i r_i` in l0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.values import Bounds, Threat

from .lp import fill, room


def shortest(normal: Tensor, gap: Tensor, x: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    r"""Returns the least :math:`\delta` with :math:`\langle w, \delta\rangle \ge g` in box and mask around ``x``.

    Where the gap is not positive that is 0. Where the box is too small for the gap, it is the farthest there is. What
    is not finite counts as 0.

    Args:
        normal: ``w (N, *shape)``.
        gap: ``g (N,)``, in units of ``w`` times input units.
        x: where the steps start ``(N, *shape)``, within the bounds.
        threat: the norm to keep small, and the mask; its eps plays no role.
        bounds: of the inputs.
    """
    normal, gap = normal.nan_to_num(0, 0, 0), gap.nan_to_num(0, 0, 0)
    size = normal.abs().flatten(1)
    top = size.amax(1, keepdim=True)
    size = size / torch.where(top > 0, top, 1)
    need = (gap[:, None] / torch.where(top > 0, top, 1)).clamp(min=0)
    limit = torch.where(size > 0, room(normal, x, bounds, threat.mask).flatten(1), 0)
    if threat.norm == "linf":
        step = _risen(size, torch.ones_like(size), limit, need)
    elif threat.norm == "l2":
        step = _risen(size, size, limit, need)
    else:
        worth = size * limit
        filled = fill(worth, -size if threat.norm == "l1" else -worth, need)
        step = (filled / torch.where(size > 0, size, 1)).minimum(limit)
    return step.reshape_as(normal) * normal.sign()


def _risen(worth: Tensor, rate: Tensor, limit: Tensor, need: Tensor) -> Tensor:
    r"""Returns :math:`\min(t \cdot rate, limit)` with the ``t`` at which it is worth what is needed.

    The worth is a concave function of ``t`` made of straight pieces, so that Newton's method comes from below: given
    which values are at their limit ``t`` has a closed form, and it ends, exactly, once no more arrive there.
    """
    full = limit <= 0
    while True:
        won = torch.where(full, worth * limit, 0).sum(1, keepdim=True)
        slope = torch.where(full, 0, worth * rate).sum(1, keepdim=True)
        time = (need - won).clamp_(min=0) / torch.where(slope > 0, slope, 1)
        free = time * rate
        now = full | (free >= limit)
        if bool((now == full).all()):
            return torch.where(full, limit, free)
        full = now
