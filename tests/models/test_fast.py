from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ironglass.models import fast
from ironglass.models.fast import FastNet, Snapshot, private_copy, rows_per_pass


@pytest.fixture(autouse=True)
def _as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are small; what is done to large ones is tested on them."""
    monkeypatch.setattr("ironglass.models.fast.SMALL", 0)


torch.set_num_threads(1)


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def made(net: nn.Module, example: Tensor) -> FastNet:
    copied = private_copy(net, example)
    assert copied is not None
    return copied


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    out = net(leaf)
    return torch.autograd.grad((out * torch.arange(1.0, out.numel() + 1).view_as(out)).sum(), leaf)[0]


class Branching(nn.Module):
    """Goes another way for bright inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.dark = small_net(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return self.body(x)
        return self.dark(x.mean((2, 3)))


class StraightThrough(torch.autograd.Function):
    """Rounds, and passes gradients as if it had not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Before(nn.Module):
    """Does something to the input first."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.prepare = small_net(), prepare

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.prepare(x))


class GradientStopped(nn.Module):
    """Computes a part of its output without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small_net()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.mean((1, 2, 3))
        return self.body(x) * scale[:, None]


def same_everywhere(net: nn.Module, copied: FastNet, x: Tensor) -> None:
    torch.testing.assert_close(copied.scores(x), net(x).detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(copied.net(x), net(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient(copied.net, x), gradient(net, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [Branching, lambda: Before(StraightThrough.apply), GradientStopped],
    ids=["control flow", "a backward pass of its own", "a stopped gradient"],
)
def test_what_tracing_would_change_is_copied(make: Callable[[], nn.Module]) -> None:
    net, x = make().eval(), torch.rand(4, 3, 8, 8)
    copied = made(net, x)
    assert copied.level == "copied"
    assert "not traced" in copied.why
    same_everywhere(net, copied, x)
    if isinstance(net, Branching):
        same_everywhere(net, copied, -x)


def test_a_random_network_stays_random_and_the_global_stream_is_not_touched() -> None:
    net, x = Before(lambda x: x + torch.rand_like(x)).eval(), torch.rand(2, 3, 8, 8)
    before = torch.get_rng_state()
    copied = made(net, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert copied.level == "copied"
    assert not torch.equal(copied.scores(x), copied.scores(x))


def test_constants_drawn_while_tracing_are_not_kept() -> None:
    copied = made(Before(lambda x: x + torch.rand(1)), torch.rand(2, 3, 8, 8))
    assert copied.level == "copied"
    x = torch.rand(2, 3, 8, 8)
    assert not torch.equal(copied.scores(x), copied.scores(x))


def test_hooks_are_kept_not_traced() -> None:
    net, x = small_net().eval(), torch.rand(2, 3, 8, 8)
    seen: list[Any] = []
    net[2].register_forward_hook(lambda module, args, out: seen.append(out))
    net[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    copied = made(net, x)
    assert copied.level == "copied"
    assert "hooks" in copied.why
    assert all(type(value) is Tensor for value in seen)
    same_everywhere(net, copied, x)


def test_the_original_is_as_it_was() -> None:
    net, x = small_net(), torch.rand(2, 3, 8, 8)
    net(x).sum().backward()
    net[1].eval()
    net[0].weight.requires_grad_(False)

    def everything() -> dict[str, Any]:
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        return {
            "ids": {name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()},
            "values": {name: (tensor.tolist(), tensor.stride()) for name, tensor in tensors.items()},
            "grads": {name: None if p.grad is None else p.grad.tolist() for name, p in net.named_parameters()},
            "frozen": {name: p.requires_grad for name, p in net.named_parameters()},
            "modes": [module.training for module in net.modules()],
            "modules": [(name, id(module), set(vars(module))) for name, module in net.named_modules()],
            "hooks": [list(module._forward_hooks) for module in net.modules()],
        }

    before = everything()
    copied = made(net, x)
    assert copied.level == "fused"
    copied.scores(x)
    gradient(copied.net, x)
    rows_per_pass(copied.net, x)
    assert Snapshot(net).matches(net)
    assert everything() == before
    mine = {tensor.data_ptr() for tensor in net.state_dict().values()}
    for module in (copied.net, copied.scorer):
        assert not mine & {tensor.data_ptr() for tensor in module.state_dict().values()}
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(part.training for part in module.modules())


def test_the_copy_does_not_follow_the_original() -> None:
    net, x = small_net().eval(), torch.rand(2, 3, 8, 8)
    copied, wanted = made(net, x), net(x).detach()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
    torch.testing.assert_close(copied.scores(x), wanted, rtol=0, atol=1e-5)


def test_outputs_do_not_depend_on_train_mode_of_the_original() -> None:
    net, x = small_net().train(), torch.rand(6, 3, 8, 8)
    scores = made(net, x[:2]).scores(x)
    torch.testing.assert_close(scores, net.eval()(x).detach(), rtol=0, atol=1e-5)


def test_a_wrong_step_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_net().eval(), torch.rand(2, 3, 8, 8)

    def spoilt(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(graph: Any) -> Any:
            rewritten = step(copy.deepcopy(graph))
            bias = next(module.bias for module in rewritten.modules() if getattr(module, "bias", None) is not None)
            bias.data += 1e-2
            return rewritten

        return run

    with monkeypatch.context() as patch:
        patch.setattr(fast, "fold", spoilt(fast.fold))
        copied = made(net, x)
        assert copied.level == "copied"
        assert "not folded" in copied.why
        torch.testing.assert_close(copied.scores(x), net(x).detach(), rtol=0, atol=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr(fast, "fuse", spoilt(fast.fuse))
        copied = made(net, x)
        assert copied.level == "folded"
        assert "not fused" in copied.why
        torch.testing.assert_close(copied.scores(x), net(x).detach(), rtol=0, atol=1e-5)


def test_positions_are_not_taken_for_features() -> None:
    net = nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 3)).eval()
    net[1].running_mean.copy_(torch.arange(4.0))
    x = torch.rand(5, 4, 7)
    copied = made(net, x)
    assert copied.level == "copied"
    torch.testing.assert_close(copied.scores(x), net(x).detach())


def test_without_the_primitive_the_copy_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    copied = made(small_net(), torch.rand(2, 3, 8, 8))
    assert copied.level == "folded"
    assert "no fused convolution" in copied.why


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_copied_as_it_is(dtype: torch.dtype) -> None:
    net, x = small_net().eval().to(dtype), torch.rand(2, 3, 8, 8, dtype=dtype)
    copied = made(net, x)
    assert copied.level == "copied"
    assert torch.equal(copied.scores(x), net(x))


def test_outputs_that_are_not_finite_prove_nothing() -> None:
    net, x = small_net().eval(), torch.rand(2, 3, 8, 8)
    net[5].bias.data[0] = float("nan")
    assert made(net, x).level == "copied"


def test_a_network_that_cannot_be_copied_is_left_alone() -> None:
    net = small_net()
    net.lock = threading.Lock()  # type: ignore[assignment]
    assert private_copy(net, torch.rand(2, 3, 8, 8)) is None


def test_tokens_and_tables() -> None:
    words = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 3), nn.BatchNorm1d(3)).eval()
    x = torch.randint(0, 20, (5, 6))
    copied = made(words, x)
    assert copied.level == "folded"
    torch.testing.assert_close(copied.scores(x), words(x).detach())
    assert rows_per_pass(copied.net, x) == 256


def test_rows_fall_with_the_size_of_the_largest_value() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    rows = [rows_per_pass(net, torch.rand(2, 3, side, side)) for side in (8, 64, 256, 768)]
    budget = fast.LARGEST_VALUE * torch.get_num_threads()
    assert rows == [256, budget // (4 * 64 * 64**2), max(1, budget // (4 * 64 * 256**2)), 1]
    assert not any(module._forward_hooks for module in net.modules())


def test_rows_count_values_between_modules() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).mean((1, 2))

    side, budget = 1024, fast.LARGEST_VALUE * torch.get_num_threads()
    assert rows_per_pass(Attention(), torch.rand(1, side, 2)) == budget // (4 * side**2)


def plain_settings() -> nn.Module:
    net = nn.Module()
    net.body = small_net()
    net.temperature, net.sizes, net.activation, net.shift = 1.0, [1, 2], F.relu, torch.zeros(2)
    return net


CHANGES: dict[str, Callable[[Any], Any]] = {
    "one weight in place": lambda net: net.body[0].weight.data.view(-1)[5].mul_(1.0000002),
    "a sign": lambda net: net.body[5].weight.data[0, 0].neg_(),
    "two signs": lambda net: net.body[5].weight.data[0, :2].neg_(),
    "two weights swapped": lambda net: net.body[5].weight.data.copy_(net.body[5].weight.data[[1, 0, 2]]),
    "written through NumPy": lambda net: net.body[0].bias.detach().numpy().__setitem__(0, 7.0),
    "a buffer": lambda net: net.body[1].running_var.add_(1),
    "an integer buffer": lambda net: net.body[1].num_batches_tracked.add_(1),
    "a parameter replaced": lambda net: setattr(net.body[0], "bias", nn.Parameter(torch.ones(4))),
    "a parameter removed": lambda net: setattr(net.body[0], "bias", None),
    "a parameter added": lambda net: setattr(net, "extra", nn.Parameter(torch.ones(1))),
    "precision": lambda net: net.double(),
    "shape": lambda net: setattr(net.body[5], "weight", nn.Parameter(net.body[5].weight.data.view(2, 24))),
    "state loaded": lambda net: net.body.load_state_dict(small_net(1).state_dict()),
    "another activation": lambda net: net.body.__setitem__(2, nn.GELU()),
    "a layer more": lambda net: net.body.append(nn.Tanh()),
    "a layer renamed": lambda net: (setattr(net, "trunk", net.body), delattr(net, "body")),
    "stride": lambda net: setattr(net.body[0], "stride", (2, 2)),
    "eps": lambda net: setattr(net.body[1], "eps", 0.1),
    "a number": lambda net: setattr(net, "temperature", 2.0),
    "a number in a list": lambda net: net.sizes.append(3),
    "a function": lambda net: setattr(net, "activation", F.gelu),
    "a tensor that is no buffer": lambda net: net.shift.add_(1),
    "its forward pass": lambda net: setattr(net.body, "forward", lambda x: x),
    "a hook": lambda net: net.body[0].register_forward_hook(lambda module, args, out: None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_snapshot_sees(name: str) -> None:
    net = plain_settings()
    before = Snapshot(net)
    CHANGES[name](net)
    assert not before.matches(net)


def test_snapshot_sees_a_hook_go() -> None:
    net = small_net()
    before = Snapshot(net)
    handle = net[0].register_forward_hook(lambda module, args, out: None)
    between = Snapshot(net)
    handle.remove()
    assert before.matches(net)
    assert not between.matches(net)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_snapshot_sees_training(optimizer: Any) -> None:
    net, x = small_net(), torch.rand(4, 3, 8, 8)
    step = optimizer(net.parameters(), lr=1e-6)
    before = Snapshot(net)
    net(x).square().sum().backward()
    step.step()
    assert not before.matches(net)


def test_snapshot_ignores_what_changes_no_output() -> None:
    net, x = small_net().eval(), torch.rand(2, 3, 8, 8)
    before = Snapshot(net)
    net(x).sum().backward()
    net.train().requires_grad_(False)
    assert before.matches(net)
    assert before.matches(copy.deepcopy(net))
    assert before.matches(net.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(2, 3, 8, 8))])
def test_snapshot_sees_a_script_change(make: Callable[[nn.Module], nn.Module]) -> None:
    net = make(small_net().eval())
    before = Snapshot(net)
    assert before.matches(net)
    next(net.parameters()).data.neg_()
    assert not before.matches(net)


def test_snapshot_sees_what_shares_memory_or_has_gaps() -> None:
    whole = torch.rand(8, 6)
    net = nn.Module()
    net.register_buffer("some", whole[::2, 1:4])
    net.register_buffer("one", torch.rand(1).expand(5))
    net.register_buffer("turned", torch.rand(5, 7).T)
    net.register_buffer("odd", torch.arange(11, dtype=torch.uint8)[3:10])
    before = Snapshot(net)
    whole[1] = 0  # between the rows
    whole[:, 5] = 0
    assert before.matches(net)
    for change in (lambda: whole[2, 2].neg_(), lambda: net.one[:1].neg_(), lambda: net.odd[6].add_(1)):
        change()
        assert not before.matches(net)
        before = Snapshot(net)
    net.turned[2, 4] += 1
    assert not before.matches(net)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_snapshot_sees_any_bit_and_its_return(data: st.DataObject) -> None:
    net = small_net()
    tensors = list(net.state_dict().values())
    tensor = tensors[data.draw(st.integers(0, len(tensors) - 1))]
    content = tensor.view(-1).view(torch.uint8).numpy()
    place, bit = data.draw(st.integers(0, len(content) - 1)), 1 << data.draw(st.integers(0, 7))
    before = Snapshot(net)
    content[place] ^= bit
    assert not before.matches(net)
    content[place] ^= bit
    assert before.matches(net)


class Chancy(nn.Module):
    """Adds to its scores what a function draws."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.layer, self.draw = nn.Linear(4, 3), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.draw()


def own_generator() -> Callable[[], float]:
    return random.Random(0).random


DRAWS: dict[str, Callable[[], Callable[[], float]]] = {
    "python": lambda: lambda: float(random.randint(0, 1)),  # a coin falls alike three times in every fourth copy
    "numpy": lambda: lambda: float(np.random.randint(0, 2)),  # noqa: NPY002 - the global generator is what is tested
    "torch": lambda: lambda: float(torch.randint(2, ())),
    "its own generator": own_generator,
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_network_that_draws_is_copied_as_it_is(name: str) -> None:
    x, state, numpys = torch.rand(2, 4), random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([]):
        for seed in range(12):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)  # noqa: NPY002
            net = Chancy(DRAWS[name]())
            copied = made(net, x)
            assert copied.level == "copied"
            assert "random" in copied.why
            assert len({tuple(copied.scores(x).flatten().tolist()) for _ in range(40)}) > 1, "a draw was frozen"
    random.setstate(state)
    np.random.set_state(numpys)  # noqa: NPY002


def test_a_small_network_keeps_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing into another layout and back costs more than it saves where a pass takes microseconds."""
    monkeypatch.setattr("ironglass.models.fast.SMALL", 1 << 20)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    small, large = (private_copy(net, torch.rand(2, 3, 8, 8)), _large_copy(monkeypatch, net))
    assert small is not None
    assert (small.level, large.level) == ("folded", "fused")
    assert all(p.is_contiguous() for p in small.net.parameters())


def _large_copy(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> FastNet:
    monkeypatch.setattr("ironglass.models.fast.SMALL", 0)
    copied = private_copy(net, torch.rand(2, 3, 8, 8))
    assert copied is not None
    return copied
