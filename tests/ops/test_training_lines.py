from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.values import Linf, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp
from ironglass.ops.training import lines
from ironglass.ops.training.bounds import interval_margins
from ironglass.ops.training.student import Apprentice
from learners import seeded
from nets import images, small_cnn


def student(net: nn.Module, x: Tensor) -> Apprentice:
    model = wrap(net.eval())
    model.probe(x)
    return Apprentice(model, torch.Generator().manual_seed(1))


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 12), nn.ReLU(),
        nn.Linear(12, 5),
    )  # fmt: skip


class Joined(nn.Module):
    """Convolutions, a skip that meets again, a leaky ReLU and an absolute value."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.head, self.skip = nn.Linear(48, 5), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.one(x), 0.2)
        both = (first - 0.5 * F.relu(self.two(first))).flatten(1)
        return self.head(both.abs()) + 0.1 * self.skip(both)


def joined() -> nn.Module:
    return Joined()


def slow_convex(net: nn.Sequential, x: Tensor, y: Tensor, eps: float, q: float) -> Tensor:
    """The dual of one sample, written out from the paper: every bound by a loop over its row."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    lows: list[Tensor] = []
    highs: list[Tensor] = []

    def dual(c: Tensor, depth: int) -> Tensor:
        nu, value, gains = -c, torch.zeros((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
        for k in range(depth, 0, -1):
            value = value - nu @ layers[k].bias
            hat = layers[k].weight.T @ nu
            l, u = lows[k - 1], highs[k - 1]  # noqa: E741 - the paper's names
            d = torch.where(l >= 0, 1.0, torch.where(u <= 0, 0.0, u / (u - l)))
            unstable = (l < 0) & (u > 0)
            nu = d * hat
            gains = gains + torch.where(unstable, l * nu.clamp(min=0), 0.0).sum()
        value = value - nu @ layers[0].bias
        hat = layers[0].weight.T @ nu
        return value - x @ hat - eps * torch.linalg.vector_norm(hat, q) + gains

    for k, layer in enumerate(layers[:-1]):
        rows = torch.eye(layer.out_features, dtype=x.dtype)
        lows.append(torch.stack([dual(row, k) for row in rows]))
        highs.append(torch.stack([-dual(-row, k) for row in rows]))
    classes = torch.eye(layers[-1].out_features, dtype=x.dtype)
    return torch.stack([dual(classes[y] - other, len(layers) - 1) for other in classes])


@pytest.mark.parametrize(("norm", "q"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_the_convex_bound_is_the_dual_written_out(norm: Any, q: float) -> None:
    net = seeded(dense).double()
    x, y = 0.5 + 0.3 * (images(4, dtype=torch.float64) - 0.5), torch.arange(4) % 5  # away from the bounds
    eps = {"linf": 0.03, "l2": 0.25, "l1": 0.8}[norm]
    found = lines.convex_margins(student(net, x), x, y, Threat(norm, eps))
    slow = torch.stack([slow_convex(net, one.flatten(), label, eps, q) for one, label in zip(x, y, strict=True)])
    assert torch.allclose(found, slow.scatter(1, y[:, None], 0.0), rtol=1e-9, atol=1e-9)
    assert bool((found.abs() > 1e-3).any())


@pytest.mark.parametrize("make", [dense, joined, small_cnn], ids=["dense", "joined", "normalized"])
def test_linear_bounds_trained_on_are_those_that_are_proven(make: Any) -> None:
    net, x, y = seeded(make).double().eval(), images(6, dtype=torch.float64), torch.arange(6) % 5
    threat = Linf(0.02, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.8)
    learner = student(net, x)
    found, _, _ = lines.crown_ibp_margins(learner, x, y, threat)
    alone = interval_margins(learner, x, y, threat)
    proven = ig.certify.crown_ibp(ig.wrap(net), x, y, threat).margin
    least = torch.maximum(found, alone).scatter(1, y[:, None], torch.inf).amin(1)
    assert torch.allclose(least, proven, rtol=1e-6, atol=1e-6)
    assert bool((least >= proven - 1e-12).all()), "a proof has slack for rounding on top"


@pytest.mark.parametrize("make", [dense, joined], ids=["dense", "joined"])
def test_the_convex_bound_is_never_crossed(make: Any) -> None:
    net, x, y = seeded(make).double().eval(), images(5, dtype=torch.float64), torch.arange(5) % 5
    threat = Linf(0.05)
    found = lines.convex_margins(student(net, x), x, y, threat).scatter(1, y[:, None], torch.inf).amin(1)
    assert bool((found > -1).all()), "it says something"
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        move = (torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1).sign()
        point = lp.project(x + 0.05 * move, x, threat, ig.Bounds())
        scores = net(point)
        margin = scores.gather(1, y[:, None])[:, 0] - scores.scatter(1, y[:, None], -torch.inf).amax(1)
        assert bool((margin >= found - 1e-9).all())


@pytest.mark.parametrize("bound", ["convex", "crown"])
def test_linear_bounds_have_the_gradient_of_their_finite_difference(bound: str) -> None:
    net, x, y = seeded(dense).double(), images(3, dtype=torch.float64), torch.arange(3) % 5
    learner = student(net, x)
    weight = learner.whole.net[3].weight  # type: ignore[index]

    def value() -> Tensor:
        if bound == "convex":
            return F.cross_entropy(-lines.convex_margins(learner, x, y, Linf(0.02)), y)
        return F.cross_entropy(-lines.crown_ibp_margins(learner, x, y, Linf(0.02))[0], y)

    (grad,) = torch.autograd.grad(value(), weight)
    index = divmod(int(grad.abs().argmax()), weight.shape[1])
    with torch.no_grad():
        weight[index] += 1e-6
        up = value().item()
        weight[index] -= 2e-6
        down = value().item()
    assert grad[index].item() == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_other_activations_and_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(3), torch.arange(3)
    smooth = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Sigmoid(), nn.Linear(8, 5)))
    with pytest.raises(InputError, match="sigmoid"):
        lines.crown_ibp_margins(student(smooth, x), x, y, Linf(0.1))
    monkeypatch.setattr(lines, "LARGEST", 10)
    with pytest.raises(InputError, match="exact bounds of the 15 values"):
        lines.convex_margins(student(seeded(dense), x), x, y, Linf(0.1))
