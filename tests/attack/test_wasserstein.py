"""The Wasserstein attack against the linear program, and on a network that reads digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.values import Bounds
from ironglass.ops import transport
from ironglass.ops.plans import Ground
from mass import best_gain, pictures, true_distance

ALGORITHMS = ("frank_wolfe", "sinkhorn")
UNIT = Bounds()
both = pytest.mark.parametrize("algorithm", ALGORITHMS)


class Narrow(nn.Module):
    """Takes [-1, 3] to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 4


class Linear(nn.Module):
    """Two classes; the second has the weights, and so far to go that no attack gets there."""

    def __init__(self, weight: Tensor, lead: float = 40.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        away = ((x - 0.5).flatten(1) * self.weight.flatten()).sum(1)  # type: ignore[operator,union-attr]
        return torch.stack([torch.full_like(away, self.lead), away], 1)


def weights(size: int) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(1)).double()


def gained(result: ig.AttackResult, weight: Tensor) -> list[float]:
    return ((result.adversarial - result.x).double().flatten(1) @ weight.flatten()).tolist()


def feasible(result: ig.AttackResult) -> bool:
    """Inside the ball, as measured by the judge and again here; inside the box; with its mass, and outside the mask as
    it was."""
    x, found, eps = result.x.double(), result.adversarial.double(), result.threat.eps
    size = transport.distance(found, x, UNIT)
    mass = x.flatten(1).sum(1).clamp(min=1e-9)
    kept = ((found - x).sum((2, 3)).abs().amax(1) <= 1e-6 * mass).all()
    inside = ((found >= 0) & (found <= 1)).all()
    still = True if result.threat.mask is None else torch.equal(torch.where(result.threat.mask, x, found), x)
    return bool((size <= eps * (1 + 1e-6)).all() & kept & inside) and still


@pytest.mark.parametrize("regime", ["interior", "saturated"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_frank_wolfe_gains_what_the_linear_program_gains(regime: str, masked: bool, targeted: bool, eps: float) -> None:
    x, weight, mask = pictures((1, 8, 8), 0), weights(8), None
    x = x if regime == "interior" else (x * 1.6 - 0.3).clamp(0, 1)
    if masked:
        mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        mask[..., 1:7, 2:] = True
    y = torch.zeros(2, dtype=torch.long)
    goal = ig.Reach(y + 1) if targeted else ig.Avoid(y)
    result = ig.attack.wasserstein(Linear(weight).eval(), x, goal, ig.Wasserstein(eps, mask))
    assert feasible(result)
    assert not bool(result.success.any())
    free = None if mask is None else mask[0, 0]
    for won, row in zip(gained(result, weight), x, strict=True):
        best = best_gain(weight, row[0], eps, free=free)
        assert 0.99 * best <= won <= best * (1 + 1e-6)


def test_sinkhorn_comes_near_and_both_work_in_float32() -> None:
    x, weight, y = (pictures((1, 8, 8), 0) * 1.6 - 0.3).clamp(0, 1), weights(8), torch.zeros(2, dtype=torch.long)
    best = [best_gain(weight, row[0], 0.2) for row in x]
    for algorithm, least in (("frank_wolfe", 0.99), ("sinkhorn", 0.96)):
        for dtype in (torch.float32, torch.float64):
            result = ig.attack.wasserstein(
                Linear(weight).to(dtype).eval(), x.to(dtype), y, ig.Wasserstein(0.2), algorithm=algorithm
            )
            assert feasible(result)
            for won, most in zip(gained(result, weight), best, strict=True):
                assert least * most <= won <= most * (1 + 1e-5)


def test_a_larger_radius_has_room_for_the_capacity_too() -> None:
    x, weight, y = pictures((1, 8, 8), 2, 2), weights(8), torch.zeros(2, dtype=torch.long)
    result = ig.attack.wasserstein(Linear(weight).eval(), x, y, ig.Wasserstein(2.5))
    assert feasible(result)
    for won, row in zip(gained(result, weight), x, strict=True):
        assert won >= 0.98 * best_gain(weight, row[0], 2.5)


def test_success_comes_where_it_is_attainable() -> None:
    x, weight, y = pictures((1, 8, 8), 3, 1), weights(8), torch.zeros(1, dtype=torch.long)
    start = float((x - 0.5).flatten(1) @ weight.flatten())
    best = best_gain(weight, x[0, 0], 0.2)
    wins = [
        bool(ig.attack.wasserstein(Linear(weight, start + share * best).eval(), x, y, ig.Wasserstein(0.2)).success)
        for share in (0.98, 1.001)
    ]
    assert wins == [True, False]


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that reads 8 × 8 digits, and digits that it reads right."""
    data = load_digits()
    x, y = torch.tensor(data.images / 16).float()[:, None], torch.tensor(data.target).long()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        )
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(6):
            for rows in torch.randperm(1400).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    net.eval()
    right = (net(x[1400:]).argmax(1) == y[1400:]).nonzero()[:24, 0] + 1400
    return net, x[right], y[right]


@both
def test_success_grows_with_the_radius_far_above_random_moves(
    digits: tuple[nn.Module, Tensor, Tensor], algorithm: Any
) -> None:
    net, x, y = digits
    rates = []
    for eps in (0.02, 0.1, 0.3):
        result = ig.attack.wasserstein(net, x, y, ig.Wasserstein(eps), algorithm=algorithm, steps=15)
        assert feasible(result)
        rates.append(result.success_rate)
    assert rates == sorted(rates)
    assert rates[0] < 0.5 < rates[2]
    ground = Ground.of(x, ig.Wasserstein(0.3), UNIT)
    worth = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    random = ground.point(ground.within(ground.best(worth)))
    assert float(transport.distance(random, x, UNIT).median()) > 0.1
    assert float((net(random).argmax(1) != y).float().mean()) <= rates[2] - 0.4


def test_what_is_found_is_within_the_true_ball_and_reaches_targets(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    x, y = x[:6], y[:6]
    for algorithm in ALGORITHMS:
        result = ig.attack.wasserstein(net, x, ig.Reach((y + 1) % 10), ig.Wasserstein(0.6), algorithm=algorithm)
        assert feasible(result)
        assert torch.equal(result.success, net(result.adversarial).argmax(1) == (y + 1) % 10)
        assert int(result.success.sum()) >= 3
        for found, before in zip(result.adversarial.double(), x.double(), strict=True):
            found = found * (before.sum() / found.sum())
            assert true_distance(found, before) <= 0.6 * (1 + 1e-6)


@both
def test_a_sample_is_attacked_as_if_it_were_alone(digits: tuple[nn.Module, Tensor, Tensor], algorithm: Any) -> None:
    net, x, y = digits
    net, x, y = net.double(), x[:6].double(), y[:6]
    try:
        threat = ig.Wasserstein(0.08)
        whole = ig.attack.wasserstein(net, x, y, threat, algorithm=algorithm, steps=8)
        for row in (4, 1):
            one = ig.attack.wasserstein(net, x[row : row + 1], y[row : row + 1], threat, algorithm=algorithm, steps=8)
            assert torch.allclose(one.adversarial[0], whole.adversarial[row], atol=1e-9)
            assert int(one.queries) == int(whole.queries[row])
    finally:
        net.float()


def test_groups_of_samples_make_no_difference(
    digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = digits
    whole = ig.attack.wasserstein(net, x[:5], y[:5], ig.Wasserstein(0.08), steps=6)
    monkeypatch.setattr("ironglass.attack.gradient.wasserstein.AT_ONCE", 2 * 24 * 64)
    parts = ig.attack.wasserstein(net, x[:5], y[:5], ig.Wasserstein(0.08), steps=6)
    assert torch.allclose(parts.adversarial, whole.adversarial, atol=1e-6)
    assert torch.equal(parts.queries, whole.queries)


@both
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e18])
def test_nothing_is_ever_not_a_number(algorithm: Any, scale: float) -> None:
    x = torch.stack([torch.zeros(2, 5, 7), torch.ones(2, 5, 7), torch.rand(2, 5, 7), torch.zeros(2, 5, 7)])
    x[3, 0, 2, 3] = 1e-7
    x[2, 1] = 0
    weight = scale * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    net = Linear(weight, 1e3 * max(scale, 1)).eval()
    for eps in (1e-6, 0.1, 50.0):
        result = ig.attack.wasserstein(
            net, x, torch.zeros(4, dtype=torch.long), ig.Wasserstein(eps), algorithm=algorithm, steps=4, loss="margin"
        )
        assert bool(result.adversarial.isfinite().all())
        assert feasible(result)
        assert torch.equal(result.adversarial[0], x[0]), "no mass: nothing can move"
        assert torch.allclose(result.adversarial[1], x[1], atol=1e-6), "no room: nothing can move"
    if scale == 1.0:
        assert bool((result.adversarial[2] != x[2]).any())


def test_requests_that_make_no_sense_are_refused(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    with pytest.raises(ValueError, match="wasserstein needs a finite eps"):
        ig.attack.wasserstein(net, x, y, ig.Wasserstein(math.inf))
    with pytest.raises(ValueError, match="all must be above 0"):
        ig.attack.wasserstein(net, x, y, ig.Wasserstein(0.1), steps=0)
    with pytest.raises(ValueError, match=r"quantize moves values one by one.*\n.*leave quantize"):
        ig.attack.wasserstein(net, (x * 255).round() / 255, y, ig.Wasserstein(0.1), quantize="uint8")
    with pytest.raises(ValueError, match="polish moves values one by one"):
        ig.attack.wasserstein(net, x, y, ig.Wasserstein(0.1), polish=3)
    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), net).eval()
    with pytest.raises(ValueError, match=r"samples are \(24, 64\).*pictures"):
        ig.attack.wasserstein(flat, x.flatten(1), y, ig.Wasserstein(0.1))
    with pytest.raises(ValueError, match="works in linf, l2, l1, not in wasserstein"):
        ig.attack.pgd(net, x, y, ig.Wasserstein(0.1))


@both
def test_a_mask_holds_all_mass_outside_it(digits: tuple[nn.Module, Tensor, Tensor], algorithm: Any) -> None:
    net, x, y = digits
    mask = torch.zeros(len(x), 1, 8, 8, dtype=torch.bool)
    mask[::2, :, :, 3:] = True
    mask[1::2, :, 1:6, :4] = True
    result = ig.attack.wasserstein(net, x, y, ig.Wasserstein(0.3, mask), algorithm=algorithm, steps=10)
    free = ig.attack.wasserstein(net, x, y, ig.Wasserstein(0.3), algorithm=algorithm, steps=10)
    assert feasible(result)
    assert 0 < int(result.success.sum()) < int(free.success.sum())


@both
def test_the_units_of_the_pixels_do_not_matter(digits: tuple[nn.Module, Tensor, Tensor], algorithm: Any) -> None:
    net, x, y = digits
    net, x, y = net.double(), x[:6].double(), y[:6]

    try:
        threat = ig.Wasserstein(0.1)
        unit = ig.attack.wasserstein(net, x, y, threat, algorithm=algorithm, steps=6)
        model = ig.wrap(nn.Sequential(Narrow(), net).eval(), bounds=(-1, 3))
        wide = ig.attack.wasserstein(model, 4 * x - 1, y, threat, algorithm=algorithm, steps=6)
        assert torch.allclose((wide.adversarial + 1) / 4, unit.adversarial, atol=1e-7)
        assert torch.allclose(wide.distance, unit.distance, atol=1e-7)
    finally:
        net.float()
