"""The Wasserstein distance against the full transport problem, and plans against a linear program."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.values import Bounds
from ironglass.ops import lp, transport
from ironglass.ops.plans import MOVES, Ground, arriving
from mass import best_gain, pictures, true_distance

UNIT = Bounds()
WIDEST = 1 / math.cos(math.atan(0.5) / 2)


def of_same_mass(x: Tensor, seed: int) -> Tensor:
    """Other pictures with the mass of ``x`` in every channel."""
    other = pictures(tuple(x.shape[1:]), seed, len(x)) ** 3
    return other * (x.sum((2, 3), keepdim=True) / other.sum((2, 3), keepdim=True))


@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 3, 3), (1, 5, 5), (1, 2, 9), (1, 7, 4)])
def test_it_is_within_three_percent_above_the_true_distance(shape: tuple[int, ...]) -> None:
    x = pictures(shape, 1, 3)
    y = of_same_mass(x, 2)
    for ours, after, before in zip(transport.distance(y, x, UNIT).tolist(), y, x, strict=True):
        truth = true_distance(after, before)
        assert truth * (1 - 1e-9) <= ours <= truth * WIDEST * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 20), (1, 20, 1), (1, 3, 3)])
def test_it_is_the_true_distance_on_a_line_and_within_a_window(shape: tuple[int, ...]) -> None:
    x = pictures(shape, 3, 3)
    y = of_same_mass(x, 4)
    for ours, after, before in zip(transport.distance(y, x, UNIT).tolist(), y, x, strict=True):
        assert ours == pytest.approx(true_distance(after, before), rel=1e-8)


@pytest.mark.parametrize(("down", "right"), [(0, 7), (5, 0), (3, 3), (4, 2), (2, 1), (6, 3), (5, 2), (7, 1)])
def test_one_grain_travels_as_far_as_it_is_carried(down: int, right: int) -> None:
    x, y = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    x[0, 0, 1, 1] = y[0, 0, 1 + down, 1 + right] = 1
    length = math.hypot(down, right)
    ours = float(transport.distance(y, x, UNIT))
    assert length * (1 - 1e-6) <= ours <= length * WIDEST
    if math.atan2(min(down, right), max(down, right)) in (0.0, math.atan(0.5), math.atan(1.0)):
        assert ours == pytest.approx(length, rel=1e-6)


def test_it_is_a_norm_of_the_change() -> None:
    x = pictures((2, 6, 7), 5, 4)
    one, two = of_same_mass(x, 6) - x, of_same_mass(x, 7) - x

    def size(delta: Tensor) -> Tensor:
        return transport.distance(x + delta, x, UNIT)

    whole = size(one)
    for share in (0.5, 1e-3, 1e-6):
        assert torch.allclose(size(share * one), share * whole, rtol=1e-6)
    assert torch.allclose(size(-one), whole, rtol=1e-9)
    assert bool((size(one + two) <= whole + size(two) + 1e-9).all())
    assert bool((whole > 0).all())
    assert size(0 * one).tolist() == [0] * 4
    moved = torch.roll(x, 1, 0)  # another picture of another mass, the same change
    assert torch.allclose(
        transport.distance(moved + one, moved, UNIT) * moved.flatten(1).sum(1), whole * x.flatten(1).sum(1)
    )


def test_mass_that_is_made_or_changes_its_channel_is_infinitely_far() -> None:
    x = pictures((2, 4, 4), 8, 3)
    made, crossed, rounded = x.clone(), x.clone(), x.clone()
    made[:, 0, 1, 1] += 1e-3
    crossed[:, 0, 1, 1] += 1e-3
    crossed[:, 1, 1, 1] -= 1e-3
    rounded[:, 0, 1, 1] += 1e-3 + 1e-8
    rounded[:, 0, 1, 2] -= 1e-3
    assert bool(transport.distance(made, x, UNIT).isinf().all())
    assert bool(transport.distance(crossed, x, UNIT).isinf().all())
    assert torch.allclose(transport.distance(rounded, x, UNIT), 1e-3 / x.flatten(1).sum(1), rtol=1e-6)
    assert torch.equal(transport.project(made, x, 1.0, UNIT), x)
    assert torch.equal(transport.project(made, x, math.inf, UNIT), x)
    black = torch.zeros(1, 1, 4, 4)
    assert float(transport.distance(black, black, UNIT)) == 0
    assert float(transport.distance(black + 0.1, black, UNIT)) == math.inf


def test_the_low_bound_has_no_mass() -> None:
    x, y = pictures((1, 5, 5), 9), pictures((1, 5, 5), 9).flip(3)
    wide = Bounds(-1, 3)
    assert torch.allclose(transport.distance(y * 4 - 1, x * 4 - 1, wide), transport.distance(y, x, UNIT), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projection_ends_at_the_edge_and_leaves_what_is_inside(dtype: torch.dtype) -> None:
    x = pictures((2, 6, 6), 10, 4)
    x = (x * 1.4 - 0.2).clamp(0, 1).to(dtype)
    y = x.flip(3)
    size = transport.distance(y, x, UNIT)
    for share in (0.9, 0.3, 0.01):
        eps = float(size.min()) * share
        point = lp.project(y, x, ig.Wasserstein(eps), UNIT)
        found = transport.distance(point.double(), x.double(), UNIT)
        assert bool((found <= eps).all())
        assert bool((found >= eps * (1 - 1e-4)).all())
        assert bool(((point >= 0) & (point <= 1)).all())
    assert torch.equal(lp.project(y, x, ig.Wasserstein(float(size.max()) * 1.01), UNIT), y)
    assert torch.equal(lp.project(y, x, ig.Wasserstein(0.0), UNIT), x)


def test_other_norms_measure_as_before_and_this_one_needs_the_picture() -> None:
    x = pictures((1, 4, 4), 12)
    y = of_same_mass(x, 13)
    for threat in (ig.Linf(1), ig.L2(1), ig.L1(1), ig.L0(1)):
        assert torch.equal(lp.distance(y, x, threat, UNIT), lp.norm(y - x, threat.norm))
    assert torch.equal(lp.distance(y, x, ig.Wasserstein(1), UNIT), transport.distance(y, x, UNIT))
    with pytest.raises(ValueError, match="no Wasserstein distance"):
        lp.norm(y - x, "wasserstein")


@pytest.mark.parametrize("eps", [0.01, 0.2, 1.0, 3.0])
def test_the_best_plan_is_the_best_without_iteration(eps: float) -> None:
    x, worth = pictures((1, 6, 7), 14, 3), torch.randn(3, 1, 6, 7, generator=torch.Generator().manual_seed(1)).double()
    ground = Ground.of(x, ig.Wasserstein(eps), UNIT)
    moves = ground.best(worth)
    assert bool((moves >= 0).all())
    assert bool((moves.sum(1) <= x + 1e-12).all())
    assert bool((ground.cost(moves) <= ground.budget * (1 + 1e-12)).all())
    for row in range(3):
        best = best_gain(worth[row, 0], x[row, 0], eps, capacity=False)
        assert float((worth * ground.change(moves))[row].sum()) == pytest.approx(
            best, rel=2e-5
        )  # less what is spared for rounding


def test_plans_keep_mass_budget_mask_and_room_and_cost_no_less_than_the_distance() -> None:
    generator = torch.Generator().manual_seed(2)
    x = (pictures((2, 6, 6), 15, 4) * 1.6 - 0.3).clamp(0, 1)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 1:5, :4] = True
    for threat in (ig.Wasserstein(0.3), ig.Wasserstein(0.3, mask)):
        ground = Ground.of(x, threat, UNIT)
        moves = torch.rand(4, len(MOVES), 2, 6, 6, generator=generator, dtype=torch.float64)
        moves = moves * (ground.ends(torch.ones_like(x), 0.0) > 0) * ground.source.unsqueeze(1) / len(MOVES)
        kept = ground.within(moves)
        point = ground.point(kept)
        assert bool((kept <= moves).all())
        assert bool((ground.source - kept.sum(1) + arriving(kept) <= 1 + 1e-12).all())
        assert torch.allclose(point.sum((2, 3)), x.sum((2, 3)), rtol=1e-12)
        assert bool((transport.distance(point, x, UNIT) <= ground.cost(kept) / transport.mass(x, UNIT) + 1e-12).all())
        assert bool((transport.distance(point, x, UNIT) <= 0.3).all())
        assert float((point - x).abs().max()) > 0.01
        if threat.mask is not None:
            assert torch.equal(torch.where(mask, x, point), x)


def test_chains_of_full_pixels_are_undone_to_the_end() -> None:
    x = torch.ones(1, 1, 1, 200)
    x[..., 0] = 0.5
    ground = Ground.of(x, ig.Wasserstein(100.0), UNIT)
    moves = ground.rest()
    moves[:, MOVES.index((0, 1)), ..., :-1] = 0.5  # all give half to the right; the last one has no room
    assert torch.equal(ground.point(ground.within(moves)), x)
