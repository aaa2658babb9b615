"""One step, on linear models where it is the best that can be done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.oracles import REGIMES, case
from ironglass.core.values import Threat

RADII = {"linf": 0.1, "l2": 2.0, "l1": 8.0}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_among_ten_classes_it_takes_all_that_the_nearest_has(regime: str, norm: str, loss: str) -> None:
    made = case(regime, 10, lead=12.0)
    threat = Threat(norm, RADII[norm])  # type: ignore[arg-type]
    result = ig.attack.fgsm(made.net, made.x, made.y, threat, loss=loss)
    assert bool((made.won(result.adversarial) >= (1 - 1e-9) * made.gain(norm, RADII[norm])).all())
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-12)
    assert result.queries.tolist() == [2] * len(made.x), "the first look, and the gradient"


@pytest.mark.parametrize("norm", RADII)
def test_the_runner_calls_it_a_success_exactly_where_the_gain_covers_the_gap(norm: str) -> None:
    made = case("saturated", 10, lead=2.5, count=12)
    radius = float(made.least(norm).median())
    result = ig.attack.fgsm(made.net, made.x, made.y, Threat(norm, radius * (1 + 1e-6)))  # type: ignore[arg-type]
    assert torch.equal(result.success, made.least(norm) <= radius)
    assert 0 < int(result.success.sum()) < len(made.x)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("regime", REGIMES)
def test_a_vanishing_gradient_still_has_a_direction(regime: str, norm: str) -> None:
    made = case(regime, 2, lead=12.0, dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.net.parameters():
            parameter.mul_(1e-30)
    result = ig.attack.fgsm(made.net, made.x, made.y, Threat(norm, RADII[norm]), loss="margin")  # type: ignore[arg-type]
    assert bool((made.won(result.adversarial) >= 0.99999 * made.gain(norm, RADII[norm])).all())


def test_no_gradient_is_no_step() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    nn.init.zeros_(net[1].weight)  # type: ignore[arg-type]
    x = torch.rand(2, 4)
    result = ig.attack.fgsm(net, x, net(x).argmax(1), ig.L2(1.0))
    assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize("eps", [1 / 255, 8 / 255])
def test_rounding_never_leaves_the_ball(eps: float) -> None:
    made = case("interior", 2, lead=9.0, dtype=torch.float32)
    result = ig.attack.fgsm(made.net, made.x, made.y, ig.Linf(eps))
    moved = (result.adversarial.double() - made.x.double()).abs().flatten(1)
    assert float(moved.max()) <= eps * (1 + 1e-7)
    assert float(moved.min()) >= eps * (1 - 1e-4)
