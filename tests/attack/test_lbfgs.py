"""The L-BFGS attack on linear models, where the smallest change in the box is known, and against SciPy's solver."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

import ironglass as ig
from attack.oracles import REGIMES, case
from ironglass.core.values import Bounds
from nets import images, small_cnn

INF = float("inf")
module = importlib.import_module("ironglass.attack.gradient.lbfgs")


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("lead", [0.6, 2.0])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_smallest_change_is_found(regime: str, lead: float, targeted: bool, masked: bool) -> None:
    known = case(regime, 10, lead=lead)
    mask = None
    if masked:
        mask = torch.zeros(1, 28, 28, dtype=torch.bool)
        mask[:, 4:24, 4:24] = True
    goal = ig.Reach(torch.full_like(known.y, known.near)) if targeted else ig.Avoid(known.y)
    least = known.least("l2", mask)
    result = ig.attack.lbfgs(known.net, known.x, goal, ig.L2(INF, mask))
    attainable = least.isfinite()
    assert torch.equal(result.success, attainable)
    assert bool(attainable.any())
    assert float((result.distance / least)[attainable].max()) <= 1.005


@pytest.mark.parametrize("regime", REGIMES)
def test_the_search_alone_comes_near(regime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "polish", lambda model, x, found, *_, **__: found)
    known = case(regime, 10, lead=0.6)
    result = ig.attack.lbfgs(known.net, known.x, known.y, ig.L2(INF), search_steps=12, steps=30)
    assert bool(result.success.all())
    assert float((result.distance / known.least("l2")).max()) <= 1.02


def test_one_value_of_c_is_minimized_as_scipy_does() -> None:
    """The points the attack asks for end where SciPy's minimizer of the same objective lies."""
    known = case("saturated", 10, lead=2.0, count=1)
    x = known.x.flatten(1)[0].numpy()
    c, seen = [], []
    taken = module.Lbfgs.tell

    def tell(self: object, rows: Tensor, value: Tensor, grad: Tensor) -> None:
        taken(self, rows, value, grad)
        seen.append((float(value), self.point.clone()))  # type: ignore[attr-defined]

    constant = module._linear_constant

    def remembered(*args: object) -> Tensor:
        c.append(constant(*args))
        return c[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Lbfgs, "tell", tell)
        patch.setattr(module, "_linear_constant", remembered)
        ig.attack.lbfgs(known.net, known.x, ig.Reach(known.y + 9), ig.L2(INF), search_steps=1, steps=60)

    def objective(r: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(r).reshape(1, 1, 28, 28).requires_grad_()
        loss = F.cross_entropy(known.net(point), known.y + 9) + float(c[0]) * (point - known.x).square().sum()
        return float(loss.detach()), torch.autograd.grad(loss, point)[0].flatten().numpy()

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500}
    best = minimize(objective, x, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * 784, options=options)
    ours = objective(seen[-1][1].flatten().numpy())[0]
    assert ours <= best.fun + 1e-6 * max(1.0, best.fun)


def test_float32_finds_as_much() -> None:
    known = case("saturated", 10, lead=0.6, dtype=torch.float32)
    result = ig.attack.lbfgs(known.net, known.x, known.y, ig.L2(INF))
    assert bool(result.success.all())
    assert float((result.distance.double() / known.least("l2")).max()) <= 1.005


def test_other_bounds_are_other_units() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(12, dtype=torch.float64)
    y = net(x).argmax(1)
    plain = ig.attack.lbfgs(net, x, y, ig.L2(INF))
    wide = ig.wrap(torch.nn.Sequential(Scaled(), net).eval(), bounds=Bounds(0, 255))
    scaled = ig.attack.lbfgs(wide, x * 255, y, ig.L2(INF))
    assert torch.equal(plain.success, scaled.success)
    assert torch.allclose(plain.distance * 255, scaled.distance, rtol=1e-2)


class Scaled(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 255


def test_it_costs_what_its_card_says_and_refuses_no_steps() -> None:
    net, x = small_cnn().eval(), images(12)
    y = net(x).argmax(1)
    result = ig.attack.lbfgs(net, x, y, ig.L2(INF), search_steps=2, steps=5)
    assert result.cost.backward <= 12 * (10 + 3)
    assert result.cost.forward + result.cost.backward <= 12 * (1 + 20 + 21)
    with pytest.raises(ValueError, match="both must be at least 1"):
        ig.attack.lbfgs(net, x, y, ig.L2(INF), steps=0)
