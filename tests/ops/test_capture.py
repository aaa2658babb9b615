from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.ops import composite
from ironglass.ops.capture import capture
from ironglass.ops.graph import Affine, Monotone, Sum


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


class Body(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.head = nn.Linear(6, 6), function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x)))


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 6), inner)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def points(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(seed))


def repeated(net: nn.Module) -> bool:
    net.eval().requires_grad_(False)
    graph, x = capture(net, points(), torch.float64), points(9, 1)
    return torch.allclose(graph(x.double()), net(x).double(), atol=1e-5)


@pytest.mark.parametrize(
    ("inner", "operator"),
    [
        (nn.LogSoftmax(1), "log_softmax"),
        (nn.GroupNorm(2, 6), "group_norm"),
        (nn.Mish(), "mish"),
        (nn.Softplus(), "softplus"),
        (nn.Bilinear(6, 6, 6), "bilinear"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_an_unknown_operator_is_refused_by_name_and_place(inner: nn.Module, operator: str) -> None:
    if operator == "bilinear":
        net: nn.Module = Body(lambda z: inner(z, z))
        net.inner = inner
        place = "inner"
    else:
        net, place = Named(inner), "trunk.1"
    with pytest.raises(InputError, match=f"operator {operator} at '{place}'.*\n.*Fix: "):
        capture(net.eval(), points(), torch.float32)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: (z * z.unsqueeze(0)).mean(0), "unsqueeze.*mixes the samples|mul"),
        (lambda z: z**3, "pow.*square"),
        (lambda z: z ** torch.full((6,), 2.0), "pow.*square"),
        (lambda z: z / (1 + z.relu()), "div: only division by a constant"),
        (lambda z: 1 / (z + 3), "rdiv"),
        (lambda z: z @ z.T.contiguous(), "operator T"),
        (lambda z: torch.eye(2) @ z, "matmul.*: only x @ W"),
        (lambda z: z.softmax(0), "softmax.*mixes the samples"),
        (lambda z: z.chunk(2)[0].repeat(2, 1), "narrow.*mixes the samples"),
        (lambda z: z @ z.mT, "matmul.*matrices of each sample|mT.*mixes the samples"),
        (lambda z: z - z.mean(), "mean.*one tensor a sample"),
        (lambda z: z - z.mean(0, keepdim=True), "mean.*mixes the samples"),
        (lambda z: z.flip(0), "flip.*mixes the samples"),
        (lambda z: z.T.T, "operator T"),
        (lambda z: z.reshape(1, -1).reshape(2, 6), "reshape.*mixes the samples"),
        (lambda z: z.transpose(0, 1).transpose(0, 1), "transpose.*mixes the samples"),
        (lambda z: F.dropout(z, 0.5, training=True), "dropout.*train mode"),
        (lambda z: F.leaky_relu(z, -0.5), "leaky_relu.*slope is -0.5"),
        (lambda z: torch.maximum(z, -z), "maximum"),
        (lambda z: z.clamp(min=z.neg()), "clamp.*only its first argument"),
        (lambda z: z if bool((z > 0).any()) else -z, "gt"),
        (lambda z: z * float(z.sum()), "sum.*"),
        (lambda z: torch.from_numpy(z.numpy()), "numpy"),
        (lambda z: z.as_subclass(Tensor), "does not come from its input"),
        (lambda z: z - z.as_subclass(Tensor)[:1], "does not repeat the network"),
        (lambda z: z.half().float(), "half"),
        (lambda z: z.to(torch.bfloat16).float(), "to.*bfloat16"),
        (lambda z: z.double().float(), "double.*float64"),
        (lambda z: z.sort(1).values, "sort"),
        (lambda z: torch.cat([z, torch.arange(12.0).view(2, 6)], 1)[:, :6], "cat.*differs from sample to sample"),
        (lambda z: torch.cat([z, z], 0)[:2], "cat.*joins samples"),
        (lambda z: z + torch.arange(12.0).view(2, 6), "add.*differs from sample to sample"),
        (lambda z: z.unsqueeze(-1) + torch.ones(3, 2, 6, 1), "add.*batch dimension"),
        (lambda z: F.max_pool1d(z, 2, return_indices=True)[0].repeat(1, 2), "max_pool1d_with_indices"),
    ],
)
def test_an_unknown_use_of_an_operator_is_refused_by_name(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(Body(function).eval(), points(), torch.float32)


def test_batch_norm_in_train_mode_is_refused() -> None:
    net = Named(nn.BatchNorm1d(6)).eval()
    net.trunk[1].train()
    with pytest.raises(InputError, match=r"batch_norm at 'trunk.1'.*statistics from the batch"):
        capture(net, points(), torch.float32)


def test_an_output_that_is_not_a_score_a_class_is_refused() -> None:
    for net in (nn.Unflatten(1, (2, 3)), _Constant(), nn.GRU(6, 6)):
        with pytest.raises(InputError, match=r"output|gru|operator"):
            capture(net.eval(), points(), torch.float32)


class _Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(2, 3)


class _ByBatch(nn.Module):
    """Does something else in a batch of two, the size of the probes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 if len(x) == 2 else 2.0)


class _Memory(nn.Module):
    """Brings a value past the recorder: what it gave for the probes would be taken for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor = torch.zeros(6)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            self.kept = x[0] * 3
        return x + self.kept


@pytest.mark.parametrize("inner", [_ByBatch(), _Memory()], ids=lambda inner: type(inner).__name__)
def test_a_graph_that_does_not_repeat_the_network_is_refused(inner: nn.Module) -> None:
    with pytest.raises(InputError, match="does not repeat the network"):
        capture(nn.Sequential(inner, nn.Linear(6, 3)).eval(), points(), torch.float32)


def test_a_rule_that_says_something_else_than_the_operator_does_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(composite.RULES, "tanh", composite.RULES["sigmoid"])
    with pytest.raises(InputError, match=r"tanh at 'trunk.1'.*could not be reproduced"):
        capture(Named(nn.Tanh()).eval(), points(), torch.float32)


def test_a_value_changed_through_a_view_is_noticed() -> None:
    def body(z: Tensor) -> Tensor:
        view = z.view(len(z), 2, 3)
        view.relu_()
        return z * 2

    with pytest.raises(InputError, match="changed in place, through a view"):
        capture(Body(body).eval(), points(), torch.float32)


def in_place_branch(z: Tensor) -> Tensor:
    other = F.relu(z, inplace=True)  # z is now relu(z) too
    return z - 0.5 * other


def in_place_arithmetic(z: Tensor) -> Tensor:
    z = z.clone()
    z += 1
    z *= 0.5
    z -= torch.ones(6)
    z.div_(2).clamp_(-0.2, 0.2)
    return z


def by_shape(z: Tensor) -> Tensor:
    return z.relu() if z.shape[1] == 6 and z.dim() == 2 and z.size(-1) > 2 and len(z) > 0 else z.sigmoid()


@pytest.mark.parametrize(
    "function",
    [
        in_place_branch,
        in_place_arithmetic,
        by_shape,
        lambda z: torch.add(z, z.relu(), alpha=-2),
        lambda z: torch.rsub(z, 1.0, alpha=2),
        lambda z: 2 - z + torch.ones_like(z) * 0.5,
        lambda z: z.double().float() if False else z.float().contiguous().detach(),
        lambda z: torch.sub(torch.ones(6), z, alpha=3),
        lambda z: torch.relu(-z).clamp(min=torch.full((6,), 0.1)),
        lambda z: z.to("cpu").to(z.dtype),
        lambda z: torch.ones(6).to(z) * z,
        lambda z: z.unflatten(1, (2, 3)).movedim(1, 2).squeeze().flatten(1),
        lambda z: z[:, [0, 0, 1, 2, 3, 5]],
    ],
)
def test_the_graph_repeats_what_the_network_does(function: Callable[[Tensor], Tensor]) -> None:
    assert repeated(Body(function))


def test_shared_modules_hooks_and_parametrizations_are_seen() -> None:
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(inplace=True), shared, nn.Linear(6, 3))
    net[1].register_forward_hook(lambda module, args, out: out * 2)
    net[3].register_forward_pre_hook(lambda module, args: (args[0] - 0.1,))
    nn.utils.parametrizations.spectral_norm(net[5])
    assert repeated(net)
    graph = capture(net, points(), torch.float32)
    assert sum(isinstance(step.op, Affine) and step.op.form == "matrix" for step in graph.steps) == 4


def test_unused_steps_are_left_out_and_residuals_kept() -> None:
    def body(z: Tensor) -> Tensor:
        z.tanh()
        return z + z.relu()

    steps = capture(Body(body).eval(), points(), torch.float32).steps
    assert [type(step.op) for step in steps[1:]] == [Affine, Monotone, Sum, Affine]
    assert steps[3].inputs == (1, 2)
    assert [step.shape for step in steps] == [(6,), (6,), (6,), (6,), (3,)]


def test_capturing_leaves_the_network_as_it_was() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    net = nn.Sequential(Constant(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    before = {name: sorted(vars(module)) for name, module in net.named_modules()}
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = points()
    kept = x.clone()
    capture(net, x, torch.float64)
    with torch.inference_mode():
        capture(net, x, torch.float32)
    assert before == {name: sorted(vars(module)) for name, module in net.named_modules()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(x, kept)
    assert type(net(x)) is Tensor


def test_steps_know_the_dtype_the_network_computes_in() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    net = nn.Sequential(nn.Linear(6, 6).double(), Cast(), nn.Linear(6, 3)).eval()
    steps = capture(net, points().double(), torch.float64).steps
    assert [step.dtype for step in steps] == [torch.float64, torch.float64, torch.float32, torch.float32]


def attending(**options: Any) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.MultiheadAttention(6, 2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(1, (1, 6)).expand(len(x), 3, 6) * torch.tensor([[1.0], [2.0], [-1.0]]).to(x)
            return self.head(self.whole(x, x, x, **options)[0].mean(1))

    return Net().eval()


def test_attention_with_a_mask_is_refused() -> None:
    with pytest.raises(InputError, match="mask"):
        capture(attending(attn_mask=torch.zeros(3, 3)), points(), torch.float32)


def test_modules_of_attention_are_left_as_they_were() -> None:
    net = attending().requires_grad_(False)
    before = net(points())
    assert repeated(net)
    assert "forward" not in vars(net.whole)
    assert torch.equal(net(points()), before)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_of_a_transformer_is_repeated(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 12, activation="gelu", batch_first=True, norm_first=norm_first)
    net = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 6), layer, nn.Flatten(), nn.Linear(12, 3))
    assert repeated(net)


@pytest.mark.parametrize(
    "way",
    [nn.Softmax(1), lambda z: F.softmax(z, dim=-1), lambda z: torch.softmax(z, 1)],
    ids=["module", "functional", "torch"],
)
def test_every_way_to_call_softmax_is_repeated(way: Callable[[Tensor], Tensor]) -> None:
    assert repeated(Body(way))
