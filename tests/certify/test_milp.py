from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.catalogue import catalogue
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.method import get
from ironglass.core.values import Threat
from ironglass.ops.program import encoding, solve, targets
from minima import least_margin, mlp
from nets import images, small_cnn


def points(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def minimum(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> Tensor:
    return ig.certify.milp(net, x, y, threat, minimum=True, **options).margin


CASES = [(sizes, norm) for sizes in ((3, 6, 3), (3, 4, 3, 3), (2, 7, 2)) for norm in ("linf", "l1")]


@pytest.mark.parametrize(("sizes", "norm"), CASES)
def test_it_is_the_minimum_over_all_patterns(sizes: tuple[int, ...], norm: Any) -> None:
    """Against a linear program for each of the 2^n patterns of active ReLUs; both signs of the margin occur."""
    net, x, eps = mlp(sizes), points(3, sizes[0]), {"linf": 0.15, "l1": 0.25}[norm]
    y = net(x).argmax(1)
    for target in range(sizes[-1]):
        found = minimum(net, x, y, Threat(norm, eps), target=target)
        for row in range(len(x)):
            if target == int(y[row]):
                assert float(found[row]) == -torch.inf
                continue
            exact = least_margin(net, x[row], int(y[row]), target, eps, norm)
            assert exact - 2e-5 * (1 + abs(exact)) <= float(found[row]) <= exact + 1e-9


def test_all_classes_together_are_the_least_of_each() -> None:
    net, x = mlp((3, 6, 4)), points(4, 3)
    y = net(x).argmax(1)
    each = torch.stack([minimum(net, x, y, ig.Linf(0.2), target=t) for t in range(4)], 1)
    each = each.where(each.isfinite(), torch.inf)
    assert torch.allclose(minimum(net, x, y, ig.Linf(0.2)), each.amin(1), atol=1e-6)


def test_what_is_not_proven_is_broken_by_a_point_of_the_ball() -> None:
    """It is complete: every sample is proven or falsified, and a counterexample is one on the network itself."""
    net, x = mlp((4, 8, 8, 3), 3), points(12, 4)
    y = net(x).argmax(1)
    result = ig.certify.milp(net, x, y, ig.Linf(0.2))
    assert bool((result.verified ^ result.falsified).all())
    assert 0 < int(result.verified.sum()) < 12
    bad = result.falsified
    assert bool((net(result.counterexample[bad]).argmax(1) != y[bad]).all())
    assert float((result.counterexample - x).abs().max()) <= 0.2 + 1e-12
    assert bool(((result.counterexample >= 0) & (result.counterexample <= 1)).all())


class Mixed(nn.Module):
    """All that is piecewise linear: leaky ReLU, absolute value, clamp, max pooling, a residual sum, a concatenation."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        with torch.random.fork_rng([]):
            torch.manual_seed(4)
            self.first, self.second, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.conv, self.wide, self.head = nn.Conv1d(1, 2, 2), nn.Linear(12, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        if self.kind == "leaky":
            return self.last(F.leaky_relu(z, 0.2))
        if self.kind == "abs":
            return self.last(z.abs())
        if self.kind == "clamp":
            return self.last(z.clamp(-0.2, 0.3))
        if self.kind == "relu6":
            return self.last(F.relu6(z * 8)) / 4
        if self.kind == "residual":
            return self.last(F.relu(self.second(F.relu(z)) + z))
        if self.kind == "cat":
            return self.wide(torch.cat([F.relu(z), 0.5 * z], 1))
        if self.kind == "pool":
            return self.last(
                torch.cat([F.max_pool1d(z[:, None], 3, 1, 1)[:, 0, ::2], F.max_pool1d(z[:, None], 2)[:, 0]], 1)
            )
        return self.head(F.max_pool1d(F.relu(self.conv(z[:, None])), 2, padding=1).flatten(1))


@pytest.mark.parametrize("kind", ["leaky", "abs", "clamp", "relu6", "residual", "cat", "pool", "conv"])
def test_every_piece_is_written_without_loss(kind: str) -> None:
    """Lower than all of a fine grid of the ball, and as low as the best of it but for the grid's own width."""
    net, x, eps = Mixed(kind).double().eval().requires_grad_(False), points(2, 3), 0.15
    side = torch.linspace(-eps, eps, 31, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side, side)
    y = net(x).argmax(1)
    for target in range(3):
        found = minimum(net, x, y, ig.Linf(eps), target=target)
        for row in range(2):
            if target == int(y[row]):
                continue
            scores = net((x[row] + grid).clamp(0, 1))
            seen = float((scores[:, y[row]] - scores[:, target]).amin())
            assert float(found[row]) <= seen + 1e-9
            assert float(found[row]) >= seen - 0.05


def test_with_no_piece_that_switches_it_is_the_corner() -> None:
    net = mlp((5, 7, 3), 1)
    net[0].bias.data.add_(20.0)
    x = points(3, 5)
    y = net(x).argmax(1)
    weight = net[2].weight @ net[0].weight
    for row in range(3):
        slopes = weight[y[row]] - weight
        low, high = (x[row] - 0.1).clamp(min=0), (x[row] + 0.1).clamp(max=1)
        at = net(x[row][None])[0]
        corner = (
            at[y[row]] - at + ((slopes > 0) * (low - x[row]) * slopes + (slopes < 0) * (high - x[row]) * slopes).sum(1)
        )
        corner[y[row]] = torch.inf
        found = minimum(net, x[row : row + 1], y[row : row + 1], ig.Linf(0.1))
        assert float(found) == pytest.approx(float(corner.min()), abs=1e-4)  # inputs are rounded outward


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_sampled_point_of_a_float32_network_crosses_the_bound(norm: Any) -> None:
    net, x = mlp((6, 10, 10, 4), 2).float(), points(6, 6).float()
    y = net(x).argmax(1)
    threat = Threat(norm, {"linf": 0.1, "l1": 0.3}[norm])
    found = minimum(net, x, y, threat)
    attacked = ig.attack.pgd(net, x, y, threat, steps=60, restarts=3)
    generator = torch.Generator().manual_seed(0)
    for row in range(6):
        move = (torch.rand(5000, 6, generator=generator) * 2 - 1) * threat.eps
        if norm == "l1":
            move = move / move.abs().sum(1, keepdim=True).clamp(min=threat.eps) * threat.eps
        spots = torch.cat([(x[row] + move).clamp(0, 1), attacked.adversarial[row : row + 1]])
        scores = net(spots)
        seen = scores[:, y[row]] - scores.scatter(1, y[row].expand(len(spots), 1), -torch.inf).amax(1)
        assert float(found[row]) <= float(seen.min())
        assert float(found[row]) > float(seen.min()) - 1.0


def test_a_mask_and_normalization_count() -> None:
    net, x = mlp((4, 6, 3)), points(4, 4)
    y = net(x).argmax(1)
    mask = torch.tensor([True, False, True, False])
    part = minimum(net, x, y, ig.Linf(0.2, mask))
    assert bool((part > minimum(net, x, y, ig.Linf(0.2))).all())
    folded = mlp((4, 6, 3))
    folded[0].bias.data.sub_(folded[0].weight.sum(1) * 0.25)
    inside = minimum(ig.wrap(mlp((4, 6, 3)), mean=0.25, std=1.0), x, y, ig.Linf(0.1))
    assert torch.allclose(inside, minimum(folded, x, y, ig.Linf(0.1)), atol=1e-4)


def test_tightening_does_not_change_the_minimum_and_needs_fewer_pieces() -> None:
    net, x = mlp((4, 8, 8, 3), 5), points(4, 4)
    y = net(x).argmax(1)
    assert torch.allclose(
        minimum(net, x, y, ig.Linf(0.15)), minimum(net, x, y, ig.Linf(0.15), tighten=False), atol=2e-4
    )


def test_out_of_time_or_nodes_is_not_proven_and_never_wrong() -> None:
    net, x = mlp((6, 24, 24, 4), 2, 2.0), points(3, 6)
    y = net(x).argmax(1)
    exact = minimum(net, x, y, ig.Linf(0.06))
    for options in ({"nodes": 0}, {"seconds": 1e-6}):
        result = ig.certify.milp(net, x, y, ig.Linf(0.06), minimum=True, tighten=False, **options)
        assert bool((result.margin <= exact + 1e-6).all())
        assert bool((result.margin < exact - 1e-3).any())
        assert not bool((result.verified & (exact <= 0)).any())


def test_what_is_not_finite_is_not_proven() -> None:
    net, x = mlp((3, 6, 3)), points(2, 3)
    net[2].bias.data[1] = torch.inf
    result = ig.certify.milp(net, x, torch.tensor([1, 1]), ig.Linf(0.1))
    assert not bool(result.verified.any())


def test_what_it_cannot_write_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"pieces writes sigmoid \(the operator sigmoid at"):
        ig.certify.milp(mlp((3, 6, 3), act=nn.Sigmoid), points(2, 3), torch.tensor([0, 1]), ig.Linf(0.1))
    with pytest.raises(InputError, match="not in l2"):
        ig.certify.milp(mlp((3, 6, 3)), points(2, 3), torch.tensor([0, 1]), ig.L2(0.1))
    with pytest.raises(InputError, match="0 nodes"):
        ig.certify.milp(mlp((3, 6, 3)), points(2, 3), torch.tensor([0, 1]), ig.Linf(0.1), nodes=-1)
    with pytest.raises(InputError, match="class from 0 to 2"):
        ig.certify.milp(mlp((3, 6, 3)), points(2, 3), torch.tensor([0, 1]), ig.Linf(0.1), target=3)


def test_a_network_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "MOST", 100)
    with pytest.raises(InputError, match="384 nonlinear values and 64 inputs is too large"):
        ig.certify.milp(small_cnn().eval(), images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.01))


def test_branch_and_bound_of_another_kind_agrees_on_every_sample() -> None:
    if "beta_crown" not in catalogue():
        pytest.skip("there is no branch and bound on signs here")
    beta_crown: Any = get("beta_crown")
    for seed, sizes in enumerate(((4, 10, 8, 3), (6, 12, 12, 4))):
        net, x = mlp(sizes, seed), points(6, sizes[0], seed)
        y = net(x).argmax(1)
        for eps in (0.05, 0.12):
            ours, theirs = (method(net, x, y, ig.Linf(eps)) for method in (ig.certify.milp, beta_crown))
            assert torch.equal(ours.verified, theirs.verified)
            assert bool((ours.verified ^ ours.falsified).all())


# Canaries: what is deliberately wrong has to be caught.


def _off(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> float:
    """How far the method lies above the truth, or a bug that it noticed itself."""
    found = minimum(net, x, y, ig.Linf(eps))
    exact = [
        min(least_margin(net, x[row], int(y[row]), j, eps) for j in range(3) if j != int(y[row]))
        for row in range(len(x))
    ]
    return float((found - torch.tensor(exact)).max())


def _bad_m(self: Any, value: Any, lower: Any, upper: Any) -> Any:
    return _relu(self, value, lower * 0.5, upper * 0.5)


def _no_bias(self: Any, step: Any, value: Any, limits: Any, weight: Any, bias: Any) -> Any:
    return _affine(self, step, value, limits, weight, np.zeros_like(bias))


_relu, _affine, _integer = encoding.Program._relu, encoding.Program._affine, solve.integer


def _primal(system: Any, costs: Any, seconds: float, nodes: Any = None) -> Any:
    """The objective of the first feasible point in place of the dual bound."""
    found = _integer(system, costs, seconds, nodes)
    return found._replace(bound=float(costs @ system.upper.clip(max=1e3)) + 1.0)


@pytest.mark.parametrize("what", ["limits", "bias", "primal"])
def test_a_wrong_program_is_caught(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = mlp((3, 5, 3), 1), points(2, 3)
    y = net(x).argmax(1)
    assert _off(net, x, y, 0.3) <= 1e-9
    if what == "limits":
        monkeypatch.setattr(encoding.Program, "_relu", _bad_m)
    elif what == "bias":
        monkeypatch.setattr(encoding.Program, "_affine", _no_bias)
    else:
        monkeypatch.setattr(targets, "integer", _primal)
    with pytest.raises(MethodFailed, match="bug of Ironglass"):  # what the network itself shows is noticed at once
        _off(net, x, y, 0.3)


def test_any_multipliers_prove_no_more_than_the_minimum() -> None:
    """Weak duality in floating point: right for random multipliers, tight for the solver's, and what is wrong shows."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = generator.normal(size=(6, 4)), generator.uniform(0.5, 1.5, 6)
        from scipy import sparse

        system = solve.System(sparse.csr_array(a), b, -np.ones(4), np.ones(4), np.zeros(4, dtype=bool))
        costs = generator.normal(size=4)
        found = solve.linear(system, costs)
        value = float(costs @ found.point)
        assert value - 1e-6 <= found.bound <= value + 1e-9
        for _ in range(20):
            assert solve.dual_bound(system, costs, generator.exponential(size=6)) <= value + 1e-12
        assert solve.dual_bound(system, costs, np.full(6, np.nan)) == -np.inf


TABLE = {
    ("mnist_tiny_mlp", 0.1): {0: (9, 1.2276, 1.2276), 1: (6, -1.5190, -1.4998), 2: (2, 0.9133, 1.1756)},
    ("mnistfc_256x2", 0.02): {
        0: (2, -0.9679, -0.3333),
        1: (3, 0.5068, 0.6647),
        2: (8, -0.9433, -0.1149),
        3: (2, 0.9383, 0.9930),
    },
}
"""Of trained networks, the class whose linear bound is least, with its linear program and its exact minimum."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "eps"), TABLE, ids=str)
def test_trained_networks_get_the_minimum_that_was_measured_elsewhere(
    name: str, eps: float, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 it is that figure; in float32 it lies below by what rounding may do. All bounds keep their order."""
    monkeypatch.syspath_prepend(str(shared_data / "loaders"))
    nets = importlib.import_module("cert_nets")
    x, y = nets.images("mnist_test_0_499")
    threat, attacked = ig.Linf(eps), []
    single, double = nets.net(name).eval(), nets.net(name).double().eval()
    for row, (target, program, exact) in TABLE[name, eps].items():
        one = slice(row, row + 1)
        wide = x[one].double(), y[one], threat
        found = ig.certify.milp(double, *wide, target=target, minimum=True, seconds=600)
        assert float(found.margin) == pytest.approx(exact, abs=2e-4)
        loose = ig.certify.convex_polytope(double, *wide, target=target, every=True)
        assert program - 1e-3 <= float(loose.margin) <= exact + 1e-4
        rounded = ig.certify.milp(single, x[one], y[one], threat, target=target, minimum=True, seconds=600)
        assert exact - 0.05 <= float(rounded.margin) <= exact + 1e-4
        attack = ig.attack.pgd(single, x[one], ig.Reach(torch.tensor([target])), threat, steps=100, restarts=2)
        attacked.append(float(attack.after[0, y[row]] - attack.after[0, target]) - float(rounded.margin))
    assert min(attacked) >= 0
    assert min(attacked) < 0.05
