from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironglass.models.fast import private_copy
from ironglass.models.folding import Convolution, fold, trace


@pytest.fixture(autouse=True)
def _as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are small; what is done to large ones is tested on them."""
    monkeypatch.setattr("ironglass.models.fast.SMALL", 0)


torch.set_num_threads(1)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def lively(net: nn.Module) -> nn.Module:
    """Gives batch norms statistics and weights, so that folding them wrongly shows."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        for name, low, high in (("running_mean", -1, 1), ("running_var", 0.3, 3), ("weight", 0.5, 2), ("bias", -1, 1)):
            tensor = getattr(module, name, None)
            if isinstance(module, NORMS) and tensor is not None:
                tensor.data.uniform_(low, high, generator=generator)
    return net


class Lambda(nn.Module):
    """A network whose forward pass is a function of its parts and the input."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3)]


IMAGE = (3, 8, 9)
CONV = {"in_channels": 6, "out_channels": 6, "kernel_size": 3}

# name: network, shape of a sample, batch norms left after folding
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *head(6)), IMAGE, 0),
    "without bias": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU6(), *head(6)),
        IMAGE,
        0,
    ),
    "without affine": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), *head(6)), IMAGE, 0),
    "large eps": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=0.5), *head(6)), IMAGE, 0),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(**CONV, groups=2), nn.BatchNorm2d(6), *head(6)),
        IMAGE,
        0,
    ),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(**CONV, groups=6), nn.BatchNorm2d(6), *head(6)),
        IMAGE,
        0,
    ),
    "strided, dilated": (
        lambda: nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 6, (3, 2), (2, 1), 1, (2, 3)), nn.BatchNorm2d(6), *head(6)),
        IMAGE,
        0,
    ),
    "padded like itself": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU(), *head(6)),
        IMAGE,
        0,
    ),
    "padded by reflection": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), nn.ReLU(), *head(6)
        ),
        IMAGE,
        0,
    ),
    "padded unevenly": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 2, 1, 0)), nn.Conv2d(3, 6, 3, 2, (1, 0), groups=3), nn.BatchNorm2d(6), nn.ReLU6(), *head(6)
        ),
        IMAGE,
        0,
    ),
    "padded unevenly, dense": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 2, 1, 0)), nn.Conv2d(3, 6, 3, 2, (1, 0)), nn.BatchNorm2d(6), nn.ReLU6(), *head(6)
        ),
        IMAGE,
        0,
    ),
    "cropped": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((-1, -1, 0, -1)), nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(), *head(6)
        ),
        IMAGE,
        0,
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), *head(6)),
        IMAGE,
        0,
    ),
    "transposed, grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 3, 2, groups=2), nn.BatchNorm2d(4), *head(4)
        ),
        IMAGE,
        0,
    ),
    "transposed, depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), *head(6)),
        IMAGE,
        0,
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3), nn.BatchNorm1d(4)
        ),
        (2, 9),
        0,
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ConvTranspose3d(4, 4, 2, groups=2), nn.BatchNorm3d(4)
        ),
        (1, 5, 6, 7),
        0,
    ),
    "table": (lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (7,), 0),
    "sequence": (  # the batch norm is over positions here, not over what the linear layer gives
        lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(20, 3)),
        (4, 7),
        1,
    ),
    "norm before conv": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3), *head(6)), IMAGE, 1),
    "two norms in a row": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6), *head(6)),
        IMAGE,
        0,
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), *head(6)),
        IMAGE,
        1,
    ),
    "dropout": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout2d(0.5), nn.ReLU(), *head(6), nn.Dropout(0.5)
        ),
        IMAGE,
        0,
    ),
    "in place": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), *head(6)),
        IMAGE,
        0,
    ),
    "in place, as a statement": (
        lambda: Lambda(lambda net, x: (y := net.conv(x), y.add_(1), y.relu_())[0].flatten(1), conv=nn.Conv2d(3, 6, 3)),
        IMAGE,
        0,
    ),
    "functions": (
        lambda: Lambda(
            lambda net, x: (
                F.max_pool2d(
                    torch.cat([F.relu(net.norm(net.conv(x))), F.relu6(net.other(x)), torch.relu(net.other(x)) * 2], 1),
                    2,
                )
                .view(x.size(0), -1)
                .tanh()
            ),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
            other=nn.Conv2d(3, 4, 3),
        ),
        IMAGE,
        0,
    ),
    "a functional norm": (
        lambda: Lambda(
            lambda net, x: F.batch_norm(net.conv(x), net.norm.running_mean, net.norm.running_var).flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
        ),
        IMAGE,
        0,
    ),
    "conv called twice": (
        lambda: Lambda(
            lambda net, x: (net.one(net.conv(x)) + net.two(net.conv(x.flip(2)))).flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            one=nn.BatchNorm2d(6),
            two=nn.BatchNorm2d(6),
        ),
        IMAGE,
        0,
    ),
    "conv called twice, normalized once": (
        lambda: Lambda(
            lambda net, x: net.norm(net.conv(x)).relu().flatten(1) + net.conv(x.flip(2)).relu().flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
        ),
        IMAGE,
        0,
    ),
    "norm called twice": (
        lambda: Lambda(
            lambda net, x: (net.norm(net.one(x)) * net.norm(net.two(x))).flatten(1),
            one=nn.Conv2d(3, 6, 3),
            two=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
        ),
        IMAGE,
        0,
    ),
    "layer seen twice": (
        lambda: Lambda(
            lambda net, x: (net.norm(y := net.conv(x)) + y.relu()).flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
        ),
        IMAGE,
        1,
    ),
    "weight seen too": (
        lambda: Lambda(
            lambda net, x: net.norm(net.conv(x)).flatten(1) * net.conv.weight.sum(),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(6),
        ),
        IMAGE,
        0,
    ),
    "activation seen twice": (
        lambda: Lambda(
            lambda net, x: (net.conv(x).relu() + (y := net.conv(x)) + y.relu() + net.pad(x)[:, :1, :6, :7]).flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            pad=nn.ZeroPad2d((0, 1, 0, 1)),
        ),
        IMAGE,
        0,
    ),
    "padding seen twice": (
        lambda: Lambda(
            lambda net, x: net.conv(y := net.pad(x)).relu().flatten(1).sum(1, keepdim=True) + y.flatten(1),
            conv=nn.Conv2d(3, 6, 3),
            pad=nn.ZeroPad2d((0, 1, 0, 1)),
        ),
        IMAGE,
        0,
    ),
}


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    out = net(leaf)
    return torch.autograd.grad((out * torch.arange(1.0, out.numel() + 1).view_as(out)).sum(), leaf)[0]


@pytest.mark.parametrize("name", NETS)
def test_folding_is_exact(name: str) -> None:
    make, shape, left = NETS[name]
    torch.manual_seed(0)
    net = lively(make()).double().eval()
    x = torch.randn(4, *shape, dtype=torch.float64)
    graph = fold(trace(net))
    assert sum(type(module) in NORMS for module in graph.modules()) == left
    torch.testing.assert_close(graph(x), net(x), rtol=0, atol=1e-10)
    fast = private_copy(net, x[:2])
    assert fast is not None
    assert (fast.level, fast.why) == ("folded", "")
    torch.testing.assert_close(fast.scores(x), net(x).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient(fast.net, x), gradient(net, x), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("name", NETS)
def test_fused_scores_are_the_networks(name: str) -> None:
    make, shape, _ = NETS[name]
    torch.manual_seed(0)
    net = lively(make()).eval()
    x = 6 * torch.randn(5, *shape)
    fast = private_copy(net, x[:2])
    assert fast is not None
    assert (fast.level, fast.why) == ("fused", "")
    for batch in (x, x[:1]) if "batch" not in name else (x,):
        wanted = net(batch).detach()
        scale = float(wanted.abs().max())
        torch.testing.assert_close(fast.scores(batch), wanted, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(fast.net(batch), wanted, rtol=0, atol=1e-5 * scale)
    assert not fast.scores(x).requires_grad


@pytest.mark.parametrize("name", ["conv", "padded unevenly", "conv called twice, normalized once", "functions"])
def test_convolutions_are_fused(name: str) -> None:
    make, shape, _ = NETS[name]
    fast = private_copy(lively(make()), torch.randn(2, *shape))
    assert fast is not None
    kinds = [type(module) for module in fast.scorer.modules()]
    assert Convolution in kinds
    assert not {nn.Conv2d, nn.ZeroPad2d, nn.ReLU, nn.ReLU6} & set(kinds)


@pytest.mark.parametrize("size", [(7, 12), (16, 5)])
def test_fused_padding_holds_at_other_sizes(size: tuple[int, int]) -> None:
    net = NETS["padded unevenly"][0]().eval()
    fast = private_copy(net, torch.randn(2, *IMAGE))
    x = torch.randn(3, 3, *size)
    assert fast is not None
    assert fast.level == "fused"
    torch.testing.assert_close(fast.scores(x), net(x).detach(), rtol=0, atol=1e-5)


def test_folding_matches_batch_norm_written_out() -> None:
    layer, norm = nn.Linear(3, 2).double(), nn.BatchNorm1d(2).double().eval()
    net = lively(nn.Sequential(layer, norm)).eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    z = x @ layer.weight.T + layer.bias
    y = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(fold(trace(net))(x), y, rtol=0, atol=1e-12)
