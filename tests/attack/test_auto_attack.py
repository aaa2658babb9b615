"""AutoAttack: never weaker than a part of it, for any number of classes and any shape; each part on what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.oracles import case
from attack.test_bim import curved
from ironglass.core.method import get
from ironglass.core.values import Norm, Threat

QUICK: dict[str, Any] = {"steps": 12, "targets": 3, "max_queries": 60}
RADII: dict[Norm, float] = {"linf": 0.02, "l2": 0.15, "l1": 0.7}


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_never_weaker_than_any_of_its_parts(norm: Norm, targeted: bool) -> None:
    net, x, y = curved()
    goal = ig.Reach((y + 1) % 6) if targeted else ig.Avoid(y)
    threat = Threat(norm, RADII[norm] * (2 if targeted else 1))
    whole = ig.attack.auto_attack(net, x, goal, threat, **QUICK)
    parts = [("auto_pgd", {"restarts": 5 if norm == "l1" else 1}), ("square", {"max_queries": 60})]
    if not targeted:
        parts.append(("auto_pgd", {"loss": "dlr", "targets": 3, "seed": 2}))
    won = torch.zeros_like(whole.success)
    for name, options in parts:
        steps = {"steps": 12} if name == "auto_pgd" else {}
        result = get(name)(net, x, goal, threat, **steps, **options)  # type: ignore[operator]
        won |= result.success
    assert bool((whole.success >= won).all())
    assert 0 < int(whole.success.sum()) < len(x), "the radius makes some fall and some stand"


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(("regime", "version"), [("saturated", "standard"), ("interior", "plus")])
def test_success_comes_exactly_where_it_is_attainable(norm: Norm, regime: str, version: str) -> None:
    made = case(regime, 3, lead=2.5, count=4)
    radius = float(made.least(norm).median())
    for share in (0.99, 1.01):
        threat = Threat(norm, radius * share)
        result = ig.attack.auto_attack(made.net, made.x, made.y, threat, version=version, **QUICK | {"steps": 8})  # type: ignore[arg-type]
        assert torch.equal(result.success, made.least(norm) <= radius * share)


@pytest.mark.parametrize(("classes", "shape"), [(2, (9,)), (3, (2, 5, 7)), (5, (3, 2, 4, 4)), (40, (1, 6, 6))])
@pytest.mark.parametrize("norm", RADII)
def test_any_number_of_classes_and_any_shape(classes: int, shape: tuple[int, ...], norm: Norm) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        x = torch.rand(10, *shape)
        net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 16), nn.ReLU(), nn.Linear(16, classes)).eval()
    with torch.no_grad():
        net[3].bias -= net(x).mean(0)  # type: ignore[operator]
    y = net(x).argmax(1)
    result = ig.attack.auto_attack(net, x, y, Threat(norm, {"linf": 0.3, "l2": 1.0, "l1": 3.0}[norm]), **QUICK)
    assert result.adversarial.shape == x.shape
    assert result.success_rate > 0.5
    assert torch.equal(result.success, result.after.argmax(1) != y)


def test_each_part_gets_only_what_the_ones_before_have_left() -> None:
    made = case("interior", 10, lead=2.5, count=10)
    radius = float(made.least("linf").median())
    result = ig.attack.auto_attack(made.net, made.x, made.y, ig.Linf(radius), steps=20, max_queries=50)
    assert int(result.queries[result.success].max()) <= 22, "cross-entropy suffices on a linear model"
    left = result.queries[~result.success]
    assert int(left.min()) > 20 + 9 * 20 + 50
    expected = result.cost.forward + result.cost.backward
    assert expected / 10 <= get("auto_attack").card.passes(10, {"steps": 20, "max_queries": 50}) + 1


def test_the_options_of_the_parts_are_heeded() -> None:
    made = case("interior", 3, lead=60.0, count=4)
    run = ig.attack.auto_attack.with_(targets=2, fab_steps=7, max_queries=30)
    few = run(made.net, made.x, made.y, ig.Linf(0.01), steps=5)
    assert not bool(few.success.any())
    climbs, walks = 6 + 1 + 2 * 6, 1 + 2 * 11
    assert few.queries.tolist() == [1 + climbs + walks + 30] * 4
    assert int((run(made.net, made.x, made.y, ig.Linf(0.01), steps=9).queries - few.queries)[0]) == 3 * 4
    plus = run(made.net, made.x, made.y, ig.Linf(0.01), steps=5, version="plus")
    assert int(plus.queries[0]) > int(few.queries[0]) + 8 * 6


def test_a_seed_is_an_answer_and_another_is_another() -> None:
    net, x, y = curved()
    first, again, other = (ig.attack.auto_attack(net, x, y, ig.Linf(0.02), seed=seed, **QUICK) for seed in (0, 0, 1))
    assert torch.equal(first.adversarial, again.adversarial)
    assert not torch.equal(first.adversarial, other.adversarial)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    with pytest.raises(ValueError, match="auto_attack needs a finite eps"):
        ig.attack.auto_attack(net, x, y, ig.L2(float("inf")))
    with pytest.raises(ValueError, match="max_queries=0"):
        ig.attack.auto_attack(net, x, y, ig.L2(1.0), max_queries=0)
