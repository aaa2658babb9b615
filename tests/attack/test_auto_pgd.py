"""Auto-PGD: all that can be gained, its schedule step by step, and who is asked how often."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from attack.oracles import REGIMES, case
from attack.test_bim import MASK, RADII, curved
from ironglass.attack.auto.auto_pgd import _Halving, _Thinning, climb
from ironglass.core.values import Bounds, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp
from ops.test_ascent import at_work

PASSES = {"linf": 51, "l2": 51, "l1": 53}
"""Forward passes of a start; in l1 it is three walks."""


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(("masked", "targeted"), [(False, False), (True, True)])
def test_it_takes_all_that_can_be_taken(regime: str, norm: str, masked: bool, targeted: bool) -> None:
    made = case(regime, 10, lead=12.0)
    mask = MASK if masked else None
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = ig.attack.auto_pgd(made.net, made.x, goal, Threat(norm, RADII[norm], mask), steps=50)  # type: ignore[arg-type]
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm], mask)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-9)
    assert result.queries.tolist() == [1 + PASSES[norm]] * 8


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("targets", [0, 9])
def test_two_classes_have_a_ratio_too(norm: str, targets: int) -> None:
    made = case("saturated", 2, lead=12.0)
    threat = Threat(norm, RADII[norm])  # type: ignore[arg-type]
    result = ig.attack.auto_pgd(made.net, made.x, made.y, threat, loss="dlr", targets=targets, steps=50)
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm])).all())
    assert result.queries.tolist() == [1 + PASSES[norm] + min(targets, 1)] * 8


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("options", [{}, {"loss": "dlr", "targets": 2}])
def test_success_comes_exactly_where_it_is_attainable(norm: str, options: dict[str, object]) -> None:
    made = case("saturated", 10, lead=2.5, count=12)
    radius = float(made.least(norm).median())
    for share in (0.99, 1.01):
        threat = Threat(norm, radius * share)  # type: ignore[arg-type]
        result = ig.attack.auto_pgd(made.net, made.x, made.y, threat, steps=50, **options)  # type: ignore[arg-type]
        wanted = made.least(norm) <= radius * share
        assert not bool((result.success & ~wanted).any())
        assert int((wanted & ~result.success).sum()) <= (0 if not options else 1)


def test_progress_is_judged_on_the_papers_schedule() -> None:
    assert list(_Halving.checks(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(_Halving.checks(1)) == []
    for steps in (5, 10, 37):
        marks = [0, *_Halving.checks(steps)]
        spans = [b - a for a, b in pairwise(marks)]
        assert spans == sorted(spans, reverse=True)
        assert marks[-1] < steps
    assert list(_Thinning.checks(40)) == list(range(1, 40))
    assert list(_Thinning.checks(100))[:3] == [4, 8, 12]


def test_the_walk_in_linf_is_the_papers() -> None:
    """Redone a sample at a time, from the algorithm as it is printed."""
    net, x, _ = curved()
    net, x = net.double(), x.double()[:12]
    with torch.no_grad():
        net[3].weight.mul_(8)  # type: ignore[operator]
    y, eps, steps = net(x).argmax(1), 0.05, 30
    start = (x + eps * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).cos().view_as(x)).clamp(0, 1)
    goal = ig.Avoid(y)
    session, _ = wrap(net).session(x, "gradient")
    found = climb(session, x, goal, ig.Linf(eps), goal.loss("ce"), steps, start, leave=False)
    checks = set(_Halving.checks(steps))
    halvings = 0
    for row in range(len(x)):
        clean, size = x[row : row + 1], 2 * eps

        def at(point: Tensor, row: int = row) -> tuple[float, Tensor]:
            leaf = point.clone().requires_grad_()
            value = nn.functional.cross_entropy(net(leaf), y[row : row + 1])
            return float(value.detach()), torch.autograd.grad(value, leaf)[0]

        def inside(point: Tensor, clean: Tensor = clean) -> Tensor:
            return point.clamp(clean - eps, clean + eps).clamp(0, 1)

        point = before = start[row : row + 1]
        value, grad = at(point)
        best, best_grad, top = point, grad, value
        last_top, changed, rises, count = -float("inf"), True, 0, 0
        for step in range(1, steps + 1):
            ahead = inside(point + size * grad.sign())
            weight = 1.0 if step == 1 else 0.75
            before, point = point, inside(point + weight * (ahead - point) + (1 - weight) * (point - before))
            old, (value, grad) = value, at(point)
            rises, count = rises + (value > old), count + 1
            if value > top:
                best, best_grad, top = point, grad, value
            if step in checks:
                stalled = rises <= 0.75 * count or (not changed and top == last_top)
                if stalled:
                    size, point, grad, halvings = size / 2, best, best_grad, halvings + 1
                last_top, changed, rises, count = top, stalled, 0, 0
        assert torch.allclose(found.point[row], best[0], atol=1e-12)
    assert halvings > 6


@pytest.mark.parametrize("norm", RADII)
def test_every_point_that_is_asked_lies_in_ball_box_and_mask(norm: str) -> None:
    made = case("saturated", 3, lead=12.0, count=4)
    model = at_work(made.net, made.x)
    goal, threat = ig.Avoid(made.y), Threat(norm, RADII[norm], MASK[None])  # type: ignore[arg-type]
    climb(model, made.x, goal, threat, goal.loss("ce"), 12, made.x.clone())  # type: ignore[arg-type]
    points = [point for point, _ in model.asked]
    assert len(points) == 13
    for point in points:
        assert float(lp.norm(point - made.x, norm).max()) <= RADII[norm] * (1 + 1e-9)  # type: ignore[arg-type]
        assert bool(((point >= 0) & (point <= 1)).all())
        assert torch.equal(torch.where(MASK, made.x, point), made.x)


def test_a_fooled_sample_leaves_the_batch() -> None:
    made = case("interior", 10, lead=0.5)
    result = ig.attack.auto_pgd(made.net, made.x, made.y, ig.Linf(0.2))
    assert bool(result.success.all())
    assert bool((result.queries <= result.first_success + 1).all()), "at most the judge looks again"
    assert int(result.queries.max()) < 10


@pytest.mark.parametrize("norm", RADII)
def test_restarts_and_targets_only_help(norm: str) -> None:
    net, x, y = curved()
    threat = Threat(norm, {"linf": 0.02, "l2": 0.15, "l1": 0.8}[norm])  # type: ignore[arg-type]
    once = ig.attack.auto_pgd(net, x, y, threat, steps=8)
    thrice = ig.attack.auto_pgd(net, x, y, threat, steps=8, restarts=3)
    assert bool((thrice.success >= once.success).all())
    assert torch.equal(thrice.queries[once.success], once.queries[once.success])
    one, five = (ig.attack.auto_pgd(net, x, y, threat, steps=8, loss="dlr", targets=k) for k in (1, 5))
    assert bool((five.success >= one.success).all())


def test_a_scale_of_the_logits_changes_nothing_of_the_ratio() -> None:
    net, x, y = curved()
    net, x = net.double(), x.double()
    plain = ig.attack.auto_pgd(net, x, y, ig.Linf(0.03), steps=20, loss="dlr")
    with torch.no_grad():
        net[3].weight.mul_(1024), net[3].bias.mul_(1024)  # type: ignore[operator]
    scaled = ig.attack.auto_pgd(net, x, y, ig.Linf(0.03), steps=20, loss="dlr")
    assert torch.equal(plain.success, scaled.success)
    assert float(((plain.adversarial - scaled.adversarial).abs() < 1e-9).double().mean()) > 0.99, "but for rounding"


def test_a_budget_ends_it_early_and_is_kept() -> None:
    made = case("interior", 2, lead=12.0)
    model = ig.wrap(made.net, max_queries=30)
    result = ig.attack.auto_pgd(model, made.x, made.y, ig.Linf(0.1))
    assert int(result.queries.max()) <= 30
    assert not result.partial
    assert float(made.won(result.adversarial).min()) > 0


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    with pytest.raises(ValueError, match="auto_pgd needs a finite eps"):
        ig.attack.auto_pgd(net, x, y, ig.L2(float("inf")))
    with pytest.raises(ValueError, match="targets=-1"):
        ig.attack.auto_pgd(net, x, y, ig.L2(1.0), targets=-1)


def test_bounds_are_the_models() -> None:
    made = case("interior", 2, lead=12.0)
    bounds = Bounds(0.3, 0.62)
    result = ig.attack.auto_pgd(ig.wrap(made.net, bounds=(0.3, 0.62)), made.x, made.y, ig.Linf(0.3), steps=30)
    assert float(result.adversarial.min()) >= bounds.low
    assert float(result.adversarial.max()) <= bounds.high
