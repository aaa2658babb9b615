"""What every minimum-norm attack must do where the smallest change is known, and on a net where it is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ironglass as ig
from attack.oracles import case
from ironglass.core.method import get
from ironglass.core.values import Norm, Threat

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
INF = float("inf")


def box() -> Tensor:
    """Returns a mask ``(1, 28, 28)`` of about two thirds of the values."""
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, 3:25, 4:28] = True
    return mask


def finds_the_nearest(
    name: str,
    norm: Norm,
    regime: str,
    *,
    classes: int = 10,
    masked: bool = False,
    targeted: bool = False,
    dtype: torch.dtype = torch.float64,
    ratio: float = 1.005,
    **options: object,
) -> None:
    """Asserts success on every sample of a linear model, at no more than ``ratio`` times the least norm there is."""
    made = case(regime, classes, lead=2.5, dtype=dtype)
    mask = box() if masked else None
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = get(name)(made.net, made.x, goal, Threat(norm, INF, mask), **options)
    assert isinstance(result, ig.AttackResult)
    assert bool(result.success.all())
    away = (result.adversarial.double() - made.x.double()).flatten(1)
    length = away.norm(p={"linf": INF, "l2": 2, "l1": 1}[norm], dim=1)
    assert float((length / made.least(norm, mask)).max()) <= ratio
    assert float((length / made.least(norm, mask)).min()) >= 1 - 1e-5
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    if mask is not None:
        assert torch.equal(torch.where(mask, made.x, result.adversarial), made.x)


def moves_the_fewest(name: str, regime: str, targeted: bool, **options: object) -> None:
    """Asserts that in l0, on a linear model, no value is moved that need not be."""
    made = case(regime, 10, lead=2.5)
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = get(name)(made.net, made.x, goal, Threat("l0", INF), **options)
    assert isinstance(result, ig.AttackResult)
    assert bool(result.success.all())
    for row, gap in enumerate(made.gaps().tolist()):
        flat = made.x[row].flatten()
        worth = made.weight.abs() * torch.where(made.weight > 0, 1 - flat, flat)
        assert int(result.distance[row]) == int((worth.sort(descending=True).values.cumsum(0) < gap).sum()) + 1


def curved(classes: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    """Returns a net with kinks, samples some of whose values are saturated, and its own labels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes)).double().eval()
        x = (torch.rand(40, 1, 8, 8, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def a_budget_is_kept_and_what_was_found_is_kept_too(name: str, norm: Norm) -> None:
    """Asserts that the attack ends by itself within any budget, and that a larger one serves as many samples."""
    net, x, y = curved()
    rates = []
    for budget in (1, 2, 3, 6, 11, 40, 90):
        result = ig.Runner(net, max_queries=budget)(get(name), x, y, Threat(norm, INF))
        assert isinstance(result, ig.AttackResult)
        assert not result.partial, "it is not cut off: it knows its budget"
        assert int(result.queries.max()) <= budget
        assert bool(result.success[result.first_success > 0].all()), "whatever was reached on the way is not lost"
        rates.append(result.success_rate)
    assert rates == sorted(rates)
    assert rates[-1] == 1


def a_radius_is_a_criterion_of_success(name: str, norm: Norm, **options: object) -> None:
    """Asserts that within a finite radius those succeed whose nearest point lies there."""
    net, x, y = curved()
    free = get(name)(net, x, y, Threat(norm, INF), **options)
    assert isinstance(free, ig.AttackResult)
    radius = float(free.distance.median())
    bound = get(name)(net, x, y, Threat(norm, radius), **options)
    assert isinstance(bound, ig.AttackResult)
    assert bool(free.success.all())
    assert bool(bound.success[free.distance <= radius * (1 - 1e-6)].all())
    assert float(bound.distance.max()) <= radius * (1 + 1e-6)
    assert 0.4 <= bound.success_rate <= 0.6
