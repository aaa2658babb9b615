"""FAB: the least change is known on linear models, and there it must be found in every norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from attack.oracles import REGIMES, case
from attack.test_bim import MASK, RADII, curved
from ironglass.attack.auto.fab import Walk, _across, search
from ironglass.core.values import Bounds, Norm, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp

INF = float("inf")


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(("masked", "targeted"), [(False, False), (True, False), (True, True)])
def test_the_least_change_is_found(regime: str, norm: Norm, masked: bool, targeted: bool) -> None:
    made = case(regime, 10, lead=2.5)
    mask = MASK if masked else None
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = ig.attack.fab(made.net, made.x, goal, Threat(norm, INF, mask), steps=15)
    assert bool(result.success.all())
    assert bool((result.distance <= 1.005 * made.least(norm, mask)).all())
    assert bool((result.distance >= made.least(norm, mask) * (1 - 1e-9)).all())


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("classes", "each"), [(2, False), (4, True)])
def test_each_target_in_turn_finds_it_too(
    regime: str, norm: Norm, dtype: torch.dtype, classes: int, each: bool
) -> None:
    made = case(regime, classes, lead=2.5, dtype=dtype)
    result = ig.attack.fab(made.net, made.x, made.y, Threat(norm, INF), steps=10, each=each)
    assert bool(result.success.all())
    assert bool((result.distance <= 1.005 * made.least(norm)).all())
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())


@pytest.mark.parametrize("norm", RADII)
def test_within_a_finite_radius_it_succeeds_where_that_is_enough(norm: Norm) -> None:
    made = case("saturated", 10, lead=2.5, count=12)
    radius = float(made.least(norm).median())
    for share in (0.99, 1.01):
        result = ig.attack.fab(made.net, made.x, made.y, Threat(norm, radius * share), steps=10, each=True, targets=2)
        assert torch.equal(result.success, made.least(norm) <= radius * share)


@pytest.mark.parametrize("norm", RADII)
def test_where_the_box_is_too_small_nothing_is_found(norm: Norm) -> None:
    made = case("interior", 3, lead=200.0)
    result = ig.attack.fab(made.net, made.x, made.y, Threat(norm, INF), steps=6)
    assert not bool(result.success.any())
    assert torch.equal(result.adversarial, made.x)


@pytest.mark.parametrize("norm", RADII)
def test_the_way_to_a_plane_is_the_same_from_either_side(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    x, normal = (torch.rand(6, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    normal, threat = normal - 0.5, Threat(norm, INF)
    for gap in (torch.full((6,), 0.7), torch.full((6,), -0.7), torch.zeros(6)):
        way = _across(normal, gap.double(), x, threat, Bounds())
        assert torch.allclose((way * normal).sum(1), gap.double(), atol=1e-12)
        assert bool(((x + way >= 0) & (x + way <= 1)).all())


@pytest.mark.parametrize("norm", RADII)
def test_on_a_curved_net_more_steps_and_starts_find_nothing_farther(norm: Norm) -> None:
    net, x, y = curved()
    few, many, starts = (
        ig.attack.fab(net, x, y, Threat(norm, INF), steps=steps, restarts=restarts)
        for steps, restarts in ((3, 1), (40, 1), (3, 3))
    )
    assert bool(few.success.all() & many.success.all())
    assert float((many.distance / few.distance).mean()) < 1.001
    assert bool((starts.distance <= few.distance * (1 + 1e-6)).all())
    below = x + (many.adversarial - x) * 0.97
    with torch.no_grad():
        assert int((net(below).argmax(1) != y).sum()) <= 2, "what was found lies on the boundary"


@pytest.mark.parametrize("norm", RADII)
def test_it_beats_the_smallest_radius_at_which_pgd_succeeds(norm: Norm) -> None:
    net, x, y = curved()
    result = ig.attack.fab(net, x, y, Threat(norm, INF), steps=40)
    for share in (0.5, 0.9):
        radius = float(result.distance.median()) * share
        wins = ig.attack.pgd(net, x, y, Threat(norm, radius), steps=40).success
        assert float((wins & (result.distance > radius * 1.02)).double().mean()) <= 0.05


def test_a_sample_leaves_at_what_is_near_enough_or_when_nothing_gets_nearer() -> None:
    made = case("interior", 3, lead=2.5)
    goal, threat = ig.Avoid(made.y), ig.L2(INF)

    def run(walk: Walk, enough: float) -> tuple[Tensor, Tensor, int]:
        session, meter = wrap(made.net).session(made.x, "gradient")
        found = search(session, made.x, goal, threat, walk, restarts=1, targets=2, each=True, seed=0, enough=enough)
        return found.point, found.distance, meter.cost.forward

    point, distance, cost = run(Walk(60), 0.0)
    assert cost == 8 * (1 + 2 * (60 + 4 + 3))
    near, enough, cheap = run(Walk(60), float(made.least("l2").max()) * 1.2)
    assert cheap < 8 * 10
    assert bool((enough <= float(made.least("l2").max()) * 1.2).all())
    _, patient, middle = run(Walk(60, patience=8), 0.0)
    assert cheap < middle < 0.5 * cost
    assert float((patient / distance).max()) < 1.02
    assert torch.allclose(lp.norm(point - made.x, "l2"), distance)
    assert torch.allclose(lp.norm(near - made.x, "l2"), enough)


def test_a_budget_is_kept() -> None:
    made = case("interior", 3, lead=2.5)
    result = ig.attack.fab(ig.wrap(made.net, max_queries=12), made.x, made.y, ig.L2(INF))
    assert int(result.queries.max()) <= 12
    assert bool(result.success.all())


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    with pytest.raises(ValueError, match="targets=0: each must be at least 1"):
        ig.attack.fab(net, x, y, ig.L2(INF), targets=0)
