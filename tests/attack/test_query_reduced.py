"""Query-reduced finite differences: what they cost, and what they see."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.oracles import case


@pytest.mark.parametrize(("group", "steps"), [(8, 1), (8, 3), (100, 2)])
def test_groups_cost_what_they_say(group: int, steps: int) -> None:
    made = case("interior", 2, lead=40.0, count=2)
    result = ig.attack.query_reduced(made.net, made.x, made.y, ig.Linf(0.05), group=group, steps=steps)
    assert result.queries.tolist() == [1 + steps * 2 * -(-784 // group) + 1] * 2
    assert bool((made.won(result.adversarial) > 0).all())


def test_components_that_span_the_gradient_give_all_of_it() -> None:
    made = case("interior", 2, lead=40.0, count=2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    basis = torch.randn(5, 784, generator=generator, dtype=torch.float64)
    basis[0] = made.weight
    data = (noise @ basis).reshape(-1, 1, 28, 28)
    result = ig.attack.query_reduced(
        made.net, made.x, made.y, ig.L2(0.5), by="pca", components=5, data=data, steps=1, radius=0.01
    )
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain("l2", 0.5)).all())
    assert result.queries.tolist() == [1 + 10 + 1] * 2
