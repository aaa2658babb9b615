from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from enumeration import small_mlp
from ironglass.ops.bounds import Interval
from ironglass.ops.branching.narrow import narrowed
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph
from ironglass.ops.linear import intervals, lower, relax

LOW = torch.full((1, 3), 0.3, dtype=torch.float64)
HIGH = LOW + 0.3


def made(net: nn.Module, dtype: torch.dtype) -> tuple[Graph, Interval, dict[int, Interval]]:
    start = Interval(LOW.to(dtype), HIGH.to(dtype))
    graph = capture(net, torch.cat([start.lower, start.upper]), dtype)
    return graph, start, intervals(graph, start)


def points(dtype: torch.dtype, count: int = 5000) -> Tensor:
    share = torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (LOW + (HIGH - LOW) * share).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_the_function_stays_on_the_box_and_bounds_are_no_looser(seed: int, dtype: torch.dtype) -> None:
    net = small_mlp(seed, sizes=(3, 12, 10, 9, 4), scale=2.5, dtype=dtype)
    graph, start, values = made(net, dtype)
    less, kept = narrowed(graph, values)
    dropped = sum(old.shape != new.shape for old, new in zip(graph.steps, less.steps, strict=True))
    assert dropped >= 4  # two layers at least, each a matrix and its ReLU
    x = points(dtype)
    torch.testing.assert_close(less(x), net(x))
    for index, step in enumerate(less.steps):
        assert kept[index].lower.shape == (1, *step.shape)
    rows = torch.eye(4, dtype=dtype)[None]
    bound = lower(start, rows, relax(less, kept))
    assert bool((bound <= net(x).amin(0) + 0).all())
    assert bool((bound >= lower(start, rows, relax(graph, values)) - 1e-5).all())


def test_what_may_be_positive_or_is_read_elsewhere_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Linear(3, 3, dtype=torch.float64) for _ in range(2))
            for layer in (self.first, self.second):
                layer.weight.data.copy_(torch.eye(3))
                layer.bias.data.copy_(torch.tensor([-5.0, 0.0, -0.45]))  # never, always, sometimes

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            return self.second(torch.relu(z)) + z

    net = Twice().eval().requires_grad_(False)
    graph, _, values = made(net, torch.float64)
    assert narrowed(graph, values)[0].steps == graph.steps
    chain = nn.Sequential(net.first, nn.ReLU(), net.second)
    graph, _, values = made(chain, torch.float64)
    less, _ = narrowed(graph, values)
    assert [step.shape for step in less.steps] == [(3,), (2,), (2,), (3,)]
    assert torch.equal(less(points(torch.float64)), chain(points(torch.float64)))


def test_a_layer_that_is_all_dead_and_one_that_is_nan_stay() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval().requires_grad_(False)
    net[0].bias.fill_(-100.0)
    graph, _, values = made(net, torch.float64)
    assert narrowed(graph, values)[0].steps == graph.steps
    values[1] = Interval(values[1].lower, values[1].upper * torch.nan)
    assert narrowed(graph, values)[0].steps == graph.steps
