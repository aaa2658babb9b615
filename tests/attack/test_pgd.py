"""Many steps, on linear models where the optimum is known, and on nets where more steps must not be worse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.oracles import REGIMES, case
from ironglass.core.values import Threat

RADII = {"linf": 0.1, "l2": 2.0, "l1": 8.0}


def curved(classes: int = 6) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, classes)).eval()
        x = torch.rand(48, 1, 8, 8)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("random_start", [False, True])
def test_it_takes_all_that_can_be_taken(regime: str, norm: str, classes: int, random_start: bool) -> None:
    made = case(regime, classes, lead=12.0)
    threat = Threat(norm, RADII[norm])  # type: ignore[arg-type]
    result = ig.attack.pgd(made.net, made.x, made.y, threat, random_start=random_start)
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm])).all())
    assert not bool(result.success.any())
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-9)
    assert result.queries.tolist() == [42] * len(made.x), "the first look, 40 gradients, and the last point"


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("random_start", [False, True])
def test_a_target_in_a_mask_is_approached_as_far_as_can_be(norm: str, random_start: bool) -> None:
    made = case("saturated", 10, lead=12.0)
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, 3:25, 10:26] = True
    goal, threat = ig.Reach(torch.full((8,), made.near)), Threat(norm, RADII[norm], mask)  # type: ignore[arg-type]
    result = ig.attack.pgd(made.net, made.x, goal, threat, random_start=random_start)
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm], mask)).all())
    assert torch.equal(torch.where(mask, made.x, result.adversarial), made.x)


@pytest.mark.parametrize("norm", RADII)
def test_the_runner_calls_it_a_success_exactly_where_the_gap_can_be_closed(norm: str) -> None:
    made = case("saturated", 10, lead=2.5, count=12)
    radius = float(made.least(norm).median())
    for share in (0.999, 1.001):
        result = ig.attack.pgd(made.net, made.x, made.y, Threat(norm, radius * share), steps=60)  # type: ignore[arg-type]
        assert torch.equal(result.success, made.least(norm) <= radius * share)


@pytest.mark.parametrize("norm", RADII)
def test_float32_stays_in_the_ball_and_loses_nothing(norm: str) -> None:
    made = case("saturated", 10, lead=8.0, dtype=torch.float32)
    threat = Threat(norm, RADII[norm])  # type: ignore[arg-type]
    result = ig.attack.pgd(made.net, made.x, made.y, threat, loss="margin")
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm])).all())
    exact = (result.adversarial.double() - made.x.double()).flatten(1)
    size = exact.norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=1)
    assert float(size.max()) <= RADII[norm] * (1 + 1e-6)


@pytest.mark.parametrize("norm", RADII)
def test_more_steps_and_more_restarts_are_not_worse(norm: str) -> None:
    net, x, y = curved()
    threat = Threat(norm, {"linf": 0.03, "l2": 0.25, "l1": 1.0}[norm])  # type: ignore[arg-type]
    rates = [ig.attack.pgd(net, x, y, threat, steps=steps).success_rate for steps in (1, 5, 40)]
    assert rates[0] <= rates[1] + 0.03 <= rates[2] + 0.06
    once = ig.attack.pgd(net, x, y, threat, steps=5)
    thrice = ig.attack.pgd(net, x, y, threat, steps=5, restarts=3)
    assert bool((thrice.success >= once.success).all())


def test_a_constant_step_is_kept_constant() -> None:
    made = case("interior", 2, lead=12.0)
    result = ig.attack.pgd(made.net, made.x, made.y, ig.Linf(0.1), steps=3, step_size=0.02, random_start=False)
    assert torch.allclose(result.distance, torch.full_like(result.distance, 0.06))
    one = ig.attack.pgd(made.net, made.x, made.y, ig.Linf(0.1), steps=1, random_start=False)
    assert torch.allclose(one.distance, torch.full_like(one.distance, 0.1)), "one step goes all the way"


def test_a_budget_ends_it_early_and_is_kept() -> None:
    made = case("interior", 2, lead=12.0)
    model = ig.wrap(made.net, max_queries=10)
    result = ig.attack.pgd(model, made.x, made.y, ig.Linf(0.1))
    assert int(result.queries.max()) <= 10
    assert not result.partial
    assert float(made.won(result.adversarial).min()) > 0
