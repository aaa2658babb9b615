"""Rows held as windows against the same rows on whole maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bound_nets import BOX, contained
from ironglass.core.values import L1, L2, Linf, Threat
from ironglass.ops.bounds import Interval, region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph
from ironglass.ops.linear import differences, engine, intervals, lower, relax, windows
from ironglass.ops.linear.relaxed import Relaxed, add


class Branches(nn.Module):
    """A residual block with a projection, joined channels, and batch norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.block, self.short = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(4, 6, 1, 2)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(12, 3, (2, 3), padding=(0, 1))
        self.head = nn.Linear(3 * 4 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x).relu()
        short = self.short(x)
        z = self.norm(self.block(self.down(x).relu())) - 0.7 * short
        return self.head(self.last(torch.cat([z.relu(), short * 0.5], 1)).relu().flatten(1))


def stack(*layers: nn.Module) -> nn.Module:
    body = nn.Sequential(*layers)
    with torch.no_grad():
        size = body(torch.zeros(1, 2, 10, 10)).flatten(1).shape[1]
    return nn.Sequential(body, nn.Flatten(), nn.Linear(size, 4))


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: stack(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU()),
    "padded and strided": lambda: stack(
        nn.Conv2d(2, 3, 4, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU()
    ),
    "no activation between": lambda: stack(
        nn.Conv2d(2, 3, 3, padding=2), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, padding=1), nn.ReLU(),
    ),
    "dilated, grouped": lambda: stack(
        nn.Conv2d(2, 4, 3, dilation=2, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 2, dilation=(1, 2), groups=4), nn.Tanh()
    ),
    "norm": lambda: stack(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    ),
    "pooled": lambda: stack(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 2, padding=1), nn.ReLU(),
    ),
    "branches": Branches,
}  # fmt: skip


def opened(name: str, threat: Threat, dtype: torch.dtype = torch.float64) -> tuple[Graph, Interval]:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = NETS[name]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                module.weight.data.uniform_(-2, 2)
                module.bias.data.uniform_(-0.3, 0.3)
    x = torch.rand(3, 2, 10, 10, generator=torch.Generator().manual_seed(0))
    graph = capture(net.eval().requires_grad_(False), x, dtype)
    return graph, region(x, threat, BOX, torch.float32, dtype)


def check_same(name: str, threat: Threat) -> int:
    """Of every step that can begin as windows; returns how many there were."""
    graph, start = opened(name, threat)
    values = intervals(graph, start, "interval")
    relaxed, begun = Relaxed(graph, values), 0
    generator = torch.Generator().manual_seed(0)
    for index in range(1, len(graph.steps)):
        add(relaxed, index)
        if not windows.supported(graph, index):
            continue
        begun += 1
        size = values[index].lower[0].numel()
        places = torch.stack([torch.randperm(size, generator=generator)[:9] for _ in range(3)])
        found = windows.window_bounds(start, relaxed, index, places)
        whole = engine.row_bounds(lower, start, relaxed, index, places)
        for one, other in zip(found, whole, strict=True):
            assert torch.allclose(one, other, rtol=1e-7, atol=1e-9), graph.steps[index].name
    return begun


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.2), L1(0.5), Linf(0.1, torch.rand(1, 2, 10, 10) < 0.5)], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_windows_give_the_same_bounds_as_whole_maps(name: str, threat: Threat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_same(name, threat) >= 2
    monkeypatch.setattr(windows, "_COVERS", 4.0)  # never spread on whole maps for their size
    check_same(name, threat)
    monkeypatch.setattr(windows, "_DENSER", 0)  # the transpose in place of the matrix
    check_same(name, threat)


def off_by_one(patch: pytest.MonkeyPatch) -> None:
    inner = windows._convolved

    def wrong(*args: object) -> windows._Rows:
        rows = inner(*args)  # type: ignore[arg-type]
        return windows._Rows(rows.values, rows.walk._replace(offset=(rows.walk.offset[0] + 1, rows.walk.offset[1])))

    patch.setattr(windows, "_convolved", wrong)


def not_masked(patch: pytest.MonkeyPatch) -> None:
    inner = windows._Maps.read
    wrong = lambda self, maps, walk: inner(self, maps, walk) * 0 + 1 if len(maps) == 1 else inner(self, maps, walk)  # noqa: E731
    patch.setattr(windows._Maps, "read", wrong)


def joined_at_the_corner(patch: pytest.MonkeyPatch) -> None:
    def wrong(one: windows._Rows, other: windows._Rows) -> windows._Rows:
        big, small = sorted((one, other), key=lambda rows: -rows.walk.size[0])
        pads = [0, big.walk.size[1] - small.walk.size[1], 0, big.walk.size[0] - small.walk.size[0]]
        return windows._Rows(big.values + F.pad(small.values, pads), big.walk)

    patch.setattr(windows, "_joined", wrong)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [(off_by_one, "padded and strided"), (not_masked, "no activation between"), (joined_at_the_corner, "branches")],
)
def test_wrong_windows_are_caught(
    wrong: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_COVERS", 4.0)
    check_same(name, Linf(0.03))
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        check_same(name, Linf(0.03))


@pytest.mark.parametrize("name", ["branches", "pooled", "dilated, grouped"])
def test_no_point_of_the_ball_leaves_the_bounds(name: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = NETS[name]().eval().requires_grad_(False)

    def alone(graph: Graph, start: Interval, y: Tensor) -> tuple[dict[int, Interval], Tensor]:
        values = intervals(graph, start)
        return values, lower(start, differences(y, 4, start.lower.dtype), relax(graph, values))

    x = torch.rand(3, 2, 10, 10, generator=torch.Generator().manual_seed(0))
    contained(net, x, Linf(0.02), alone, count=400, climbs=4)
