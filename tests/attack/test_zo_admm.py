"""ZO-ADMM: its fixed point, and its closed forms against a search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.attack.zeroth.zo_admm import Term, _hard, _level, _soft, _square, splitting
from ironglass.core.values import Bounds

BOX = Bounds(-100, 100)


def settled(centre: Tensor, threat: ig.Threat, term: Term, gamma: float, steps: int = 4000) -> Tensor:
    """Where the splitting ends for the function -|x - centre|^2 / 2, with its true gradient."""
    x = torch.zeros_like(centre)
    rule = splitting(x, threat, BOX, term=term, gamma=gamma, rho=2.0, alpha=0.2)
    rows, point = torch.arange(len(x)), x
    for step in range(steps):
        point = rule(centre - point, point, rows, step)
    return point


def test_the_fixed_point_is_the_known_one() -> None:
    centre = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gamma in (0.0, 0.3, 1.0):
        found = settled(centre, ig.Linf(0.2), "l2", gamma)
        assert torch.allclose(found, (centre / (1 + 2 * gamma)).clamp(-0.2, 0.2), atol=1e-6)
        free = settled(centre, ig.Linf(float("inf")), "l1", gamma)
        assert torch.allclose(free, centre.sign() * (centre.abs() - gamma).clamp(min=0), atol=1e-6)


def test_it_settles_in_an_l2_ball() -> None:
    centre = torch.randn(5, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = settled(centre, ig.L2(0.5), "l2", 0.0)
    assert torch.allclose(found, 0.5 * centre / centre.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("term", ["l2", "l1", "l0", "linf"])
@pytest.mark.parametrize("seed", range(3))
def test_no_point_near_by_is_better(term: Term, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size, limit = 2 * torch.rand(2, 1, 12, generator=generator, dtype=torch.float64)
    weight = 0.4

    def cost(z: Tensor) -> Tensor:
        kept = {
            "l2": z.square().sum(1),
            "l1": z.abs().sum(1),
            "l0": (z != 0).double().sum(1),
            "linf": z.abs().amax(1),
        }[term]
        return weight * kept + 0.5 * (z - size).square().sum(1)

    best = {"l2": _square, "l1": _soft, "l0": _hard, "linf": _level}[term](size, limit, weight).minimum(limit)
    noise = torch.randn(20_000, 12, generator=generator, dtype=torch.float64)
    scale = 10 ** (-3 * torch.rand(20_000, 1, generator=generator, dtype=torch.float64))
    trials = (best + scale * noise).clamp(min=0).minimum(limit)
    zeros = torch.where(torch.rand(20_000, 12, generator=generator) < 0.2, 0.0, trials)
    kept = torch.where(torch.rand(20_000, 12, generator=generator) < 0.8, best.expand_as(zeros), zeros)
    for tried in (trials, zeros, kept):
        assert float(cost(tried).min()) >= float(cost(best)) - 1e-12


def test_the_l0_term_changes_few_values() -> None:
    weight = torch.cat([5 * torch.ones(4, dtype=torch.float64), 0.01 * torch.ones(60, dtype=torch.float64)])

    def scores(x: Tensor) -> Tensor:
        away = (x.flatten(1) - 0.5) @ weight
        return torch.stack([torch.full_like(away, 3.0), away], 1)

    x = torch.full((3, 1, 8, 8), 0.5, dtype=torch.float64) + 1e-3 * torch.arange(3).reshape(3, 1, 1, 1)
    result = ig.attack.zo_admm(scores, x, torch.zeros(3, dtype=torch.long), ig.L0(6), max_queries=3000, term="l0")
    assert bool(result.success.all())
    assert float(result.distance.max()) <= 6
