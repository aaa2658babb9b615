from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures import build, pictures
from ironglass.core.errors import InputError
from ironglass.explain.cam import cam
from ironglass.explain.grad_cam import grad_cam
from ironglass.models.adapter import wrap
from nets import images, small_cnn


@pytest.mark.parametrize(
    "name",
    [
        "resnet_basic",
        "resnet_bottleneck",
        "densenet",
        "inception",
        "mobilenet_v2",
        "efficientnet",
        "shufflenet",
        "swin",
    ],
)
def test_its_mean_and_the_bias_are_the_logit(name: str) -> None:
    result = cam(wrap(build(name, dtype=torch.float64), mean=0.4, std=0.3), pictures(3, dtype=torch.float64))
    assert result.values.shape == (3, 32, 32)
    assert result.error is not None
    assert float(result.error.max()) < 1e-9


def test_it_is_the_layers_weighed_by_the_head() -> None:
    net, x, target = small_cnn(dtype=torch.float64).eval(), images(4, dtype=torch.float64), torch.tensor([0, 3, 1, 2])
    maps = net.act(net.bn(net.conv(x)))
    expected = (net.head.weight[target][:, :, None, None] * maps).sum(1).detach()
    torch.testing.assert_close(cam(net, x, target).values, expected, rtol=1e-9, atol=1e-12)


def test_rectified_it_is_grad_cam_times_the_number_of_cells() -> None:
    net, x = build("resnet_basic", dtype=torch.float64), pictures(2, dtype=torch.float64)
    ours = cam(net, x, 1).values
    theirs = grad_cam(net, x, 1).values
    cells = 8 * 8
    positive = (ours > 0) & (theirs > 0)
    assert bool(positive.any())
    # away from cells that the rectifier cuts off before the upsampling
    ratio = (theirs[positive] * cells / ours[positive]).median()
    assert float(ratio) == pytest.approx(1, abs=1e-6)


def test_averaged_class_maps_need_no_linear_layer() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x)).mean((2, 3))

    net, x = Maps().eval(), images(2)
    torch.testing.assert_close(cam(net, x, 3).values, F.relu(net.conv(x))[:, 3].detach())


@pytest.mark.parametrize(
    ("name", "why"),
    [("vgg", "no global pool"), ("mobilenet_v3", "'hardswish' comes after"), ("vit", "no global pool")],
)
def test_another_head_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        cam(build(name), pictures())
