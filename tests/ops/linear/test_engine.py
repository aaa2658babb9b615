from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bound_nets import BOX, FIRST_LAYERS, NETS, contained, corners, inputs, make, step_values
from ironglass.core.values import L1, L2, Linf, Threat
from ironglass.ops import lp
from ironglass.ops import margins as by_intervals
from ironglass.ops.bounds import Interval, propagate, region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Affine, Graph
from ironglass.ops.linear import Lines, backward, differences, engine, intervals, lower, margins, relax, relaxed
from ironglass.ops.linear.curves import Side

THREATS = [Linf(0.08), L2(0.5), L1(1.5)]
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def opened(name: str, threat: Threat, dtype: torch.dtype = torch.float32) -> tuple[Graph, Interval, Tensor]:
    net, x = make(name), inputs()
    return capture(net, x, dtype), region(x, threat, BOX, torch.float32, dtype), torch.arange(3)


def linear(graph: Graph, start: Interval, y: Tensor) -> tuple[dict[int, Interval], Tensor]:
    values = engine.intervals(graph, start)
    return values, engine.margins(graph, start, y, values)


def alone(graph: Graph, start: Interval, y: Tensor) -> tuple[dict[int, Interval], Tensor]:
    """Linear bounds not cut with what intervals prove: their own mistakes show."""
    values = intervals(graph, start)
    rows = differences(y, graph.steps[-1].shape[0], start.lower.dtype)
    return values, lower(start, rows, relaxed.relax(graph, values))


@pytest.mark.parametrize(
    ("name", "threat"),
    [(name, THREATS[0]) for name in NETS] + [(name, threat) for name in FIRST_LAYERS for threat in THREATS[1:]],
    ids=lambda value: getattr(value, "norm", value),
)
def test_no_point_of_the_ball_leaves_the_bounds(name: str, threat: Threat) -> None:
    contained(make(name), inputs(), threat, alone, count=3400 if threat.norm == "linf" else 800, climbs=5)


@pytest.mark.parametrize("name", NETS)
def test_linear_bounds_are_at_least_as_tight(name: str) -> None:
    graph, start, y = opened(name, Linf(0.08))
    values, plain = intervals(graph, start), propagate(graph, start)
    for index, value in values.items():
        room = 1e-5 * plain[index].largest()
        assert bool((value.lower >= plain[index].lower - room).all())
        assert bool((value.upper <= plain[index].upper + room).all())
    ibp = by_intervals.margins(graph, start, y)
    crown_ibp = margins(graph, start, y, intervals(graph, start, "interval"))
    crown = margins(graph, start, y, values)
    assert bool((crown_ibp >= ibp).all())
    assert bool((crown >= ibp - 1e-5).all())
    assert bool((crown >= crown_ibp - 0.02 * crown_ibp.abs()).all())


# Exactness


def test_an_affine_network_and_one_without_unstable_values_are_exact() -> None:
    for name, threat in itertools.product(("affine", "mlp", "stride"), (Linf(1e-4), L2(1e-3), L1(1e-3))):
        net, x = make(name, dtype=torch.float64), inputs(dtype=torch.float64) * 0.5 + 0.2
        graph = capture(net, x, torch.float64)
        start, y = region(x, threat, BOX, torch.float64, torch.float64), torch.arange(3)
        rows = torch.autograd.functional.jacobian(lambda v, net=net: net(v).sum(0), x).transpose(0, 1)
        rows = rows[torch.arange(3), y][:, None] - rows
        scores = net(x)
        reach = [(lp.maximize(-rows[:, j], x, threat, BOX) * rows[:, j]).flatten(1).sum(1) for j in range(4)]
        exact = scores.gather(1, y[:, None]) - scores + torch.stack(reach, 1)
        found = margins(graph, start, y, intervals(graph, start))
        assert torch.allclose(found, exact, atol=1e-8), (name, threat)


def test_crown_and_fast_lin_match_a_net_worked_by_hand() -> None:
    """f = 2 relu(x1 + x2) - relu(x1 - x2) on [-1, 1]^2, without the intervals' help.

    Both values lie in [-2, 2], so d = 1/2. Fast-Lin: 2 (z1 / 2) - (z2 + 2) / 2 = (x1 + 3 x2) / 2 - 1, at least -3.
    CROWN: slope 0 below (a tie), so -(z2 + 2) / 2 alone, at least -2.
    """
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    net[2].weight.copy_(torch.tensor([[2.0, -1.0]]))
    net[0].bias.zero_()
    net[2].bias.zero_()
    x = torch.zeros(1, 2, dtype=torch.float64)
    graph = capture(net, x.float(), torch.float64)
    start = Interval(x - 1, x + 1)
    values, row = intervals(graph, start), torch.ones(1, 1, 1, dtype=torch.float64)
    assert float(lower(start, row, relax(graph, values, "same"))) == pytest.approx(-3, abs=1e-4)
    assert float(lower(start, row, relax(graph, values))) == pytest.approx(-2, abs=1e-4)
    steep = {2: torch.full((1, 1, 2), 0.25, dtype=torch.float64)}  # (z1 - z2) / 2 - 1 = x2 - 1
    assert float(lower(start, row, relax(graph, values), alphas=steep)) == pytest.approx(-2, abs=1e-4)


def test_a_multiplier_carries_a_split_to_other_values() -> None:
    """-relu(z2) with z1 = z2 = x on [-1, 1] and x said to be at most 0 at z1 alone.

    The line gives -(x + 1) / 2, at least -1; with beta = 1/2 on -z1 >= 0 it becomes the constant -1/2.
    """
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).requires_grad_(False)
    net[0].weight.fill_(1.0)
    net[2].weight.copy_(torch.tensor([[0.0, -1.0]]))
    for layer in (net[0], net[2]):
        layer.bias.zero_()
    x = torch.zeros(1, 1, dtype=torch.float64)
    graph, start = capture(net, x.float(), torch.float64), Interval(x - 1, x + 1)
    values = intervals(graph, start)
    values[1] = Interval(values[1].lower, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    row = torch.ones(1, 1, 1, dtype=torch.float64)
    assert float(lower(start, row, relax(graph, values))) == pytest.approx(-1, abs=1e-5)
    for beta, expected in ((0.5, -0.5), (0.25, -0.75), (1.0, -1.0)):
        betas = {2: torch.tensor([[[-beta, 0.0]]], dtype=torch.float64)}
        assert float(lower(start, row, relax(graph, values), betas=betas)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["mlp", "residual", "joined", "groups", "avg_pool", "pad"])
def test_pulling_rows_back_is_the_transpose(name: str) -> None:
    net, x = make(name, dtype=torch.float64), inputs(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for step in capture(net, x, torch.float64).steps:
        if isinstance(step.op, Affine):
            shape = capture(net, x, torch.float64).steps[step.inputs[0]].shape
            point = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
            rows = torch.randn(2, *step.shape, generator=generator, dtype=torch.float64)
            there = step.op(point) - step.op(torch.zeros_like(point))
            back = step.op.adjoint(rows, shape)
            assert torch.allclose((there * rows).flatten(1).sum(1), (back * point).flatten(1).sum(1))


@pytest.mark.parametrize("name", NETS)
def test_rows_are_not_changed(name: str) -> None:
    graph, start, _ = opened(name, L2(0.5))
    relaxed, generator = relax(graph, intervals(graph, start)), torch.Generator().manual_seed(0)
    for at, step in enumerate(graph.steps):
        rows = torch.randn(3, 2, *step.shape, generator=generator)
        before = rows.clone()
        first = lower(start, rows, relaxed, at=at)
        assert torch.equal(rows, before), step.name
        assert torch.equal(first, lower(start, rows, relaxed, at=at)), step.name


# The batch, the groups, the dtype, and gradients


@pytest.mark.parametrize("name", ["mlp", "joined", "max_pool", "gelu"])
def test_bounds_do_not_depend_on_the_batch_or_on_how_many_rows_are_held(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, start, y = opened(name, L2(0.5))
    values, whole = linear(graph, start, y)
    monkeypatch.setattr(engine, "HELD", 1)
    assert torch.allclose(linear(graph, start, y)[1], whole, rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    assert start.ball is not None
    ball = replace(start.ball, centre=start.ball.centre[1:2], noise=start.ball.noise[1:2])
    single = linear(graph, Interval(start.lower[1:2], start.upper[1:2], ball), y[1:2])
    assert torch.allclose(single[1], whole[1:2], rtol=1e-4, atol=1e-5)
    for index, value in values.items():
        assert torch.allclose(single[0][index].lower, value.lower[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "residual", "joined", "max_pool", "tanh", "gelu", "conv_transpose"])
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_float32_bounds_enclose_float64_bounds_closely(name: str, threat: Threat) -> None:
    """With the same intervals between: what float32 adds is never less than it loses."""
    graph, start, y = opened(name, threat)
    exact, wide, _ = opened(name, threat, torch.float64)
    values = intervals(graph, start)
    ours = {index: Interval(value.lower.double(), value.upper.double()) for index, value in values.items()}
    rows = differences(y, 4, torch.float32)
    single = lower(start, rows, relax(graph, values))
    double = lower(wide, rows.double(), relax(exact, ours))
    assert bool((single <= double).all())
    assert float((double - single).max()) < 2e-3 * float(double.abs().max())


def test_gradients_flow_to_the_weights() -> None:
    net, x, y = make("residual").requires_grad_(True), inputs(), torch.arange(3)

    def loss() -> Tensor:
        graph = capture(net, x, torch.float32)
        start = region(x, Linf(0.01), BOX, torch.float32, torch.float32)
        return margins(graph, start, y, intervals(graph, start, "interval")).sum()

    value = loss()
    value.backward()
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(grads) == len(list(net.parameters()))
    assert all(bool(grad.isfinite().all()) for grad in grads)
    with torch.no_grad():
        length = sum(float(g.square().sum()) for g in grads)
        for p, g in zip(net.parameters(), grads, strict=True):
            p -= 1e-4 / length**0.5 * g
        assert float(value - loss()) == pytest.approx(1e-4 * length**0.5, rel=0.2)


# Rounding and what is not finite


def shuffled(net: nn.Sequential, x: Tensor, generator: torch.Generator) -> Tensor:
    """The network in float32 with every sum in an order of its own."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            total = x.new_zeros(len(x), layer.out_features)
            for column in torch.randperm(layer.in_features, generator=generator).tolist():
                total = total + x[:, column, None] * layer.weight[:, column]
            x = total + layer.bias
        else:
            x = layer(x)
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_order_of_summation_stays_above_the_margins(dtype: torch.dtype) -> None:
    net, x = cancelling()
    graph, start = capture(net, x, dtype), region(x, Linf(0.0), BOX, torch.float32, dtype)
    values = intervals(graph, start)
    relaxed, generator = relax(graph, values), torch.Generator().manual_seed(1)
    for label in range(3):
        least = lower(start, differences(torch.full((4,), label), 3, dtype), relaxed)
        for _ in range(20):
            seen = shuffled(net, x, generator).double()
            assert bool((seen[:, label, None] - seen >= least).all())


def cancelling() -> tuple[nn.Sequential, Tensor]:
    """Scores that are small differences of large sums, on an empty ball."""
    generator = torch.Generator().manual_seed(0)
    first = nn.Linear(200, 2)
    half = torch.randn(2, 100, generator=generator) * 1e3
    first.weight.data = torch.cat([half, -half], 1)
    first.bias.data.fill_(1.0)
    x = torch.rand(4, 100, generator=generator).repeat(1, 2)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(2, 3)).requires_grad_(False), x


def test_without_its_losses_some_order_would_get_below(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = relaxed._loss
    nothing = lambda *a: inner(*a)._replace(each=torch.zeros(()), fixed=torch.zeros(1))  # noqa: E731
    monkeypatch.setattr(relaxed, "_loss", nothing)
    for module in (backward, relaxed):
        monkeypatch.setattr(module, "unit_of", lambda *a: 0.0)
    monkeypatch.setattr(torch, "nextafter", lambda x, _: x)
    with pytest.raises(AssertionError):
        test_any_order_of_summation_stays_above_the_margins(torch.float32)


@pytest.mark.parametrize("name", NETS)
def test_no_operator_loses_a_nan(name: str) -> None:
    net, x, y = make(name), inputs(), torch.arange(3)
    graph = capture(net, x, torch.float32)
    start = region(x, L2(0.1), BOX, torch.float32, torch.float32)
    assert bool(linear(graph, start, y)[1].isfinite().all())
    first = next(
        layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d)
    )
    first.weight.fill_(torch.nan)
    for found in (linear(graph, start, y)[1], alone(graph, start, y)[1]):
        assert not bool((found.scatter(1, y[:, None], torch.nan) > -torch.inf).any())


# Canaries: wrong bounds that the containment test has to catch.


def changed(patch: pytest.MonkeyPatch, change: Callable[[relaxed.Fold], relaxed.Fold]) -> None:
    inner = relaxed._folded
    patch.setattr(relaxed, "_folded", lambda *a: change(inner(*a)))


def flipped_sign(patch: pytest.MonkeyPatch) -> None:
    changed(patch, lambda fold: replace(fold, bend=-fold.bend))


def dropped_offsets(patch: pytest.MonkeyPatch) -> None:
    changed(patch, lambda fold: replace(fold, width=fold.width * 0))


def dropped_bias(patch: pytest.MonkeyPatch) -> None:
    inner = relaxed._loss
    patch.setattr(relaxed, "_loss", lambda *a: inner(*a)._replace(bias=None))


def lines_of_a_smaller_ball(patch: pytest.MonkeyPatch) -> None:
    inner = relaxed.relaxed_step

    def wrong(step: Any, x: Interval, slopes: Any) -> Any:
        middle = (x.lower + x.upper) / 2
        return inner(step, Interval(x.lower.lerp(middle, 0.3), x.upper.lerp(middle, 0.3)), slopes)

    patch.setattr(relaxed, "relaxed_step", wrong)


def steep_below(patch: pytest.MonkeyPatch) -> None:
    inner = relaxed.relaxed_step

    def wrong(step: Any, x: Interval, slopes: Any) -> Any:
        found = inner(step, x, slopes)
        return (
            replace(found, lower=Side(found.lower.slope + 0.2, found.lower.offset))
            if isinstance(found, Lines)
            else found
        )

    patch.setattr(relaxed, "relaxed_step", wrong)


def residual_counted_once(patch: pytest.MonkeyPatch) -> None:
    inner = backward._back
    patch.setattr(backward, "_back", lambda *a: (lambda parts: [*parts[:-1], parts[-1] * (len(parts) == 1)])(inner(*a)))


def own_norm(patch: pytest.MonkeyPatch) -> None:
    """The largest value in place of the sum, at the input."""

    def wrong(a: Tensor, start: Interval, unit: float, **_: bool) -> Tensor:
        middle, radius = (start.lower + start.upper) / 2, (start.upper - start.lower) / 2
        return backward.dot(a, middle) - (a.abs() * radius[:, None]).flatten(2).amax(2).double()

    patch.setattr(backward, "least", wrong)


def norm_of_the_ball(patch: pytest.MonkeyPatch) -> None:
    """l2 with the dual norm of l1."""
    inner = backward.least

    def wrong(a: Tensor, start: Interval, unit: float, **_: bool) -> Tensor:
        assert start.ball is not None
        return inner(a, replace(start, ball=replace(start.ball, norm="l1")), unit)

    patch.setattr(backward, "least", wrong)


def rows_of_another(patch: pytest.MonkeyPatch) -> None:
    """Intervals kept for the neighbour of the value they were found for."""
    inner = engine._kept
    patch.setattr(engine, "_kept", lambda ends, places, *rest: inner(ends, (places + 1) % ends.shape[1], *rest))


@pytest.mark.parametrize(
    ("wrong", "name", "threat"),
    [
        (flipped_sign, "mlp", THREATS[0]),
        (dropped_offsets, "mlp", THREATS[0]),
        (dropped_bias, "mlp", THREATS[0]),
        (lines_of_a_smaller_ball, "mlp", THREATS[0]),
        (lines_of_a_smaller_ball, "dilation", THREATS[0]),
        (steep_below, "mlp", THREATS[0]),
        (residual_counted_once, "residual", THREATS[0]),
        (residual_counted_once, "joined", THREATS[0]),
        (own_norm, "mlp", THREATS[0]),
        (norm_of_the_ball, "mlp", L2(0.3)),
        (rows_of_another, "mlp", THREATS[0]),
    ],
)  # fmt: skip
def test_a_wrong_bound_is_caught(
    wrong: Callable[[pytest.MonkeyPatch], None], name: str, threat: Threat, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        contained(make(name), inputs(), threat, alone, count=300)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_bounds_hold_and_tighten_inside_a_mask(threat: Threat) -> None:
    mask = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(4)) < 0.3
    net, x, y = make("residual"), inputs(), torch.arange(3)
    graph = capture(net, x, torch.float32)
    whole, part = (
        region(x, Threat(threat.norm, threat.eps, m), BOX, torch.float32, torch.float32) for m in (None, mask)
    )
    least, free = linear(graph, part, y)[1], linear(graph, whole, y)[1]
    assert bool((least >= free - 1e-3 * free.abs()).all())
    points = torch.where(
        mask, corners(x, threat, 500, torch.Generator().manual_seed(3)), x.repeat(500, 1, 1, 1)
    ).float()
    scores = net(points)
    assert bool((scores.gather(1, y.repeat(500)[:, None]) - scores >= least.repeat(500, 1)).all())
    assert step_values(graph, x)[-1].shape == (3, 4)


class Multiplied(nn.Module):
    """The product of two inputs, and its negative."""

    def forward(self, x: Tensor) -> Tensor:
        found = x[:, :1] * x[:, 1:]
        return torch.cat([found, -found], 1)


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_product_of_what_has_a_sign_is_bounded_by_its_corners(signs: tuple[int, int]) -> None:
    low, high = torch.tensor([[0.3, 0.5]]).double(), torch.tensor([[0.7, 0.6]]).double()
    ends = torch.stack([low, high]) * torch.tensor(signs)
    graph = capture(Multiplied(), ends[0], torch.float64)
    start = Interval(ends.amin(0), ends.amax(0))
    rows = torch.eye(2).double()[None]
    relaxed = relax(graph, propagate(graph, start))
    exact = torch.stack([a * b for a in ends[:, 0, 0] for b in ends[:, 0, 1]])
    found = lower(start, rows, relaxed)[0]
    assert found.tolist() == pytest.approx([float(exact.amin()), float(-exact.amax())], rel=1e-9)
    assert bool((found <= torch.stack([exact.amin(), -exact.amax()])).all())


def test_planes_hold_and_touch_where_factors_have_either_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, 400, 2, generator=generator).double().sort(0).values
    graph = capture(Multiplied(), ends[0], torch.float64)
    start = Interval(ends[0], ends[1])
    relaxed = relax(graph, propagate(graph, start))
    rows = torch.tensor([1.0, 0.0]).double().expand(400, 1, 2)
    corners = torch.stack([torch.stack([ends[i, :, 0], ends[j, :, 1]], 1) for i in (0, 1) for j in (0, 1)])
    exact = (corners[..., 0] * corners[..., 1]).amin(0)
    found = lower(start, rows, relaxed)[:, 0]
    assert bool((found <= exact + 1e-12).all())
    middle, radius = ends.mean(0), (ends[1] - ends[0]) / 2
    gap = exact - found  # at most what the plane in the middle of all loses
    tangent = middle.prod(1) - (middle.abs() * radius.flip(1)).sum(1) - radius.prod(1)
    assert bool((found >= tangent - 1e-12).all())
    assert float((gap <= 1e-12).double().mean()) > 0.2  # where a sign is known it is exact


def test_a_softmax_of_two_is_a_sigmoid_and_as_tight() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1)

    x = torch.tensor([[0.2, 0.9], [0.5, 0.5]]).double()
    graph = capture(Two(), x, torch.float64)
    value = propagate(graph, Interval(x - 0.1, x + 0.1))[len(graph.steps) - 1]
    gap = x - x.flip(1)
    for end, ours in ((-0.2, value.lower), (0.2, value.upper)):
        torch.testing.assert_close(ours, torch.sigmoid(gap + end), rtol=1e-9, atol=0)


def test_a_softmax_of_far_logits_stays_finite_and_holds() -> None:
    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1000).softmax(1)

    x = torch.tensor([[0.1, 0.9, 0.5, 0.2]])
    graph = capture(Far(), x, torch.float32)
    start = Interval(x - 0.1, x + 0.1)
    value = propagate(graph, start)[len(graph.steps) - 1]
    points = start.lower + (start.upper - start.lower) * torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    exact = (points.double() * 1000).softmax(1)
    assert bool(value.lower.isfinite().all())
    assert bool(((value.lower <= exact) & (exact <= value.upper)).all())
    assert bool((margins(graph, start, torch.tensor([1]), intervals(graph, start))[0, [0, 3]] > 0.99).all())
