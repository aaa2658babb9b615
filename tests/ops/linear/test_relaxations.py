"""Lines around every activation, held against the function on dense grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.ops.bounds import Interval
from ironglass.ops.capture import capture
from ironglass.ops.graph import Step
from ironglass.ops.linear import curves
from ironglass.ops.linear import relaxations as module
from ironglass.ops.linear.relaxations import Lines, Planes, relaxed

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "steep leaky_relu": lambda z: F.leaky_relu(z, 3.0),
    "relu6": F.relu6,
    "clamp": lambda z: z.clamp(-0.7, 0.4),
    "clamp_min": lambda z: z.clamp(min=0.3),
    "clamp_max": lambda z: z.clamp(max=-0.2),
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "flat elu": lambda z: F.elu(z, 0.3),
    "gelu": F.gelu,
    "gelu tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
}


class Only(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def step_of(function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> Step:
    return capture(Only(function).eval(), torch.rand(2, 6), dtype).steps[-1]


def ranges(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Intervals of all sizes and places: tiny, huge, straddling, empty."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(count, generator=generator, dtype=torch.float64)  # noqa: E731
    middle = (draw() - 0.5) * 10 ** (draw() * 6 - 4)
    radius = 10 ** (draw() * 10 - 8) * (draw() > 0.05)
    low, high = middle - radius, middle + radius
    fixed = [
        (-1.0, 1.0),
        (0.0, 0.0),
        (0.0, 1.0),
        (-1.0, 0.0),
        (-30.0, 40.0),
        (-1e-30, 1e-30),
        (-500.0, 3.0),
        (2.0, 2.0),
    ]
    fixed += [(-1e4, 1e4), (-1.5, 1.5), (-8.0, -1.0), (1.3, 1.5), (-1.42, -1.41), (-1e-7, 5.0), (-5.0, 1e-7)]
    ends = torch.tensor(fixed, dtype=torch.float64)
    return torch.cat([ends[:, 0], low]), torch.cat([ends[:, 1], high])


def excess(step: Step, found: Lines, low: Tensor, high: Tensor, points: int = 301) -> float:
    """By how much the function crosses its lines, relative to its own float64 rounding; at most 1 is sound."""
    worst = 0.0
    share = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    near = torch.tensor([-1.4142, -1.2785, -0.7518, -0.7, -0.2, 0.0, 0.3, 0.4, 1.4142, 2.3994, 6.0]).double()
    grid = torch.cat([low + (high - low) * share, near[:, None].expand(-1, len(low))])
    grid = torch.minimum(torch.maximum(grid, low), high)
    value = step.op(grid)
    for side, sign in ((found.lower, 1.0), (found.upper, -1.0)):
        slope, offset = side.slope.double(), side.offset.double()
        over = sign * (slope * grid + offset - value)
        room = (value.abs() + (slope * grid).abs() + offset.abs()) * 2.0**-50
        worst = max(worst, float((over - room).max()))
    return worst


@pytest.mark.parametrize("slopes", ["adaptive", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_function_lies_between_its_lines(name: str, dtype: torch.dtype, slopes: module.Slopes) -> None:
    step = step_of(ACTIVATIONS[name], dtype)
    low, high = (end.to(dtype) for end in ranges(500))
    found = relaxed(step, Interval(low, high), slopes)
    assert isinstance(found, Lines)
    assert all(bool(part.isfinite().all()) for part in (*found.lower, *found.upper))
    assert excess(step, found, low.double(), high.double()) <= 0
    if found.free is not None:
        for slope in (found.choice[0], found.choice[1], sum(found.choice) / 3):
            grid = low.double() + (high - low).double() * torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
            assert bool((step.op(grid) >= slope * grid - 1e-12 * grid.abs())[:, found.free].all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lines_have_nearly_the_least_area(name: str) -> None:
    """Beside the best line there is: that above the hull's value in the middle, found on a grid."""
    step = step_of(ACTIVATIONS[name], torch.float64)
    low, high = ranges(100, seed=1)
    sizable = (high - low > 1e-2) & (high - low < 60)
    low, high = low[sizable], high[sizable]
    found = relaxed(step, Interval(low, high))
    assert isinstance(found, Lines)
    middle = (low + high) / 2
    grid = low + (high - low) * torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    for side, sign in ((found.upper, 1.0), (found.lower, -1.0)):
        value = sign * step.op(grid)
        left, right = value[:200, None], value[None, 201:]
        across = left + (right - left) * ((middle - grid[:200])[:, None] / (grid[None, 201:] - grid[:200, None]))
        best = torch.maximum(across.flatten(0, 1).amax(0), value[200])
        loss = sign * (side.slope * middle + side.offset) - best
        assert float(loss.min()) > -1e-9
        height = (value.amax(0) - value.amin(0)).clamp(min=1e-3)
        assert float((loss / height).max()) < 0.2
        assert float((loss / height).mean()) < 0.03


def test_relu_has_the_lines_of_the_papers() -> None:
    low, high = torch.tensor([-1.0, -3.0, 0.5, -2.0]), torch.tensor([3.0, 1.0, 2.0, -1.0])
    step = step_of(torch.relu)
    crown, fast = relaxed(step, Interval(low, high)), relaxed(step, Interval(low, high), "same")
    assert isinstance(crown, Lines)
    assert isinstance(fast, Lines)
    for found in (crown, fast):
        assert torch.allclose(found.upper.slope, torch.tensor([0.75, 0.25, 1.0, 0.0]))
        assert torch.allclose(found.upper.offset, torch.tensor([0.75, 0.75, 0.0, 0.0]))
        assert torch.allclose(found.lower.offset, torch.zeros(4))
    assert torch.equal(crown.lower.slope, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert torch.equal(fast.lower.slope, fast.upper.slope)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("ends", [(torch.nan, 1.0), (-1.0, torch.nan), (-torch.inf, 1.0), (-1.0, torch.inf)])
def test_bounds_that_are_not_finite_prove_nothing(name: str, ends: tuple[float, float]) -> None:
    found = relaxed(step_of(ACTIVATIONS[name]), Interval(torch.tensor([ends[0]]), torch.tensor([ends[1]])))
    assert isinstance(found, Lines)
    generator = torch.Generator().manual_seed(0)
    for row in torch.randn(50, generator=generator):
        line, offset = found.lower if row > 0 else found.upper
        at = (row * line) * 0.5 + row * offset  # a point inside
        truth = row * ACTIVATIONS[name](torch.tensor([0.5]))
        assert not bool(at > truth + 1e-6)


POOLS = {
    "max_pool": lambda z: F.max_pool2d(z, 2),
    "overlapping": lambda z: F.max_pool2d(z, 3, 2, 1),
    "dilated": lambda z: F.max_pool2d(z, 2, 1, 0, 2),
    "ceil": lambda z: F.max_pool2d(z, 3, 2, 0, 1, True),
    "adaptive": lambda z: F.adaptive_max_pool2d(z, 3),
}


def pools(name: str) -> Step:
    net = Only(lambda z: POOLS[name](z.reshape(-1, 2, 5, 7)).flatten(1)).eval()
    return next(step for step in capture(net, torch.rand(2, 70), torch.float32).steps if "pool" in step.name)


def test_a_maximum_has_the_planes_of_the_paper() -> None:
    """z1 in [-1, 1], z2 in [0, 2]. Alone: ground 1, (z2 + 2) / 2. Shared: ground 1/2, slopes 1/4 and 3/4."""
    net = Only(lambda z: F.max_pool1d(z[:, None], 2).flatten(1)).eval()
    step = next(step for step in capture(net, torch.rand(2, 2), torch.float32).steps if "pool" in step.name)
    x = Interval(torch.tensor([[[-1.0, 0.0]]]), torch.tensor([[[1.0, 2.0]]]))
    for slopes, expected, offset in (("adaptive", [0.0, 0.5], 1.0), ("shared", [0.25, 0.75], 0.75)):
        found = relaxed(step, x, slopes)  # type: ignore[arg-type]
        assert isinstance(found, Planes)
        assert torch.allclose(found.upper.slope.flatten(), torch.tensor(expected))
        assert float(found.upper.offset) == pytest.approx(offset, abs=1e-6)
        assert found.lower.slope.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("slopes", ["adaptive", "shared"])
@pytest.mark.parametrize("name", POOLS)
def test_a_maximum_lies_between_its_planes(name: str, slopes: module.Slopes) -> None:
    step, generator = pools(name), torch.Generator().manual_seed(0)
    middle = torch.randn(40, 2, 5, 7, generator=generator)
    radius = torch.rand(40, 1, 1, 1, generator=generator) ** 3 * torch.rand(40, 2, 5, 7, generator=generator) * 3
    radius[:3] = 0
    x = Interval(middle - radius, middle + radius)
    found = relaxed(step, x, slopes)
    assert isinstance(found, Planes)
    shares = [
        torch.rand(300, 1, 2, 5, 7, generator=generator),
        (torch.rand(300, 40, 2, 5, 7, generator=generator) < 0.5).float(),
    ]
    shares.append((torch.rand(300, 1, 2, 5, 7, generator=generator) < 0.1).float())
    for share in shares:
        z = torch.minimum(torch.maximum(x.lower.double().lerp(x.upper.double(), share.double()), x.lower), x.upper)
        value = torch.stack([step.op(each) for each in z]).flatten(-2)
        windows = z.flatten(-2)[..., found.pool.places]
        for side, sign in ((found.lower, 1), (found.upper, -1)):
            plane = (windows * side.slope.double()).sum(-1) + side.offset.double()
            assert bool((sign * (value - plane) >= -1e-12).all())


# Canaries: wrong lines that these tests have to catch.


def without_offset(lines: Lines) -> Lines:
    return replace(lines, upper=module.Side(lines.upper.slope, lines.upper.offset * 0))


def dropped_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "straight", lambda function, shape, slope, *rest: torch.zeros_like(slope))
    inner = module._relu
    monkeypatch.setattr(module, "_relu", lambda *a: without_offset(inner(*a)))


def steeper(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = module.above
    wrong = lambda *a: (lambda side: module.Side(side.slope * 1.01, side.offset))(inner(*a))  # noqa: E731
    monkeypatch.setattr(module, "above", wrong)


def sides_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = module.above
    monkeypatch.setattr(
        module, "above", lambda f, shape, low, high, sign, dtype: inner(f, shape, low, high, -sign, dtype)
    )


def secant_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: object, shape: object, low: Tensor, high: Tensor, sign: float, dtype: object) -> curves.Side:
        slope = sign * curves.secant(function, low, high)  # type: ignore[arg-type]
        return curves.Side(slope, sign * function(low) - slope * low)  # type: ignore[operator]

    monkeypatch.setattr(module, "above", wrong)


def not_rounded_outward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_up", lambda offset, dtype: offset.to(dtype))


def secant_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """ReLU's secant with d and -d l as they are rounded."""
    monkeypatch.setattr(module, "eps_of", lambda dtype: 0.0)


EVERYWHERE = (dropped_offset, steeper, sides_swapped, secant_everywhere)
WRONG = [(wrong, name) for wrong in EVERYWHERE for name in ("clamp_min", "sigmoid", "gelu", "clamp")]
WRONG += [(not_rounded_outward, "abs"), (dropped_offset, "relu"), (secant_not_raised, "relu")]


@pytest.mark.parametrize(("wrong", "name"), WRONG)
def test_wrong_lines_are_caught(
    wrong: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong is dropped_offset and name in ("sigmoid", "gelu"):
        monkeypatch.setattr(curves._Curve, "offset", lambda self, slope, *rest: self.value(rest[0]) * 0)
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_function_lies_between_its_lines(name, torch.float32, "adaptive")
