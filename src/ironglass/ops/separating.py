"""The direction that agrees with all signs seen, by the widest margin: what a support vector machine makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .estimators import Kind, Probe, directions

MOST = 100.0
"""The largest weight of a direction: reached only where no plane agrees with all signs."""
ROUNDS, CLOSE = 300, 1e-3
"""Rounds of the solver at most, and how far the margins may be from their conditions."""
ROOM = 1 << 25
"""Numbers in all directions that are held at once."""


@dataclass(frozen=True, slots=True)
class Separating:
    r"""The shortest ``z`` on whose side all differences lie.

    .. math:: \min_z \tfrac12 \|z\|^2 \quad\text{with}\quad
        \mathrm{sign}\bigl(F(x + \mu u_j) - F(x)\bigr)\, z^\top u_j \ge 1

    Args:
        count: directions.
        radius: ``μ``, input units.
        kind: of direction.
        tile: side of the squares of values that move alike, see `tile_of`.
    """

    count: int = 100
    radius: float = 1e-2
    kind: Kind = "signs"
    tile: int = 1
    needs_base: bool = True
    least: int = 1

    def __call__(self, at: Probe) -> Tensor:
        """Returns the estimates ``(n, *shape)``."""
        size = max(ROOM // (self.count * at.point[0].numel()), 1)
        starts = range(0, len(at.rows), size)
        return torch.cat([self._estimate(at.take(slice(start, start + size))) for start in starts])

    def _estimate(self, at: Probe) -> Tensor:
        assert at.base is not None
        count = at.left.clamp(0, self.count)
        shape = (self.count, *at.point.shape[1:])
        u = directions(at.draws, self.kind, shape, at.rows, at.point.dtype, at.mask, at.dims(), self.tile)
        values = at.ask(torch.add(at.point[:, None], u, alpha=self.radius), at.rows, count)
        asked = torch.arange(self.count, device=u.device) < count[:, None]
        signs = torch.where(asked, (values - at.base[:, None]).sign(), 0).to(u.dtype)
        flat = u.flatten(2) * signs[:, :, None]
        weight = widest(flat @ flat.transpose(1, 2))
        return torch.einsum("nk,nkd->nd", weight, flat).reshape_as(at.point)


def widest(gram: Tensor) -> Tensor:
    r"""Returns the weights :math:`a` of the vectors whose sum is the shortest of inner product 1 or more with each.

    It is the dual, :math:`\max_{0 \le a} 1^\top a - \tfrac12 a^\top G a`, by accelerated projected gradients that start
    anew where they turn.

    Args:
        gram: inner products of the vectors ``(n, k, k)``; vectors of length 0 have no say.
    """
    spoken = gram.diagonal(dim1=1, dim2=2) > 0
    step = 1 / gram.abs().sum(2).amax(1, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
    weight = spoken.to(gram.dtype)
    ahead, speed = weight, torch.ones_like(step)
    for _ in range(ROUNDS):
        slack = 1 - torch.bmm(gram, ahead[:, :, None])[:, :, 0]
        new = (ahead + step * slack).clamp(0, MOST) * spoken
        off = torch.where(ahead > 0, slack.abs(), slack.clamp(min=0)) * (spoken & (ahead < MOST))
        if bool((off.amax(1) < CLOSE).all()):
            break
        turned = ((ahead - new) * (new - weight)).sum(1, keepdim=True) > 0
        speed = torch.where(turned, 1.0, speed)
        faster = (1 + (1 + 4 * speed.square()).sqrt()) / 2
        ahead, weight = new + torch.where(turned, 0.0, (speed - 1) / faster) * (new - weight), new
        speed = faster
    return weight
