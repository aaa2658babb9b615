"""Smooth masks from a coarse grid, by a soft maximum over smooth bumps, and their gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT, REACH = 1.5, 4.0
"""How far a bump is flat, and where it ends, in steps of the grid."""
SHARPNESS = 20.0
"""Of the soft maximum: the greater, the nearer to the maximum."""


class Drawn(NamedTuple):
    """Masks ``(n, height, width)``, and the soft maximum's denominator, by place in the cell ``(step², *grid, n)``."""

    mask: Tensor
    total: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SmoothMax:
    r"""Draws masks ``(n, height, width)`` from grids ``(n, *grid)`` of values in [0, 1].

    .. math:: M(u) = \frac{\sum_v x_v e^{s x_v}}{\sum_v e^{s x_v}}, \qquad x_v = k(u - v)\, m(v)

    over the knots v near a pixel u, one knot in the middle of each cell. The bump k is 1 around its knot and falls to 0
    as a squared cosine. Where a pixel lies within its cell decides all distances to the knots around, so one small
    table serves all cells; no knot's share of the picture is ever kept.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        step: side of a cell, in pixels.
    """

    height: int
    width: int
    step: int

    @property
    def grid(self) -> tuple[int, int]:
        """How many cells down and across."""
        return -(-self.height // self.step), -(-self.width // self.step)

    def draw(self, grid: Tensor) -> Drawn:
        """Returns the masks."""
        taps, turns = _taps(self.step, grid.dtype, grid.device)
        knots = grid.permute(1, 2, 0).contiguous()
        total, upper = grid.new_zeros(2, len(turns), self.step**2, *knots.shape)
        beyond = grid.new_zeros(*self.grid, 1)  # how many knots of value 0 around the grid a cell is near to
        for bump, images in taps:
            value = bump * knots
            weight = (value * SHARPNESS).exp_()
            value.mul_(weight)
            for turn, down, across in images:
                here, there = self._facing(down, across)
                total[turn][here].add_(weight[there])
                upper[turn][here].add_(value[there])
                beyond.add_(1)[here].sub_(1)
        total, upper = (sum(part[turn] for part, turn in zip(of, turns, strict=True)) for of in (total, upper))
        total += beyond
        return Drawn(self._to_picture(upper.div_(total)), total)

    def pull(self, grid: Tensor, drawn: Drawn, slope: Tensor) -> Tensor:
        """Returns the gradient to the grids of a loss whose gradient to the masks drawn of them is ``slope``."""
        taps, turns = _taps(self.step, grid.dtype, grid.device)
        share = self._to_cells(slope) / drawn.total
        level = (1 - SHARPNESS * self._to_cells(drawn.mask)).mul_(share)
        back = [turn.argsort() for turn in turns]
        levels, shares = ([part[turn] for turn in back] for part in (level, share.mul_(SHARPNESS)))
        knots = grid.permute(1, 2, 0).contiguous()
        found = torch.zeros_like(knots)
        for bump, images in taps:
            constant, slant = torch.zeros_like(share), torch.zeros_like(share)
            for turn, down, across in images:
                here, there = self._facing(down, across)
                constant[there].add_(levels[turn][here])
                slant[there].add_(shares[turn][here])
            value = bump * knots
            slant.mul_(value).add_(constant).mul_(value.mul_(SHARPNESS).exp_())
            found += torch.tensordot(bump.flatten(), slant, 1)
        return found.permute(2, 0, 1).contiguous()

    def _facing(self, down: int, across: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns which cells have a knot so far off, and those knots, both in order."""
        here, there = [], []
        for far, size in zip((down, across), self.grid, strict=True):
            long = max(size - abs(far), 0)
            here.append(slice(max(-far, 0), max(-far, 0) + long))
            there.append(slice(max(far, 0), max(far, 0) + long))
        return (..., *here, slice(None)), (..., *there, slice(None))

    def _to_picture(self, cells: Tensor) -> Tensor:
        """Returns ``(step², *grid, n)`` as pictures ``(n, height, width)``."""
        rows, columns = self.grid
        whole = cells.reshape(self.step, self.step, rows, columns, -1).permute(4, 2, 0, 3, 1)
        return whole.reshape(-1, rows * self.step, columns * self.step)[:, : self.height, : self.width]

    def _to_cells(self, pictures: Tensor) -> Tensor:
        """Returns pictures as ``(step², *grid, n)``, zeros where cells overhang."""
        rows, columns = self.grid
        padded = F.pad(pictures, (0, columns * self.step - self.width, 0, rows * self.step - self.height))
        whole = padded.reshape(-1, rows, self.step, columns, self.step).permute(2, 4, 1, 3, 0)
        return whole.reshape(self.step**2, rows, columns, -1)


class _Tap(NamedTuple):
    """The bump at each place of a cell ``(step², 1, 1, 1)`` of a knot so far off, and of those that mirror it.

    Each of these is a turn, which says what place of the cell is which of the first one's, and how many cells the knot
    is down and across.
    """

    bump: Tensor
    images: list[tuple[int, int, int]]


@lru_cache(maxsize=8)
def _taps(step: int, dtype: torch.dtype, device: torch.device) -> tuple[list[_Tap], list[Tensor]]:
    """Returns the knots around a cell, one of each eight that mirror each other, and the turns: places ``(step²,)``."""
    index = torch.arange(step**2, device=device).reshape(step, step)
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    flipped = [index.flip([dim for dim, sign in enumerate(pair) if sign < 0]) for pair in signs]
    turns = [turn.flatten() for turn in (*flipped, *(each.T for each in flipped))]
    place = (torch.arange(step, dtype=dtype, device=device) + 0.5) / step - 0.5
    margin, taps = round(REACH), []
    for down in range(margin + 1):
        for across in range(down + 1):
            distance = torch.hypot(place[:, None] - down, place - across).flatten()
            fall = ((distance - FLAT) / (REACH - FLAT)).clamp(0, 1)
            if bool((fall < 1).any()):
                images = dict[tuple[int, int], int]()
                for turn, (one, other) in enumerate(signs):
                    images.setdefault((one * down, other * across), turn)
                for turn, (one, other) in enumerate(signs, len(signs)):
                    images.setdefault((other * across, one * down), turn)
                bump = (fall * (math.pi / 2)).cos().square()[:, None, None, None]
                taps.append(_Tap(bump, [(turn, *offset) for offset, turn in images.items()]))
    return taps, turns
