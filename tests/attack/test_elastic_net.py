"""The elastic-net attack on linear models, where the smallest change in the box is known."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

import ironglass as ig
from attack.oracles import REGIMES, Case, case, room_of
from ironglass.core.values import Norm, Threat
from nets import images, small_cnn

INF = float("inf")


def smallest_net(case: Case, beta: float) -> Tensor:
    """The least elastic-net distance that reaches the near class: bisection on the constant, a row at a time."""
    least = []
    for row, gap in zip(case.x.double().flatten(1), case.gaps().tolist(), strict=True):
        size, room = case.weight.abs(), room_of(case.weight, row)
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            moves = ((middle * size - beta) / 2).clamp(min=0).minimum(room)
            low, high = (middle, high) if float(size @ moves) < gap else (low, middle)
        moves = ((high * size - beta) / 2).clamp(min=0).minimum(room)
        least.append(float(beta * moves.sum() + moves.square().sum()))
    return torch.tensor(least, dtype=torch.float64)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_smallest_change_is_found(regime: str, norm: Norm, targeted: bool, masked: bool) -> None:
    known = case(regime, 10, lead=0.6)
    mask = None
    if masked:
        mask = torch.zeros(1, 28, 28, dtype=torch.bool)
        mask[:, 4:24, 4:24] = True
    goal = ig.Reach(torch.full_like(known.y, known.near)) if targeted else ig.Avoid(known.y)
    result = ig.attack.elastic_net(known.net, known.x, goal, Threat(norm, INF, mask))
    assert bool(result.success.all())
    assert float((result.distance / known.least(norm, mask)).max()) <= 1.005


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 100.0])
def test_the_elastic_net_rule_nears_the_smallest_elastic_net(regime: str, beta: float) -> None:
    known = case(regime, 10, lead=0.6)
    result = ig.attack.elastic_net(known.net, known.x, known.y, ig.L1(INF), beta=beta, rule="en", steps=150, targets=1)
    assert bool(result.success.all())
    delta = (result.adversarial - known.x).flatten(1)
    net = beta * delta.abs().sum(1) + delta.square().sum(1)
    assert float((net / smallest_net(known, beta)).max()) <= 1.02


def test_float32_finds_as_much() -> None:
    known = case("saturated", 10, lead=0.6, dtype=torch.float32)
    result = ig.attack.elastic_net(known.net, known.x, known.y, ig.L1(INF))
    assert bool(result.success.all())
    assert float((result.distance.double() / known.least("l1")).max()) <= 1.005


def test_each_rule_keeps_what_is_smallest_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("ironglass.attack.sparse.elastic_net")
    monkeypatch.setattr(module, "polish", lambda model, x, found, *_, **__: found)
    net, x = small_cnn(dtype=torch.float64).eval(), images(24, dtype=torch.float64)
    y = net(x).argmax(1)
    sizes = {}
    for rule in ("norm", "en"):
        delta = (ig.attack.elastic_net(net, x, y, ig.L1(INF), beta=0.5, rule=rule, steps=60).adversarial - x).flatten(1)
        sizes[rule] = delta.abs().sum(1), 0.5 * delta.abs().sum(1) + delta.square().sum(1)
    assert bool((sizes["norm"][0] <= sizes["en"][0] + 1e-12).all())
    assert bool((sizes["en"][1] <= sizes["norm"][1] + 1e-12).all())
    assert not torch.equal(sizes["norm"][0], sizes["en"][0])


def test_a_large_beta_is_sparse_and_a_small_one_is_not() -> None:
    known = case("interior", 10, lead=0.6)
    moved = []
    for beta in (0.0, 0.1, 100.0):
        result = ig.attack.elastic_net(known.net, known.x, known.y, ig.L1(INF), beta=beta, rule="en")
        moved.append(float((result.adversarial != known.x).flatten(1).sum(1).double().mean()))
    assert moved[0] > 700 > 400 > moved[1] > 20 > moved[2]


def test_more_targets_only_help_and_the_cost_is_bounded() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(24, dtype=torch.float64)
    y = net(x).argmax(1)
    one, two = (ig.attack.elastic_net(net, x, y, ig.L1(INF), rule="en", targets=n) for n in (1, 2))
    assert bool((two.success >= one.success).all())
    assert int(one.queries.max()) <= 1 + 26 + 8
    assert int(two.queries.max()) <= 1 + 1 + 2 * 26 + 8
    polished = ig.attack.elastic_net(net, x, y, ig.L1(INF))
    assert polished.cost.forward + polished.cost.backward <= 24 * (1 + 2 * 2 * 26 + 49)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x = small_cnn().eval(), images(2)
    y = net(x).argmax(1)
    for options in ({"steps": 0}, {"targets": 0}, {"beta": -1.0}, {"beta": float("nan")}):
        with pytest.raises(ValueError, match="give at least 1 step"):
            ig.attack.elastic_net(net, x, y, ig.L1(1.0), **options)
