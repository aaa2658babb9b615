from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.values import Threat
from ironglass.ops.linear import intervals, lower, relax
from ironglass.ops.linear.engine import differences
from ironglass.ops.program import solve, targets
from ironglass.ops.proofs import opened
from minima import mlp


def points(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def triangle(net: nn.Sequential, x: Tensor, y: int, j: int, limits: list[tuple[Any, Any]], eps: float) -> float:
    """The program of the paper, written out plainly: variables for every layer, three rows a ReLU that may switch."""
    weights = [(part.weight.numpy(), part.bias.numpy()) for part in net if isinstance(part, nn.Linear)]
    sizes = [len(x), *(n for _, bias in weights[:-1] for n in (len(bias),) * 2)]
    starts = np.cumsum([0, *sizes])
    total = int(starts[-1])
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * total
    for i, value in enumerate(x.tolist()):
        bounds[i] = (max(value - eps, 0), min(value + eps, 1))
    a_eq, b_eq, a_ub, b_ub = [], [], [], []
    for layer, (weight, bias) in enumerate(weights[:-1]):
        before, z, a = starts[2 * layer], starts[2 * layer + 1], starts[2 * layer + 2]
        before = 0 if layer == 0 else starts[2 * layer]
        for i in range(len(bias)):
            row = np.zeros(total)
            row[z + i] = 1
            row[before : before + weight.shape[1]] = -weight[i]
            a_eq.append(row)
            b_eq.append(bias[i])
            low, high = limits[layer][0][i], limits[layer][1][i]
            row = np.zeros(total)
            row[a + i] = 1
            if high <= 0:
                a_eq.append(row)
                b_eq.append(0.0)
            elif low >= 0:
                row[z + i] = -1
                a_eq.append(row)
                b_eq.append(0.0)
            else:
                bounds[a + i] = (0, None)
                over, under = row.copy(), -row
                over[z + i] = -high / (high - low)
                under[z + i] = 1
                a_ub += [over, under]
                b_ub += [-high * low / (high - low), 0.0]
    weight, bias = weights[-1]
    cost = np.zeros(total)
    cost[starts[-2] :] = weight[y] - weight[j]
    found = linprog(cost, np.array(a_ub) if a_ub else None, b_ub or None, np.array(a_eq), b_eq, bounds)
    return float(found.fun + bias[y] - bias[j])


@pytest.mark.parametrize("sizes", [(4, 8, 3), (4, 7, 6, 3)])
def test_it_is_the_program_of_the_paper(sizes: tuple[int, ...]) -> None:
    net, x, eps = mlp(sizes), points(3, 4), 0.1
    y = net(x).argmax(1)
    model = ig.wrap(net).session(x, "training", None, None)[0]
    graph, start = opened(model, x, ig.Linf(eps))
    values = intervals(graph, start)
    before = [step.inputs[0] for step in graph.steps if getattr(step.op, "name", "") == "relu"]
    for target in range(3):
        found = ig.certify.convex_polytope(net, x, y, ig.Linf(eps), every=True, target=target).margin
        for row in range(3):
            if target != int(y[row]):
                limits = [(values[i].lower[row].numpy(), values[i].upper[row].numpy()) for i in before]
                exact = triangle(net, x[row], int(y[row]), target, limits, eps)
                assert exact - 2e-5 <= float(found[row]) <= exact + 1e-4  # limits may be better than those


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_order_of_bounds_holds_for_every_sample(norm: Any) -> None:
    """Intervals, the fast dual, the program, the tightened program, the exact minimum, the attack."""
    net, x = mlp((5, 12, 12, 4), 3), points(10, 5)
    y, threat = net(x).argmax(1), Threat(norm, {"linf": 0.1, "l1": 0.25}[norm])
    at = [
        ig.certify.interval(net, x, y, threat).margin,
        ig.certify.convex_polytope(net, x, y, threat, every=True).margin,
        ig.certify.convex_polytope(net, x, y, threat, every=True, tighten=True).margin,
        ig.certify.milp(net, x, y, threat, minimum=True).margin,
    ]
    attack = ig.attack.pgd(net, x, y, threat, steps=60, restarts=2).adversarial
    scores = net(attack)
    at.append(scores.gather(1, y[:, None])[:, 0] - scores.scatter(1, y[:, None], -torch.inf).amax(1))
    for first, second in itertools.pairwise(at):
        assert bool((first <= second + 2e-4).all())
    assert float((at[1] - at[0]).max()) > 1e-2
    assert float((at[3] - at[1]).max()) > 1e-2
    assert float((at[2] - at[1]).max()) > 1e-6
    assert bool((ig.certify.convex_polytope(net, x, y, threat, fast=True).margin <= at[1] + 1e-6).all())


def test_the_program_is_at_least_as_tight_as_the_fast_dual_on_the_same_limits() -> None:
    """For every class: the dual network's slopes are one feasible point, those of crown another."""
    net, x, threat = mlp((5, 14, 12, 4), 1), points(6, 5), ig.Linf(0.08)
    y = net(x).argmax(1)
    graph, start = opened(ig.wrap(net).session(x, "training", None, None)[0], x, threat)
    values = intervals(graph, start)
    rows = differences(y, 4, torch.float64)
    gaps = []
    for target in range(4):
        found = ig.certify.convex_polytope(net, x, y, threat, every=True, target=target).margin
        for slopes in ("same", "adaptive"):
            dual = lower(start, rows, relax(graph, values, slopes))[:, target]  # type: ignore[arg-type]
            other = y != target
            assert bool((dual <= found + 1e-6)[other].all())
            gaps.append(float((found - dual)[other].max()))
    assert max(gaps) > 1e-3


def test_the_fast_dual_is_fast_lin_and_works_in_l2() -> None:
    net, x = mlp((5, 14, 12, 4), 1), points(6, 5)
    y = net(x).argmax(1)
    for threat in (ig.Linf(0.05), ig.L2(0.1), ig.L1(0.2)):
        fast = ig.certify.convex_polytope(net, x, y, threat, fast=True)
        assert torch.equal(fast.margin, ig.certify.fast_lin(net, x, y, threat).margin)
    with pytest.raises(InputError, match="no polytope"):
        ig.certify.convex_polytope(net, x, y, ig.L2(0.1))


def test_without_pieces_that_switch_it_is_exact() -> None:
    net, x = mlp((4, 6, 3), 2), points(4, 4)
    y = net(x).argmax(1)
    loose = ig.certify.convex_polytope(net, x, y, ig.Linf(1e-4), every=True).margin
    assert torch.allclose(loose, ig.certify.milp(net, x, y, ig.Linf(1e-4), minimum=True).margin, atol=1e-6)


def test_a_solver_that_lies_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multipliers that are off cost tightness, never soundness; those that are not finite prove nothing."""
    net, x = mlp((4, 8, 8, 3), 2), points(4, 4)
    y = net(x).argmax(1)
    honest = ig.certify.convex_polytope(net, x, y, ig.Linf(0.1), every=True).margin
    exact = ig.certify.milp(net, x, y, ig.Linf(0.1), minimum=True).margin
    kept = solve.dual_bound
    monkeypatch.setattr(solve, "dual_bound", lambda system, costs, found: kept(system, costs, found * 1.7 + 0.1))
    lied = ig.certify.convex_polytope(net, x, y, ig.Linf(0.1), every=True).margin
    assert bool((lied <= exact + 1e-6).all())
    assert bool((lied < honest - 1e-6).any())
    monkeypatch.setattr(targets, "linear", lambda *_: solve.Solution(float("nan"), None, True))
    assert bool((ig.certify.convex_polytope(net, x, y, ig.Linf(0.1), every=True).margin <= honest + 1e-6).all())


def test_points_of_the_program_that_break_the_network_are_counterexamples() -> None:
    net, x = mlp((4, 8, 8, 3), 3), points(12, 4)
    y = net(x).argmax(1)
    result = ig.certify.convex_polytope(net, x, y, ig.Linf(0.2))
    assert int(result.falsified.sum()) > 0
    assert not bool((result.falsified & result.verified).any())
    assert bool((net(result.counterexample[result.falsified]).argmax(1) != y[result.falsified]).all())
