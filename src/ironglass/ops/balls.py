"""Random points of a threat's ball, uniformly, from the samples' own streams."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.values import Bounds, Threat


def sample_ball(
    draws: Draws, x: Tensor, threat: Threat, bounds: Bounds, rows: Tensor | None = None, count: int | None = None
) -> Tensor:
    r"""Returns points drawn uniformly from the balls around ``x``, then clipped to the bounds.

    With d values free to move: linf is uniform in each; in l2 a Gaussian direction is scaled to the radius
    :math:`\varepsilon\, u^{1/d}`; in l1 the point is :math:`\varepsilon\, s_i E_i / \sum_{j=1}^{d+1} E_j` with random
    signs s and exponentials E, which is uniform in the ball (Barthe et al. 2005).

    Args:
        draws: the samples' streams.
        x: centres ``(n, *shape)``, input units.
        threat: linf, l2 or l1 with a finite eps; values outside its mask stay.
        bounds: of the inputs; points outside are clipped to them.
        rows: which samples' streams draw, each at most once ``(n,)``; all of them if None.
        count: how many points a sample.

    Returns:
        Points ``(n, *shape)``, or ``(n, count, *shape)`` if a count is given.

    Raises:
        InputError: if eps is infinite, or the norm has no such ball.
    """
    if not threat.eps < float("inf"):
        raise InputError(f"cannot draw from a ball of radius {threat.eps}", "give a finite eps, in input units")
    centre = x[:, None]
    shape = (1 if count is None else count, *x.shape[1:])
    free = torch.ones_like(x[:1], dtype=torch.bool) if threat.mask is None else (threat.mask != 0).to(x.device)
    free = free.expand(1 if free.ndim < x.ndim else len(free), *x.shape[1:])[:, None]
    if threat.norm == "linf":
        move = draws.uniform(shape, rows, x.dtype).mul_(2).sub_(1).mul_(threat.eps)
    elif threat.norm == "l2":
        move = draws.normal(shape, rows, x.dtype) * free
        length = torch.linalg.vector_norm(move.flatten(2), dim=2)
        dims = free.flatten(2).sum(2).clamp(min=1)
        reach = draws.uniform(shape[:1], rows, torch.float64) ** (1.0 / dims)
        move = move * _over(reach.to(x.dtype) * threat.eps, length, move)
    elif threat.norm == "l1":
        signed = draws.uniform(shape, rows, x.dtype).mul_(2).sub_(1)  # a sign, and independently |signed| uniform
        size = -torch.log1p(-signed.abs()) * free
        spare = -torch.log1p(-draws.uniform(shape[:1], rows, x.dtype))
        move = size * signed.sign() * _over(torch.full_like(spare, threat.eps), size.flatten(2).sum(2) + spare, size)
    else:
        raise InputError(f"cannot draw from a ball in {threat.norm}", "choose linf, l2 or l1")
    points = torch.where(free, (centre + move).clamp_(bounds.low, bounds.high), centre)
    return points[:, 0] if count is None else points


def _over(length: Tensor, size: Tensor, like: Tensor) -> Tensor:
    """``length / size`` of each point, 0 for a point of no size, to be multiplied with points."""
    factor = torch.where(size > 0, length / size, 0)
    return factor.reshape(*factor.shape, *(1,) * (like.ndim - 2))
