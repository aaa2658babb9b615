"""A layer's activation and gradient on the cut copy are those of the network itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.access import At
from ironglass.core.errors import InputError
from ironglass.models.demo import demo_data, demo_model
from ironglass.models.network import Torch

SIDE = 12


class Branches(nn.Module):
    """A stem with a batch norm, a branch around the middle, an activation in place, a norm that nothing precedes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8))
        self.act, self.norm = nn.ReLU6(inplace=True), nn.BatchNorm2d(8)
        self.late, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        near = self.stem(x)
        far = self.act(self.middle(near)) + near
        return self.head(torch.tanh(self.late(self.norm(far))).mean((2, 3)) + x.mean((1, 2, 3))[:, None])


class Around(nn.Module):
    """A module that hands its input on, and a way around it: cut as a module, and not as a value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.same, self.head = nn.Conv2d(3, 4, 3), Handed(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((self.same(y).tanh() + y).mean((2, 3)))


class Handed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(self.act(self.conv(x)))).mean((2, 3)))


class Overwritten(nn.Module):
    """A value that is changed without a name of its own, behind a layer that is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next, self.head = nn.Conv2d(3, 4, 3), Doubled(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.next(y)
        y.add_(z)
        return self.head((z + y).tanh().mean((2, 3)))


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    return net


def both(net: nn.Module, x: Tensor, layer: str, instead: Tensor | None = None) -> tuple[At, At, bool]:
    """What the copy and the network give, and whether the copy gave it."""
    found = []
    for optimize in (True, False):
        backend = Torch(net, None, None, optimize)
        backend.prepare(x)
        found.append(backend.at(layer, x, lambda scores, rows: scores[:, 1] - scores[:, 0] ** 2, instead))
        if optimize:
            cut = backend._cuts[layer] is not None
    return found[0], found[1], cut


def agree(one: At, other: At, tolerance: float) -> None:
    for given, wanted in zip(one, other, strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    ("layer", "cut"),
    [
        ("stem.0", False),  # its output is no more
        ("stem.1", True),
        ("stem.2", True),
        ("stem", True),
        ("middle.0", False),
        ("middle", True),
        ("act", True),
        ("norm", True),
        ("late", True),
        ("head", True),
    ],
)
def test_every_layer_of_a_network_with_branches(layer: str, cut: bool, dtype: torch.dtype, tolerance: float) -> None:
    net, x = drawn(Branches).to(dtype), torch.rand(5, 3, SIDE, SIDE, dtype=dtype)
    ours, theirs, was_cut = both(net, x, layer)
    assert was_cut is cut
    agree(ours, theirs, tolerance)
    assert bool(ours.grad.any())
    other = torch.rand_like(ours.activation)
    ours, theirs, _ = both(net, x, layer, other)
    torch.testing.assert_close(ours.activation, other, rtol=0, atol=0)
    agree(ours, theirs, tolerance)


@pytest.mark.parametrize("fused", [True, False])
def test_a_large_network_is_fused_up_to_the_layer(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    monkeypatch.setattr("ironglass.models.fast.SMALL", 0 if fused else 1 << 40)
    net, x = drawn(Branches), torch.rand(3, 3, SIDE, SIDE)
    backend = Torch(net, None, None)
    backend.prepare(x)
    assert backend._copy is not None
    assert backend._copy.level == ("fused" if fused else "folded")
    ours, theirs, cut = both(net, x, "act")
    assert cut
    agree(ours, theirs, 1e-4)
    backend.at("act", x, lambda scores, rows: scores[:, 0])
    before = {type(module).__name__ for module in backend._cuts["act"].before.modules()}  # type: ignore[union-attr]
    assert ("Convolution" in before) is fused


@pytest.mark.parametrize(
    ("make", "layer", "cut"),
    [(Around, "conv", True), (Around, "same", False), (Overwritten, "conv", True), (Overwritten, "next", True)],
)
def test_a_layer_is_cut_only_where_its_value_is_its_own(make: Callable[[], Any], layer: str, cut: bool) -> None:
    net, x = drawn(make).double(), torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64)
    ours, theirs, was_cut = both(net, x, layer)
    assert was_cut is cut
    agree(ours, theirs, 1e-12)


@pytest.mark.parametrize("layer", ["conv", "act"])
def test_a_layer_that_runs_twice_is_refused(layer: str) -> None:
    with pytest.raises(InputError, match="runs 2 times"):
        both(drawn(Twice), torch.rand(4, 3, SIDE, SIDE), layer)


def test_a_layer_behind_nothing_has_a_gradient_of_0() -> None:
    class Aside(Branches):
        def forward(self, x: Tensor) -> Tensor:
            self.late(self.stem(x))
            return self.head(self.stem(x)[:, :6].mean((2, 3)))

    net, x = drawn(Aside), torch.rand(2, 3, SIDE, SIDE)
    ours, theirs, cut = both(net, x, "late")
    assert not cut
    assert not bool(ours.grad.any())
    agree(ours, theirs, 1e-6)


def test_a_changed_network_is_cut_anew() -> None:
    net, x = drawn(Branches), torch.rand(2, 3, SIDE, SIDE)
    backend = Torch(net, None, None)
    loss = lambda scores, rows: scores[:, 0]  # noqa: E731
    backend.prepare(x)
    once = backend.at("act", x, loss)
    with torch.no_grad():
        net.head.weight[0] *= 2
    backend.prepare(x)
    again = backend.at("act", x, loss)
    torch.testing.assert_close(again.grad, 2 * once.grad)
    drawn_anew = backend.reinitialized(["head"], 0, x)
    assert not torch.allclose(drawn_anew.at("act", x, loss).grad, again.grad)


def test_a_shape_that_does_not_fit_is_named() -> None:
    net, x = drawn(Branches), torch.rand(2, 3, SIDE, SIDE)
    backend = Torch(net, None, None)
    backend.prepare(x)
    with pytest.raises(InputError, match="layer 'act'"):
        backend.at("act", x, lambda scores, rows: scores[:, 0], torch.rand(2, 8, 2, 2))


def test_efficientnet_lite0() -> None:
    model, x = demo_model(), demo_data().x[:2]
    net = model.backend.module(x)
    for layer in ("net.head", "net.blocks.3", "net.blocks.9.depthwise"):
        ours, theirs, cut = both(net, x, layer)
        assert cut
        agree(ours._replace(grad=theirs.grad), theirs, 1e-4)
        assert float((ours.grad - theirs.grad).norm()) < 0.01 * float(theirs.grad.norm())
