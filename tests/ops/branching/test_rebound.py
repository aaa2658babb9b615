from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enumeration import least_margin, small_mlp
from ironglass.core.properties import margin_property
from ironglass.ops.bounds import Interval
from ironglass.ops.branching import rebound
from ironglass.ops.branching.complete import by_signs
from ironglass.ops.branching.lined import Lined, lined
from ironglass.ops.branching.problem import Budget, make_problem
from ironglass.ops.branching.rebound import rebounded
from ironglass.ops.branching.signs import Effort
from ironglass.ops.capture import capture
from ironglass.ops.linear import intervals

LOW, HIGH = torch.full((3,), 0.15, dtype=torch.float64), torch.full((3,), 0.85, dtype=torch.float64)
SEEDS = (13, 22, 32, 35)
AT_ONCE = Effort(early=0, piece=0, inner=0, attack=False)
"""Nothing but pieces, as long as there is a ReLU before the last to split."""


def net_of(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return small_mlp(seed, sizes=(3, 4, 4, 3, 3), scale=3.0, dtype=dtype)


def between_lines(net: nn.Sequential, dtype: torch.dtype = torch.float64) -> Lined:
    start = Interval(LOW[None].to(dtype), HIGH[None].to(dtype))
    graph = capture(net, torch.cat([start.lower, start.upper]), dtype)
    return lined(graph, start, intervals(graph, start))


def some_signs(net: Lined, values: list[Tensor], generator: torch.Generator) -> dict[int, Tensor]:
    """About half the signs of one of the points."""
    point = int(torch.randint(len(values[0]), (1,), generator=generator))
    found = {}
    for step in net.relus:
        sign = values[net.before(step)][point : point + 1].sign() * net.unstable(step)
        found[step] = (sign * torch.randint(2, sign.shape, generator=generator)).to(torch.int8)
    return found


def steps_of(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = [x]
    for layer in net:
        found.append(layer(found[-1]))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_point_with_the_signs_is_inside_and_intervals_shrink(seed: int, dtype: torch.dtype) -> None:
    net = net_of(seed, dtype)
    whole, generator = between_lines(net, dtype), torch.Generator().manual_seed(seed)
    x = LOW.to(dtype) + torch.rand(20000, 3, generator=generator, dtype=dtype) * (HIGH - LOW).to(dtype)
    values = steps_of(net, x)
    assert len(values) == len(whole.relaxed.graph.steps)
    shrunk = met = 0
    for _ in range(12):
        signs = some_signs(whole, values, generator)
        of_these = torch.ones(len(x), dtype=torch.bool)
        for step, sign in signs.items():
            of_these &= (values[whole.before(step)] * sign >= 0).all(1)
        found = rebounded(whole, signs)
        assert found is not None
        met += int(of_these.sum())
        for index, value in enumerate(values):
            x_, old = found.relaxed.values[index], whole.relaxed.values[index]
            assert bool((value[of_these] >= x_.lower).all())
            assert bool((value[of_these] <= x_.upper).all())
            shrunk += int((x_.upper - x_.lower < old.upper - old.lower - 1e-3).sum())
    assert met > 100
    assert shrunk > 10


def test_signs_that_no_point_has_are_found_out() -> None:
    """One ReLU's input is the negative of the other's, but for a constant: both cannot be above 0 far enough."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net.eval().requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 1, 1], [-1, -1, -1]]))
    net[0].bias.copy_(torch.tensor([-1.5, 1.5]))
    net[2].weight.copy_(torch.eye(2))
    net[2].bias.copy_(torch.tensor([-0.2, -0.2]))
    whole = between_lines(net)
    one = torch.ones(1, 2, dtype=torch.int8)
    none = torch.zeros(1, 2, dtype=torch.int8)
    assert rebounded(whole, {whole.relus[0]: none, whole.relus[1]: none}) is not None
    assert rebounded(whole, {whole.relus[0]: one, whole.relus[1]: one}) is None


def decides(seed: int, offset: float) -> bool:
    """Whether the margin is proven to be above what lies so far below (or above) its exact minimum."""
    net = net_of(seed)
    label = int(net(((LOW + HIGH) / 2)[None]).argmax())
    exact = least_margin(net, LOW, HIGH, label)
    with torch.no_grad():
        net[-1].bias[label] -= exact + offset
    problem = make_problem(net, margin_property(label, 3, LOW, HIGH).cases, (3,))
    graph = problem.graph()
    return by_signs(problem, graph, intervals(graph, problem.start), None, Budget(None, 4000), AT_ONCE).bound > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_limits_on_either_side_of_the_exact_minimum_are_told_apart(seed: int) -> None:
    assert decides(seed, -0.01)
    assert not decides(seed, 0.01)


def test_pieces_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above reach what they test."""
    cut: list[int] = []
    halves = rebound._halves

    def counted(*args: Any) -> Any:
        cut.append(1)
        return halves(*args)

    monkeypatch.setattr(rebound, "_halves", counted)
    assert decides(SEEDS[0], -0.01)
    assert len(cut) > 1


def test_canary_one_half_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = rebound._halves
    monkeypatch.setattr(rebound, "_halves", lambda *args: halves(*args)[:1])
    assert any(decides(seed, 0.01) for seed in SEEDS)


def test_canary_half_spaces_on_the_wrong_side(monkeypatch: pytest.MonkeyPatch) -> None:
    half_spaces = rebound.half_spaces
    monkeypatch.setattr(
        rebound, "half_spaces", lambda start, rows, *args, **how: half_spaces(start, -rows, *args, **how)
    )
    assert any(decides(seed, 0.01) for seed in SEEDS)
