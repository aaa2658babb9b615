from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.values import Threat
from nets import images, small_cnn


def linear_net() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
    net[1].weight.copy_(torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 2.0], [0.5, 0.5, 0.0, 0.0]]))
    net[1].bias.zero_()
    return net.eval()


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_on_an_affine_network_it_is_the_distance_to_the_boundary(norm: Any, order: float) -> None:
    net = linear_net()
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    y, weight = net(x).argmax(1), net[1].weight
    found = ig.certify.crown.radius(net, x, y, Threat(norm, 0.2), rounds=9)
    rows = weight[y][:, None] - weight
    gaps = (net(x).gather(1, y[:, None]) - net(x)) / torch.linalg.vector_norm(rows, order, 2)
    exact = gaps.scatter(1, y[:, None], torch.inf).amin(1).clamp(max=0.2)
    assert bool(((found.radius <= exact + 1e-6) & (found.radius >= exact - 0.2 / 2**9 - 1e-4)).all())
    assert bool(found.verified.all())


def test_each_radius_is_proven_and_the_next_is_not_and_the_batch_does_not_matter() -> None:
    net, x = small_cnn().eval(), images(7)
    y = net(x).argmax(1)
    y[2] = (y[2] + 1) % 5  # a wrong label
    threat = ig.Linf(0.6)
    found = ig.certify.crown.radius(net, x, y, threat, rounds=6)
    assert not bool(found.verified[2])
    assert float(found.radius[2]) == 0
    assert len(found.radius.unique()) > 3
    for i in range(len(x)):
        part = slice(i, i + 1)
        if i != 2:
            assert bool(ig.certify.crown(net, x[part], y[part], ig.Linf(float(found.radius[i]))).verified)
        more = float(found.radius[i]) + 0.6 / 2**6
        if more <= 0.6:
            assert not bool(ig.certify.crown(net, x[part], y[part], ig.Linf(more)).verified)
        assert float(ig.certify.crown.radius(net, x[part], y[part], threat, rounds=6).radius) == float(found.radius[i])
    looser = ig.certify.interval.radius(net, x, y, threat, rounds=6)
    assert bool((looser.radius <= found.radius).all())


def test_a_certificate_knows_its_radius_and_the_result_is_saved(tmp_path: Path) -> None:
    net, x = small_cnn().eval(), images(3)
    y = net(x).argmax(1)
    certificate = ig.certify.crown(net, x, y, ig.Linf(0.05), double=True)
    found = certificate.radius(net, rounds=4)
    assert bool((found.verified & (found.radius == 0.05))[certificate.verified].all())
    assert found.options["double"] is True
    found.save(tmp_path / "radius.safetensors")
    again = ig.load(tmp_path / "radius.safetensors")
    assert isinstance(again, ig.CertifiedRadius)
    assert torch.equal(again.radius, found.radius)
    assert again.threat.eps == 0.05


def test_a_radius_needs_a_finite_ball() -> None:
    net, x = small_cnn().eval(), images(2)
    for threat, rounds in ((ig.Linf(float("inf")), 5), (ig.Linf(0.0), 5), (ig.Linf(0.1), -1)):
        with pytest.raises(InputError, match="largest radius to try"):
            ig.certify.interval.radius(net, x, torch.zeros(2, dtype=torch.long), threat, rounds=rounds)
