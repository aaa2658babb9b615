"""Fixed-radius attacks on linear models, where the most that can be gained within ball and box is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.method import get
from ironglass.core.values import Bounds, Norm, Threat
from ironglass.ops import lp

SIZE = 784
RADII: dict[Norm, float] = {"linf": 0.1, "l2": 2.0, "l1": 8.0}
REGIMES = {"interior": (0.4, 0.6), "saturated": None}


class Linear(nn.Module):
    """Two classes; the second has the weights, and so far to go that no attack gets there."""

    def __init__(self, weight: Tensor, lead: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        away = x.flatten(1) @ self.weight  # type: ignore[operator]
        return torch.stack([torch.full_like(away, self.lead), away], 1)


def case(regime: str, dtype: torch.dtype = torch.float64) -> tuple[Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(16, 1, 28, 28, generator=generator, dtype=dtype)
    x = x.round() if regime == "saturated" else 0.4 + 0.2 * x
    weight = torch.randn(SIZE, generator=generator, dtype=dtype) / SIZE**0.5
    return Linear(weight, 30.0).eval(), x, torch.zeros(16, dtype=torch.long)


def most(net: Linear, x: Tensor, threat: Threat) -> Tensor:
    """The attainable gain, by formulae of its own: filling for l1, bisection on the multiplier for l2."""
    size, flat = net.weight.abs().expand(len(x), -1), x.flatten(1)  # type: ignore[operator]
    room = torch.where(net.weight > 0, 1 - flat, flat)  # type: ignore[operator]
    if threat.mask is not None:
        room = room * threat.mask.flatten()
    if threat.norm == "linf":
        return (size * room.clamp(max=threat.eps)).sum(1)
    if threat.norm == "l1":
        order = size[0].argsort(descending=True)
        filled = room[:, order]
        left = (threat.eps - (filled.cumsum(1) - filled)).clamp(min=0)
        return (size[:, order] * torch.minimum(filled, left)).sum(1)
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e6, dtype=x.dtype)
    for _ in range(200):
        middle = (low + high) / 2
        over = torch.minimum(middle * size, room).norm(dim=1, keepdim=True) > threat.eps
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (size * torch.minimum(low * size, room)).sum(1)


def gain(net: Linear, result: ig.AttackResult) -> Tensor:
    change = (result.adversarial - result.x).flatten(1)
    return change @ net.weight  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fgsm", {}),
        ("fgsm", {"loss": "margin"}),
        ("pgd", {"random_start": False}),
        ("pgd", {"random_start": False, "loss": "margin", "steps": 25}),
    ],
)
def test_all_that_can_be_gained_is_gained(
    regime: str, norm: Norm, masked: bool, targeted: bool, name: str, options: dict[str, object]
) -> None:
    net, x, y = case(regime)
    mask = None
    if masked:
        mask = torch.zeros(1, 28, 28, dtype=torch.bool)
        mask[:, 7:21, 7:21] = True
    threat = Threat(norm, RADII[norm], mask)
    goal = ig.Reach(torch.ones_like(y)) if targeted else ig.Avoid(y)
    result = get(name)(net, x, goal, threat, **options)
    assert isinstance(result, ig.AttackResult)
    assert bool((gain(net, result) >= 0.999 * most(net, x, threat)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-6)
    assert not bool(result.success.any())


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
def test_a_random_start_costs_little(regime: str, norm: Norm) -> None:
    net, x, y = case(regime)
    threat = Threat(norm, RADII[norm])
    result = ig.attack.pgd(net, x, y, threat, steps=40)
    assert bool((gain(net, result) >= 0.98 * most(net, x, threat)).all())


@pytest.mark.parametrize("norm", RADII)
def test_float32_gains_as_much(norm: Norm) -> None:
    net, x, y = case("saturated", torch.float32)
    threat = Threat(norm, RADII[norm])
    result = ig.attack.pgd(net, x, y, threat, random_start=False)
    assert bool((gain(net, result) >= 0.999 * most(net, x, threat)).all())
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    assert float(lp.norm(result.adversarial.double() - x.double(), norm).max()) <= RADII[norm] * (1 + 1e-6)


@pytest.mark.parametrize("norm", RADII)
def test_success_comes_exactly_where_it_is_attainable(norm: Norm) -> None:
    net, x, y = case("interior")
    threat = Threat(norm, RADII[norm])
    needed = 0.999 * most(net, x, threat)
    start = x.flatten(1) @ net.weight  # type: ignore[operator]
    for share, reached in ((0.99, True), (1.01, False)):
        wins = []
        for row in range(3):
            net.lead = float(start[row] + share * needed[row] / 0.999)
            result = ig.attack.pgd(net, x[row : row + 1], y[:1], threat, random_start=False)
            wins.append(bool(result.success))
        assert wins == [reached] * 3


def test_a_fooled_sample_leaves_the_batch() -> None:
    net, x, y = case("interior")
    start = x.flatten(1) @ net.weight  # type: ignore[operator]
    net.lead = float(start.max()) + 1e-3
    near = int(start.argmax())
    result = ig.attack.pgd(net, x, y, ig.Linf(0.1), random_start=False, steps=40)
    assert int(result.queries[near]) == int(result.first_success[near]) == 3, "the first look, one step, and the check"
    assert int(result.queries.max()) <= 42
    assert result.cost.forward == int(result.queries.sum())


def test_restarts_only_help_and_only_those_that_need_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).eval()
    x = torch.rand(40, 1, 8, 8)
    y = net(x).argmax(1)
    once = ig.attack.pgd(net, x, y, ig.Linf(0.02), steps=5)
    often = ig.attack.pgd(net, x, y, ig.Linf(0.02), steps=5, restarts=4)
    assert bool((often.success >= once.success).all())
    assert torch.equal(often.adversarial[once.success], once.adversarial[once.success])
    assert torch.equal(often.queries[once.success], once.queries[once.success])


def test_the_best_point_comes_back_from_a_failure() -> None:
    net, x, y = case("interior")
    bounds = Bounds(0, 1)
    result = ig.attack.pgd(net, x, y, ig.L1(8.0), steps=7, random_start=False)
    ideal = x + lp.maximize(net.weight.expand(16, -1).reshape_as(x), x, Threat("l1", 8.0), bounds)  # type: ignore[operator]
    assert bool((gain(net, result) >= 0.999 * (ideal - x).flatten(1) @ net.weight).all())  # type: ignore[operator]


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = case("interior")
    for name in ("fgsm", "pgd", "random_noise"):
        with pytest.raises(ValueError, match=f"{name} needs a finite eps"):
            get(name)(net, x, y, ig.L2(float("inf")))
    with pytest.raises(ValueError, match="both must be at least 1"):
        ig.attack.pgd(net, x, y, ig.L2(1.0), steps=0)


def test_noise_is_a_draw_from_the_ball_and_more_tries_only_help() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    x = torch.rand(60, 1, 8, 8)
    y = net(x).argmax(1)
    one = ig.attack.random_noise(net, x, y, ig.Linf(0.3))
    many = ig.attack.random_noise(net, x, y, ig.Linf(0.3), tries=20)
    assert bool((many.success >= one.success).all())
    assert int(many.success.sum()) > int(one.success.sum())
    inside = ((one.adversarial - x).abs() <= 0.3 + 1e-6).flatten(1)[~one.success | (one.distance > 0)]
    assert bool(inside.all())
    assert int(many.queries.max()) <= 20
