from __future__ import annotations

import pytest
import torch
from scipy.optimize import linprog

from enumeration import small_mlp
from ironglass.ops.bounds import Interval
from ironglass.ops.capture import capture
from ironglass.ops.linear import bounded, lower
from ironglass.ops.linear.cuts import Cuts, climbed_within, half_spaces

LOW, HIGH = torch.full((1, 3), 0.2, dtype=torch.float64), torch.full((1, 3), 0.8, dtype=torch.float64)
START = Interval(LOW, HIGH)


def cuts(seed: int) -> Cuts:
    """Half-spaces that the middle of the box is inside of."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return Cuts(rows, -rows @ ((LOW + HIGH) / 2)[0] - 0.05)


@pytest.mark.parametrize("seed", range(4))
def test_where_the_rows_are_affine_it_is_the_linear_program(seed: int) -> None:
    net = torch.nn.Sequential(*small_mlp(seed)[:1])
    graph = capture(net, torch.cat([LOW, HIGH]), torch.float64)
    relaxed, held = bounded(graph, START), cuts(seed)
    rows = torch.eye(5, dtype=torch.float64)[None]
    found = climbed_within(held, 300, 0.5, START, rows, relaxed)[0]
    for row in range(5):
        weight, bias = net[0].weight[row].numpy(), float(net[0].bias[row])
        sides = list(zip(LOW[0].tolist(), HIGH[0].tolist(), strict=True))
        exact = linprog(weight, A_ub=held.rows.numpy(), b_ub=-held.offsets.numpy(), bounds=sides).fun + bias
        assert exact - 5e-3 <= float(found[row]) <= exact + 1e-9
    assert bool((found >= lower(START, rows, relaxed)[0] - 1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_no_point_that_the_cuts_leave_is_below(seed: int, dtype: torch.dtype) -> None:
    net = small_mlp(seed, sizes=(3, 9, 8, 3), scale=2.5, dtype=dtype)
    start = Interval(LOW.to(dtype), HIGH.to(dtype))
    graph = capture(net, torch.cat([start.lower, start.upper]), dtype)
    held = cuts(seed)
    rows = torch.cat([torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])[None]
    relaxed = bounded(graph, start)
    found = climbed_within(held, 20, 0.5, start, rows, relaxed)[0]
    x = start.lower + torch.rand(20000, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.6
    inside = (x.double() @ held.rows.T + held.offsets <= 0).all(1)
    assert 100 < int(inside.sum()) < 20000
    values = net(x[inside]).double() @ rows[0].double().T
    assert bool((found <= values.amin(0) + 1e-6).all())
    assert bool((found > lower(start, rows, relaxed)[0] + 1e-3).any())


@pytest.mark.parametrize("seed", range(4))
def test_half_spaces_hold_where_the_rows_are_at_most_zero(seed: int) -> None:
    net = small_mlp(seed, sizes=(3, 9, 8, 3), scale=2.5)
    graph = capture(net, torch.cat([LOW, HIGH]), torch.float64)
    relaxed = bounded(graph, START)
    x = LOW + torch.rand(5000, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6
    eye = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])[None]
    found = half_spaces(START, eye, relaxed, at=len(graph.steps) - 1)
    values = net(x) @ eye[0].T
    assert bool((x @ found.rows.T + found.offsets <= values + 1e-9).all())
