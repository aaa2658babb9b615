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
from ironglass.core.errors import AccessError, InputError
from ironglass.core.values import Threat
from ironglass.ops import lp
from nets import images, scores_without_autograd, small_cnn

MNIST_NETS = {"mnist_kw_0.1": 0.012, "lirpa_mnist_fc3": 0.004}
"""Trained networks, and an eps at which intervals prove some of the images but not all."""


def trained(shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.syspath_prepend(str(shared_data / "loaders"))
    net: nn.Module = importlib.import_module("seqnet").load(shared_data / "models" / f"{name}.npz")[0]
    sys.modules.pop("seqnet")
    return net.eval().requires_grad_(False)


def mnist(shared_data: Path, count: int) -> tuple[Tensor, Tensor]:
    data = np.load(shared_data / "mnist.npz")
    x = torch.from_numpy(data["x_test"][:count]).float().reshape(count, 1, 28, 28) / 255
    return x, torch.from_numpy(data["y_test"][:count]).long()


def broken(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int = 20) -> Tensor:
    """Which samples a plain attack on the margin breaks, within ball and box."""
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(len(x), dtype=torch.bool)
    point = lp.project(x + threat.eps * torch.randn(x.shape, generator=generator), x, threat, ig.Bounds())
    for step in range(steps):
        leaf = point.clone().requires_grad_()
        scores = net(leaf)
        found |= scores.argmax(1) != y
        rival = scores.scatter(1, y[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((rival - scores.gather(1, y[:, None])[:, 0]).sum(), leaf)
        stride = Threat(threat.norm, threat.eps * 0.5 * (1 - step / steps))
        point = lp.project(point + lp.maximize(gradient, point, stride, ig.Bounds()), x, threat, ig.Bounds())
    return found


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", MNIST_NETS)
def test_nothing_certified_is_ever_broken(
    name: str, norm: Any, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = trained(shared_data, name, monkeypatch)
    x, y = mnist(shared_data, 60)
    share = []
    for eps in (
        MNIST_NETS[name] / 2,
        MNIST_NETS[name],
        MNIST_NETS[name] * 4,
        {"linf": 0.2, "l2": 3.0, "l1": 25.0}[norm],
    ):
        threat = Threat(norm, eps)
        result = ig.certify.interval(net, x, y, threat)
        attacked = broken(net, x, y, threat)
        assert not bool((result.verified & attacked).any())
        assert not bool((result.verified & (net(x).argmax(1) != y)).any())
        share.append((int(result.verified.sum()), int(attacked.sum())))
    assert share[0][0] > 30  # intervals prove something
    assert share[0][0] >= share[1][0] >= share[2][0] >= share[3][0]
    assert share[3][1] > 30  # and the attack breaks something


@pytest.mark.parametrize("name", MNIST_NETS)
def test_float64_proves_no_less(name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained(shared_data, name, monkeypatch)
    x, y = mnist(shared_data, 60)
    single = ig.certify.interval(net, x, y, ig.Linf(MNIST_NETS[name]))
    double = ig.certify.interval(net, x, y, ig.Linf(MNIST_NETS[name]), double=True)
    assert bool((double.margin >= single.margin).all())
    assert int(double.verified.sum()) >= int(single.verified.sum()) > 0
    assert torch.allclose(double.margin, single.margin, atol=0.4)


def test_normalization_inside_the_adapter_counts() -> None:
    """The same network, once with normalization in the adapter and once with it folded by hand."""
    net, x = small_cnn().eval(), images(6)
    folded = small_cnn().eval()
    with torch.no_grad():
        folded.conv.weight.div_(0.5)
        folded.conv.padding = (0, 0)
        net.conv.padding = (0, 0)
        folded.conv.bias.sub_(folded.conv.weight.sum((1, 2, 3)) * 0.25)
    y = folded(x).argmax(1)
    for threat in (ig.Linf(0.01), ig.L2(0.05), ig.L1(0.1), ig.L2(0.1, torch.arange(64).view(1, 8, 8) % 3 == 0)):
        inside = ig.certify.interval(ig.wrap(net, mean=(0.25,), std=(0.5,)), x, y, threat)
        outside = ig.certify.interval(folded, x, y, threat)
        assert torch.allclose(inside.margin, outside.margin, atol=2e-3)
        assert bool((outside.margin > 0).any())


def test_a_masked_threat_proves_at_least_as_much() -> None:
    net, x = small_cnn().eval(), images(8)
    y = net(x).argmax(1)
    mask = torch.zeros(8, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :3, :3] = True
    for norm in ("linf", "l2", "l1"):
        whole, part = (ig.certify.interval(net, x, y, Threat(norm, 0.05, m)).margin for m in (None, mask))  # type: ignore[arg-type]
        assert bool((part >= whole - 1e-5).all())
        assert bool((part > whole).any())


def test_a_wrong_label_is_never_verified_and_an_empty_ball_proves_the_decision() -> None:
    net, x = small_cnn().eval(), images(12)
    scores = net(x)
    y = scores.argmax(1)
    assert not bool(ig.certify.interval(net, x, (y + 1) % 5, ig.Linf(0.0)).verified.any())
    result = ig.certify.interval(net, x, y, ig.Linf(0.0))
    clean = scores.gather(1, y[:, None])[:, 0] - scores.scatter(1, y[:, None], -torch.inf).amax(1)
    assert torch.allclose(result.margin, clean, atol=1e-4)
    assert bool((result.margin <= clean).all())
    assert bool((result.verified == (clean > 1e-4)).all())


def test_what_is_not_finite_is_not_proven() -> None:
    net, x = small_cnn().eval(), images(3)
    with torch.no_grad():
        net.head.bias[2] = torch.inf
    result = ig.certify.interval(net, x, torch.full((3,), 2), ig.Linf(0.01))
    assert not bool(result.verified.any())
    assert bool((result.margin == -torch.inf).all())


def test_a_network_that_cannot_be_bounded_says_what_is_in_the_way() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Mish(), nn.Linear(8, 3)).eval()
    with pytest.raises(InputError, match=r"operator mish at '.*2'"):
        ig.certify.interval(net, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1))
    with pytest.raises(AccessError):
        ig.certify.interval(scores_without_autograd, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1))
    with pytest.raises(InputError, match="not in l0"):
        ig.certify.interval(net, images(2), torch.zeros(2, dtype=torch.long), ig.L0(3))
