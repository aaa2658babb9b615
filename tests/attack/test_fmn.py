"""The fast minimum-norm attack in its four norms."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.nearest import (
    INF,
    NORMS,
    a_budget_is_kept_and_what_was_found_is_kept_too,
    a_radius_is_a_criterion_of_success,
    curved,
    finds_the_nearest,
    moves_the_fewest,
)
from attack.oracles import REGIMES, case
from ironglass.core.values import Norm, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp, radii
from ironglass.ops.polish import Aim
from ironglass.ops.radius import walk


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_nearest_point(norm: Norm, regime: str, masked: bool, targeted: bool) -> None:
    finds_the_nearest("fmn", norm, regime, masked=masked, targeted=targeted, steps=20)


@pytest.mark.parametrize("norm", NORMS)
def test_two_classes_and_float32(norm: Norm) -> None:
    finds_the_nearest("fmn", norm, "saturated", classes=2, steps=20, dtype=torch.float32)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("targeted", [False, True])
def test_in_l0_it_moves_the_fewest_values(regime: str, targeted: bool) -> None:
    moves_the_fewest("fmn", regime, targeted, steps=20)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("regime", REGIMES)
def test_the_walk_alone_comes_near_the_boundary(norm: Norm, regime: str) -> None:
    """Without the polish at the end: what the radius itself comes to."""
    made = case(regime, 10, lead=2.5)
    goal = ig.Avoid(made.y)
    session, meter = wrap(made.net).session(made.x, goal=goal)
    point = walk(
        session, made.x, Aim(goal), Threat(norm, INF),
        steps=60, loss=goal.loss("margin"), step_size=1.0, shrink=(0.05, 0.001), onto=radii.project, jump=True,
    )  # fmt: skip
    assert bool(goal.reached(made.net(point)).all())
    assert float((lp.norm(point - made.x, norm) / made.least(norm)).max()) <= (1.03 if norm != "l1" else 1.2)
    assert meter.queries.tolist() == [60] * 8


@pytest.mark.parametrize("norm", [*NORMS, "l0"])
def test_it_is_about_as_short_as_deepfool_where_one_step_is_almost_all(norm: Norm) -> None:
    net, x, y = curved()
    ours = ig.attack.fmn(net, x, y, Threat(norm, INF))
    assert bool(ours.success.all())
    assert int(ours.queries.max()) <= 1 + 50 + 70
    if norm != "l0":
        other = ig.attack.deepfool(net, x, y, Threat(norm, INF))
        assert float(ours.distance.mean()) < 1.02 * float(other.distance.mean())


@pytest.mark.parametrize("norm", [*NORMS, "l0"])
def test_budget_and_radius(norm: Norm) -> None:
    a_budget_is_kept_and_what_was_found_is_kept_too("fmn", norm)
    if norm != "l0":
        a_radius_is_a_criterion_of_success("fmn", norm, steps=20)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    for options in ({"steps": 0}, {"step_size": 0.0}, {"gamma": 1.0}):
        with pytest.raises(ValueError, match="gamma="):
            ig.attack.fmn(net, x, y, ig.L2(INF), **options)
