from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.core.values import Bounds, Threat
from ironglass.ops import lp
from ironglass.ops.quantize import levels, snap
from nets import labels_without_autograd, scores_without_autograd

BOUNDS = Bounds()
pgd = ig.attack.pgd.with_(quantize="uint8")


def linear(scale: float = 0.25) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(24, 1, 8, 8, generator=generator) * 255).round() / 255
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 64, generator=generator) * scale)
        y = net(x).argmax(1)
    return net.eval(), x, y


def test_snap_gives_what_a_file_gives_back() -> None:
    x = torch.rand(1000)
    saved = (x * 255).round().to(torch.uint8)
    assert torch.equal(levels(x, BOUNDS), saved.float())
    assert float((snap(x, BOUNDS) - saved / 255).abs().max()) < 1e-7


@pytest.mark.parametrize(("norm", "eps"), [("linf", 9 / 255), ("l2", 0.35), ("l1", 2.2)])
def test_the_rounded_picture_stays_in_the_ball_and_both_rates_are_told(norm: str, eps: float) -> None:
    net, x, y = linear()
    threat = Threat(norm, eps)  # type: ignore[arg-type]
    plain, result = ig.attack.pgd(net, x, y, threat), pgd(net, x, y, threat)
    assert torch.equal(result.adversarial, snap(result.adversarial, BOUNDS))
    assert float(lp.norm(result.adversarial.double() - x.double(), threat.norm).max()) <= eps * (1 + 1e-5)
    assert result.unrounded is not None
    assert torch.equal(result.unrounded, plain.success)
    assert 0 < int(result.success.sum()) <= int(result.unrounded.sum())


@pytest.mark.parametrize("eps", [1 / 255, 3 / 255, 12 / 255])
def test_in_linf_on_a_linear_model_nothing_is_lost(eps: float) -> None:
    """With eps on the grid the worst corner of the ball is on the grid too, so all that floats find can be saved."""
    net, x, y = linear()
    result = pgd(net, x, y, ig.Linf(eps), step_size=eps / 7)
    assert result.unrounded is not None
    assert bool(result.unrounded.any()) or eps < 2 / 255
    assert bool((result.success >= result.unrounded).all())


def test_what_the_nearest_levels_undo_is_repaired() -> None:
    """The smallest l2 change of a close call is under half a level everywhere: rounding to the nearest gives back x."""
    net, x, y = linear()
    with torch.no_grad():
        scores = net(x)
        other = scores.topk(2).indices[:, 1]
        weight = net[1].weight[other] - net[1].weight[y]
        gap = scores.gather(1, y[:, None])[:, 0] - scores.gather(1, other[:, None])[:, 0]
        # every sample becomes a close call by a bias of its own: one model a sample
    for row in range(8):
        one = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
        with torch.no_grad():
            one[1].weight.copy_(net[1].weight)
            one[1].bias.copy_(net[1].bias)
            one[1].bias[other[row]] += gap[row] - 0.3 / 255 * weight[row].norm()
        sample, label = x[row : row + 1], y[row : row + 1]
        threat = ig.L2(0.6 / 255 * 8)
        plain = ig.attack.pgd(one, sample, label, ig.L2(0.36 / 255))
        assert bool(plain.success.all())
        assert torch.equal(snap(plain.adversarial, BOUNDS), snap(sample, BOUNDS))
        assert bool(pgd(one, sample, label, threat).success.all())


def test_a_black_box_is_rounded_without_gradients() -> None:
    _, x, _ = linear()
    model = ig.wrap(scores_without_autograd)
    y = model.outputs(x).argmax(1)
    square = ig.attack.square.with_(max_queries=60, quantize="uint8")
    result = square(model, x, y, ig.L2(0.5))
    assert torch.equal(result.adversarial, snap(result.adversarial, BOUNDS))
    assert bool(result.success.any())
    assert float(lp.norm(result.adversarial.double() - x.double(), "l2").max()) <= 0.5 * (1 + 1e-5)


def test_samples_between_the_levels_are_refused_before_any_work() -> None:
    net, x, y = linear()
    with pytest.raises(InputError, match="8 bits"):
        pgd(net, x * 0.97, y, ig.Linf(0.1))
    with pytest.raises(InputError, match="not known"):
        ig.attack.pgd.with_(quantize="int4")(net, x, y, ig.Linf(0.1))


def test_a_mask_holds_on_the_grid() -> None:
    net, x, y = linear()
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    result = pgd(net, x, y, ig.L2(1.0, mask=mask))
    assert torch.equal(torch.where(mask, x, result.adversarial), x)
    assert torch.equal(result.adversarial, snap(result.adversarial, BOUNDS))


def test_a_model_that_gives_labels_alone_is_refused_before_any_work() -> None:
    model = ig.wrap(labels_without_autograd, classes=5)
    x = torch.zeros(2, 1, 8, 8)
    for option in ({"quantize": "uint8"}, {"polish": 1}):
        with pytest.raises(AccessError, match=f"{next(iter(option))} needs scores"):
            ig.attack.random_noise.with_(**option)(model, x, torch.zeros(2, dtype=torch.long), ig.Linf(0.1))
