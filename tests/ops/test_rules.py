"""Every rule against its formula, written out with matrices and loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures import build, pictures
from ironglass.core.errors import InputError
from ironglass.core.values import Bounds
from ironglass.ops.rules import (
    NAMES,
    AlphaBeta,
    Box,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Rectified,
    Relevance,
    Rescale,
    composite,
)
from ironglass.ops.rules.linear import Layer

EPSILON = 1e-3
RULES = [Epsilon(EPSILON), Epsilon(0.0), Gamma(0.25), Gamma(1.5), AlphaBeta(1, 0), AlphaBeta(2, 1), Flat(), Box()]


def relevance(net: nn.Module | Callable[[Tensor], Tensor], x: Tensor, rules: Composite, target: int = 1) -> Tensor:
    leaf = x.clone().requires_grad_()
    scores = Relevance(rules, Bounds(-1, 2))(net, leaf)
    return torch.autograd.grad(scores[:, target].sum(), leaf)[0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frozen(net: nn.Module, seed: int = 0) -> nn.Module:
    for i, parameter in enumerate(net.parameters()):
        parameter.data = noise(*parameter.shape, seed=seed + i) / max(parameter[0].numel(), 1) ** 0.5
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = noise(module.num_features) / 3, noise(module.num_features).exp()
    return net.double().eval().requires_grad_(False)


def matrix(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns an affine map as a matrix ``(J, I)`` and a bias, found with unit vectors, and where it is not 0."""
    shape = x.shape
    bias = layer(torch.zeros(1, *shape, dtype=x.dtype)).flatten()
    columns = layer(torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *shape)).flatten(1).T - bias[:, None]
    return columns, bias, columns != 0


def literal(rule: object, x: Tensor, w: Tensor, b: Tensor, r: Tensor, used: Tensor, low: float, high: float) -> Tensor:
    """The relevance of each input by the rule's formula, one output at a time; the box's ends are given."""
    out = torch.zeros_like(x)
    for j in range(len(w)):
        c, bias = x * w[j], b[j]
        z = c.sum() + bias
        if r[j] == 0:
            continue
        match rule:
            case Epsilon(epsilon):
                out += c / (z + epsilon * (1 if z >= 0 else -1)) * r[j]
            case Gamma(gamma):
                same = c.clamp(min=0) if z > 0 else c.clamp(max=0)
                own = bias.clamp(min=0) if z > 0 else bias.clamp(max=0)
                out += (c + gamma * same) / (z + gamma * (same.sum() + own)) * r[j]
            case AlphaBeta(alpha, beta):
                up, down = c.clamp(min=0), c.clamp(max=0)
                if up.sum() + bias.clamp(min=0) > 0:
                    out += alpha * up / (up.sum() + bias.clamp(min=0)) * r[j]
                if beta and down.sum() + bias.clamp(max=0) < 0:
                    out -= beta * down / (down.sum() + bias.clamp(max=0)) * r[j]
            case Flat():
                out += used[j].double() / used[j].sum() * r[j]
            case Box():
                part = c - low * w[j].clamp(min=0) - high * w[j].clamp(max=0)
                out += part / part.sum() * r[j]
    return out


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 6, 5)),
    "wide": (lambda: nn.Conv2d(12, 4, 3, padding=1), (12, 4, 5)),
    "grouped": (lambda: nn.Conv2d(4, 4, (3, 2), groups=2, bias=False), (4, 5, 5)),
    "dilated same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 6, 5)),
    "even same": (lambda: nn.Conv2d(2, 3, 4, padding="same"), (2, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (2, 3, 3)),
    "with a batch norm": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 5, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("name", LAYERS)
def test_a_linear_model_is_exact(name: str, rule: object) -> None:
    make, shape = LAYERS[name]
    layer = frozen(make())
    x = noise(3, *shape, seed=5).clamp(-1, 2)

    def net(t: Tensor) -> Tensor:
        return layer(t).flatten(1)[:, :5]

    first = rule if isinstance(rule, Flat | Box) else None
    rules = Composite(dense=Epsilon(), conv=Gamma() if first else rule, first=first)  # type: ignore[arg-type]
    found = relevance(net, x, rules)
    w, b, _ = matrix(lambda t: layer(t).flatten(1)[:, :5], x[0])
    # a weight that is 0 by chance counts for the flat rule: the taps are told by a layer of ones
    for module in (ones := frozen(make())).modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            module.weight.fill_(1)
    used = matrix(lambda t: ones(t).flatten(1)[:, :5], x[0])[2]
    for n in range(len(x)):
        scores = net(x[n : n + 1])[0]
        r = torch.zeros_like(scores)
        r[1] = scores[1]
        expected = literal(rule, x[n].flatten(), w, b, r, used, -1, 2)
        torch.testing.assert_close(found[n].flatten(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES[:6], ids=repr)
@pytest.mark.parametrize("form", ["linear", "matmul", "mm"])
def test_a_dense_model_is_exact_however_it_is_written(form: str, rule: object) -> None:
    weight, x = nn.Parameter(noise(6, 4), requires_grad=False), noise(3, 6, seed=1)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda t: F.linear(t, weight.T),
        "matmul": lambda t: t @ weight,
        "mm": lambda t: torch.mm(t, weight),
    }
    found = relevance(forms[form], x, Composite(dense=rule, conv=Epsilon()))  # type: ignore[arg-type]
    for n in range(3):
        scores = x[n] @ weight
        r = torch.zeros(4, dtype=torch.float64)
        r[1] = scores[1]
        expected = literal(rule, x[n], weight.T, torch.zeros(4).double(), r, weight.T != 0, 0, 0)
        torch.testing.assert_close(found[n], expected, rtol=1e-12, atol=1e-12)


class Chain(nn.Module):
    """Convolutions, batch norm, max and average pooling, a residual block, dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.dense1, self.dense2 = nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(x + self.bn2(self.conv2(x)))
        x = F.avg_pool2d(x, 2).flatten(1)
        return self.dense2(F.silu(self.dense1(x)))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_agrees_with_matrices(name: str) -> None:
    net, x = frozen(Chain()), noise(1, 2, 8, 8, seed=9).clamp(-1, 2)
    rules = composite(name, EPSILON, 0.5)
    found = relevance(net, x, rules)[0].flatten()

    steps: list[tuple[Callable[[Tensor], Tensor], object, Tensor]] = []

    def linear(layer: Callable[[Tensor], Tensor], rule: object, t: Tensor) -> Tensor:
        steps.append((layer, rule, t))
        return layer(t)

    def back(r: Tensor) -> Tensor:
        layer, rule, t = steps.pop()
        w, b, used = matrix(layer, t[0])
        return literal(rule, t.flatten(), w, b, r, used, -1, 2)

    average = Epsilon(0.0)
    a0 = linear(lambda t: net.bn1(net.conv1(t)), rules.pick("conv", first=True), x)
    a1, places = F.max_pool2d(F.relu(a0), 2, return_indices=True)
    a2 = linear(lambda t: net.bn2(net.conv2(t)), rules.conv, a1)
    a3 = F.relu(a1 + a2)
    a4 = linear(lambda t: F.avg_pool2d(t, 2).flatten(1), average, a3)
    a5 = linear(net.dense1, rules.dense, a4)
    out = linear(net.dense2, rules.dense, F.silu(a5))
    r = torch.zeros(3, dtype=torch.float64)
    r[1] = out[0, 1]
    r = back(back(back(r)))
    total = (a1 + a2).flatten()
    shares = [torch.where(total == 0, 0, part.flatten() / total) * r for part in (a1, a2)]
    r = shares[0] + back(shares[1])
    r = F.max_unpool2d(r.reshape(a1.shape), places, 2).flatten()
    torch.testing.assert_close(found, back(r), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rule", [AlphaBeta(1, 0), AlphaBeta(2, 1), AlphaBeta(3.5, 2.5)], ids=repr)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", ["signed", "positive", "few", "none"])
@pytest.mark.parametrize("weights", ["mixed", "nearly of one sign", "of one sign"])
def test_sums_of_a_sign_are_told_from_differences_only_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch, rule: AlphaBeta, bias: bool, inputs: str, weights: str
) -> None:
    net = frozen(nn.Conv2d(16, 6, 3, padding=1, bias=bias))
    x = noise(3, 16, 5, 4, seed=7)
    x = {"signed": x, "positive": x.relu(), "few": x.relu() * (noise(3, 16, 5, 4, seed=8) > 2), "none": 0 * x}[inputs]
    weight = net.weight[0]
    weight.copy_({"mixed": weight, "of one sign": weight.abs()}.get(weights, torch.where(weight < 0, 1e-12, weight)))
    grad, ways = noise(3, 6, 5, 4, seed=9), []
    grad[0] = 0
    by_sizes = AlphaBeta._by_sizes

    def seen(*args: Any) -> Tensor | None:
        ways.append(by_sizes(*args))
        return ways[-1]

    monkeypatch.setattr(AlphaBeta, "_by_sizes", seen)
    layer = Layer(F.conv2d, x, net.weight, net.bias, (1, 1))
    z = net(x)
    found = rule.pull(layer, z, grad)
    monkeypatch.setattr(AlphaBeta, "_by_sizes", lambda *_: None)
    torch.testing.assert_close(found, rule.pull(layer, z, grad), rtol=1e-9, atol=1e-11)
    if inputs == "signed" and weights == "mixed":
        assert ways[0] is not None
    if inputs in ("positive", "few") and weights != "mixed" and rule.beta:
        assert ways == [None]


def test_two_layers_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
    net[2].weight.data = torch.tensor([[2.0, -1.0]]).double()
    net.requires_grad_(False)
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    # hidden (3, 2), output 4 = 6 - 2; ε: R = 6 (1/3, 2/3) - 2 (3/2, -1/2) = (-1, 5)
    torch.testing.assert_close(relevance(net, x, composite("epsilon", 0.0), 0), torch.tensor([[-1.0, 5.0]]).double())
    # z⁺: the second unit gets nothing of the output, the first all of it: 4 (1/3, 2/3)
    plus = relevance(net, x, composite("z_plus"), 0)
    torch.testing.assert_close(plus, torch.tensor([[4 / 3, 8 / 3]]).double())


@pytest.mark.parametrize("name", ["vgg", "resnet_basic", "densenet", "inception"])
def test_without_epsilon_it_is_gradient_times_input_of_a_relu_network(name: str) -> None:
    net, x = build(name, dtype=torch.float64).requires_grad_(False), pictures(dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(relevance(net, x, composite("epsilon", 0.0)), x * grad, rtol=1e-9, atol=1e-12)


def test_what_biases_keep_is_what_is_missing() -> None:
    net, x = build("resnet_basic", dtype=torch.float64), pictures(1, dtype=torch.float64)
    with torch.no_grad():
        score = net(x)[0, 1]
    free = [p for key, p in net.named_parameters() if key.endswith("bias")]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    net.requires_grad_(False)
    for p in free:
        p.requires_grad_(True)
    scores = net(x)
    kept = sum((g * p).sum() for g, p in zip(torch.autograd.grad(scores[0, 1], free), free, strict=True))
    kept, after = kept.detach(), scores[0, 1].detach()
    net.requires_grad_(False)
    total = relevance(net, x, composite("epsilon", 0.0)).sum()
    assert score != after
    torch.testing.assert_close(total + kept, after, rtol=1e-10, atol=1e-12)
    assert abs(float(kept)) > 1e-3


def test_z_plus_has_no_negative_relevance_and_the_signs_of_others_mix() -> None:
    net, x = build("vgg", bias=False).requires_grad_(False), pictures()
    with torch.no_grad():
        target = int(net(x).sum(0).argmax())
    plus, both = (relevance(net, x, composite(name), target) for name in ("z_plus", "alpha2_beta1"))
    assert float(plus.min()) >= 0 < float(plus.max())
    assert float(both.min()) < 0 < float(both.max())


def test_a_normalization_leaves_relevance_where_it_is() -> None:
    net = build("resnet_basic", dtype=torch.float64).requires_grad_(False)
    x, mean, std = pictures(dtype=torch.float64), noise(3, 1, 1), noise(3, 1, 1, seed=1).exp()

    def whole(t: Tensor) -> Tensor:
        blue, green, red = ((t - mean) / std).flip(-1).split(1, 1)
        return net(torch.cat([red, green, blue], 1))

    inner = ((x - mean) / std).flip(-1, 1)
    for name in ("epsilon", "z_plus", "gamma", "epsilon_plus_flat"):
        rules = composite(name)
        torch.testing.assert_close(
            relevance(whole, x, rules), relevance(net, inner, rules).flip(-1, 1), rtol=1e-9, atol=1e-14
        )


def test_a_normalization_in_place_changes_neither_the_input_nor_the_map() -> None:
    net = build("vgg", dtype=torch.float64).requires_grad_(False)
    x = pictures(dtype=torch.float64)
    kept = x.clone()

    def in_place(t: Tensor) -> Tensor:
        t -= 0.4
        t.div_(0.3)
        return net(t)

    for name in ("epsilon", "epsilon_gamma_box"):
        expected = relevance(lambda t: net((t - 0.4) / 0.3), x, composite(name))
        torch.testing.assert_close(relevance(in_place, x, composite(name)), expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(x, kept)


def test_the_box_is_in_the_users_units() -> None:
    conv = frozen(nn.Conv2d(3, 4, 3, padding=1))
    x = pictures(1, dtype=torch.float64)[..., :6, :6] * 3 - 1

    def net(t: Tensor) -> Tensor:
        return conv(F.pad((0.5 - t) * 2, (1, 0, 0, 0))).flatten(1)[:, :9]

    rules = composite("epsilon_gamma_box")
    found = relevance(net, x, rules)[0].flatten()
    inner = ((0.5 - x) * 2)[0].flatten()
    w, b, used = matrix(lambda t: conv(F.pad(t, (1, 0, 0, 0))).flatten(1)[:, :9], x[0])
    scores = net(x)[0]
    r = torch.zeros_like(scores)
    r[1] = scores[1]
    torch.testing.assert_close(found, literal(Box(), inner, w, b, r, used, -3, 3), rtol=1e-10, atol=1e-12)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_attention_weighs_its_values(fused: bool) -> None:
    attend = F.scaled_dot_product_attention if fused else softmax_attention
    x, w = noise(2, 1, 5, 4), nn.Parameter(noise(20, 3), requires_grad=False)

    def net(t: Tensor) -> Tensor:
        return attend(t * 2, t + 1, t).flatten(1) @ w

    weights = (x * 2 @ (x + 1).mT / 2).softmax(-1)
    expected = x * (weights.mT @ w[:, 1].reshape(5, 4))
    torch.testing.assert_close(relevance(net, x, composite("epsilon", 0.0)), expected, rtol=1e-9, atol=1e-12)


def test_the_signal_takes_all_and_equals_share() -> None:
    x, w = noise(3, 4), noise(4)
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda t: t * torch.sigmoid(t * w), x * torch.sigmoid(x * w)),  # a gate of its own
        (lambda t: torch.sigmoid(t.mean(1, keepdim=True)) * t, torch.sigmoid(x.mean(1, keepdim=True)) * x),
        (lambda t: t * t.sum(1, keepdim=True), x * x.sum(1, keepdim=True)),  # broadcast over it
        (lambda t: t * t, x * x),
        (
            lambda t: t / (t.square().mean(1, keepdim=True) + 1).sqrt(),
            x / (x.square().mean(1, keepdim=True) + 1).sqrt(),
        ),
    ]
    for net, expected in cases:
        found = relevance(lambda t, net=net: net(t).sum(1, keepdim=True), x, composite("epsilon"), 0)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def equals(t: Tensor) -> Tensor:  # the halves of the input, each linear in its own
        a, b = t.chunk(2, 1)
        return (a * b).sum(1, keepdim=True)

    product = x[:, :2] * x[:, 2:]
    found = relevance(equals, x, composite("epsilon"), 0)
    torch.testing.assert_close(found, torch.cat([product, product], 1) / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", [F.silu, F.gelu, F.hardswish, F.relu6, torch.tanh, F.elu, F.mish, F.leaky_relu])
def test_activations_pass_relevance_on_whole(function: Callable[[Tensor], Tensor]) -> None:
    x = noise(4, 50) * 4
    x[0, :3] = 0
    found = relevance(lambda t: function(t).sum(1, keepdim=True), x, composite("epsilon"), 0)
    torch.testing.assert_close(found, function(x), rtol=1e-12, atol=1e-14)


LSTM = nn.LSTM(6, 3, batch_first=True).requires_grad_(False)


@pytest.mark.parametrize(
    "function",
    [
        lambda t: torch.cumprod(t, 1),
        lambda t: torch.fft.fft(t).real,
        lambda t: torch.linalg.inv(t[:, None] * torch.eye(6)),
        lambda t: torch.log(t),
        lambda t: F.bilinear(t, t, torch.ones(2, 6, 6)),
        lambda t: F.grid_sample(t[:, None, None], t[:, None, None, :2], align_corners=False),
        lambda t: LSTM(t[:, None])[0],
        lambda t: F.batch_norm(t, None, None, training=True),
    ],
    ids=["cumprod", "fft", "inv", "log", "bilinear", "grid_sample", "lstm", "batch statistics"],
)
def test_an_unknown_function_is_refused_by_name(
    function: Callable[[Tensor], Tensor], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    pattern = {"fft": "fft", "batch statistics": "batch_norm"}.get(name, name)
    with pytest.raises(InputError, match=f"relevance cannot pass the function .*{pattern}"):
        relevance(
            lambda t: function(F.linear(t, torch.eye(6))).reshape(len(t), -1), torch.rand(3, 6), composite("epsilon")
        )


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 2


def test_what_is_hidden_from_torch_functions_is_refused() -> None:
    def net(t: Tensor) -> Tensor:
        return F.relu(Opaque.apply(F.linear(t, torch.eye(6))))

    for rule in (
        lambda leaf: Relevance(composite("epsilon"), Bounds())(net, leaf),
        lambda leaf: Rescale()(net, leaf, torch.zeros_like(leaf))[0],
        lambda leaf: Rectified(guided=True)(net, leaf),
    ):
        with pytest.raises(InputError, match=r"not (computed by|through) PyTorch functions"):
            rule(torch.rand(3, 6, requires_grad=True))


def test_a_softmax_at_the_end_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match="without a softmax at its end"):
        relevance(lambda t: F.linear(t, torch.eye(6)).softmax(1), torch.rand(3, 6), composite("epsilon"))


def test_a_stale_view_of_what_was_changed_in_place_is_refused() -> None:
    def net(t: Tensor) -> Tensor:
        y = F.linear(t, torch.eye(6))
        view = y.view(-1, 3)
        y.relu_()
        return view.reshape(-1, 6)

    with pytest.raises(InputError, match="changed in place through another view"):
        relevance(net, torch.rand(3, 6), composite("epsilon"))


def test_views_that_do_not_overlap_what_was_changed_are_fine() -> None:
    def net(t: Tensor) -> Tensor:
        a, b = F.linear(t, torch.eye(6)).chunk(2, 1)
        a.mul_(3)
        return torch.cat([a, b], 1).sum(1, keepdim=True)

    x = torch.rand(3, 6)
    expected = x * torch.tensor([3.0, 3, 3, 1, 1, 1])
    torch.testing.assert_close(relevance(net, x, composite("epsilon", 0.0), 0), expected)


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(InputError, match="no composite is called"):
        composite("epsilon_minus")
    with pytest.raises(InputError, match="do not conserve"):
        AlphaBeta(2.0, 0.5)
    with pytest.raises(InputError, match="first layer"):
        Composite(dense=Flat(), conv=Epsilon())
    with pytest.raises(InputError, match="negative"):
        composite("epsilon", -1)
