r"""How far from a point a function may reach 0, from how steep it gets within several distances.

With :math:`L(t)` the steepest slope within the distance t, a function of the value g falls by at most
:math:`\int_0^r L(t)\,\mathrm{d}t` on the way to any point at the distance r. In a *shell* between two distances L is
taken to be that of the outer one, so with one distance R the radius is :math:`\min(g / L(R), R)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ENOUGH = 0.01
"""A shell is not cut where what may be gained is less than this share of the value."""


@dataclass(slots=True)
class Shells:
    """The shells around N points, for k functions each; float64.

    Args:
        lead: the functions' values ``(N, k)``.
        ends: the outer distances of m shells, in order ``(N, m)``.
        slopes: the steepest slope within each ``(N, k, m)``.
        fits: how well each slope is known ``(N, k, m)``.
    """

    lead: Tensor
    ends: Tensor
    slopes: Tensor
    fits: Tensor

    def add(self, rows: Tensor, reach: Tensor, slopes: Tensor, fits: Tensor) -> None:
        """Adds a distance ``(n,)`` for some points, with what holds within it ``(n, k)``."""
        end, slope, fit = (
            part[..., -1].index_copy(0, rows, own)
            for part, own in ((self.ends, reach), (self.slopes, slopes), (self.fits, fits))
        )  # the last shell again for the others
        self.ends, order = torch.cat([self.ends, end[:, None]], 1).sort(dim=1)
        each = order[:, None].expand(-1, self.lead.shape[1], -1)
        self.slopes = torch.cat([self.slopes, slope[..., None]], 2).gather(2, each)
        self.fits = torch.cat([self.fits, fit[..., None]], 2).gather(2, each)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Returns the least radius of each point's functions, and how well the slope that limits it is known ``(N,)``.

        A function that is not above 0 gives 0, and so does a slope that is not finite.
        """
        radius, shell = self._crossing()
        least, place = radius.min(1)
        fits = self.fits.gather(2, shell[..., None])[..., 0]
        return least, fits.gather(1, place[:, None])[:, 0]

    def next(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which points gain from another distance, and that distance: it cuts the shell that may gain most.

        Args:
            centre: slopes at the points themselves ``(N, k)``.
        """
        radius, _ = self._crossing()
        least, place = radius.min(1)
        every = torch.arange(len(least), device=least.device)
        steep = self._steep()[every, place]
        inner = torch.cat([centre[every, place, None], steep[:, :-1]], 1).minimum(steep)
        start = self.ends - self._width()
        reached = (least[:, None].minimum(self.ends) - start).clamp(min=0)
        gain, shell = ((steep - inner) * reached).max(1)
        width, used, begin = (part[every, shell] for part in (self._width(), reached, start))
        rows = (gain > ENOUGH * self.lead[every, place]) & (least > 0) & (least < self.ends[:, -1])
        return rows.nonzero()[:, 0], (begin + (width / 2).minimum(2 * used))[rows]

    def _steep(self) -> Tensor:
        """The slopes, none less than further inside."""
        return self.slopes.cummax(2).values

    def _width(self) -> Tensor:
        return self.ends.diff(dim=1, prepend=torch.zeros_like(self.ends[:, :1]))

    def _crossing(self) -> tuple[Tensor, Tensor]:
        """Where each function may reach 0, at most the last distance, and in which shell ``(N, k)``."""
        steep, width = self._steep(), self._width()[:, None].expand_as(self.slopes)
        fallen = (steep * width).cumsum(2)
        shell = (fallen < self.lead[..., None]).sum(2, keepdim=True).clamp(max=fallen.shape[2] - 1)
        slope, wide, past = (part.gather(2, shell)[..., 0] for part in (steep, width, fallen))
        shell = shell[..., 0]
        begin, before = self.ends.gather(1, shell) - wide, past - slope * wide
        radius = torch.where(self.lead > 0, begin + (self.lead - before) / slope, 0.0).nan_to_num(nan=0.0)
        return radius.minimum(self.ends[:, -1:]), shell
