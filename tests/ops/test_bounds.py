from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bound_nets import BOX, FIRST_LAYERS, NETS, contained, corners, inputs, make
from ironglass.core.errors import InputError
from ironglass.core.values import L1, L2, Linf, Threat
from ironglass.ops import bounds as bounds_module
from ironglass.ops import lp
from ironglass.ops.bounds import Interval, propagate, region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Affine, Graph, Monotone
from ironglass.ops.margins import margins

THREATS = [Linf(0.08), L2(0.5), L1(1.5)]


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def by_intervals(graph: Graph, start: Interval, y: Tensor) -> tuple[dict[int, Interval], Tensor]:
    return propagate(graph, start), margins(graph, start, y)


def check_contained(net: nn.Module, x: Tensor, threat: Threat) -> None:
    contained(net, x, threat, by_intervals)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("name", "threat"),
    [(name, THREATS[0]) for name in NETS] + [(name, threat) for name in FIRST_LAYERS for threat in THREATS[1:]],
    ids=lambda value: getattr(value, "norm", value),
)
def test_no_point_of_the_ball_leaves_the_bounds(name: str, threat: Threat) -> None:
    check_contained(make(name), inputs(), threat)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["matrix", "kernel"])
def test_the_first_layer_gets_the_dual_norm_of_its_rows(kind: str, groups: int, norm: Any) -> None:
    """Through normalization, and exactly, but for l1 at a convolution's border."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 4, 3, groups=groups) if kind == "kernel" else nn.Linear(72, 9)

        def forward(self, x: Tensor) -> Tensor:
            x = (x - 0.3) / torch.tensor([0.2, 0.7]).view(2, 1, 1)
            return self.layer(x if kind == "kernel" else x.flatten(1)).flatten(1)

    net, x = Net().requires_grad_(False), inputs() * 0.2 + 0.4
    graph = capture(net, x, torch.float32)
    values = propagate(graph, region(x, Threat(norm, 0.1), BOX, torch.float32, torch.float32))[len(graph.steps) - 1]
    rows = torch.autograd.functional.jacobian(lambda v: net(v).sum(0), x).transpose(0, 1).flatten(2)
    reach = 0.1 * torch.linalg.vector_norm(rows, 2 if norm == "l2" else torch.inf, 2)
    assert torch.allclose(values.upper - net(x), reach, atol=5e-4)
    assert torch.allclose(net(x) - values.lower, reach, atol=5e-4)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("per_sample", [False, True])
def test_bounds_hold_and_tighten_inside_a_mask(threat: Threat, per_sample: bool) -> None:
    mask = torch.rand(3 if per_sample else 1, 2, 6, 6, generator=torch.Generator().manual_seed(4)) < 0.3
    net, x = make("residual"), inputs()
    whole, part = threat, Threat(threat.norm, threat.eps, mask)
    graph = capture(net, x, torch.float32)
    start = region(x, part, BOX, torch.float32, torch.float32)
    outside = ~mask.expand_as(x)
    assert torch.equal(start.lower[outside], x[outside])
    assert torch.equal(start.upper[outside], x[outside])
    y = torch.arange(3)
    all_free = margins(graph, region(x, whole, BOX, torch.float32, torch.float32), y)
    assert bool((margins(graph, start, y) >= all_free - 1e-4).all())

    def masked(points: Tensor) -> Tensor:
        return torch.where(mask.repeat(len(points) // len(mask), 1, 1, 1), points, x.repeat(len(points) // 3, 1, 1, 1))

    points = masked(corners(x, whole, 2000, torch.Generator().manual_seed(3)).float())
    scores = net(points)
    found = scores.gather(1, y.repeat(2000)[:, None]) - scores
    assert bool((found >= margins(graph, start, y).repeat(2000, 1)).all())


# Canaries: wrong bounds that the containment test has to catch.


def flipped_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Affine, "absolute", lambda self, x, offset=None: self.map(x, self.weight, offset))


def dropped_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Affine, "__call__", lambda self, x: self.map(x, self.weight, None))


def half_a_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_module, "_slack", lambda *args: (0.0, 0.5))


def swapped_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = bounds_module.bound

    def wrong(step: Any, values: list[Interval]) -> Interval:
        value = inner(step, values)
        return Interval(value.lower, value.lower) if isinstance(step.op, Monotone) else value

    monkeypatch.setattr(bounds_module, "bound", wrong)


def wrong_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Affine.adjoint
    monkeypatch.setattr(Affine, "adjoint", lambda self, rows, shape: -inner(self, rows, shape))


def residual_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = bounds_module.bound
    wrong = lambda step, values: values[0] if len(values) > 1 else inner(step, values)  # noqa: E731
    monkeypatch.setattr(bounds_module, "bound", wrong)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (flipped_sign, "mlp"),
        (dropped_bias, "mlp"),
        (half_a_radius, "mlp"),
        (swapped_ends, "mlp"),
        (wrong_way_back, "mlp"),
        (flipped_sign, "residual"),
        (residual_counted_once, "residual"),
        (swapped_ends, "max_pool"),
    ],
)
def test_a_wrong_bound_is_caught(
    wrong: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    with pytest.raises((AssertionError, InputError)):
        check_contained(make(name), inputs(), Linf(0.08))


def sum_becomes_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """linf with its own norm in place of the dual one."""
    inner = Affine.absolute

    def wrong(self: Affine, x: Tensor, offset: Tensor | None = None) -> Tensor:
        return (self.weight.abs() * x[:, None]).amax(-1) if self.form == "matrix" else inner(self, x, offset)

    monkeypatch.setattr(Affine, "absolute", wrong)


def largest_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """l2 with the dual norm of l1."""
    wrong = lambda op, ball: (ball.scale.flatten(1).amax() * op.weight.double().abs()).flatten(1).amax(1)  # noqa: E731
    monkeypatch.setattr(bounds_module, "_norms", wrong)


@pytest.mark.parametrize(("wrong", "threat"), [(sum_becomes_maximum, Linf(0.08)), (largest_weight, L2(0.3))])
def test_the_wrong_dual_norm_is_caught(
    wrong: Callable[[pytest.MonkeyPatch], None], threat: Threat, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        check_contained(make("mlp"), inputs() * 0.2 + 0.4, threat)


# Rounding: the bounds hold for the network in floating point, and for the exact one.


def exact_interval(net: nn.Sequential, lower: list[Fraction], upper: list[Fraction]) -> Iterator[list[tuple[Any, Any]]]:
    """Interval bounds of a network of linear layers and ReLUs in rational arithmetic, layer by layer."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            rows = [[Fraction(w) for w in row] for row in layer.weight.tolist()]
            bias = [Fraction(b) for b in layer.bias.tolist()]
            low = [b + sum(w * (lo if w > 0 else hi) for w, lo, hi in zip(row, lower, upper, strict=True))
                   for row, b in zip(rows, bias, strict=True)]  # fmt: skip
            high = [b + sum(w * (hi if w > 0 else lo) for w, lo, hi in zip(row, lower, upper, strict=True))
                    for row, b in zip(rows, bias, strict=True)]  # fmt: skip
            lower, upper = low, high
        else:
            lower, upper = [max(v, Fraction(0)) for v in lower], [max(v, Fraction(0)) for v in upper]
        yield list(zip(lower, upper, strict=True))


@pytest.mark.parametrize("eps", [0.0, 1e-7, 1e-3, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_enclose_those_of_rational_arithmetic(seed: int, dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    for p in net.parameters():  # large weights that cancel, and tiny ones
        size = 10.0 ** torch.randint(-6, 5, p.shape, generator=generator)
        p.data = torch.randn(p.shape, generator=generator) * size
    x = torch.rand(2, 7, generator=generator)
    net.requires_grad_(False)
    graph = capture(net, x, dtype)
    start = region(x, Linf(eps), BOX, torch.float32, dtype)
    values = propagate(graph, start)
    for row in range(2):
        lower = [max(Fraction(v) - Fraction(eps), Fraction(0)) for v in x[row].tolist()]
        upper = [min(Fraction(v) + Fraction(eps), Fraction(1)) for v in x[row].tolist()]
        for index, layer in enumerate(exact_interval(net, lower, upper), 1):
            ours = zip(values[index].lower[row].tolist(), values[index].upper[row].tolist(), strict=True)
            for (low, high), (exact_low, exact_high) in zip(ours, layer, strict=True):
                assert Fraction(low) <= exact_low <= exact_high <= Fraction(high)


def shuffled_scores(net: nn.Sequential, x: Tensor, generator: torch.Generator) -> Tensor:
    """The network in float32 with every sum in an order of its own, one product at a time."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            order = torch.randperm(layer.in_features + 1, generator=generator).tolist()
            total = x.new_zeros(len(x), layer.out_features)
            for column in order:
                total = total + (
                    layer.bias if column == layer.in_features else x[:, column, None] * layer.weight[:, column]
                )
            x = total
        else:
            x = layer(x)
    return x


def cancelling() -> tuple[nn.Sequential, Tensor]:
    """A network whose scores are small differences of large sums."""
    generator = torch.Generator().manual_seed(0)
    first = nn.Linear(200, 2)
    half = torch.randn(2, 100, generator=generator) * 1e3
    first.weight.data = torch.cat([half, -half], 1)
    first.bias.data.fill_(1.0)
    x = torch.rand(4, 100, generator=generator).repeat(1, 2)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(2, 3)).requires_grad_(False), x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_order_of_summation_stays_inside(dtype: torch.dtype) -> None:
    net, x = cancelling()
    graph, start = capture(net, x, dtype), region(x, Linf(0.0), BOX, torch.float32, dtype)
    last = propagate(graph, start)[len(graph.steps) - 1]
    generator = torch.Generator().manual_seed(1)
    seen = torch.stack([shuffled_scores(net, x, generator) for _ in range(30)])
    assert seen.std(0).max() > 1e-6  # the order matters here
    assert bool(((seen >= last.lower) & (seen <= last.upper)).all())
    for label in range(3):
        least = margins(graph, start, torch.full((4,), label))
        assert bool((seen[..., label, None].double() - seen.double() >= least).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margins_allow_for_the_rounding_of_both_scores(dtype: torch.dtype) -> None:
    """One score is a constant and the other a sum that cancels: either may be the label's."""
    net, x = cancelling()
    net = nn.Sequential(net[0])
    net[0].weight[0] = 0.0
    generator = torch.Generator().manual_seed(1)
    graph, start = capture(net, x, dtype), Interval(x.to(dtype), x.to(dtype))
    for label in (0, 1):
        least = margins(graph, start, torch.full((4,), label))[:, 1 - label]
        for _ in range(30):
            seen = shuffled_scores(net, x, generator).double()
            assert bool((seen[:, label] - seen[:, 1 - label] >= least).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_that_always_goes_one_way_stays_inside(dtype: torch.dtype) -> None:
    """Equal numbers added one after the other: the error grows with their number, as far as the theory says."""
    net = nn.Sequential(nn.Linear(20000, 2)).requires_grad_(False)
    net[0].weight.fill_(0.1)
    net[0].bias.zero_()
    x = torch.ones(1, 20000)
    total = torch.zeros(())
    for _ in range(20000):
        total = total + net[0].weight[0, 0]
    assert abs(float(total) - 2000.0) > 1000 * 2.0**-24 * 2000.0
    graph, start = capture(net, x, dtype), region(x, Linf(0.0), BOX, torch.float32, dtype)
    scores = propagate(graph, start)[1]
    assert bool(((scores.lower <= total) & (total <= scores.upper)).all())


def in_order(x: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """``W x`` in float32, added one after the other: ``order`` says for each output which product comes when."""
    total = torch.zeros(len(x), len(weight))
    for places in order.T:
        total = total + x[:, places] * weight.gather(1, places[:, None])[:, 0]
    return total


def lost_by(weight: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    layer = nn.Linear(weight.shape[1], len(weight), bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    step = capture(layer, low, dtype).steps[1]
    return bounds_module.rounding(step, [Interval(low.to(dtype), high.to(dtype))], rows=True)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signs", ["positive", "mixed", "many zeros"])
def test_what_rows_allow_for_covers_any_order(dtype: torch.dtype, signs: str) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, x = torch.randn(5, 300, generator=generator), torch.rand(7, 300, generator=generator)
    x = x - 0.5 if signs == "mixed" else x * (torch.rand(300, generator=generator) < 0.2) if "zeros" in signs else x
    terms = weight * x.mean(0)
    exact = x.double() @ weight.double().T
    most = lost_by(weight, x.amin(0, True), x.amax(0, True), dtype)
    worst = torch.zeros(())
    for order in (
        terms.argsort(1), terms.argsort(1, descending=True), terms.abs().argsort(1, descending=True),
        torch.randperm(300, generator=generator).expand(5, -1),
    ):  # fmt: skip
        lost = (in_order(x, weight, order).double() - exact).abs()
        worst = torch.maximum(worst, (lost / most).max())
        assert bool((lost <= most).all())
    assert worst > 1e-3  # the orders do lose


@pytest.mark.parametrize("zeros", [0, 3000])
def test_what_rows_allow_for_is_nearly_reached(zeros: int) -> None:
    """To 1 are added many halves of its last place, and each is lost; zeros between lose nothing more."""
    weight = torch.ones(1, 3001 + zeros)
    x = torch.full((1, 3001 + zeros), 2.0**-24)
    x[0, 0], x[0, 3001:] = 1.0, 0.0
    seen = in_order(x, weight, torch.arange(weight.shape[1])[None])
    assert float(seen) == 1.0
    lost, most = float(x.double().sum()) - 1.0, float(lost_by(weight, x, x, torch.float64))
    assert 0.97 * most < lost <= most


def test_intervals_without_rounding_would_miss_some_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_module, "gamma", lambda terms, eps: 0.0)
    monkeypatch.setattr(torch, "nextafter", lambda x, _: x)
    with pytest.raises(AssertionError):
        test_any_order_of_summation_stays_inside(torch.float32)


@pytest.mark.parametrize("name", ["mlp", "residual", "joined", "avg_pool", "tanh"])
def test_float32_bounds_enclose_float64_bounds_closely(name: str) -> None:
    net, x, y = make(name), inputs(), torch.arange(3)
    found = {}
    for dtype in (torch.float32, torch.float64):
        graph = capture(net, x, dtype)
        found[dtype] = margins(graph, region(x, L2(0.3), BOX, torch.float32, dtype), y)
    loss = found[torch.float64] - found[torch.float32]
    assert bool((loss >= 0).all())
    assert float(loss.max()) < 1e-3 * float(found[torch.float64].abs().max())


@pytest.mark.parametrize("name", ["mlp", "residual", "conv1d", "sigmoid"])
def test_bounds_of_a_float64_network_are_wider_than_exact_by_almost_nothing(name: str) -> None:
    net, x, y = make(name, dtype=torch.float64), inputs(dtype=torch.float64), torch.arange(3)
    graph = capture(net, x, torch.float64)
    least = margins(graph, region(x, Linf(0.0), BOX, torch.float64, torch.float64), y)
    scores = net(x)
    exact = scores.gather(1, y[:, None]) - scores
    assert bool((least <= exact).all())
    assert torch.allclose(least, exact, atol=1e-11)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("squash", [nn.ReLU(), nn.Sigmoid(), nn.Hardtanh(), nn.ReLU6(), nn.Tanh()])
def test_what_is_not_finite_is_never_proven(value: float, squash: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(3, 3), squash, nn.Linear(3, 2)).requires_grad_(False)
    net[2].weight[0].fill_(5.0)
    net[2].bias.copy_(torch.tensor([100.0, 0.0]))  # so that any finite hidden value would be proven
    x, y = torch.full((2, 3), 0.5), torch.tensor([0, 0])

    def proven() -> Tensor:
        graph = Graph(capture(nn.Sequential(nn.Linear(3, 3), squash, net[2]), x, torch.float32).steps)
        first = graph.steps[1].op
        assert isinstance(first, Affine)
        first.weight.copy_(net[0].weight)
        return margins(graph, region(x, Linf(0.1), BOX, torch.float32, torch.float32), y)[:, 1] > 0

    with torch.no_grad():
        assert bool(proven().all())
        net[0].weight[1, 1] = value
        assert not bool(proven().any())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_no_operator_loses_a_nan(name: str) -> None:
    net, x, y = make(name), inputs(), torch.arange(3)
    graph = capture(net, x, torch.float32)
    start = region(x, L2(0.1), BOX, torch.float32, torch.float32)
    assert bool(margins(graph, start, y).isfinite().all())
    next(layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d)).weight.fill_(
        torch.nan
    )
    least = margins(graph, start, y).scatter(1, y[:, None], torch.nan)
    assert bool(least.isnan().all())


@pytest.mark.parametrize("size", [1e38, 3e37])
def test_a_sum_that_may_overflow_is_never_proven(size: float) -> None:
    """Each product is finite and the exact sum is small, but some order of summation overflows."""
    net = nn.Sequential(nn.Linear(8, 2), nn.Sigmoid(), nn.Linear(2, 2)).requires_grad_(False)
    net[0].weight.copy_(torch.tensor([size, -size] * 4).expand(2, 8))
    net[2].bias.copy_(torch.tensor([100.0, 0.0]))
    x, y = torch.ones(1, 8), torch.tensor([0])
    least = margins(capture(net, x, torch.float32), region(x, Linf(0.0), BOX, torch.float32, torch.float32), y)
    assert bool(least[:, 1].isnan().all())


def test_the_region_holds_what_attacks_reach_in_float32() -> None:
    x = inputs(6)
    for threat in (Linf(0.1), Linf(8 / 255), L2(0.5), L1(2.0), Linf(float("inf")), L2(float("inf"))):
        start = region(x, threat, BOX, torch.float32, torch.float32)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            far = torch.randn(x.shape, generator=generator)
            point = lp.project(x + 3 * far, x, threat, BOX)
            assert bool(((point >= start.lower) & (point <= start.upper)).all())
    assert region(x, Linf(0.1), BOX, torch.float32, torch.float32).ball is None


def test_an_empty_ball_is_its_centre() -> None:
    x = inputs()
    start = region(x, Linf(0.0), BOX, torch.float32, torch.float32)
    assert float((start.upper - start.lower).max()) < 5e-7


def test_values_not_needed_any_more_are_let_go() -> None:
    net, x = make("residual"), inputs()
    graph = capture(net, x, torch.float32)
    start = region(x, Linf(0.1), BOX, torch.float32, torch.float32)
    every, some = propagate(graph, start), propagate(graph, start, [3])
    assert len(every) == len(graph.steps)
    assert set(some) == {3, len(graph.steps) - 1}
    assert torch.equal(every[3].lower, some[3].lower)


def test_gradients_flow_to_the_weights() -> None:
    """Training by bounds differentiates them."""
    net, x, y = make("residual").requires_grad_(True), inputs(), torch.arange(3)

    def loss() -> Tensor:
        graph = capture(net, x, torch.float32)
        return margins(graph, region(x, Linf(0.01), BOX, torch.float32, torch.float32), y).sum()

    value = loss()
    value.backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
    with torch.no_grad():
        grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        length = sum(float(g.square().sum()) for g in grads)
        for p, g in zip(net.parameters(), grads, strict=True):
            p -= 1e-3 / length**0.5 * g
        assert float(value - loss()) == pytest.approx(1e-3 * length**0.5, rel=0.1)
