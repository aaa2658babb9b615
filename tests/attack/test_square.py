from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.values import Norm, Threat
from ironglass.models.adapter import wrap
from ironglass.models.session import Session


def linear(shape: tuple[int, ...], lead: float = 50.0, seed: int = 0) -> nn.Module:
    """Two classes, the second far behind: no attack gets there, and what it gains can be read off."""
    size = torch.Size(shape).numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(size), torch.randn(size, generator=generator)]))  # type: ignore[operator]
        net[1].bias.copy_(torch.tensor([lead, 0.0]))  # type: ignore[operator]
    return net.eval()


def inputs(count: int, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=generator)


def gains(net: nn.Module, result: ig.AttackResult) -> Tensor:
    weight: Tensor = net[1].weight[1]  # type: ignore[index]
    return (result.adversarial - result.x).flatten(1) @ weight


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 4), (20,)])
def test_in_linf_a_long_search_finds_the_best_corner(shape: tuple[int, ...]) -> None:
    net, x = linear(shape), inputs(6, shape)
    result = ig.attack.square(net, x, torch.zeros(6, dtype=torch.long), ig.Linf(0.1), max_queries=4000)
    most = 0.1 * net[1].weight[1].abs().sum()  # type: ignore[index,union-attr]
    assert bool((gains(net, result) >= 0.99 * most).all())
    moved = (result.adversarial - x).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-6), "also in the last row and column"


@pytest.mark.parametrize(("norm", "eps", "share"), [("l2", 0.8, 0.5), ("l1", 3.0, 0.3)])
def test_in_l2_and_l1_it_uses_its_budget_and_beats_its_start_by_far(norm: Norm, eps: float, share: float) -> None:
    shape = (1, 12, 12)
    net, x, y = linear(shape), inputs(6, shape), torch.zeros(6, dtype=torch.long)
    first = ig.attack.square(net, x, y, Threat(norm, eps), max_queries=1)
    found = ig.attack.square(net, x, y, Threat(norm, eps), max_queries=3000)
    weight: Tensor = net[1].weight[1]  # type: ignore[index,assignment]
    most = eps * (weight.norm() if norm == "l2" else weight.abs().max())
    assert bool((gains(net, found) >= share * most).all())
    assert bool((gains(net, found) > gains(net, first) + 0.2 * most).all())
    assert torch.allclose(found.distance, torch.full((6,), eps), rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_more_queries_never_leave_a_worse_point(norm: Norm) -> None:
    shape, eps = (1, 10, 10), {"linf": 0.1, "l2": 0.8, "l1": 3.0}[norm]
    net, x, y = linear(shape), inputs(4, shape), torch.zeros(4, dtype=torch.long)
    seen: list[Tensor] = []
    original = Session.scores

    def watched(self: Session, points: Tensor, rows: Tensor | None = None) -> Tensor:
        out = original(self, points, rows)
        seen.append(out[:, 1].clone())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "scores", watched)
        result = ig.attack.square(net, x, y, Threat(norm, eps), max_queries=200)
    best_tried = torch.stack(seen[1:]).amax(0)
    with torch.no_grad():
        assert torch.allclose(net(result.adversarial)[:, 1], best_tried, atol=1e-4)


def test_every_query_is_charged_and_the_fooled_leave() -> None:
    shape = (1, 8, 8)
    net, x = linear(shape, lead=0.0), inputs(30, shape)
    with torch.no_grad():
        net[1].bias[0] = float(net(x)[:, 1].median()) + 0.3  # type: ignore[index,union-attr,operator]
        y = net(x).argmax(1)
    result = ig.attack.square(net, x, y, ig.Linf(0.01), max_queries=150)
    assert 0 < int(result.success.sum()) < 30
    won, lost = result.success, ~result.success
    assert torch.equal(result.queries[won], result.first_success[won])
    assert result.queries[lost].tolist() == [151] * int(lost.sum()), "its own queries, and the runner's first"
    assert result.cost.forward == int(result.queries.sum())
    assert result.cost.backward == 0


def test_the_models_budget_holds_before_its_own() -> None:
    shape = (1, 8, 8)
    net, x = linear(shape), inputs(3, shape)
    runner = ig.Runner(wrap(net, max_queries=20))
    result = runner(ig.attack.square, x, torch.zeros(3, dtype=torch.long), ig.Linf(0.1), max_queries=500)
    assert isinstance(result, ig.AttackResult)
    assert result.queries.tolist() == [20] * 3
    assert bool((gains(net, result) > 0).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_target_is_sought_and_a_mask_kept(norm: Norm) -> None:
    shape, eps = (1, 8, 8), {"linf": 0.2, "l2": 1.5, "l1": 6.0}[norm]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    x = inputs(12, shape)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 1:7, 2:8] = True
    goal = ig.Reach((net(x).argmax(1) + 1) % 4)
    result = ig.attack.square(net, x, goal, Threat(norm, eps, mask), max_queries=300)
    assert int(result.success.sum()) >= 6
    assert torch.equal(net(result.adversarial).argmax(1)[result.success], goal.labels[result.success])
    assert torch.equal(result.adversarial.where(~mask, x), x)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = linear((1, 4, 4)), inputs(2, (1, 4, 4)), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="square needs a finite eps"):
        ig.attack.square(net, x, y, ig.L2(float("inf")))
    for options in ({"p": 0.0}, {"p": 1.5}, {"max_queries": 0}):
        with pytest.raises(ValueError, match="give max_queries ≥ 1 and 0 < p ≤ 1"):
            ig.attack.square(net, x, y, ig.L2(1.0), **options)  # type: ignore[arg-type]
