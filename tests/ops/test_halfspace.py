"""The shortest step across a hyperplane, against bisection and sorting a row at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack.oracles import least, room_of
from ironglass.core.values import Bounds, Norm, Threat
from ironglass.ops import lp
from ironglass.ops.halfspace import shortest

UNIT = Bounds(0.0, 1.0)
CONVEX: tuple[Norm, ...] = ("linf", "l2", "l1")


def draw(saturated: bool, rows: int = 30, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, size, generator=generator, dtype=torch.float64)
    normal = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    normal[:, 3] = 0
    return (x.round() if saturated else x), normal


def reach(normal: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    rooms = [room_of(a, row, None if mask is None else mask.double()) for a, row in zip(normal, x, strict=True)]
    return (normal.abs() * torch.stack(rooms)).sum(1)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", [1e-3, 0.3, 0.98])
def test_it_is_across_and_none_is_shorter(norm: Norm, saturated: bool, masked: bool, part: float) -> None:
    x, normal = draw(saturated)
    mask = (torch.arange(40) % 3 != 0) if masked else None
    gap = part * reach(normal, x, mask)
    step = shortest(normal, gap, x, Threat(norm, float("inf"), None if mask is None else mask[None]), UNIT)
    assert torch.allclose((normal * step).sum(1), gap, rtol=1e-12)
    assert bool(((x + step >= -1e-12) & (x + step <= 1 + 1e-12)).all())
    if mask is not None:
        assert not bool(step[:, ~mask].any())
    for row in range(len(x)):
        room = room_of(normal[row], x[row], None if mask is None else mask.double())
        best = least(normal[row].abs(), room, norm, float(gap[row]))
        assert float(lp.norm(step[row : row + 1], norm)) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("saturated", [False, True])
def test_in_l0_it_moves_no_more_values_than_it_must(saturated: bool) -> None:
    x, normal = draw(saturated)
    gap = 0.4 * reach(normal, x)
    step = shortest(normal, gap, x, Threat("l0", float("inf")), UNIT)
    assert bool(((normal * step).sum(1) >= gap * (1 - 1e-12)).all())
    for row in range(len(x)):
        worth = (normal[row].abs() * room_of(normal[row], x[row])).sort(descending=True).values.cumsum(0)
        assert int((step[row] != 0).sum()) == int((worth < gap[row]).sum()) + 1


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_a_gap_that_the_box_cannot_close_is_closed_as_far_as_can_be(norm: Norm) -> None:
    x, normal = draw(False)
    far = reach(normal, x)
    step = shortest(normal, 3 * far, x, Threat(norm, float("inf")), UNIT)
    assert torch.allclose((normal * step).sum(1), far)
    assert bool(((x + step >= 0) & (x + step <= 1 + 1e-15)).all())


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_no_gap_no_normal_and_no_number_mean_no_step(norm: Norm) -> None:
    x, normal = draw(False, rows=5)
    gap = torch.tensor([0.0, -2.0, 1.0, float("nan"), 1.0], dtype=torch.float64)
    normal[2], normal[4] = 0, float("nan")
    assert not bool(shortest(normal, gap, x, Threat(norm, 1.0), UNIT).any())


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_it_does_not_depend_on_the_size_of_the_normal(norm: Norm, scale: float) -> None:
    x, normal = (t.float() for t in draw(True))
    gap = 0.3 * reach(normal, x)
    plain = shortest(normal, gap, x, Threat(norm, 1.0), UNIT)
    scaled = shortest(normal * scale, gap * scale, x, Threat(norm, 1.0), UNIT)
    assert torch.allclose(plain, scaled, atol=1e-5)


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_a_row_keeps_its_bits_in_any_company(norm: Norm) -> None:
    x, normal = draw(True)
    gap, rows = 0.3 * reach(normal, x), torch.tensor([28, 2, 11])
    whole = shortest(normal, gap, x, Threat(norm, 1.0), UNIT)
    assert torch.equal(whole[rows], shortest(normal[rows], gap[rows], x[rows], Threat(norm, 1.0), UNIT))


def test_other_bounds_are_the_same_geometry() -> None:
    x, normal = draw(False)
    bounds, gap = Bounds(-3, 2), 0.3 * reach(normal, x)
    for norm in CONVEX:
        unit = shortest(normal, gap, x, Threat(norm, 1.0), UNIT)
        assert torch.allclose(shortest(normal, 5 * gap, 5 * x - 3, Threat(norm, 1.0), bounds), 5 * unit)
