"""Balls with a radius of their own for each sample, within the box: what minimum-norm attacks shrink and grow."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.values import Bounds, Threat

from . import lp


def project(delta: Tensor, x: Tensor, radius: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns the nearest change to ``delta`` of at most that norm, such that ``x`` plus it is in box and mask.

    Args:
        delta: changes ``(N, *shape)``.
        x: clean samples ``(N, *shape)``.
        radius: of each sample's ball ``(N,)``, finite.
        threat: norm and mask; its eps plays no role.
        bounds: of the inputs.
    """
    size, limit = delta.abs().flatten(1), lp.room(delta, x, bounds, threat.mask).flatten(1)
    if threat.norm == "l0":
        shrunk = size.minimum(limit)
        worth = size.square() - (size - shrunk).square()
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        shrunk = torch.where(rank < radius[:, None], shrunk, 0)
    elif threat.norm == "linf":
        shrunk = size.minimum(limit).minimum(radius[:, None])
    else:
        unit = torch.where(radius > 0, radius, 1)[:, None]
        shrink = lp.shrink_l2 if threat.norm == "l2" else lp.shrink_l1
        shrunk = shrink(size / unit, limit / unit, 1.0) * torch.where(radius > 0, radius, 0)[:, None]
    return shrunk.reshape_as(delta) * delta.sign()


def stretch(delta: Tensor, x: Tensor, radius: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns ``delta`` scaled, and cut at box and mask, to the l2 norm ``radius`` or the box's end."""
    delta = delta.nan_to_num(0, 0, 0)
    size, limit = delta.abs().flatten(1), lp.room(delta, x, bounds, threat.mask).flatten(1)
    unit = torch.where(radius > 0, radius, 1)[:, None]
    scaled = lp.stretched(size / unit, limit / unit, 1.0) * torch.where(radius > 0, radius, 0)[:, None]
    return scaled.reshape_as(delta) * delta.sign()
