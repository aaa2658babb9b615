"""Balls of a radius a sample: the same geometry as a common radius, a row at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ironglass.core.values import Bounds, Norm, Threat
from ironglass.ops import lp, radii

UNIT = Bounds(0.0, 1.0)


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 30, generator=generator, dtype=torch.float64)
    x[::2] = x[::2].round()
    return x, torch.randn(24, 30, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_row_is_projected_as_on_a_ball_of_its_radius(norm: Norm, masked: bool) -> None:
    x, delta = draw()
    mask = (torch.arange(30) % 4 != 0)[None] if masked else None
    radius = torch.linspace(0.2, 4.0, 24, dtype=torch.float64)
    radius = radius.ceil() if norm == "l0" else radius
    ours = radii.project(delta, x, radius, Threat(norm, 1.0, mask), UNIT)
    for row in range(24):
        one = slice(row, row + 1)
        alone = lp.project((x + delta)[one], x[one], Threat(norm, float(radius[row]), mask), UNIT) - x[one]
        assert torch.allclose(ours[one], alone, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_no_radius_is_no_change(norm: Norm) -> None:
    x, delta = draw()
    assert not bool(radii.project(delta, x, torch.zeros(24, dtype=x.dtype), Threat(norm, 1.0), UNIT).any())
    assert not bool(radii.stretch(delta, x, torch.zeros(24, dtype=x.dtype), Threat(norm, 1.0), UNIT).any())


def test_a_stretched_change_has_the_length_asked_for_within_the_box() -> None:
    x, delta = draw()
    mask = (torch.arange(30) % 4 != 0)[None]
    for length in (1e-3, 0.7, 1.5, 50.0):
        radius = torch.full((24,), length, dtype=torch.float64)
        ours = radii.stretch(delta, x, radius, Threat("l2", 1.0, mask), UNIT)
        full = lp.norm(lp.room(delta, x, UNIT, mask), "l2")
        assert torch.allclose(lp.norm(ours, "l2"), radius.minimum(full))
        assert bool(((x + ours >= -1e-12) & (x + ours <= 1 + 1e-12)).all())
        assert not bool(ours[:, ~mask[0]].any())
        assert bool((ours * delta >= 0).all())
