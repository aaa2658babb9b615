"""Carlini and Wagner: all regimes, confidence, and the search on the constant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.nearest import (
    INF,
    a_budget_is_kept_and_what_was_found_is_kept_too,
    a_radius_is_a_criterion_of_success,
    curved,
    finds_the_nearest,
    moves_the_fewest,
)
from attack.oracles import REGIMES, case
from ironglass.core.values import Norm, Threat

SMOOTH: tuple[Norm, ...] = ("l2", "linf")


@pytest.mark.parametrize("norm", SMOOTH)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_nearest_point(norm: Norm, regime: str, masked: bool, targeted: bool) -> None:
    finds_the_nearest("carlini_wagner", norm, regime, masked=masked, targeted=targeted, steps=20)


@pytest.mark.parametrize("norm", SMOOTH)
def test_two_classes_and_float32(norm: Norm) -> None:
    finds_the_nearest("carlini_wagner", norm, "saturated", classes=2, steps=20, dtype=torch.float32)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("targeted", [False, True])
def test_in_l0_it_moves_the_fewest_values(regime: str, targeted: bool) -> None:
    moves_the_fewest("carlini_wagner", regime, targeted, steps=20)


@pytest.mark.parametrize("constant", [1e-4, 1e-2, 50.0])
@pytest.mark.parametrize("norm", SMOOTH)
def test_the_search_makes_up_for_a_constant_of_the_wrong_size(norm: Norm, constant: float) -> None:
    net, x, y = curved()
    right = ig.attack.carlini_wagner(net, x, y, Threat(norm, INF))
    wrong = ig.attack.carlini_wagner(net, x, y, Threat(norm, INF), constant=constant, search_steps=8)
    assert bool(wrong.success.all())
    assert float(wrong.distance.mean()) <= 1.25 * float(right.distance.mean())


@pytest.mark.parametrize("norm", ["l2", "linf", "l0"])
def test_confidence_is_a_margin_that_is_reached(norm: Norm) -> None:
    made = case("interior", 10, lead=2.5)
    sure = ig.attack.carlini_wagner(made.net, made.x, made.y, Threat(norm, INF), confidence=2.0)
    margin = ig.Avoid(made.y).loss("margin")(sure.after, slice(None))
    assert bool((margin >= 2.0 - 1e-6).all())
    assert float(margin.max()) <= (2.1 if norm != "l0" else 3.5)
    plain = ig.attack.carlini_wagner(made.net, made.x, made.y, Threat(norm, INF))
    assert bool((sure.distance > plain.distance).all())


def test_it_is_the_shortest_of_the_l2_attacks_at_fewer_than_300_passes() -> None:
    net, x, y = curved()
    ours = ig.attack.carlini_wagner(net, x, y, ig.L2(INF))
    assert bool(ours.success.all())
    assert (ours.cost.forward + ours.cost.backward) / len(x) <= 300
    for name in ("deepfool", "ddn", "fmn"):
        other = getattr(ig.attack, name)(net, x, y, ig.L2(INF))
        assert float(ours.distance.mean()) <= 1.002 * float(other.distance.mean())


def test_values_at_the_end_of_the_box_move_also_where_all_logits_are_negative() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 4)).eval()
        x = torch.rand(30, 1, 6, 6).round()
    with torch.no_grad():
        net[3].bias -= 100
        y = net(x).argmax(1)
        assert float(net(x).max()) < -50
    for norm in ("l2", "linf", "l0"):
        result = ig.attack.carlini_wagner(net, x, y, Threat(norm, INF))  # type: ignore[arg-type]
        assert result.success_rate == 1, norm


@pytest.mark.parametrize("norm", ["l2", "linf", "l0"])
def test_budget_and_radius(norm: Norm) -> None:
    a_budget_is_kept_and_what_was_found_is_kept_too("carlini_wagner", norm)
    if norm != "l0":
        a_radius_is_a_criterion_of_success("carlini_wagner", norm)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    for options in ({"steps": 0}, {"search_steps": 0}, {"step_size": 0.0}, {"constant": 0.0}, {"confidence": -1.0}):
        with pytest.raises(ValueError, match="confidence="):
            ig.attack.carlini_wagner(net, x, y, ig.L2(INF), **options)
