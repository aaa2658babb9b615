"""Small networks of the shapes that the field uses, with random weights, for tests that must hold on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Module:
    """A convolution, its batch norm, and an activation that works in place where it can."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act is not None:
        layers.append(act(inplace=True) if act in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish) else act())
    return nn.Sequential(*layers)


def pooled(features: nn.Module, channels: int, *extra: nn.Module) -> nn.Module:
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *extra, nn.Dropout(0.3), nn.Linear(channels, CLASSES)
    )


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 12)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(True)]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20), nn.ReLU(True), nn.Dropout(),
        nn.Linear(20, CLASSES),
    )  # fmt: skip


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(True), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout(),
        nn.LazyLinear(24), nn.ReLU(True),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, stride=stride)
        self.second = conv(outputs, outputs, act=None)
        self.relu = nn.ReLU(inplace=True)  # one module for two places, as in torchvision
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else conv(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        out += self.short(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


def resnet_basic() -> nn.Module:
    return pooled(nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, 1), Basic(8, 8), Basic(8, 16, 2), Basic(16, 16)), 16)


def resnet_bottleneck() -> nn.Module:
    return pooled(nn.Sequential(conv(3, 8, 5, 2), Bottleneck(8, 4, 16), Bottleneck(16, 8, 24, 2)), 24)


def resnext() -> nn.Module:
    return pooled(nn.Sequential(conv(3, 8), Bottleneck(8, 8, 16, 2, 4), Bottleneck(16, 8, 16, 1, 2)), 16)


class PreActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x), inplace=True))
        return x + self.conv2(torch.relu_(self.norm2(out)))


def resnet_preactivation() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), PreActivation(8), nn.AvgPool2d(2), PreActivation(8))
    return pooled(nn.Sequential(body, nn.BatchNorm2d(8), nn.ReLU()), 8)


class Dense(nn.Module):
    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + i * growth),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for part in self.parts:
            features.append(part(torch.cat(features, 1)))
        return torch.cat(features, 1)


def densenet() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), Dense(8, 4, 3), nn.BatchNorm2d(20), nn.ReLU(True))
    return pooled(nn.Sequential(body, nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2), Dense(10, 4, 2)), 18)


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv(inputs, 4, 1)
        self.three = nn.Sequential(conv(inputs, 4, 1), conv(4, 6, 3))
        self.pool = conv(inputs, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), pooled], dim=1)


def inception() -> nn.Module:
    return pooled(nn.Sequential(conv(3, 8, stride=2), Inception(8), nn.MaxPool2d(2, ceil_mode=True), Inception(14)), 14)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, inner: Any, outer: Any) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.inner, self.outer = inner(), outer()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.outer(self.expand(self.inner(self.reduce(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, act: Any, gate: nn.Module | None = None) -> None:
        super().__init__()
        wide = inputs * 3
        self.body = nn.Sequential(
            conv(inputs, wide, 1, act=act), conv(wide, wide, 3, stride, wide, act=act), gate or nn.Identity(),
            conv(wide, outputs, 1, act=None),
        )  # fmt: skip
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


def mobilenet_v2() -> nn.Module:
    act = nn.ReLU6
    return pooled(nn.Sequential(conv(3, 8, 3, 2, act=act), Inverted(8, 8, 1, act), Inverted(8, 12, 2, act)), 12)


def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    body = nn.Sequential(
        conv(3, 8, 3, 2, act=act), Inverted(8, 8, 1, nn.ReLU, Gate(24, nn.ReLU, nn.Hardsigmoid)),
        Inverted(8, 12, 2, act, Gate(24, nn.ReLU, nn.Hardsigmoid)),
    )  # fmt: skip
    return pooled(body, 12, nn.Linear(12, 12), nn.Hardswish(inplace=True))


def efficientnet() -> nn.Module:
    act = nn.SiLU
    body = nn.Sequential(
        conv(3, 8, 3, 2, act=act), Inverted(8, 8, 1, act, Gate(24, nn.SiLU, nn.Sigmoid)),
        Inverted(8, 12, 2, act, Gate(24, nn.SiLU, nn.Sigmoid)), conv(12, 16, 1, act=act),
    )  # fmt: skip
    return pooled(body, 16)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.scale * self.narrow(F.gelu(self.wide(out))).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelNorm(8))
    down = nn.Sequential(ChannelNorm(8), nn.Conv2d(8, 12, 2, 2))
    return pooled(nn.Sequential(stem, ConvNeXtBlock(8), down, ConvNeXtBlock(12)), 12, nn.LayerNorm(12))


class Shuffle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(conv(half, half, 1), conv(half, half, 3, 1, half, None), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        out = torch.cat((left, self.branch(right)), dim=1)
        n, c, h, w = out.size()
        return out.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shufflenet() -> nn.Module:
    return pooled(nn.Sequential(conv(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1), Shuffle(8), Shuffle(8), conv(8, 12, 1)), 12)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.one(x)), self.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 6), Fire(12, 4, 6),
        nn.Dropout(), nn.Conv2d(12, CLASSES, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
    )  # fmt: skip


class ViT(nn.Module):
    """A vision transformer with PyTorch's own encoder layers."""

    def __init__(self, side: int = 32, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, size, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, size))
        self.position = nn.Parameter(torch.randn(1, (side // 8) ** 2 + 1, size) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, 2, 32, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class HandAttention(nn.Module):
    """Attention as libraries write it: one product for queries, keys and values, fused or by hand."""

    def __init__(self, size: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.fused = nn.Linear(size, 3 * size), nn.Linear(size, size), heads, fused

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, size = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            q = q * (size // self.heads) ** -0.5
            out = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.out(out.transpose(1, 2).reshape(n, tokens, size))


class DeiT(nn.Module):
    """A vision transformer with registers of its own attention; mean of the tokens."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, size, 8, 8)
        self.attend = nn.ModuleList([HandAttention(size, 2, True), HandAttention(size, 4, False)])
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(size, 32), nn.GELU(), nn.Linear(32, size)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(4))
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for i in range(2):
            x = x + self.attend[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class WindowAttention(nn.Module):
    """Attention in shifted windows, channels last, with a position bias."""

    def __init__(self, size: int, window: int, shift: int) -> None:
        super().__init__()
        self.inner, self.window, self.shift = HandAttention(size, 2, False), window, shift

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        m = self.window
        x = F.pad(x, (0, 0, 0, -w % m, 0, -h % m))
        _, tall, wide, _ = x.shape
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = x.view(n, tall // m, m, wide // m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, c)
        x = self.inner(x)
        x = x.view(n, tall // m, wide // m, m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(n, tall, wide, c)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        return x[:, :h, :w, :].contiguous()


class Swin(nn.Module):
    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, size, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(4))
        self.attend = nn.ModuleList([WindowAttention(size, 3, 0), WindowAttention(size, 4, 2)])
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(size, 24), nn.GELU(), nn.Linear(24, size)) for _ in range(2))
        self.merge_norm, self.merge = nn.LayerNorm(4 * size), nn.Linear(4 * size, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        for i in range(2):
            x = x + self.attend[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        x = torch.cat([x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)], -1)
        x = self.norm(self.merge(self.merge_norm(x)))
        return self.head(x.permute(0, 3, 1, 2).mean((-2, -1)))


class Mixer(nn.Module):
    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, size, 8, 8)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(size) for _ in range(3))
        self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(size, 24), nn.GELU(), nn.Linear(24, size))
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(dim=1))


class TextCNN(nn.Module):
    """Convolutions of several widths over word vectors, the greatest answer of each, no recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(32, 6, width, padding=width // 2) for width in (2, 3, 5))
        self.head = nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = x.flatten(1, 2).transpose(1, 2).transpose(1, 2)  # (N, 96 words of 32) as (N, 32, 96)
        words = words.permute(0, 2, 1)
        return self.head(torch.cat([F.relu(conv(words)).amax(-1) for conv in self.convs], 1))


class Gated(nn.Module):
    """Products of equals, a gated linear unit, RMS, group and instance norm, a branch scaled by its own mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.value, self.other = nn.Linear(8, 12), nn.Linear(8, 12)
        self.glu, self.rms = nn.Linear(12, 16), nn.RMSNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = (torch.tanh(x) + torch.relu(self.instance(x))).mean((2, 3))
        x = self.value(x) * F.silu(self.other(x))
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        return self.head(self.rms(F.glu(self.glu(x), dim=1)))


class Odd(nn.Module):
    """What breaks hooks: functions, one module in three places, in-place steps whose results others read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.weight = nn.Parameter(torch.randn(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        y = self.act(self.shared(x))
        torch.relu_(y)
        y.mul_(0.5).add_(x)
        z = self.shared(y)
        z[:, :2] = 0
        z[:, 2:4] += y[:, :2]
        z *= 2
        F.relu(z, inplace=True)
        z = (z - y) / 2
        return (z.sum((2, 3)) / z[0, 0].numel()) @ self.weight


class Decoder(nn.Module):
    """Down and up again: transposed convolution, interpolation, skip connection, dilation, asymmetric padding."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.down = nn.Conv2d(3, 8, 3, 2)
        self.mid = nn.Conv2d(8, 8, 3, padding="same", dilation=2, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.out = nn.Conv2d(14, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = F.elu(self.down(self.pad(x)))
        mid = F.mish(self.mid(low))
        up = F.relu6(self.up(mid) * 3)
        skip = F.interpolate(low, size=up.shape[2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([up, skip], 1)).flatten(2).mean(-1)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "vgg": vgg,
    "alexnet": alexnet,
    "resnet_basic": resnet_basic,
    "resnet_bottleneck": resnet_bottleneck,
    "resnext": resnext,
    "resnet_preactivation": resnet_preactivation,
    "densenet": densenet,
    "inception": inception,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": convnext,
    "shufflenet": shufflenet,
    "squeezenet": squeezenet,
    "vit": ViT,
    "deit": DeiT,
    "swin": Swin,
    "mixer": Mixer,
    "text_cnn": TextCNN,
    "gated": Gated,
    "odd": Odd,
    "decoder": Decoder,
}


def build(name: str, *, bias: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Returns a network in eval mode, drawn from a seed without touching the global generator.

    Args:
        name: a key of `ARCHITECTURES`.
        bias: whether terms that do not depend on the input are drawn as well, or 0: biases, running means, position
            codes.
        seed: of the draw.
        dtype: of the weights.
    """
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        net = ARCHITECTURES[name]().eval()
        net(torch.zeros(1, 3, 32, 32))
        for module in net.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
        for key, tensor in net.state_dict().items():
            if key.endswith(("bias", "running_mean", "position", "cls")):
                tensor.normal_(0, 0.1) if bias else tensor.zero_()
    return net.to(dtype)


def pictures(count: int = 2, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns pictures ``(count, 3, 32, 32)`` in [0, 1]."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
