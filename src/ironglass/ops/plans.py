r"""Plans of transport within 5 × 5 windows: which part of each pixel's mass goes to which of its neighbours.

A plan is the moves alone, ``(N, 24, channels, height, width)`` by the pixel they start from; what is not moved stays.
All masses are parts of the range of a value, so that a pixel holds at most 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Rows
from ironglass.core.values import Bounds, Threat

from .transport import REACH, mass

_SIDE = range(-REACH, REACH + 1)
MOVES = [(down, right) for down in _SIDE for right in _SIDE if (down, right) != (0, 0)]
LENGTHS = sorted({math.hypot(*move) for move in MOVES})
_RINGS = [[i for i, move in enumerate(MOVES) if math.hypot(*move) == length] for length in LENGTHS]
SPARE = 1e-5
"""The part of the radius that is left for rounding."""
GENTLE = 100
"""Rounds in which a pixel that gets too much sends back the excess alone; after these, all it got."""


class Ground(NamedTuple):
    """Where the mass lies: what may be moved, where to, and how far in all.

    ``source`` is the mass that may move ``(N, channels, height, width)``; ``free`` is where it may go, None for
    everywhere; ``budget`` is the mass times pixels a plan may cost ``(N,)``.
    """

    x: Tensor
    source: Tensor
    free: Tensor | None
    budget: Tensor
    bounds: Bounds

    @classmethod
    def of(cls, x: Tensor, threat: Threat, bounds: Bounds) -> Ground:
        """Returns the ground of clean pictures ``(N, channels, height, width)`` under a threat."""
        free = None if threat.mask is None else (threat.mask != 0).expand_as(x)
        source = (x - bounds.low) / bounds.span
        budget = (threat.eps * (1 - SPARE) / bounds.span) * mass(x, bounds)
        return cls(x, source if free is None else source * free, free, budget, bounds)

    def take(self, rows: Rows) -> Ground:
        """Returns the ground of those samples."""
        free = None if self.free is None else self.free[rows]
        return Ground(self.x[rows], self.source[rows], free, self.budget[rows], self.bounds)

    def rest(self) -> Tensor:
        """Returns the plan that moves nothing."""
        count, *shape = self.source.shape
        return self.source.new_zeros(count, len(MOVES), *shape)

    def ends(self, values: Tensor, outside: float) -> Tensor:
        """Returns the value where each move ends ``(N, 24, …)``; ``outside`` where mass may not go."""
        held = values if self.free is None else torch.where(self.free, values, outside)
        height, width = values.shape[2:]
        wide = F.pad(held, (REACH,) * 4, value=outside)
        return torch.stack(
            [wide[:, :, REACH + i : REACH + i + height, REACH + j : REACH + j + width] for i, j in MOVES], 1
        )

    def change(self, moves: Tensor) -> Tensor:
        """Returns what each pixel gets less what it gives ``(N, channels, height, width)``."""
        return arriving(moves) - moves.sum(1)

    def cost(self, moves: Tensor) -> Tensor:
        """Returns mass times length, in all ``(N,)``, as float64."""
        length = moves.new_tensor([math.hypot(*move) for move in MOVES])
        return (moves.flatten(2).sum(2, dtype=torch.float64) * length).sum(1)

    def best(self, worth: Tensor) -> Tensor:
        r"""Returns the plan that gains most within the budget, whatever pixels can hold: exact, without iteration.

        .. math:: \max_\pi \sum_{ij} \pi_{ij} (w_j - w_i) \quad \text{such that} \quad
            \sum_j \pi_{ij} = s_i,\; \pi \ge 0,\; \langle \pi, C \rangle \le B

        For each pixel, only the best end of each length counts, and of these only the upper hull of gain over length.
        Its pieces, of falling slope, are what the budget can buy; it buys the steepest of all pixels first. The last
        one is bought in part, so that the budget is met exactly.

        Args:
            worth: of a unit of mass at each pixel ``(N, channels, height, width)``.
        """
        ends = self.ends(worth, -torch.inf)
        gains, which = zip(*(ends[:, ring].max(1) for ring in _RINGS), strict=True)
        rings = [torch.tensor(ring, device=worth.device)[i] for ring, i in zip(_RINGS, which, strict=True)]
        gain, target, lengths = torch.stack(gains, 1), torch.stack(rings, 1), worth.new_tensor(LENGTHS)
        away = lengths.reshape(1, -1, 1, 1, 1)
        here, gone = worth.unsqueeze(1), torch.zeros_like(worth).unsqueeze(1)
        slopes, prices, goals = [], [], []
        for _ in LENGTHS:
            slope = torch.where(away > gone, (gain - here) / (away - gone).clamp(min=0.1), -torch.inf)
            steepest, ring = slope.max(1, keepdim=True)
            on = steepest > 0
            there = torch.where(on, lengths[ring], gone)
            slopes.append(torch.where(on, steepest, 0))
            prices.append((there - gone) * self.source.unsqueeze(1))
            goals.append(target.gather(1, ring))
            here, gone = torch.where(on, gain.gather(1, ring), here), there
        bought = self._bought(torch.cat(slopes, 1), torch.cat(prices, 1))
        final = bought - torch.cat([bought[:, 1:], torch.zeros_like(bought[:, :1])], 1)
        return self.rest().scatter_add_(1, torch.cat(goals, 1), final * self.source.unsqueeze(1))

    def _bought(self, slopes: Tensor, prices: Tensor) -> Tensor:
        """Returns the part of each piece that the budget buys, the steepest first."""
        order = slopes.flatten(1).argsort(dim=1, descending=True, stable=True)
        price = prices.flatten(1).gather(1, order).double()
        left = self.budget[:, None] - (price.cumsum(1) - price)
        part = (left / price.clamp(min=1e-300)).clamp(0, 1).to(slopes.dtype)
        part = torch.where((price > 0) & (slopes.flatten(1).gather(1, order) > 0), part, 0)
        return torch.zeros_like(part).scatter_(1, order, part).reshape_as(slopes)

    def within(self, moves: Tensor) -> Tensor:
        """Returns the plan with less moved, so that it keeps the budget, and no pixel holds more than 1.

        A pixel that got too much sends back the excess, in equal parts of what came. So others keep more and may have
        to send back too; moves only ever become smaller, and it ends.
        """
        share = (self.budget / self.cost(moves).clamp(min=1e-300)).clamp(max=1).to(moves.dtype)
        moves = moves * share.reshape(-1, 1, 1, 1, 1)
        rounding, turn = 4 * torch.finfo(moves.dtype).eps, 0
        while True:
            got = arriving(moves)
            excess = self.source - moves.sum(1) + got - 1
            full = (excess > rounding) & (got > 0)
            rows = full.flatten(1).any(1).nonzero()[:, 0]
            if not len(rows):
                return moves
            keep = (1 - excess / got.clamp(min=1e-30)).clamp(min=0) if turn < GENTLE else torch.zeros_like(got)
            moves[rows] *= self.take(rows).ends(torch.where(full, keep, 1)[rows], 1.0)
            turn += 1

    def point(self, moves: Tensor) -> Tensor:
        """Returns the picture that a plan `within` budget and capacity leads to; the rest of it keeps its bits."""
        delta = self.change(moves) * self.bounds.span
        return torch.where(delta != 0, (self.x + delta).clamp(self.bounds.low, self.bounds.high), self.x)


def arriving(moves: Tensor) -> Tensor:
    """Returns the mass that arrives at each pixel ``(N, channels, height, width)``."""
    height, width = moves.shape[3:]
    wide = F.pad(torch.zeros_like(moves[:, 0]), (REACH,) * 4)
    for move, (i, j) in enumerate(MOVES):
        wide[:, :, REACH + i : REACH + i + height, REACH + j : REACH + j + width] += moves[:, move]
    return wide[:, :, REACH:-REACH, REACH:-REACH]
