"""Polish on linear models, where the nearest point is known, and on nets, where it may never do harm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from attack.oracles import REGIMES, case
from ironglass.core.values import Goal, Norm, Threat
from ironglass.models.adapter import wrap
from ironglass.models.meter import Meter
from ironglass.ops import lp
from ironglass.ops.polish import PAST, Aim, descend, polish, shorten

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")


def polished(
    net: nn.Module, x: Tensor, found: Tensor, goal: Goal, threat: Threat, budget: int | None = None, steps: int = 3
) -> tuple[Tensor, Meter]:
    session, meter = wrap(net).session(x, goal=goal, max_queries=budget)
    return polish(session, x, found, goal, threat, steps=steps), meter


def curved() -> tuple[nn.Module, Tensor, Goal]:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 6)).double().eval()
        x = torch.rand(40, 1, 8, 8, dtype=torch.float64)
    return net, x, ig.Avoid(net(x).argmax(1))


def far(x: Tensor, seed: int = 2) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_linear_model_it_ends_at_the_nearest_point(
    norm: Norm, regime: str, masked: bool, targeted: bool, dtype: torch.dtype
) -> None:
    made = case(regime, 10, lead=2.5, dtype=dtype)
    mask = torch.zeros(1, 1, 28, 28, dtype=torch.bool)
    mask[..., 4:24, 2:25] = True
    threat = Threat(norm, float("inf"), mask if masked else None)
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    ends = torch.where(made.weight.reshape(1, 1, 28, 28) > 0, 1.0, 0.0).to(dtype)
    found = made.x.lerp(ends.expand_as(made.x), 0.9)
    found = torch.where(mask, found, made.x) if masked else found
    point, meter = polished(made.net, made.x, found, goal, threat)
    ratio = lp.norm(point.double() - made.x.double(), norm) / made.least(norm, mask if masked else None)
    assert bool(goal.reached(made.net(point)).all())
    assert float(ratio.max()) <= 1 + 2 * PAST
    assert bool(((point >= 0) & (point <= 1)).all())
    assert int(meter.queries.max()) <= 9, "two ends, a look on the line, and three times a gradient and a point"


@pytest.mark.parametrize("regime", REGIMES)
def test_in_l0_on_a_linear_model_no_value_too_many_is_moved(regime: str) -> None:
    made = case(regime, 10, lead=2.5)
    found = torch.where(made.weight.reshape(1, 1, 28, 28) > 0, 1.0, 0.0).double().expand_as(made.x)
    goal = ig.Avoid(made.y)
    point, _ = polished(made.net, made.x, found, goal, Threat("l0", float("inf")))
    assert bool(goal.reached(made.net(point)).all())
    for row, gap in enumerate(made.gaps().tolist()):
        flat = made.x[row].flatten()
        worth = made.weight.abs() * torch.where(made.weight > 0, 1 - flat, flat)
        needed = int((worth.sort(descending=True).values.cumsum(0) < gap).sum()) + 1
        assert int((point[row] != made.x[row]).sum()) == needed


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("budget", [None, 0, 1, 2, 3, 5, 9, 14])
def test_no_point_gets_worse_and_a_miss_comes_back_as_it_is(norm: Norm, budget: int | None) -> None:
    net, x, goal = curved()
    found = far(x)
    hit = goal.reached(net(found))
    assert 5 < int(hit.sum()) < 40
    point, meter = polished(net, x, found, goal, Threat(norm, float("inf")), budget, steps=6)
    assert torch.equal(point[~hit], found[~hit])
    assert bool(goal.reached(net(point))[hit].all())
    before, after = lp.norm(found - x, norm), lp.norm(point - x, norm)
    assert bool((after <= before).all())
    assert bool(((point >= 0) & (point <= 1)).all())
    assert budget is None or int(meter.queries.max()) <= budget
    if budget is None or budget >= 9:
        assert float((after / before)[hit].median()) < (0.2 if norm == "l0" else 0.9)
    if budget == 0:
        assert torch.equal(point, found)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_more_steps_are_better_and_cost_what_is_said(norm: Norm) -> None:
    net, x, goal = curved()
    found, sizes = far(x), []
    for steps in (0, 1, 3, 12):
        point, meter = polished(net, x, found, goal, Threat(norm, float("inf")), steps=steps)
        sizes.append(lp.norm(point - x, norm))
        assert int(meter.queries.max()) <= 10 + 2 * steps
        assert meter.cost.backward <= steps * len(x)
    means = [float(size.mean()) for size in sizes]
    assert means == sorted(means, reverse=True)
    assert bool((sizes[-1] <= sizes[0] + 1e-12).all())
    assert means[-1] < 0.97 * means[0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_line_search_ends_just_past_the_boundary(norm: Norm) -> None:
    net, x, goal = curved()
    found, margin = far(x), goal.loss("margin")
    hit = goal.reached(net(found))
    session, _ = wrap(net).session(x, goal=goal)
    point = shorten(session, x, found, Aim(goal), Threat(norm, float("inf")))
    along = ((point - x) / (found - x)).flatten(1)
    assert torch.allclose(along, along[:, :1].expand_as(along), rtol=1e-6)
    past = (margin(net(point), slice(None)) / -margin(net(x), slice(None))).detach()
    assert bool((past[hit] >= 0).all())
    assert float(past[hit].median()) <= 2 * PAST


def test_points_stay_in_their_mask_and_rows_do_not_touch_each_other() -> None:
    net, x, goal = curved()
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 1:7] = True
    found = torch.where(mask, far(x).round(), x)
    rows = torch.tensor([31, 4, 17, 9])
    for norm in NORMS:
        threat = Threat(norm, float("inf"), mask)
        whole, _ = polished(net, x, found, goal, threat)
        assert torch.equal(torch.where(mask, x, whole), x)
        some, _ = polished(net, x[rows], found[rows], goal.take(rows), threat)
        assert torch.allclose(whole[rows], some, rtol=1e-9, atol=1e-12)


def test_a_confidence_is_kept() -> None:
    made = case("interior", 10, lead=2.5)
    goal, aim = ig.Avoid(made.y), Aim(ig.Avoid(made.y), 1.5)
    found = torch.where(made.weight.reshape(1, 1, 28, 28) > 0, 1.0, 0.0).double().expand_as(made.x)
    session, _ = wrap(made.net).session(made.x, goal=goal)
    point = polish(session, made.x, found, aim, Threat("l2", float("inf")))
    margin = goal.loss("margin")(made.net(point), slice(None))
    assert bool((margin >= 1.5).all())
    expected = (made.gaps() + 1.5) / made.weight.norm()
    assert torch.allclose(lp.norm(point - made.x, "l2"), expected, rtol=3 * PAST)


def test_a_gradient_that_is_not_finite_or_zero_leaves_the_point_alone() -> None:
    class Step(nn.Module):
        def __init__(self, broken: bool) -> None:
            super().__init__()
            self.broken = broken

        def forward(self, x: Tensor) -> Tensor:
            level = x.flatten(1).mean(1, keepdim=True)
            if self.broken:
                level = level + (level * 0).sqrt()
            else:
                level = (level > 0.5).to(x.dtype) + 0 * level
            return torch.cat([0.5 - level, level - 0.5], 1)

    x, found = torch.full((3, 1, 4, 4), 0.2), torch.full((3, 1, 4, 4), 0.9)
    goal = ig.Avoid(torch.zeros(3, dtype=torch.long))
    for broken in (False, True):
        net = Step(broken).eval()
        session, _ = wrap(net).session(x, goal=goal)
        for norm in NORMS:
            point = descend(session, x, found, Aim(goal), Threat(norm, float("inf")))
            assert torch.equal(point, found)
