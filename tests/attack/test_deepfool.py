"""DeepFool: one step on linear models, the nearest of the boundaries, and few passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.nearest import (
    INF,
    NORMS,
    a_budget_is_kept_and_what_was_found_is_kept_too,
    a_radius_is_a_criterion_of_success,
    curved,
    finds_the_nearest,
)
from attack.oracles import REGIMES, case
from ironglass.attack.minimum.deepfool import Boundaries
from ironglass.core.values import Bounds, Norm, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp
from ironglass.ops.halfspace import shortest


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_nearest_point(norm: Norm, regime: str, classes: int, masked: bool, targeted: bool) -> None:
    finds_the_nearest("deepfool", norm, regime, classes=classes, masked=masked, targeted=targeted)


@pytest.mark.parametrize("norm", NORMS)
def test_float32_is_enough(norm: Norm) -> None:
    finds_the_nearest("deepfool", norm, "saturated", dtype=torch.float32)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [3, 12])
def test_on_a_linear_model_the_nearest_of_many_boundaries_is_crossed(norm: Norm, classes: int) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        net = nn.Sequential(nn.Flatten(), nn.Linear(50, classes)).double().eval()
        x = torch.rand(60, 1, 5, 10, dtype=torch.float64)
    x[::2] = x[::2].round()
    weight, y = net[1].weight.detach(), net(x).argmax(1)
    scores = net(x).detach()
    best = torch.full((60,), INF, dtype=torch.float64)
    for k in range(classes):
        normal, gap = (weight[k] - weight[y]).reshape(x.shape), scores.gather(1, y[:, None])[:, 0] - scores[:, k]
        step = shortest(normal, gap, x, Threat(norm, INF), Bounds(0, 1))
        there = ((normal * step).flatten(1).sum(1) >= gap - 1e-9) & (y != k)
        best = torch.where(there, best.minimum(lp.norm(step, norm)), best)
    assert bool(best.isfinite().all())
    result = ig.attack.deepfool(net, x, y, Threat(norm, INF), candidates=classes)
    assert bool(result.success.all())
    assert float((result.distance / best).median()) <= 1.005
    assert float((result.distance / best <= 1.005).double().mean()) >= 0.95, (
        "another class may be met within the overshoot"
    )


def test_boundaries_are_compared_within_the_box() -> None:
    """The second plane is nearer for a free walk, the first within the box."""
    normals = torch.tensor([[[1.0, 1.0], [10.0, 2.0]]])
    gaps = torch.tensor([[0.5, 1.2]])
    x = torch.tensor([[0.95, 0.5]])
    step, which = Boundaries(normals, gaps).nearest(x, Threat("l2", INF), Bounds(0, 1))
    assert which.tolist() == [1]
    assert step[0].tolist() == pytest.approx([0.05, 0.35], abs=1e-5)
    one, _ = Boundaries(normals[:, :1], gaps[:, :1]).nearest(x, Threat("l2", INF), Bounds(0, 1))
    assert one[0].tolist() == pytest.approx([0.05, 0.45], abs=1e-5)


def test_a_linear_model_takes_one_jacobian_and_a_few_looks() -> None:
    made = case("interior", 10, lead=2.5)
    result = ig.attack.deepfool(made.net, made.x, made.y, ig.L2(INF))
    assert int(result.queries.max()) <= 13, (
        "the first look, a Jacobian, the point, and up to five times a gradient and a point"
    )
    assert result.cost.backward <= 8 * 15


def test_a_sample_that_is_across_leaves_the_batch() -> None:
    net, x, y = curved()
    near = x[:20]
    together = ig.attack.deepfool(net, x, y, ig.L2(INF))
    alone = ig.attack.deepfool(net, near, y[:20], ig.L2(INF))
    assert torch.allclose(alone.adversarial, together.adversarial[:20], atol=1e-9)
    assert torch.equal(alone.queries, together.queries[:20])
    assert int(together.queries.min()) < int(together.queries.max())


def test_only_the_candidates_are_followed() -> None:
    net, x, y = curved(classes=30)
    few = ig.attack.deepfool(net, x, y, ig.L2(INF), candidates=3)
    many = ig.attack.deepfool(net, x, y, ig.L2(INF), candidates=30)
    assert bool(few.success.all())
    assert few.cost.backward < many.cost.backward / 4
    assert float(many.distance.mean()) <= float(few.distance.mean())


@pytest.mark.parametrize("norm", NORMS)
def test_budget_and_radius(norm: Norm) -> None:
    a_budget_is_kept_and_what_was_found_is_kept_too("deepfool", norm)
    a_radius_is_a_criterion_of_success("deepfool", norm)


def test_a_flat_model_is_given_up_at_once() -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([3.0, -1.0]) + 0 * x.flatten(1)[:, :2]

    x = torch.rand(3, 1, 4, 4)
    model = wrap(Flat().eval())
    result = ig.attack.deepfool(model, x, torch.zeros(3, dtype=torch.long), ig.L2(INF))
    assert not bool(result.success.any())
    assert torch.equal(result.adversarial, x)
    assert int(result.queries.max()) <= 2


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    for options in ({"steps": 0}, {"overshoot": -0.1}, {"candidates": 1}):
        with pytest.raises(ValueError, match="candidates="):
            ig.attack.deepfool(net, x, y, ig.L2(INF), **options)
