"""The batched L-BFGS against SciPy's L-BFGS-B."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor
from torch.nn import functional as F

from ironglass.ops.lbfgs import Lbfgs, minimize

SIZE, CLASSES = 30, 4


class Regression:
    """The attack's own problem on a linear softmax model: c |r|^2 + cross-entropy, convex, in a box."""

    def __init__(self, count: int, c: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = 3 * torch.randn(CLASSES, SIZE, generator=generator, dtype=torch.float64)
        self.origin = (torch.rand(count, SIZE, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
        self.target = torch.arange(count) % CLASSES
        self.c = c * 4.0 ** torch.arange(count, dtype=torch.float64)
        self.asked = torch.zeros(count, dtype=torch.long)

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.asked[rows] += 1
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(x @ self.weight.T, self.target[rows], reduction="none")
        value = self.c[rows] * (x - self.origin[rows]).square().sum(1) + loss
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    def best(self, row: int) -> float:
        at = torch.tensor([row])

        def one(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, grad = self(torch.tensor(x)[None], at)
            return float(value), grad[0].numpy()

        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
        found = scipy_minimize(
            one, self.origin[row], jac=True, method="L-BFGS-B", bounds=[(0, 1)] * SIZE, options=options
        )
        return float(found.fun)


def box() -> tuple[Tensor, Tensor]:
    return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("c", [1e-4, 1e-2])
def test_a_convex_objective_ends_where_scipys_does(c: float) -> None:
    problem = Regression(8, c)
    found = minimize(problem, problem.origin, *box(), steps=200, tolerance=1e-8)
    assert bool(((found >= 0) & (found <= 1)).all())
    values = problem(found, torch.arange(8))[0]
    for row in range(8):
        best = problem.best(row)
        assert float(values[row]) <= best + 1e-6 * max(1.0, best)


def test_it_needs_few_evaluations() -> None:
    problem = Regression(8, 1e-2)
    minimize(problem, problem.origin, *box(), steps=200, tolerance=1e-4)
    ours = problem.asked.clone()
    problem.asked.zero_()
    for row in range(8):
        problem.best(row)
    assert int(ours.sum()) <= 2 * int(problem.asked.sum())


def test_a_row_does_not_depend_on_the_others() -> None:
    problem = Regression(8, 1e-3)
    whole = minimize(problem, problem.origin, *box(), steps=25)
    part = torch.tensor([6, 1, 3])
    alone = minimize(lambda x, rows: problem(x, part[rows]), problem.origin[part], *box(), steps=25)
    assert torch.allclose(whole[part], alone, atol=1e-12)


def test_a_quadratic_with_its_optimum_at_a_corner_is_solved_exactly() -> None:
    centre = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.2, 5.0]], dtype=torch.float64)
    stiff = torch.tensor([1.0, 50.0, 1000.0], dtype=torch.float64)

    def bowl(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        away = x - centre[rows]
        return (stiff * away.square()).sum(1) / 2, stiff * away

    found = minimize(bowl, torch.full((2, 3), 0.3, dtype=torch.float64), *box(), steps=60, tolerance=1e-12)
    assert torch.allclose(found, centre.clamp(0, 1), atol=1e-9)


def test_a_valley_that_bends_is_followed_to_its_end() -> None:
    def banana(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        a, b = 1 - x[:, 0], x[:, 1] - x[:, 0] ** 2
        return a**2 + 100 * b**2, torch.stack([-2 * a - 400 * x[:, 0] * b, 200 * b], 1)

    start = torch.tensor([[-1.2, 1.0], [0.0, 2.0]], dtype=torch.float64)
    wide = torch.full((1,), 3.0, dtype=torch.float64)
    found = minimize(banana, start, -wide, wide, steps=150, tolerance=1e-10)
    assert torch.allclose(found, torch.ones(2, 2, dtype=torch.float64), atol=1e-6)


def test_values_never_rise_and_values_that_are_not_finite_are_stepped_back_from() -> None:
    def wall(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x[:, 0] > 0.7, torch.nan, -x[:, 0]), -torch.ones_like(x)

    solver = Lbfgs(torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    seen = [0.0]
    for _ in range(60):
        rows = solver.active.nonzero()[:, 0]
        if not len(rows):
            break
        solver.tell(rows, *wall(solver.trial(rows), rows))
        seen.append(float(solver.point))
    assert seen == sorted(seen)
    assert 0.001 < seen[-1] <= 0.7


def test_where_nothing_helps_a_row_is_finished() -> None:
    def lying(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(1), -torch.ones_like(x)

    solver = Lbfgs(torch.full((2, 3), 0.5), torch.zeros(1), torch.ones(1))
    for _ in range(50):
        rows = solver.active.nonzero()[:, 0]
        if not len(rows):
            break
        solver.tell(rows, *lying(solver.trial(rows), rows))
    assert not bool(solver.active.any())
    assert torch.equal(solver.point, torch.full((2, 3), 0.5))
