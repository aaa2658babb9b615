from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.values import Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp
from nets import images, small_cnn

clever = importlib.import_module("ironglass.certify.clever")


class Linear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class Wave(nn.Module):
    """Two scores in the plane whose margin is ``2 + x + a sin(b y)``: its slope is known everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        margin = 2 + x[:, 0] + 0.3 * torch.sin(4 * x[:, 1])
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def maxima_of(model: Any, x: Tensor, classes: Tensor, threat: Threat, batches: int, samples: int) -> Tensor:
    reach = torch.full((len(x),), threat.eps, dtype=torch.float64)
    rows = torch.arange(len(x))
    return clever._Probe(model, x, classes, threat).maxima(model.draws(0), reach, rows, batches, samples)


def linear(classes: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = Linear(
        torch.randn(classes, 64, generator=generator, dtype=dtype),
        torch.randn(classes, generator=generator, dtype=dtype),
    )
    x = images(6, dtype=dtype)
    return net.eval().requires_grad_(False), x, net(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_model_gets_its_exact_distance(norm: Any) -> None:
    net, x, y = linear()
    scores = net(x)
    margin = scores.gather(1, y[:, None]) - scores
    slopes = net.weight[y][:, None] - net.weight
    order = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    distance = margin / torch.linalg.vector_norm(slopes, order, 2)
    exact = distance.scatter(1, y[:, None], torch.inf).amin(1)
    far = 0.99 if norm == "linf" else 1e3
    result = ig.certify.clever(net, x, y, Threat(norm, far), batches=4, samples=8)
    assert torch.allclose(result.radius, exact, rtol=1e-3)
    assert torch.equal(result.quality, torch.ones(6))
    for target in range(5):
        one = ig.certify.clever(net, x, y, Threat(norm, far), batches=4, samples=8, target=target)
        expected = torch.where(y == target, 0, distance[:, target])
        assert torch.allclose(one.radius, expected, rtol=1e-3)


def test_the_radius_is_at_most_eps_and_0_where_the_label_is_wrong() -> None:
    net, x, y = linear()
    assert torch.allclose(ig.certify.clever(net, x, y, ig.L2(1e-4), batches=3, samples=4).radius, torch.tensor(1e-4))
    wrong = ig.certify.clever(net, x, (y + 1) % 5, ig.L2(1.0), batches=3, samples=4)
    assert torch.equal(wrong.radius, torch.zeros(6))
    net.weight.mul_(1e-3)  # margins just below 0
    net.bias.mul_(1e-3)
    wrong = ig.certify.clever(net, x, (y + 1) % 5, ig.L2(1.0), batches=3, samples=4)
    assert torch.equal(wrong.radius, torch.zeros(6))


def test_classes_that_do_not_compete_are_left_out() -> None:
    """With one target it is the runner-up's distance, though a class further behind is nearer."""
    weight = torch.zeros(3, 64)
    weight[1, 0], weight[2, 1] = 0.1, 50.0
    net = Linear(weight, torch.tensor([1.0, 0.5, 0.0])).eval().requires_grad_(False)
    x, y = torch.zeros(1, 1, 8, 8), torch.tensor([0])
    scores = net(x)[0]
    one = ig.certify.clever(net, x, y, ig.L2(100.0), batches=3, samples=4, targets=1)
    both = ig.certify.clever(net, x, y, ig.L2(100.0), batches=3, samples=4, targets=2)
    assert float(one.radius) == pytest.approx(float(scores[0] - scores[1]) / 0.1, rel=1e-3)
    assert float(both.radius) == pytest.approx(float(scores[0] - scores[2]) / 50.0, rel=1e-3)


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_the_slope_of_a_known_function_is_found(norm: Any, order: float, eps: float) -> None:
    """Against brute force over a fine grid of the ball."""
    centre = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    side = torch.linspace(-eps, eps, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    grid = grid[lp.norm(grid, norm) <= eps] + centre
    gradient = torch.stack([torch.ones(len(grid)).double(), 1.2 * torch.cos(4 * grid[:, 1])], 1)
    steepest = torch.linalg.vector_norm(gradient, order, 1).amax()
    margin = 2.5 + 0.3 * torch.sin(torch.tensor(2.0).double())
    model = wrap(Wave().eval(), bounds=(-10, 10)).session(centre, "gradient", None, None)[0]
    maxima = maxima_of(model, centre, torch.tensor([[0, 1]]), Threat(norm, eps), 40, 200)
    slope, _ = clever.limit_of_maxima(maxima)
    assert float(maxima.max()) <= float(steepest) * (1 + 1e-5)
    assert float(slope) == pytest.approx(float(steepest), rel=0.01)
    radius, _ = clever.clever.raw(model, centre, torch.tensor([0]), Threat(norm, eps), batches=40, samples=200)
    assert float(radius) == pytest.approx(min(float(margin / steepest), eps), rel=0.01)


def test_the_estimate_is_below_the_distance_to_the_nearest_other_class() -> None:
    """For smooth networks in the plane, where the nearest point of another class is found on a grid."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 3)).double() for _ in range(4)]
        x = torch.rand(8, 2, dtype=torch.float64) * 0.8 + 0.1
    side = torch.linspace(0, 1, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    ratios = []
    for net in nets:
        net[0].weight.data.mul_(6)
        scores = net(x).detach()
        net[2].bias.data.sub_(scores.mean(0))
        y, there = net(x).argmax(1), net(grid).argmax(1)
        result = ig.certify.clever(net.eval(), x, y, ig.L2(0.5), batches=30, samples=100)
        for row in range(len(x)):
            nearest = float(torch.linalg.vector_norm(grid[there != y[row]] - x[row], 2, 1).amin())
            assert float(result.radius[row]) <= nearest * 1.02 + 2e-3
            if nearest < 0.5:
                ratios.append(float(result.radius[row]) / nearest)
    assert len(ratios) > 10
    assert sum(ratios) / len(ratios) > 0.4


def test_maxima_are_of_each_batch_and_grow_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_cnn().eval(), images(3)
    model = wrap(net).session(x, "gradient", None, None)[0]
    classes = torch.arange(5).expand(3, -1)
    few, many = (maxima_of(model, x, classes, ig.L2(1.0), 6, samples) for samples in (2, 64))
    assert few.shape == (3, 4, 6)
    assert float(few.std(2).mean()) > 0
    assert float(many.mean()) > float(few.mean())
    monkeypatch.setattr(clever, "_HELD", 1)  # one point after the other
    assert float(maxima_of(model, x, classes, ig.L2(1.0), 6, 64).mean()) > float(few.mean())


def test_how_much_is_held_at_a_time_does_not_change_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples may be grouped at will; only a sample too large to hold at once draws its points in other parts."""
    net, x = small_cnn(dtype=torch.float64).eval(), images(5, dtype=torch.float64)
    y = net(x).argmax(1)
    whole = ig.certify.clever(net, x, y, ig.L2(0.5), batches=5, samples=7, radii=1)
    monkeypatch.setattr(clever, "_HELD", 64 * 5 * 7)
    one = ig.certify.clever(net, x, y, ig.L2(0.5), batches=5, samples=7, radii=1)
    assert torch.allclose(whole.radius, one.radius, rtol=1e-6)
    monkeypatch.setattr(clever, "_HELD", 64 * 5 * 3)
    parts = ig.certify.clever(net, x, y, ig.L2(0.5), batches=5, samples=7, radii=1)
    assert torch.allclose(whole.radius, parts.radius, rtol=0.5)
    assert parts.cost.backward == whole.cost.backward == 5 * 5 * 7 * 5


def test_several_radii_add_up_what_each_shell_may_lose() -> None:
    """The margin gets steeper far away, and falls by its slope's integral: in the limit its distance is found."""

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (x - 0.5).square().sum(1)
            return torch.stack([10 - far * 40, torch.zeros_like(far)], 1)  # 0 at the distance one half, slope 80 r

    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    model = ig.wrap(Bowl().eval(), bounds=(-10, 10))

    def radius(radii: int) -> float:
        found = ig.certify.clever(model, x, y, ig.L2(2.0), batches=20, samples=200, radii=radii)
        return float(found.radius)

    assert radius(1) == pytest.approx(1 / 16, rel=0.02)  # the margin, over the slope at the edge
    assert radius(1) < radius(3) < radius(6) < radius(20) < 0.505
    assert radius(60) > 0.45


def test_only_the_gradient_inside_the_mask_counts() -> None:
    net, x, y = linear()
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :2] = True
    result = ig.certify.clever(net, x, y, ig.L2(1e3, mask), batches=3, samples=4)
    scores = net(x)
    slopes = (net.weight[y][:, None] - net.weight) * mask.flatten()
    distance = (scores.gather(1, y[:, None]) - scores) / torch.linalg.vector_norm(slopes, 2, 2)
    assert torch.allclose(result.radius, distance.scatter(1, y[:, None], torch.inf).amin(1), rtol=1e-3)


def test_gradients_that_are_not_finite_promise_nothing() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.stack([2 + (flat[:, 0] - flat[:, 0]).sqrt(), flat[:, 1]], 1)

    x = images(3)
    result = ig.certify.clever(Root().eval(), x, torch.zeros(3, dtype=torch.long), ig.L2(0.5), batches=3, samples=4)
    assert torch.equal(result.radius, torch.zeros(3))
    assert torch.equal(result.quality, torch.zeros(3))


@pytest.mark.parametrize(
    ("threat", "options", "says"),
    [
        (ig.L2(float("inf")), {}, "eps is inf"),
        (ig.L2(0.0), {}, "eps is 0"),
        (ig.L2(1.0), {"batches": 0}, "batches=0"),
        (ig.L2(1.0), {"targets": 0}, "targets=0"),
        (ig.L2(1.0), {"radii": 0}, "radii=0"),
        (ig.L2(1.0), {"target": 5}, "target from 0 to 4"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(threat: Threat, options: dict[str, Any], says: str) -> None:
    net, x, y = linear()
    with pytest.raises(InputError, match=says):
        ig.certify.clever(net, x, y, threat, **options)


@pytest.mark.slow
def test_on_a_trained_network_the_mean_is_near_that_of_the_smallest_changes(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In l2, as the options are; in linf, and in one large ball, the estimate is lower."""
    monkeypatch.syspath_prepend(str(shared_data / "loaders"))
    seqnet = importlib.import_module("seqnet")
    sys.modules.pop("seqnet")
    data = np.load(shared_data / "mnist.npz")
    x = torch.from_numpy(data["x_test"][:6]).float().reshape(6, 1, 28, 28) / 255
    y = torch.from_numpy(data["y_test"][:6]).long()
    for name in ("mnist_kw_0.1", "lirpa_mnist_fc3"):
        net = seqnet.load(shared_data / "models" / f"{name}.npz")[0].eval()
        for make, reach in ((ig.L2, 5.0), (ig.Linf, 0.3)):
            least = torch.full((6,), torch.inf)
            for attack in (ig.attack.fmn, ig.attack.deepfool):
                found = attack(net, x, y, make(float("inf")))
                least = torch.where(found.success, least.minimum(found.distance), least)
            options = {"batches": 20, "samples": 64, "targets": 3}
            several = ig.certify.clever(net, x, y, make(reach), **options)
            one = ig.certify.clever(net, x, y, make(reach), radii=1, **options)
            assert (0.7 if make is ig.L2 else 0.5) < float(several.radius.mean() / least.mean()) < 1.3
            assert float(several.radius.mean()) > float(one.radius.mean())
