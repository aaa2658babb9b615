from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.training import Batch
from learners import course, digit_net, digits


def test_the_loss_is_that_of_the_proven_margins_weighed_by_the_ramp() -> None:
    x, y = (part[:4] for part in digits())
    net = digit_net()
    ready = course(ig.defend.interval_training, net, (x, y), ig.Linf(0.05), kappa=0.4)
    clean = F.cross_entropy(net(x), y).item()
    for grown in (0.0, 0.5):
        eps = 0.05 * grown
        value = ready.recipe.loss(ready.student, Batch(x, y, ig.Linf(eps), grown, 0)).item()
        weight = 1 - 0.6 * grown
        # one target a class: the proof of a network that has this class and the label alone
        worst = torch.stack([_margin(net, x, y, other, eps) for other in range(10)], 1)
        assert value == pytest.approx(weight * clean + (1 - weight) * F.cross_entropy(-worst, y).item(), rel=1e-4)


def _margin(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, other: int, eps: float) -> torch.Tensor:
    margins = torch.zeros(len(x))
    for row, label in enumerate(y.tolist()):
        if label != other:
            head = torch.nn.Linear(32, 2)
            with torch.no_grad():
                for part in ("weight", "bias"):
                    getattr(head, part).copy_(getattr(net[-1], part)[[label, other]])
            pair = torch.nn.Sequential(*net[:-1], head).eval()
            margins[row] = ig.certify.interval(pair, x[row : row + 1], torch.tensor([0]), ig.Linf(eps)).margin
    return margins


def test_digits_that_could_not_be_proven_are() -> None:
    x, y = digits()
    result = ig.defend.interval_training(
        digit_net(), (x[:1200], y[:1200]), ig.Linf(0.04), (x[1200:], y[1200:]), epochs=9, batch=64, lr=4e-3
    )
    before, after = result.accuracy("certified")
    assert before < 0.05
    assert after > 0.4
    proven = ig.certify.interval(result.model, x[1200:], y[1200:], ig.Linf(0.04)).verified
    held = ~ig.attack.pgd(result.model, x[1200:], y[1200:], ig.Linf(0.04)).success
    assert float(proven.double().mean()) == pytest.approx(after)
    assert bool((held | ~proven).all()), "nothing proven is broken"
    certified = [epoch.accuracy("certified") for epoch in result.history]
    assert certified[result.best] == max(certified)  # type: ignore[type-var]


def test_what_cannot_be_bounded_is_refused_by_name() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1)).sin()

    x, y = digits()
    with pytest.raises(InputError, match="sin"):
        ig.defend.interval_training(Odd(), (x, y), ig.Linf(0.1))
    with pytest.raises(InputError, match="kappa"):
        ig.defend.interval_training(digit_net(), (x, y), ig.Linf(0.1), kappa=2.0)
    with pytest.raises(InputError, match="works in linf"):
        ig.defend.interval_training(digit_net(), (x, y), ig.L2(0.1))
