"""Smooth masks from a coarse grid, by a soft maximum over smooth bumps, and their gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT, REACH = 1.5, 4.0
"""How far a bump is flat, and where it ends, in steps of the grid."""
SHARPNESS = 20.0
"""Of the soft maximum: the greater, the nearer to the maximum."""


class Drawn(NamedTuple):
    """Masks ``(n, height, width)``, and the soft maximum's denominator, by place in the cell ``(step², n, *grid)``."""

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
        total = grid.new_zeros(self.step**2, *grid.shape)
        upper = torch.zeros_like(total)
        for _, bump, near in self._taps(grid):
            value = bump * near
            weight = (value * SHARPNESS).exp_()
            total += weight
            upper.addcmul_(value, weight)
        return Drawn(self._to_picture(upper.div_(total)), total)

    def pull(self, grid: Tensor, drawn: Drawn, slope: Tensor) -> Tensor:
        """Returns the gradient to the grids of a loss whose gradient to the masks drawn of them is ``slope``."""
        ratio, share = self._to_cells(drawn.mask), self._to_cells(slope) / drawn.total
        margin = round(REACH)
        around = F.pad(torch.zeros_like(grid), (margin,) * 4)
        for (down, across), bump, near in self._taps(grid):
            value = bump * near
            pull = (value * SHARPNESS).exp_().mul_(share).mul_(value.sub_(ratio).mul_(SHARPNESS).add_(1)).mul_(bump)
            around[:, down : down + self.grid[0], across : across + self.grid[1]] += pull.sum(0)
        return around[:, margin:-margin, margin:-margin]

    def _taps(self, grid: Tensor) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
        """Returns the knots around a cell: how far off, their bumps at each place in it, and their values."""
        margin = round(REACH)
        padded = F.pad(grid, (margin,) * 4)
        place = (torch.arange(self.step, dtype=grid.dtype, device=grid.device) + 0.5) / self.step - 0.5
        taps = []
        for down in range(2 * margin + 1):
            for across in range(2 * margin + 1):
                distance = torch.hypot(place[:, None] - (down - margin), place - (across - margin)).flatten()
                fall = ((distance - FLAT) / (REACH - FLAT)).clamp(0, 1)
                if bool((fall < 1).any()):
                    bump = (fall * (math.pi / 2)).cos().square()[:, None, None, None]
                    near = padded[:, down : down + self.grid[0], across : across + self.grid[1]]
                    taps.append(((down, across), bump, near.contiguous()))
        return taps

    def _to_picture(self, cells: Tensor) -> Tensor:
        """Returns ``(step², n, *grid)`` as pictures ``(n, height, width)``."""
        rows, columns = self.grid
        whole = cells.reshape(self.step, self.step, -1, rows, columns).permute(2, 3, 0, 4, 1)
        return whole.reshape(-1, rows * self.step, columns * self.step)[:, : self.height, : self.width]

    def _to_cells(self, pictures: Tensor) -> Tensor:
        """Returns pictures as ``(step², n, *grid)``, zeros where cells overhang."""
        rows, columns = self.grid
        padded = F.pad(pictures, (0, columns * self.step - self.width, 0, rows * self.step - self.height))
        whole = padded.reshape(-1, rows, self.step, columns, self.step).permute(2, 4, 0, 1, 3)
        return whole.reshape(self.step**2, -1, rows, columns)
