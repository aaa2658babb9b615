"""Momentum: the sum of gradients of mean size one, by hand; and all that can be gained."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.oracles import REGIMES, case
from attack.test_bim import MASK, RADII, curved
from ironglass.core.values import Threat


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_takes_all_that_can_be_taken(regime: str, norm: str, masked: bool, targeted: bool) -> None:
    made = case(regime, 10, lead=12.0)
    mask = MASK if masked else None
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = ig.attack.momentum_pgd(made.net, made.x, goal, Threat(norm, RADII[norm], mask))  # type: ignore[arg-type]
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm], mask)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_the_steps_are_the_papers(decay: float) -> None:
    net, x, _ = curved()
    net, x = net.double(), x.double() * 0.2 + 0.4
    y = net(x).argmax(1)
    steps, eps = 6, 0.004  # nobody is fooled, and no bound is met
    point, momentum = x.clone(), torch.zeros_like(x)
    losses, visited = [], []
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(net(leaf), y, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        momentum = decay * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        point = (point + eps / steps * momentum.sign()).clamp(x - eps, x + eps)
        visited.append(point)
    result = ig.attack.momentum_pgd(net, x, y, ig.Linf(eps), steps=steps, decay=decay)
    kept = ~result.success
    assert int(kept.sum()) > 24
    losses = torch.stack([ig.Avoid(y).loss("margin")(net(v), slice(None)) for v in visited])
    assert torch.allclose(result.adversarial[kept], visited[-1][kept], atol=1e-12)
    assert bool((losses[-1] >= losses[0]).all())


def test_momentum_differs_from_plain_steps_on_a_curved_net() -> None:
    net, x, y = curved()
    plain, with_momentum = (
        ig.attack.momentum_pgd(net, x, y, ig.L2(0.1), step_size=0.04, decay=decay) for decay in (0.0, 1.0)
    )
    assert not torch.equal(plain.adversarial, with_momentum.adversarial)


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    with pytest.raises(ValueError, match="momentum_pgd needs a finite eps"):
        ig.attack.momentum_pgd(net, x, y, ig.L2(float("inf")))
    with pytest.raises(ValueError, match="decay=-1"):
        ig.attack.momentum_pgd(net, x, y, ig.L2(1.0), decay=-1)
