"""Finite differences: exact on a linear model, at two queries a value."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.oracles import REGIMES, SIZE, case
from ironglass.core.values import Norm, Threat

RADII: dict[Norm, float] = {"linf": 0.1, "l2": 2.0, "l1": 8.0}


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("masked", [False, True])
def test_one_step_gains_all_that_can_be_gained(norm: Norm, regime: str, masked: bool) -> None:
    made = case(regime, 2, lead=40.0, count=3)
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, 5:20, 3:] = True
    given = mask if masked else None
    result = ig.attack.finite_differences(made.net, made.x, made.y, Threat(norm, RADII[norm], given), max_queries=1600)
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm], given)).all())
    values = int(mask.sum()) if masked else SIZE
    assert result.queries.tolist() == [1 + 2 * values + 1] * 3, "the first look, the differences, and a last look"


def test_with_too_few_queries_a_random_part_is_measured() -> None:
    made = case("interior", 2, lead=40.0, count=3)
    result = ig.attack.finite_differences(made.net, made.x, made.y, ig.Linf(0.1), max_queries=201)
    moved = (result.adversarial != made.x).flatten(1)
    assert moved.sum(1).tolist() == [100] * 3
    assert not torch.equal(moved[0], moved[1])
    whole = made.gain("linf", 0.1)
    assert bool((made.won(result.adversarial) > 0.07 * whole).all())


def test_more_steps_go_farther_on_what_is_not_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 6, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(36, 12, generator=generator, dtype=torch.float64)
    head = torch.randn(12, 3, generator=generator, dtype=torch.float64)

    def scores(x: torch.Tensor) -> torch.Tensor:
        return 4 * (x.flatten(1) @ weight).sin() @ head

    y = scores(x).argmax(1)
    once, often = (
        ig.attack.finite_differences(scores, x, y, ig.Linf(0.12), max_queries=2000, steps=steps) for steps in (1, 10)
    )
    assert float(often.success.double().mean()) > float(once.success.double().mean())
