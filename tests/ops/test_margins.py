from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.core.values import L1, L2, Bounds, Linf, Threat
from ironglass.ops import lp
from ironglass.ops.bounds import propagate, region
from ironglass.ops.capture import capture
from ironglass.ops.margins import margins

BOX = Bounds(0.0, 1.0)


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


class DeepAffine(nn.Module):
    """Affine from end to end: convolution, batch norm, a residual, padding, joining, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.block, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv((x - 0.5) / 0.25))
        x = self.block(x) * 0.5 - x
        return self.head(F.avg_pool2d(torch.cat([x, F.pad(x, (1, -1, 0, 0), mode="replicate")], 1), 2).flatten(1))


def affine(dtype: torch.dtype, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = DeepAffine()
        net.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        net.norm.running_var.uniform_(0.1, 2)  # type: ignore[union-attr]
        net.norm.weight.data.uniform_(-2, 2)
    return net.eval().to(dtype).requires_grad_(False)


def pictures(count: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(count, 1, 8, 8, generator=generator, dtype=dtype) * 1.6 - 0.3).clamp(0, 1)


def found(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, dtype: torch.dtype) -> Tensor:
    return margins(capture(net, x, dtype), region(x, threat, BOX, x.dtype, dtype), y)


def rows_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradients of the differences of scores ``(N, classes, *shape)``: constant for an affine network."""
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v).sum(0), x).transpose(0, 1)
    return jacobian[torch.arange(len(x)), y][:, None] - jacobian


def exact(net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The true least difference of an affine network's scores over ball, box and mask."""
    rows = rows_of(net, x, y)
    scores = net(x)
    clean = scores.gather(1, y[:, None]) - scores
    worst = torch.stack(
        [(lp.maximize(-rows[:, j], x, threat, BOX) * rows[:, j]).flatten(1).sum(1) for j in range(5)], 1
    )
    return clean + worst


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-4), (torch.float64, 2e-6)])
@pytest.mark.parametrize("masked", [False, True])
def test_an_affine_network_on_a_box_is_bounded_exactly(dtype: torch.dtype, tolerance: float, masked: bool) -> None:
    x, y = pictures(7, dtype), torch.arange(7) % 5
    mask = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4 if masked else None
    for seed, eps in enumerate((0.0, 0.01, 0.3, 2.0)):
        net = affine(dtype, seed)
        truth, least = exact(net, x, y, Linf(eps, mask)), found(net, x, y, Linf(eps, mask), dtype)
        size = truth.abs().amax()
        assert bool((least <= truth + 1e-6 * size * (dtype == torch.float32)).all())
        assert torch.allclose(least, truth.double(), atol=float(tolerance * size), rtol=0)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("eps", [0.05, 0.5, 3.0])
def test_an_affine_network_on_a_ball_gets_the_dual_norm_or_the_box(norm: str, eps: float) -> None:
    x, y, net = pictures(6, torch.float64), torch.arange(6) % 5, affine(torch.float64)
    threat = Threat(norm, eps)  # type: ignore[arg-type]
    least = found(net, x, y, threat, torch.float64)
    rows, scores = rows_of(net, x, y).flatten(2), net(x)
    clean = scores.gather(1, y[:, None]) - scores
    dual = clean - eps * torch.linalg.vector_norm(rows, 2 if norm == "l2" else torch.inf, 2)
    box = exact(net, x, y, Linf(eps))
    assert torch.allclose(least, torch.maximum(dual, box), atol=2e-6 * float(clean.abs().amax() + dual.abs().amax()))
    assert bool((least <= exact(net, x, y, threat) + 1e-12).all())


def test_inside_the_box_a_ball_is_bounded_exactly() -> None:
    x, y, net = pictures(6, torch.float64) * 0.2 + 0.4, torch.arange(6) % 5, affine(torch.float64)
    for threat in (L2(0.3), L1(0.3), L2(0.2, torch.rand(1, 1, 8, 8) < 0.5)):
        assert torch.allclose(found(net, x, y, threat, torch.float64), exact(net, x, y, threat), atol=1e-5)


def test_what_the_scores_share_cancels() -> None:
    """Two scores that rise together: far apart as intervals, always the same distance as a margin."""
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    net[2].weight.copy_(torch.tensor([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]))
    net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    net[0].bias.fill_(1.0)
    x, y = torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
    graph = capture(net, x, torch.float32)
    start = region(x, Linf(0.3), BOX, torch.float32, torch.float32)
    scores = propagate(graph, start)[len(graph.steps) - 1]
    assert bool((scores.lower[:, 0] < scores.upper[:, 1]).all())
    assert torch.allclose(margins(graph, start, y)[:, 1], torch.ones(4).double(), atol=1e-4)


def test_margins_do_not_depend_on_the_batch() -> None:
    x, y, net = pictures(7, torch.float64), torch.arange(7) % 5, affine(torch.float64)
    mask = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    for norm in ("linf", "l2", "l1"):
        threat = Threat(norm, 0.2, mask)  # type: ignore[arg-type]
        whole = found(net, x, y, threat, torch.float64)
        order = torch.tensor([5, 1, 2])
        assert torch.allclose(
            whole[order], found(net, x[order], y[order], threat.take(order), torch.float64), atol=1e-9
        )


def test_margins_fall_as_the_ball_grows() -> None:
    x, y = pictures(6, torch.float32), torch.arange(6) % 5
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5)).requires_grad_(False)
    for norm in ("linf", "l2", "l1"):
        each = [found(net, x, y, Threat(norm, eps), torch.float32) for eps in (0.0, 0.01, 0.1, 1.0, 5.0)]  # type: ignore[arg-type]
        assert all(bool((wide <= narrow + 1e-6).all()) for narrow, wide in itertools.pairwise(each))


def test_scores_of_another_shape_are_an_error() -> None:
    graph = capture(nn.Sequential(nn.Linear(3, 4)), torch.rand(2, 3), torch.float32)
    x = torch.rand(2, 5, 3)
    with pytest.raises(InputError, match=r"returns \(2, 5, 4\)"):
        margins(graph, region(x, Linf(0.1), BOX, torch.float32, torch.float32), torch.zeros(2, dtype=torch.long))
