"""JSMA: its pairs against a table of all pairs, and its walk against one that is written out value by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.attack.sparse import jsma as module
from ironglass.attack.sparse.jsma import best_pair


def table(a: Tensor, b: Tensor, free: Tensor, single: bool) -> float:
    """The best product over all pairs, by looking at each; 0 where none is allowed."""
    up, down = a[:, None] + a, b[:, None] + b
    allowed = free[:, None] & free & (torch.eye(len(a), dtype=torch.bool) == single) & (up > 0) & (down > 0)
    return float(torch.where(allowed, up * down, 0).max())


@pytest.mark.parametrize("kind", ["random", "opposed", "ties", "equal"])
@pytest.mark.parametrize("cells", [1, 1 << 22])
def test_the_best_pair_is_the_best_of_all_pairs(kind: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 7, 40):
        a, b = torch.randn(2, 30, size, generator=generator, dtype=torch.float64)
        if kind == "opposed":
            b = 0.2 * b - a
        elif kind == "ties":
            a, b = (2 * a).round(), (2 * b).round()
        elif kind == "equal":
            b = a
        free = torch.rand(30, size, generator=generator) < 0.8
        single = torch.rand(30, generator=generator) < 0.3
        for row, (p, q) in enumerate(best_pair(a, b, free, single).tolist()):
            best = table(a[row], b[row], free[row], bool(single[row]))
            if p < 0:
                assert best == 0
                continue
            assert (p == q) == bool(single[row])
            assert bool(free[row, [p, q]].all())
            assert float((a[row, p] + a[row, q]) * (b[row, p] + b[row, q])) == pytest.approx(best, rel=1e-12)


def test_small_gradients_count_as_much_as_large_ones() -> None:
    a = torch.tensor([[3e-30, 1e-30, 2e-30]])
    assert sorted(best_pair(a, a, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))[0]) == [0, 2]


def linear(classes: int = 6, size: int = 16) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double().eval()


def walk(net: nn.Sequential, x: Tensor, label: int, targeted: bool, theta: float, most: int, logits: bool) -> Tensor:
    """The attack on one sample as the paper tells it, with a table of all pairs and full Jacobians."""
    x, start, turn = x.clone(), x.clone(), 1.0 if targeted else -1.0
    for _ in range(100):
        point = x.clone().requires_grad_()
        output = net(point[None])[0] if logits else net(point[None])[0].softmax(0)
        if (int(output.argmax()) == label) == targeted:
            break
        own = torch.autograd.grad(output[label], point, retain_graph=True)[0]
        rest = torch.autograd.grad(output.sum() - output[label], point)[0]
        a, b = turn * theta * own, -turn * theta * rest
        free = (x < 1) if theta > 0 else (x > 0)
        left = most - int((x != start).sum())
        if left == 0:
            free &= x != start
        up, down = a[:, None] + a, b[:, None] + b
        alone = torch.eye(len(x), dtype=torch.bool) == (left == 1)  # one value may still be touched: it moves alone
        allowed = free[:, None] & free & alone & (up > 0) & (down > 0)
        if not bool(allowed.any()):
            break
        pair = int(torch.where(allowed, up * down, -1).argmax())
        for i in {pair // len(x), pair % len(x)}:
            x[i] = (x[i] + theta).clamp(0, 1)
    return x


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("theta", "most"), [(1.0, 16), (-1.0, 16), (0.25, 6), (1.0, 4)])
def test_the_walk_is_the_papers(logits: bool, targeted: bool, theta: float, most: int) -> None:
    net = linear()
    x = torch.rand(12, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = net(x).argmax(1)
    goal = ig.Reach((y + 2) % 6) if targeted else ig.Avoid(y)
    result = ig.attack.jsma(net, x, goal, ig.L0(most), theta=theta, gamma=1.0, logits=logits)
    for row in range(12):
        expected = walk(net, x[row], int(goal.labels[row]), targeted, theta, most, logits)
        assert torch.allclose(result.adversarial[row], expected, atol=1e-12)
    assert float(result.distance.max()) <= most
    assert bool(result.success.any())


def test_it_does_not_saturate_where_the_network_is_sure() -> None:
    net = linear()
    x = torch.rand(8, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = net(x).argmax(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1000)
    sure = ig.attack.jsma(net.float(), x.float(), y, ig.L0(16), gamma=1.0)
    assert bool(sure.success.any())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.div_(1000)
    calm = ig.attack.jsma(net, x.float(), y, ig.L0(16), gamma=1.0)
    assert torch.equal(sure.success, calm.success)


def test_the_budget_is_kept_also_an_odd_one_and_the_mask_is_honoured() -> None:
    net = linear()
    x = 0.5 * torch.rand(12, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        net[1].bias[0] += 100  # no attack gets there
    y = net(x).argmax(1)
    for eps, gamma, most in ((1, 1.0, 1), (5, 1.0, 5), (float("inf"), 0.25, 4)):
        result = ig.attack.jsma(net, x, y, ig.L0(eps), gamma=gamma)
        assert bool((result.distance == most).all())
    mask = torch.zeros(16, dtype=torch.bool)
    mask[::2] = True
    result = ig.attack.jsma(net, x, y, ig.L0(6, mask), gamma=1.0)
    assert torch.equal(result.adversarial[:, 1::2], x[:, 1::2])
    assert bool((result.adversarial != x).any(1).any())


def test_it_costs_what_its_card_says() -> None:
    net = linear()
    x = torch.rand(8, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = net(x).argmax(1)
    for logits in (False, True):
        result = ig.attack.jsma(net, x, y, ig.L0(16), gamma=1.0, steps=3, logits=logits)
        assert int(result.queries.max()) <= 1 + 3 * (1 + logits)
        assert result.cost.backward <= 8 * 3 * (1 + logits)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x = linear(), torch.rand(2, 16, dtype=torch.float64)
    for options in ({"theta": 0.0}, {"theta": 1.5}, {"gamma": 0.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="give theta within"):
            ig.attack.jsma(net, x, net(x).argmax(1), ig.L0(4), **options)
