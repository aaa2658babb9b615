from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.training import Batch
from ironglass.ops import lp
from learners import blobs, course, seeded


def test_the_loss_is_cross_entropy_and_the_divergence_by_hand() -> None:
    data, eps = blobs(16), 0.3
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double())
    ready = course(ig.defend.trades, net, data, ig.Linf(eps), (-5, 5), beta=2.5, steps=4)
    seen: list[Tensor] = []
    ready.student.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    value = ready.recipe.loss(ready.student, Batch(*data, ig.Linf(eps), 1.0, 0))
    clean, changed = seen[-1].chunk(2)
    assert torch.equal(clean, data[0])
    assert float((changed - clean).abs().max()) <= eps * (1 + 1e-9)
    wanted = 0.0
    for x, other, label in zip(clean, changed, data[1], strict=True):
        p, q = (net(point[None])[0].detach().softmax(0) for point in (x, other))
        wanted += float(-p[label].log() + 2.5 * sum(p[k] * (p[k].log() - q[k].log()) for k in range(3)))
    assert value.item() == pytest.approx(wanted / 16, rel=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_its_ascent_finds_as_much_divergence_as_a_search_by_hand(norm: str) -> None:
    data = blobs(10)
    net = seeded(lambda: nn.Linear(6, 2).double())
    threat = ig.Threat(norm, 0.4)  # type: ignore[arg-type]
    ready = course(ig.defend.trades, net, data, threat, (-6, 6), steps=30)
    seen: list[Tensor] = []
    ready.student.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ready.recipe.loss(ready.student, Batch(*data, threat, 1.0, 0))
    clean, changed = seen[-1].chunk(2)

    def apart(points: Tensor) -> Tensor:
        p, q = net(clean).log_softmax(1), net(points).log_softmax(1)
        return (p.exp() * (p - q)).sum(1)

    rise = (net.weight[1] - net.weight[0]).detach().expand_as(clean)  # of a linear pair of scores, one of two ways
    ways = [clean + lp.maximize(way, clean, threat, ig.Bounds(-6, 6)) for way in (rise, -rise)]
    most = torch.maximum(*(apart(way) for way in ways))
    got = apart(changed)
    assert bool((got <= most * (1 + 1e-9)).all())
    near = torch.minimum((got - apart(ways[0])).abs(), (got - apart(ways[1])).abs())
    assert bool((near < 0.02 * most).all()), "it is at the end of one of the two ways"


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"beta": -1.0}, {"steps": 0}, {"step_size": 0.0}):
        with pytest.raises(InputError, match="beta="):
            ig.defend.trades.raw(ig.Linf(0.1), **wrong)
