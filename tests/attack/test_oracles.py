"""The oracles themselves, against general solvers that know nothing of their formulae."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from attack.oracles import REGIMES, case, gain, least


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, room = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    room[2], a[4] = 0, 0
    return a, room


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.05, 0.6, 9.0])
def test_the_most_gain_is_that_of_a_general_solver(seed: int, eps: float) -> None:
    a, room = draw(seed)
    for norm, limits in (("l1", room), ("linf", room.clamp(max=eps))):
        program = linprog(
            -a.numpy(),
            A_ub=np.ones((1, 7)) if norm == "l1" else None,
            b_ub=[eps] if norm == "l1" else None,
            bounds=[(0, float(limit)) for limit in limits],
        )
        assert gain(a, room, norm, eps) == pytest.approx(-program.fun, abs=1e-9)
    found = minimize(
        lambda s: -float(a @ torch.from_numpy(s)),
        np.full(7, 1e-3),
        bounds=[(0, float(limit)) for limit in room],
        constraints=[{"type": "ineq", "fun": lambda s: eps**2 - s @ s, "jac": lambda s: -2 * s}],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert gain(a, room, "l2", eps) == pytest.approx(-found.fun, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_least_norm_is_where_the_most_gain_is_the_gap(seed: int, norm: str) -> None:
    a, room = draw(seed)
    for share in (0.05, 0.5, 0.97):
        gap = share * float(a @ room)
        radius = least(a, room, norm, gap)
        assert gain(a, room, norm, radius) == pytest.approx(gap, rel=1e-9)
        assert gain(a, room, norm, radius * 0.99) < gap
    assert least(a, room, norm, 1.01 * float(a @ room)) == float("inf")
    assert least(a, room, norm, -1.0) == 0


def test_in_the_interior_they_are_the_dual_norms() -> None:
    a, room = draw(0)[0], torch.full((7,), 100.0, dtype=torch.float64)
    for norm, dual in (("linf", a.sum()), ("l2", a.norm()), ("l1", a.max())):
        assert gain(a, room, norm, 0.3) == pytest.approx(0.3 * float(dual))
        assert least(a, room, norm, 0.3) == pytest.approx(0.3 / float(dual))


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("regime", REGIMES)
def test_a_case_has_one_near_class(regime: str, classes: int) -> None:
    made = case(regime, classes, lead=4.0)
    scores = made.net(made.x)
    assert torch.equal(scores.argmax(1), made.y)
    assert float(made.gaps()[0].detach()) == pytest.approx(4.0)
    if classes > 2:
        assert float((scores[:, 0] - scores[:, 1:-1].amax(1)).min().detach()) > 40
    moved = made.x + 0.01 * made.weight.sign().reshape(1, 1, 28, 28)
    taken = made.gaps() - (made.net(moved)[:, 0] - made.net(moved)[:, made.near])
    assert torch.allclose(made.won(moved), taken.detach())
