"""Small networks of every operator that bounds can pass, and points of a ball that try to leave them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.draws import Draws
from ironglass.core.values import Bounds, Threat
from ironglass.ops import lp
from ironglass.ops.balls import sample_ball
from ironglass.ops.bounds import Interval, region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph

BOX = Bounds(0.0, 1.0)
Bounding = Callable[[Graph, Interval, Tensor], tuple[dict[int, Interval], Tensor]]
"""From a graph, a region and labels to each step's interval and the margins."""


class Call(nn.Module):
    """A network whose middle is a function, between two layers with weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], features: int, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        self.function = function
        self.head = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x)).flatten(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv((x - 0.4) / torch.tensor([0.3, 0.2]).view(1, 2, 1, 1).to(x))))
        for _ in range(2):  # one block, used twice
            x = self.act(self.norm(self.block(x)) + x)
        out = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        out += 0.1
        return self.head(out)


class Repeated(nn.Module):
    """Each value many times: what moves one moves all."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, [5] * 40 + [50] * 40]
        return x @ torch.eye(2, dtype=x.dtype).repeat_interleave(40, 0)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.head = nn.Linear(5 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x).relu(), self.right(1 - x) * -0.5], dim=1)
        return self.head(both.flatten(1)) - 2 * both.mean((1, 2, 3), keepdim=True).flatten(1)


class Attending(nn.Module):
    """Six tokens of twelve features and one learned: attention written by hand, by the function, or as a module."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.token = way, nn.Parameter(torch.randn(1, 1, 12))
        self.norm = nn.LayerNorm(12)
        if way == "module":
            self.whole = nn.MultiheadAttention(12, 2, batch_first=True)
        else:
            self.mixed = nn.Linear(12, 36)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x.transpose(1, 2).flatten(2)], 1)
        z = self.norm(x)
        if self.way == "module":
            return self.head((x + self.whole(z, z, z)[0])[:, 0])
        q, k, v = (part.reshape(len(x), 7, 2, 6).transpose(1, 2) for part in self.mixed(z).chunk(3, -1))
        if self.way == "hand":
            out = (q @ k.transpose(-1, -2) * 6**-0.5).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + out.transpose(1, 2).reshape(len(x), 7, 12)).mean(1))


def middle(function: Callable[[Tensor], Tensor], features: int = 3 * 36) -> Callable[[], nn.Module]:
    return lambda: Call(function, features)


NETS: dict[str, Callable[[], nn.Module]] = {
    "affine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)
    ),
    "residual": Residual,
    "joined": Joined,
    "stride": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)),
    "dilation": lambda: nn.Sequential(nn.Conv2d(2, 4, 2, dilation=3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)),
    "groups": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)),
    "same": lambda: nn.Sequential(nn.Conv2d(2, 3, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)),
    "reflect": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)
    ),
    "no nonlinear end": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ),
    "nonlinear end": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Tanh()),
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(33, 4)),
    "relu6": middle(lambda z: F.relu6(z * 8)),
    "leaky_relu": middle(lambda z: F.leaky_relu(z, 0.2)),
    "sigmoid": middle(torch.sigmoid),
    "tanh": middle(torch.tanh),
    "elu": middle(lambda z: F.elu(z * 2, 0.7)),
    "gelu": middle(lambda z: F.gelu(z * 4)),
    "gelu tanh": middle(lambda z: F.gelu(z * 4, approximate="tanh")),
    "silu": middle(lambda z: F.silu(z * 6)),
    "conv_transpose": lambda: nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 144, 4),
    ),
    "clamp": middle(lambda z: z.clamp(-0.1, 0.2)),
    "clamp_min": middle(lambda z: z.clamp(min=0.05)),
    "hardtanh": middle(lambda z: F.hardtanh(z, -0.3, 0.1)),
    "abs": middle(torch.abs),
    "clamp_max": middle(lambda z: z.clamp(max=0.05)),
    "max_pool": middle(lambda z: F.max_pool2d(z, 3, 2, 1), 27),
    "avg_pool": middle(lambda z: F.avg_pool2d(z, 3, 2, 1, ceil_mode=True, count_include_pad=False), 3 * 16),
    "avg_pool overlap": middle(lambda z: F.avg_pool2d(z, 3, 1), 3 * 16),
    "adaptive_avg_pool": middle(lambda z: F.adaptive_avg_pool2d(z, 4), 3 * 16),
    "adaptive_max_pool": middle(lambda z: F.adaptive_max_pool2d(z, 4), 3 * 16),
    "permute": middle(lambda z: z.permute(0, 2, 3, 1).reshape(z.shape[0], 6, -1).transpose(1, 2)),
    "squeeze": middle(lambda z: z.mean(1, keepdim=True).squeeze(1).unsqueeze(-1), 36),
    "mean": middle(lambda z: z.mean((2, 3)), 3),
    "sum": middle(lambda z: z.sum(-1), 18),
    "sub": middle(lambda z: z - z.relu() * 3),
    "sub const": middle(lambda z: 0.3 - z),
    "broadcast add": middle(lambda z: z.relu() + z.mean((2, 3), keepdim=True)),
    "broadcast const": middle(lambda z: z[:, :1] * torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1).to(z)),
    "mul div": middle(lambda z: (z * -1.5) / 0.7),
    "pad": middle(lambda z: F.pad(z, (1, 0, 0, 2), value=0.25), 3 * 56),
    "replicate": middle(lambda z: F.pad(z, (1, 0, 0, 2), mode="replicate"), 3 * 56),
    "index": middle(lambda z: z[:, 1:, ::2], 36),
    "matmul": middle(lambda z: z.flatten(1) @ torch.linspace(-1, 1, 108 * 5, dtype=z.dtype).view(108, 5), 5),
    "dropout": middle(lambda z: F.dropout(z, 0.5, training=False).neg()),
    "repeated inputs": lambda: nn.Sequential(Repeated(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)),
    "mean of relu": middle(lambda z: z.relu().mean((2, 3)), 3),
    "sum of relu": middle(lambda z: z.relu().sum((2, 3)), 3),
    "exp": middle(lambda z: z.exp()),
    "square": middle(lambda z: z**2 + z.square()),
    "product": middle(lambda z: z * z.flip(1) - z.mean(1, keepdim=True) * z),
    "product of itself": middle(lambda z: z * z),
    "matrices": middle(lambda z: z @ z.mT),
    "softmax": middle(lambda z: F.softmax(z * 4, 1) - z.flatten(1).softmax(1).unflatten(1, (3, 6, 6))),
    "layer_norm": middle(lambda z: F.layer_norm(z, (6, 6))),
    "parts": middle(lambda z: z.chunk(3, 1)[0] * z.split([1, 2], 1)[1] + z.unbind(3)[2][:, :2].unsqueeze(3), 72),
    "constants joined": middle(lambda z: torch.cat([torch.ones_like(z[:, :1]), z, torch.zeros_like(z), z], 1), 360),
    "attention by hand": lambda: Attending("hand"),
    "attention": lambda: Attending("function"),
    "attention module": lambda: Attending("module"),
    "pixel_shuffle": lambda: Call(lambda z: F.pixel_shuffle(z, 2), 144, channels=4),
}

FIRST_LAYERS = (
    "affine",
    "mlp",
    "residual",
    "joined",
    "stride",
    "dilation",
    "groups",
    "reflect",
    "no nonlinear end",
    "repeated inputs",
)
"""Where the norm matters: the ball ends at the first layer."""


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = NETS[name]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                module.running_var.uniform_(0.2, 2.0)  # type: ignore[union-attr]
                module.weight.data.uniform_(-2, 2)  # negative scales too
                module.bias.data.uniform_(-1, 1)
    return net.eval().to(dtype).requires_grad_(False)


def inputs(count: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 2, 6, 6, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)


def project(points: Tensor, x: Tensor, threat: Threat) -> Tensor:
    return lp.project(points.double(), x.double(), threat, BOX)


def corners(x: Tensor, threat: Threat, count: int, generator: torch.Generator) -> Tensor:
    """Extreme points of the ball, a batch of ``count`` a sample."""
    far = torch.randn(count, *x.shape, generator=generator, dtype=torch.float64).flatten(0, 1)
    wide = x.double().repeat(count, 1, 1, 1)
    return wide + lp.maximize(far, wide, threat, BOX)


def step_values(graph: Graph, x: Tensor) -> list[Tensor]:
    values: list[Tensor] = []
    for step in graph.steps:
        values.append(step.op(*([values[i] for i in step.inputs] or [x])))
    return values


def contained(net: nn.Module, x: Tensor, threat: Threat, bounds: Bounding, count: int = 3400, climbs: int = 8) -> None:
    """No point of the ball may take a value of any step out of its interval, nor a margin below its bound.

    Points: uniform, corners, and points that climb, each towards the excess of one value of one step.
    """
    generator = torch.Generator().manual_seed(1)
    exact = capture(copy.deepcopy(net).double(), x.double(), torch.float64)
    graph = capture(net, x, torch.float32)
    start = region(x, threat, BOX, torch.float32, torch.float32)
    y = torch.arange(len(x)) % 4
    values, least = bounds(graph, start, y)
    uniform = sample_ball(Draws(torch.arange(len(x)), 0), x.double(), threat, BOX, count=count)
    points = torch.cat([uniform.transpose(0, 1).flatten(0, 1), corners(x, threat, count // 10, generator)])

    def inside(points: Tensor) -> None:
        repeat = len(points) // len(x)
        for index, value in enumerate(step_values(exact, points)):
            each = value.reshape(repeat, len(x), *value.shape[1:])
            held = (values[index].lower <= each) & (each <= values[index].upper)
            assert bool(held.all()), exact.steps[index].name
        for scores in (exact(points), net(points.float())):
            own = scores.gather(1, y.repeat(repeat)[:, None])
            assert bool((own - scores >= least.repeat(repeat, 1)).all()), "margin"

    inside(points)
    for index in range(1, len(exact.steps) + 1):
        climbing = points[torch.randperm(len(points), generator=generator)[: 12 * len(x)]]
        order = torch.arange(len(climbing)) % len(x)
        climbing = project(climbing, x.double()[order], threat)
        for step in range(climbs):
            with torch.enable_grad():
                leaf = climbing.clone().requires_grad_()
                if index < len(exact.steps):
                    at = step_values(exact, leaf)[index].flatten(1)
                else:
                    scores = exact(leaf)
                    at = scores - scores.gather(1, y[order][:, None])
                if step == 0:
                    which = torch.randint(at.shape[1], (len(at), 1), generator=generator)
                    side = torch.where(torch.rand(len(at), 1, generator=generator) < 0.5, -1.0, 1.0).double()
                (gradient,) = torch.autograd.grad((side * at.gather(1, which)).sum(), leaf)
            centre = x.double()[order]
            climbing = project(climbing + lp.maximize(gradient, climbing, threat, BOX) / (1 + step / 4), centre, threat)
        inside(climbing)
