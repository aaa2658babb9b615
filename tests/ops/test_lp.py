"""Balls in boxes against slow references: linear programs by SciPy, bisection, enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from attack.oracles import gain, room_of
from ironglass.core.values import Bounds, Norm, Threat
from ironglass.ops import lp

UNIT = Bounds(0, 1)
CONVEX: list[Norm] = ["linf", "l2", "l1"]


def points(count: int, size: int, seed: int = 0, saturated: bool = False) -> tuple[Tensor, Tensor]:
    """Returns centres in the box and points around them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.rand(count, size, generator=generator, dtype=torch.float64)
    if saturated:
        origin = origin.round()
    return origin, origin + torch.randn(count, size, generator=generator, dtype=torch.float64)


def attainable(grad: np.ndarray, x: np.ndarray, norm: Norm, eps: float) -> float:
    """The most that a linear function gains: a linear program, and for l2 a bisection on the multiplier."""
    low, high = -x, 1 - x
    if norm == "linf":
        box = list(zip(np.maximum(low, -eps), np.minimum(high, eps), strict=True))
        return -float(linprog(-grad, bounds=box).fun)
    if norm == "l1":
        split = np.concatenate([-grad, grad])
        box = list(zip(np.zeros(2 * len(x)), np.concatenate([high, -low]), strict=True))
        return -float(linprog(split, A_ub=np.ones((1, 2 * len(x))), b_ub=[eps], bounds=box).fun)
    room = np.where(grad > 0, high, -low)
    few, many = 0.0, 1e6
    for _ in range(200):
        middle = (few + many) / 2
        few, many = (few, middle) if np.linalg.norm(np.minimum(middle * abs(grad), room)) > eps else (middle, many)
    return float(abs(grad) @ np.minimum(few * abs(grad), room))


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("eps", [0.05, 0.4, 1.5])
@pytest.mark.parametrize("size", [3, 20])
def test_projection_is_the_nearest_point(norm: Norm, saturated: bool, eps: float, size: int) -> None:
    """A point p of a convex set is nearest to x if and only if no q of the set has (x - p)(q - p) > 0."""
    origin, x = points(40, size, seed=int(eps * 100), saturated=saturated)
    ours = lp.project(x, origin, Threat(norm, eps), UNIT)
    for row in range(len(x)):
        away, step = (x[row] - ours[row]).numpy(), (ours[row] - origin[row]).numpy()
        best = attainable(away, origin[row].numpy(), norm, eps)
        assert best - away @ step <= 1e-9 * max(1.0, abs(best))


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_stays_inside_and_is_idempotent(norm: Norm, dtype: torch.dtype) -> None:
    origin, x = points(200, 37, seed=1)
    origin, x = origin.to(dtype), x.to(dtype)
    threat = Threat(norm, {"linf": 0.1, "l2": 0.7, "l1": 1.3, "l0": 5}[norm])
    once = lp.project(x, origin, threat, UNIT)
    assert bool(((once >= 0) & (once <= 1)).all())
    assert float(lp.norm(once.double() - origin.double(), norm).max()) <= threat.eps * (1 + 1e-6)
    assert torch.allclose(lp.project(once, origin, threat, UNIT), once, atol=1e-6)
    inside = lp.project(origin, origin, threat, UNIT)
    assert torch.equal(inside, origin)


@pytest.mark.parametrize("norm", CONVEX)
def test_projection_brings_no_two_points_further_apart(norm: Norm) -> None:
    origin, x = points(300, 20, seed=2)
    _, y = points(300, 20, seed=3)
    threat = Threat(norm, 0.6)
    near = lp.project(x, origin, threat, UNIT) - lp.project(y, origin, threat, UNIT)
    assert bool((near.norm(dim=1) <= (x - y).norm(dim=1) + 1e-12).all())


def test_projection_on_l0_is_the_best_choice_of_values() -> None:
    origin, x = points(30, 6, seed=4)
    ours = lp.project(x, origin, Threat("l0", 2), UNIT)
    for row in range(30):
        best = np.inf
        for kept in itertools.combinations(range(6), 2):
            tried = origin[row].clone()
            tried[list(kept)] = x[row][list(kept)].clamp(0, 1)
            best = min(best, float((tried - x[row]).square().sum()))
        assert float((ours[row] - x[row]).square().sum()) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_nothing_moves_outside_the_mask(norm: Norm) -> None:
    origin, x = points(20, 12, seed=5)
    mask = (torch.arange(12) % 3 == 0)[None]
    threat = Threat(norm, 2.0, mask)
    for point in (lp.project(x, origin, threat, UNIT), origin + lp.maximize(x, origin, threat, UNIT)):
        assert torch.equal(point.where(~mask, origin), origin)
    free = lp.project(x[:, ::3], origin[:, ::3], Threat(norm, 2.0), UNIT)
    assert torch.allclose(lp.project(x, origin, threat, UNIT)[:, ::3], free)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("eps", [0.02, 0.5, 3.0])
def test_the_steepest_step_gains_all_that_can_be_gained(norm: Norm, saturated: bool, eps: float) -> None:
    x, other = points(10, 15, seed=6, saturated=saturated)
    grad = other - x
    grad[:, 3] = 0
    step = lp.maximize(grad, x, Threat(norm, eps), UNIT)
    assert bool(((x + step >= -1e-12) & (x + step <= 1 + 1e-12)).all())
    assert float(lp.norm(step, norm).max()) <= eps * (1 + 1e-9)
    for row in range(10):
        most = attainable(grad[row].numpy(), x[row].numpy(), norm, eps)
        assert float(grad[row] @ step[row]) == pytest.approx(most, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_no_gradient_and_no_radius_mean_no_step(norm: Norm) -> None:
    x, other = points(4, 9, seed=7)
    assert not bool(lp.maximize(torch.zeros_like(x), x, Threat(norm, 1.0), UNIT).any())
    assert not bool(lp.maximize(other - x, x, Threat(norm, 0.0), UNIT).any())
    assert torch.equal(lp.project(other, x, Threat(norm, 0.0), UNIT), x)


@pytest.mark.parametrize("norm", CONVEX)
def test_a_row_does_not_depend_on_the_other_rows(norm: Norm) -> None:
    origin, x = points(40, 25, seed=8)
    threat = Threat(norm, 0.8)
    whole = lp.project(x, origin, threat, UNIT)
    step = lp.maximize(x - origin, origin, threat, UNIT)
    for row in (0, 17, 39):
        one = slice(row, row + 1)
        assert torch.allclose(lp.project(x[one], origin[one], threat, UNIT), whole[one], atol=1e-14)
        assert torch.allclose(lp.maximize((x - origin)[one], origin[one], threat, UNIT), step[one], atol=1e-14)


@pytest.mark.parametrize("norm", CONVEX)
def test_ties_and_photographs(norm: Norm) -> None:
    origin = torch.full((2, 150528), 0.5, dtype=torch.float64)
    x = origin + torch.tensor([0.25, -0.25], dtype=torch.float64)[:, None]
    eps = 2.0
    projected = lp.project(x, origin, Threat(norm, eps), UNIT)
    size = {"linf": 0.25, "l2": eps / 150528**0.5, "l1": eps / 150528}[norm]
    assert torch.allclose((projected - origin).abs(), torch.full_like(x, size), rtol=1e-9)
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(2, 150528, generator=generator)
    noisy = photo + torch.randn(photo.shape, generator=generator) * 0.1
    distance = lp.norm((lp.project(noisy, photo, Threat(norm, eps), UNIT) - photo).double(), norm)
    assert float(distance.max()) <= eps * (1 + 1e-6)
    if norm != "linf":
        assert float(distance.min()) >= eps * (1 - 1e-4), "the budget is used up where the point lies outside"


def test_norms_and_duals() -> None:
    delta = torch.tensor([[3.0, -4.0, 0.0]])
    assert [float(lp.norm(delta, name)) for name in ("linf", "l2", "l1", "l0")] == [4, 5, 7, 2]
    assert [lp.dual(name) for name in ("linf", "l2", "l1")] == ["l1", "l2", "linf"]


@pytest.mark.parametrize("bounds", [Bounds(0, 255), Bounds(-3, 2)])
def test_other_bounds_are_the_same_geometry(bounds: Bounds) -> None:
    origin, x = points(20, 10, seed=9)
    scale = lambda v: v * bounds.span + bounds.low  # noqa: E731
    for norm in CONVEX:
        unit = lp.project(x, origin, Threat(norm, 0.5), UNIT)
        other = lp.project(scale(x), scale(origin), Threat(norm, 0.5 * bounds.span), bounds)
        assert torch.allclose(other, scale(unit), atol=1e-9 * bounds.span)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eps", [1e-3, 0.3, 2.0, 40.0])
def test_no_point_of_the_ball_lies_further_along_what_projection_took_away(
    norm: Norm, saturated: bool, masked: bool, eps: float
) -> None:
    """The variational inequality <x - p, z - p> <= 0 for all z: necessary and sufficient for p to be nearest."""
    origin, x = points(200, 50, seed=10, saturated=saturated)
    mask = (torch.arange(50) % 4 != 0)[None] if masked else None
    p = lp.project(x, origin, Threat(norm, eps, mask), UNIT)
    taken = (x - p) * (1 if mask is None else mask)
    for row in range(200):
        limit = room_of(taken[row], origin[row], None if mask is None else mask[0].double())
        most = gain(taken[row].abs(), limit, norm, eps)
        assert most - float(taken[row] @ (p[row] - origin[row])) <= 1e-9


@pytest.mark.parametrize("norm", CONVEX)
def test_a_ball_larger_than_the_box_is_the_box(norm: Norm) -> None:
    origin, x = points(20, 30, seed=11)
    for eps in (31.0, float("inf")):
        assert torch.allclose(lp.project(x, origin, Threat(norm, eps), UNIT), x.clamp(0, 1), atol=1e-15)
        ends = torch.where(x > origin, 1.0, 0.0).double()
        assert torch.allclose(origin + lp.maximize(x - origin, origin, Threat(norm, eps), UNIT), ends)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-12, 1e12, 1e30])
def test_the_steepest_step_does_not_depend_on_the_gradients_size(norm: Norm, scale: float) -> None:
    x, other = points(6, 40, seed=12, saturated=True)
    x, grad = x.float(), (other - x).float()
    plain = lp.maximize(grad, x, Threat(norm, 0.7), UNIT)
    scaled = lp.maximize(grad.double().mul(scale).float(), x, Threat(norm, 0.7), UNIT)
    assert torch.allclose(plain, scaled, atol=0.05 if scale < 1e-37 else 1e-6), "1e-40 has few digits left"
    assert float(lp.norm(scaled, norm).max()) <= 0.7 * (1 + 1e-6)


def test_values_of_very_unequal_worth_share_the_budget() -> None:
    x, grad = torch.tensor([[0.99, 0.5]]), torch.tensor([[1.0, 1e-25]])
    step = lp.maximize(grad, x, Threat("l2", 0.3), UNIT)
    assert step[0].tolist() == pytest.approx([0.01, (0.09 - 1e-4) ** 0.5], rel=1e-5)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("eps", [1 / 255, 0.5, 3.0])
def test_rounding_never_leaves_the_ball(norm: Norm, eps: float) -> None:
    """On an even picture every value rounds the same way, so that errors add up instead of cancelling."""
    origin = torch.full((1, 150528), 0.7)
    for step in (0.01, -0.01):
        p = lp.project(origin + step, origin, Threat(norm, eps), UNIT)
        exact = (p.double() - origin.double()).norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=1)
        assert float(exact) <= eps * (1 + 1e-6)
        assert float(exact) >= 0.98 * min(eps, {"linf": 0.01, "l2": 0.01 * 150528**0.5, "l1": 1505.28}[norm]) or (
            norm == "l1"
        ), "steps of an l1 ball spread so thin are shorter than a float can tell"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1.0, 12.0, 50.0])
def test_the_threshold_of_an_l1_ball_is_found_in_few_looks(
    dtype: torch.dtype, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, root = [0], lp.root

    def counted(at: object, low: Tensor, high: Tensor) -> Tensor:
        def look(here: Tensor) -> tuple[Tensor, Tensor]:
            looks[0] += 1
            return at(here)  # type: ignore[operator,no-any-return]

        return root(look, low, high)

    monkeypatch.setattr(lp, "root", counted)
    for seed in range(10):
        origin, x = points(8, 3000, seed=seed, saturated=seed % 2 == 0)
        origin, x = origin.to(dtype), x.to(dtype)
        p = lp.project(x, origin, Threat("l1", eps), UNIT)
        size = lp.norm(p.double() - origin.double(), "l1")
        assert float(size.max()) <= eps * (1 + 1e-6)
        assert float(size.min()) >= eps * (1 - (1e-5 if dtype == torch.float32 else 1e-12))
        assert looks[0] <= 30
        looks[0] = 0


@pytest.mark.parametrize("norm", [*CONVEX, "l0"])
def test_a_row_keeps_its_bits_in_any_company(norm: Norm) -> None:
    origin, x = points(30, 40, seed=13, saturated=True)
    origin, x, eps = origin.float(), x.float(), {"linf": 0.2, "l2": 0.9, "l1": 1.7, "l0": 7}[norm]
    rows = torch.tensor([29, 3, 11])
    threat = Threat(norm, eps)
    whole, some = (lp.project(x[r], origin[r], threat, UNIT) for r in (torch.arange(30), rows))
    assert torch.equal(whole[rows], some)
    whole, some = (lp.maximize((x - origin)[r], origin[r], threat, UNIT) for r in (torch.arange(30), rows))
    assert torch.equal(whole[rows], some)


def test_a_walk_in_an_l1_ball_moves_its_budget_to_where_it_helps_most() -> None:
    origin, other = points(5, 30, seed=14, saturated=True)
    grad, threat = other - origin, Threat("l1", 2.0)
    x = lp.project(
        origin + 0.3 * (torch.rand(5, 30, generator=torch.Generator().manual_seed(1)) - 0.5), origin, threat, UNIT
    )
    best = lp.maximize(grad, origin, threat, UNIT)
    gained = [(grad * (x - origin)).sum(1)]
    for _ in range(30):
        x = x + lp.stride(grad, x, origin, threat, 0.2, UNIT)
        assert float(lp.norm(x - origin, "l1").max()) <= 2.0 * (1 + 1e-12)
        gained.append((grad * (x - origin)).sum(1))
    assert bool((torch.stack(gained).diff(dim=0) >= -1e-12).all())
    assert torch.allclose(x - origin, best)
