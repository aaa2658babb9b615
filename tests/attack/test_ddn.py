"""Decoupled direction and norm."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.nearest import (
    INF,
    a_budget_is_kept_and_what_was_found_is_kept_too,
    a_radius_is_a_criterion_of_success,
    curved,
    finds_the_nearest,
)
from attack.oracles import REGIMES


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 10])
def test_it_finds_the_nearest_point(regime: str, masked: bool, targeted: bool, classes: int) -> None:
    finds_the_nearest("ddn", "l2", regime, masked=masked, targeted=targeted, classes=classes, steps=30)


def test_float32_is_enough() -> None:
    finds_the_nearest("ddn", "l2", "saturated", dtype=torch.float32, steps=30)


def test_it_is_about_as_short_as_deepfool_also_with_ten_steps() -> None:
    net, x, y = curved()
    near = ig.attack.deepfool(net, x, y, ig.L2(INF)).distance.mean()
    few, many = (ig.attack.ddn(net, x, y, ig.L2(INF), steps=steps) for steps in (10, 100))
    assert bool(few.success.all())
    assert bool(many.success.all())
    assert float(many.distance.mean()) <= float(few.distance.mean()) + 1e-3
    assert float(few.distance.mean()) < 1.02 * float(near)
    assert int(many.queries.max()) <= 1 + 100 + 30


def test_budget_and_radius() -> None:
    a_budget_is_kept_and_what_was_found_is_kept_too("ddn", "l2")
    a_radius_is_a_criterion_of_success("ddn", "l2", steps=30)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    for options in ({"steps": 0}, {"step_size": -1.0}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match="gamma="):
            ig.attack.ddn(net, x, y, ig.L2(INF), **options)
    with pytest.raises(ValueError, match="works in l2"):
        ig.attack.ddn(net, x, y, ig.Linf(0.1))
