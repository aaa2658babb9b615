from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from bound_nets import BOX, contained, inputs, make
from ironglass.core.values import L1, L2, Linf, Threat
from ironglass.ops.bounds import Interval, region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph
from ironglass.ops.linear import climbed, differences, intervals, lower, relax, sharpened, sharpening, slopes
from ironglass.ops.linear.relaxations import Lines

THREATS = [Linf(0.08), L2(0.5), L1(1.5)]
BENT = ["mlp", "residual", "joined", "leaky_relu", "abs", "broadcast add"]


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def opened(name: str, threat: Threat, dtype: torch.dtype = torch.float64) -> tuple[Graph, Interval, Tensor]:
    net, x = make(name), inputs()
    graph = capture(net, x, dtype)
    return graph, region(x, threat, BOX, torch.float32, dtype), differences(torch.arange(3), 4, dtype)


def sharpest(graph: Graph, start: Interval, y: Tensor) -> tuple[dict[int, Interval], Tensor]:
    """All that alpha-CROWN does, with nothing cut by what intervals prove of the margins."""
    rows = differences(y, graph.steps[-1].shape[0], start.lower.dtype)
    relaxed, tape = relax(graph, intervals(graph, start)), {}
    lower(start, rows, relaxed, tape=tape)
    values = sharpened(start, relaxed, tape, steps=3, share=0.7)
    return values, climbed(start, rows, relax(graph, values), steps=8)[0]


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("name", BENT)
def test_the_gradient_of_a_bound_by_its_slopes_is_exact(name: str, threat: Threat) -> None:
    graph, start, rows = opened(name, threat)
    relaxed = relax(graph, intervals(graph, start))
    generator = torch.Generator().manual_seed(0)
    free = {i: lines for i, lines in relaxed.lines.items() if isinstance(lines, Lines) and lines.free is not None}
    leaves = {}
    for i, lines in free.items():
        draw = torch.rand(3, 4, *lines.lower.slope.shape[1:], generator=generator, dtype=torch.float64)
        low, high = lines.choice
        leaves[i] = (low + (high - low) * (0.05 + 0.9 * draw)).requires_grad_()
    lower(start, rows, relaxed, alphas=leaves).sum().backward()
    tape: dict[int, Tensor] = {}
    fixed = {i: leaf.detach() for i, leaf in leaves.items()}
    lower(start, rows, relaxed, alphas=fixed, tape=tape)
    seen = slopes.replayed(start, relaxed, tape, fixed)
    for i, lines in free.items():
        assert lines.free is not None
        ours = tape[i].clamp(min=0) * seen[i] * lines.free[:, None]
        assert leaves[i].grad is not None
        size = float(ours.abs().max())
        assert torch.allclose(ours, leaves[i].grad, atol=1e-3 * size + 1e-12), graph.steps[i].name
    assert any(float(leaf.grad.abs().max()) > 0 for leaf in leaves.values() if leaf.grad is not None)


@pytest.mark.parametrize("name", [*BENT, "max_pool", "tanh", "gelu", "stride", "relu6"])
def test_no_point_of_the_ball_leaves_bounds_that_climbed(name: str) -> None:
    contained(make(name), inputs(), THREATS[0], sharpest, count=1500, climbs=5)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_climbing_gains_and_never_loses(threat: Threat) -> None:
    graph, start, rows = opened("mlp", Threat(threat.norm, threat.eps * 2))
    values = intervals(graph, start)
    relaxed = relax(graph, values)
    before = lower(start, rows, relaxed)
    few, many = (climbed(start, rows, relaxed, steps=steps)[0] for steps in (2, 30))
    assert bool((few >= before).all())
    assert bool((many >= before).all())
    assert float((many - before).max()) > 1e-3
    found, kept = climbed(start, rows, relaxed, steps=10)
    assert torch.allclose(lower(start, rows, relaxed, alphas=kept), found)
    tape: dict[int, Tensor] = {}
    lower(start, rows, relaxed, tape=tape)
    tighter = sharpened(start, relaxed, tape, steps=3, share=1.0)
    assert all(bool((tighter[i].lower >= values[i].lower - 1e-12).all()) for i in values)
    assert bool((lower(start, rows, relax(graph, tighter)) >= before - 0.05 * before.abs()).all())
    assert sum(float((tighter[i].lower - values[i].lower).sum()) for i in values) > 1e-3


def test_the_best_slopes_of_a_small_net_are_found() -> None:
    """Against a grid over both slopes of a net with two bent values."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 0.6], [0.4, -1.0]]))
    net[0].bias.copy_(torch.tensor([0.3, -0.2]))
    net[2].weight.copy_(torch.tensor([[1.0, 1.3]]))
    x = torch.zeros(1, 2, dtype=torch.float64)
    graph, start = capture(net, x.float(), torch.float64), Interval(x - 1, x + 1)
    relaxed, row = relax(graph, intervals(graph, start)), torch.ones(1, 1, 1, dtype=torch.float64)
    axis = torch.linspace(0, 1, 41, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, -1, 2)
    best = lower(start, row.expand(1, 1681, 1), relaxed, alphas={2: grid}).max()
    found = climbed(start, row, relaxed, steps=60)[0]
    assert float(best) - 1e-2 <= float(found) <= float(best) + 1e-2
    assert float(best) > float(lower(start, row, relaxed)) + 0.1


def test_slopes_out_of_range_are_not_taken() -> None:
    graph, start, rows = opened("mlp", THREATS[0])
    relaxed = relax(graph, intervals(graph, start))
    wild, tame = (
        {i: torch.full((3, 4, *lines.lower.slope.shape[1:]), value) for i, lines in relaxed.lines.items()}
        for value in (7.0, 1.0)
    )
    assert torch.equal(lower(start, rows, relaxed, alphas=wild), lower(start, rows, relaxed, alphas=tame))


def bounds_of_another_climb(patch: pytest.MonkeyPatch) -> None:
    """The best row's bound for every row."""
    inner = sharpening.climbed

    def wrong(*args: object, **options: object) -> tuple[Tensor, object]:
        best, kept = inner(*args, **options)  # type: ignore[arg-type]
        return best.roll(1, 1), kept

    patch.setattr(sharpening, "climbed", wrong)


def test_a_wrong_climb_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds_of_another_climb(monkeypatch)
    with pytest.raises(AssertionError):
        contained(make("mlp"), inputs(), THREATS[0], sharpest, count=300)
