from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from bound_nets import NETS, corners, inputs, make, project
from ironglass.core.values import Threat
from ironglass.ops import gradients as engine
from ironglass.ops.gradients import gradients
from ironglass.ops.linear import differences, intervals
from ironglass.ops.proofs import opened
from minima import mlp

ORDERS = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


def entries(net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor, Tensor]:
    graph, start = opened(ig.wrap(net).session(x, "training", None, None)[0], x, threat, double=True)
    return gradients(graph, intervals(graph, start), differences(y, graph.steps[-1].shape[0], torch.float64))


def jacobian(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradients of ``z_y - z_j`` at each point ``(n, classes, *shape)``."""
    leaf = x.clone().requires_grad_()
    scores = net(leaf)
    parts = scores.gather(1, y[:, None]) - scores
    return torch.stack(
        [torch.autograd.grad(parts[:, j].sum(), leaf, retain_graph=True)[0] for j in range(scores.shape[1])], 1
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("name", "direction"),
    [(name, "both") for name in NETS] + [(name, "backward") for name in ("mlp", "residual", "joined", "max_pool")],
)
def test_no_point_of_the_ball_has_a_gradient_outside(
    name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST", 1 << 22 if direction == "both" else 0)
    net, x = make(name, dtype=torch.float64), inputs(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for threat in (Threat("linf", 0.07), Threat("l2", 0.3)):
        y = net(x).argmax(1)
        low, high, _ = entries(net, x, y, threat)
        wide, noise = x.repeat(30, 1, 1, 1), torch.randn(90, 2, 6, 6, generator=generator)
        near = project(wide + threat.eps * noise, wide, threat)
        for points in (near, corners(x, threat, 30, generator).clamp(0, 1)):
            seen = jacobian(net, points, y.repeat(30)).unflatten(0, (30, 3))
            slack = 1e-9 * (1 + seen.abs().amax())
            assert bool((seen >= low - slack).all())
            assert bool((seen <= high + slack).all())


@pytest.mark.parametrize("name", NETS)
def test_no_point_of_the_ball_has_a_smaller_margin(name: str) -> None:
    net, x = make(name), inputs()
    y, generator = net(x).argmax(1), torch.Generator().manual_seed(1)
    for threat in (Threat("linf", 0.02), Threat("l2", 0.1), Threat("l1", 0.4)):
        found = ig.certify.fast_lip(net, x, y, threat).margin
        assert bool(found.isfinite().all())
        points = corners(x, threat, 50, generator)
        points = project(points, x.repeat(50, 1, 1, 1), threat).float()
        scores = net(points).unflatten(0, (50, 3))
        own = scores.gather(2, y.expand(50, 3)[..., None])[..., 0]
        seen = own - scores.scatter(2, y.expand(50, 3)[..., None], -torch.inf).amax(2)
        assert bool((found <= seen.amin(0) + 1e-6).all())


@pytest.mark.parametrize("norm", ORDERS)
def test_an_affine_network_gets_its_exact_constant(norm: Any) -> None:
    net = mlp((6, 4))
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.4 + 0.3
    y, eps = net(x).argmax(1), 0.1
    scores, slopes = net(x), net[0].weight[net(x).argmax(1)][:, None] - net[0].weight
    exact = scores.gather(1, y[:, None]) - scores - eps * torch.linalg.vector_norm(slopes, ORDERS[norm], 2)
    exact = exact.scatter(1, y[:, None], torch.inf).amin(1)
    assert torch.allclose(ig.certify.fast_lip(net, x, y, Threat(norm, eps)).margin, exact, atol=1e-6)


def forward_recursion(net: nn.Sequential, limits: list[tuple[Tensor, Tensor]], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The recursion as the paper writes it: from the first layer on, a constant part and an interval around it."""
    weights = [part.weight for part in net if isinstance(part, nn.Linear)]
    fixed, low, high = weights[0], torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
    for weight, (lower, upper) in zip([*weights[1:-1], rows @ weights[-1]], limits, strict=True):
        active, open_ = (lower >= 0).double(), ((lower < 0) & (upper > 0)).double()
        plus, minus = weight.clamp(min=0), weight.clamp(max=0)
        top, bottom = (fixed + high).clamp(min=0), (fixed + low).clamp(max=0)
        high, low = (
            (plus * active) @ high + (minus * active) @ low + (plus * open_) @ top + (minus * open_) @ bottom,
            (plus * active) @ low + (minus * active) @ high + (plus * open_) @ bottom + (minus * open_) @ top,
        )
        fixed = (weight * active) @ fixed
    return fixed + low, fixed + high


def test_one_hidden_layer_is_the_papers_recursion_and_deeper_ones_are_tighter() -> None:
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratios = []
    for sizes in ((5, 16, 3), (5, 16, 12, 3), (5, 12, 12, 12, 3)):
        for seed in range(3):
            net = mlp(sizes, seed)
            y = net(x).argmax(1)
            graph, start = opened(ig.wrap(net).session(x, "training", None, None)[0], x, ig.Linf(0.1))
            values = intervals(graph, start)
            before = [step.inputs[0] for step in graph.steps if getattr(step.op, "name", "") == "relu"]
            rows = differences(y, 3, torch.float64)
            low, high, _ = gradients(graph, values, rows)
            for row in range(4):
                limits = [(values[i].lower[row], values[i].upper[row]) for i in before]
                slow = forward_recursion(net, limits, rows[row])
                if len(sizes) == 3:
                    assert torch.allclose(low[row], slow[0], atol=1e-9)
                    assert torch.allclose(high[row], slow[1], atol=1e-9)
                else:
                    ours, theirs = (torch.maximum(a.abs(), b.abs()).sum() for a, b in ((low[row], high[row]), slow))
                    ratios.append(float(ours / theirs))
    assert max(ratios) <= 1 + 1e-9
    assert min(ratios) < 0.99


def test_the_constant_is_at_least_every_sampled_gradient_and_near_the_largest_of_all_patterns() -> None:
    """One hidden layer: the largest gradient over all patterns of the units that may switch, by enumeration."""
    net = mlp((4, 9, 2), 2)
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = net(x).argmax(1)
    low, high, _ = entries(net, x, y, ig.Linf(0.15))
    bound = torch.maximum(low.abs(), high.abs()).sum(2)
    generator = torch.Generator().manual_seed(0)
    for row in range(3):
        points = (x[row] + (torch.rand(2000, 4, generator=generator, dtype=torch.float64) * 2 - 1) * 0.15).clamp(0, 1)
        seen = jacobian(net, points, y[row].expand(2000)).abs().sum(2).amax(0)
        assert bool((seen <= bound[row] + 1e-9).all())
        centre, radius = (x[row] - 0.15).clamp(0, 1), (x[row] + 0.15).clamp(0, 1)
        middle, half = (centre + radius) / 2, (radius - centre) / 2
        z, reach = net[0](middle[None])[0], net[0].weight.abs() @ half
        states = [(0.0,) if v + r <= 0 else (1.0,) if v - r >= 0 else (0.0, 1.0) for v, r in zip(z, reach, strict=True)]
        patterns = torch.tensor(list(itertools.product(*states)), dtype=torch.float64)
        slopes = net[2].weight[y[row]] - net[2].weight[1 - y[row]]
        largest = ((patterns * slopes) @ net[0].weight).abs().sum(1).amax()
        other = int(1 - y[row])
        assert float(largest) <= float(bound[row, other]) + 1e-9
        assert float(bound[row, other]) <= 1.6 * float(largest)


def test_a_smaller_ball_has_a_smaller_constant_and_the_proof_is_for_its_own_ball() -> None:
    net = mlp((4, 16, 16, 3), 2)
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = net(x).argmax(1)
    sizes = []
    for eps in (0.2, 0.1, 0.05, 0.01):
        low, high, _ = entries(net, x, y, ig.Linf(eps))
        sizes.append(torch.maximum(low.abs(), high.abs()).sum(2))
    for larger, smaller in itertools.pairwise(sizes):
        assert bool((smaller <= larger + 1e-9).all())
    assert float(sizes[0].sum()) > 1.2 * float(sizes[-1].sum())


def test_it_is_never_above_the_exact_minimum_and_a_wrong_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp((4, 10, 8, 3), 2)
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, threat = net(x).argmax(1), ig.Linf(0.1)
    exact = ig.certify.milp(net, x, y, threat, minimum=True).margin
    assert bool((ig.certify.fast_lip(net, x, y, threat).margin <= exact + 1e-6).all())
    kept = engine.slopes
    monkeypatch.setattr(engine, "slopes", lambda step, x: tuple(0.5 * side for side in kept(step, x)))
    assert bool((ig.certify.fast_lip(net, x, y, threat).margin > exact + 1e-6).any())


def test_what_is_not_finite_is_not_proven_and_a_mask_counts() -> None:
    net = mlp((3, 6, 3))
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = net(x).argmax(1)
    whole = ig.certify.fast_lip(net, x, y, ig.L2(0.1)).margin
    assert bool((ig.certify.fast_lip(net, x, y, ig.L2(0.1, torch.tensor([True, False, False]))).margin > whole).all())
    net[2].bias.data[1] = torch.inf
    assert not bool(ig.certify.fast_lip(net, x, torch.ones(4).long(), ig.L2(0.1)).verified.any())


def test_a_ball_without_size_proves_the_decision() -> None:
    net, x = make("residual"), inputs()
    scores = net(x)
    y = scores.argmax(1)
    clean = scores.gather(1, y[:, None])[:, 0] - scores.scatter(1, y[:, None], -torch.inf).amax(1)
    found = ig.certify.fast_lip(net, x, y, ig.Linf(0.0)).margin
    assert torch.allclose(found, clean, atol=1e-3)
    assert bool((found <= clean).all())
