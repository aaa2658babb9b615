from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ironglass.ops.smooth_max import FLAT, REACH, SHARPNESS, SmoothMax


def slow(renderer: SmoothMax, grid: Tensor) -> Tensor:
    """Every knot near a pixel, from the formula, with autograd."""
    down, across = torch.meshgrid(
        *(torch.arange(side, dtype=grid.dtype) + 0.5 for side in (renderer.height, renderer.width)), indexing="ij"
    )
    upper = lower = torch.zeros(len(grid), renderer.height, renderer.width, dtype=grid.dtype)
    margin = round(REACH)
    for row in range(-margin, renderer.grid[0] + margin):
        for column in range(-margin, renderer.grid[1] + margin):
            inside = 0 <= row < renderer.grid[0] and 0 <= column < renderer.grid[1]
            value = grid[:, row, column] if inside else torch.zeros_like(grid[:, 0, 0])
            far = (
                torch.hypot(down - (row + 0.5) * renderer.step, across - (column + 0.5) * renderer.step) / renderer.step
            )
            bump = ((far - FLAT) / (REACH - FLAT)).clamp(0, 1).mul(math.pi / 2).cos().square().to(grid.dtype)
            cell = (down / renderer.step).floor() - row, (across / renderer.step).floor() - column
            near = (cell[0].abs() <= margin) & (cell[1].abs() <= margin)
            reachable = near & (
                torch.hypot(
                    (cell[0].abs() - 0.5 + 0.5 / renderer.step).clamp(min=0),
                    (cell[1].abs() - 0.5 + 0.5 / renderer.step).clamp(min=0),
                )
                < REACH
            )
            x = bump * value[:, None, None]
            weight = (SHARPNESS * x).exp() * reachable
            upper, lower = upper + weight * x, lower + weight
    return upper / lower


@pytest.mark.parametrize(("height", "width", "step"), [(20, 23, 3), (16, 16, 1), (30, 12, 7), (5, 5, 2)])
def test_masks_and_their_gradient_are_those_of_the_formula(height: int, width: int, step: int) -> None:
    renderer = SmoothMax(height, width, step)
    grid = torch.rand(
        2, *renderer.grid, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    expected = slow(renderer, grid)
    drawn = renderer.draw(grid.detach())
    torch.testing.assert_close(drawn.mask, expected.detach(), rtol=0, atol=1e-9)
    slope = torch.randn(2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((expected * slope).sum(), grid)
    torch.testing.assert_close(renderer.pull(grid.detach(), drawn, slope), gradient, rtol=0, atol=1e-9)


def test_masks_stay_within_0_and_1_and_reach_both() -> None:
    renderer = SmoothMax(64, 64, 2)
    full = renderer.draw(torch.ones(1, *renderer.grid)).mask
    assert float(full.min()) > 0.98
    assert float(full.max()) <= 1
    assert not bool(renderer.draw(torch.zeros(1, *renderer.grid)).mask.any())
    one = torch.zeros(1, *renderer.grid)
    one[0, 16, 16] = 1
    mask = renderer.draw(one).mask[0]
    assert float(mask[32:34, 32:34].min()) > 0.99
    far = torch.hypot((torch.arange(64) - 32.5)[:, None], torch.arange(64) - 32.5) > 2 * REACH
    assert float(mask[far].max()) < 1e-6
