"""What rules promise on every architecture: nothing lost, nothing changed, whatever the network calls."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from architectures import ARCHITECTURES, build, pictures
from ironglass.core.values import Bounds
from ironglass.models.efficientnet_lite import EfficientNetLite
from ironglass.models.folding import fold, trace
from ironglass.ops.rules import Rectified, Relevance, Rescale, composite

every = pytest.mark.parametrize("name", ARCHITECTURES)


def relevance(net: nn.Module, x: Tensor, rules: str, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the relevance of the greatest logits, these logits, and all."""
    leaf = x.clone().requires_grad_()
    scores = Relevance(composite(rules, epsilon), Bounds())(net, leaf)
    best = scores.amax(1)
    return torch.autograd.grad(best.sum(), leaf)[0], best.detach(), scores.detach()


def gap(parts: Tensor, whole: Tensor) -> float:
    return float(((parts.flatten(1).sum(1) - whole).abs() / whole.abs()).max())


@every
@pytest.mark.parametrize("rules", ["epsilon", "epsilon_gamma_box"])
def test_relevance_is_conserved_in_single_and_double_precision(name: str, rules: str) -> None:
    for dtype, epsilon, bar in ((torch.float32, 1e-6, 1e-3), (torch.float64, 1e-9, 1e-6)):
        net, x = build(name, bias=False, dtype=dtype).requires_grad_(False), pictures(dtype=dtype)
        found, best, _ = relevance(net, x, rules, epsilon)
        assert found.dtype == dtype
        assert float(best.abs().min()) > 1e-3
        assert gap(found, best) <= bar


@every
def test_the_forward_pass_is_bit_equal_and_the_network_untouched(name: str) -> None:
    net, x = build(name).requires_grad_(False), pictures()
    state, kept = {key: t.clone() for key, t in net.state_dict().items()}, x.clone()
    plain = net(x.clone().requires_grad_()).detach()
    leaf = x.clone().requires_grad_()
    assert torch.equal(Relevance(composite("epsilon_gamma_box"), Bounds())(net, leaf).detach(), plain)
    scores, start = Rescale()(net, leaf, torch.zeros_like(leaf))
    assert torch.equal(scores.detach(), plain)
    assert torch.equal(start, net(torch.zeros_like(x).requires_grad_()).detach())
    assert torch.equal(x, kept)
    assert all(torch.equal(t, state[key]) for key, t in net.state_dict().items())
    assert torch.equal(net(x.clone().requires_grad_()).detach(), plain)


@every
def test_rescaled_differences_add_up(name: str) -> None:
    for dtype, bar in ((torch.float32, 1e-3), (torch.float64, 1e-9)):
        net, x = build(name, dtype=dtype).requires_grad_(False), pictures(dtype=dtype)
        reference, leaf = pictures(seed=5, dtype=dtype), x.clone().requires_grad_()
        scores, start = Rescale()(net, leaf, reference)
        change = (scores.amax(1) - start.gather(1, scores.argmax(1, keepdim=True))[:, 0]).detach()
        (multipliers,) = torch.autograd.grad(scores.amax(1).sum(), leaf)
        assert gap((x - reference) * multipliers, change) <= bar


@every
def test_a_sample_does_not_depend_on_its_neighbours(name: str) -> None:
    net, x = build(name, dtype=torch.float64).requires_grad_(False), pictures(3, dtype=torch.float64)
    whole, _, _ = relevance(net, x, "epsilon_gamma_box", 1e-6)
    alone, _, _ = relevance(net, x[1:2], "epsilon_gamma_box", 1e-6)
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "odd"])  # which plain autograd refuses
def test_guided_backpropagation_sees_every_kind_of_rectifier(name: str) -> None:
    net, x = build(name).requires_grad_(False), pictures()
    leaf = x.clone().requires_grad_()
    plain = torch.autograd.grad(net(leaf).amax(1).sum(), leaf)[0]
    guided = torch.autograd.grad(Rectified(guided=True)(net, leaf).amax(1).sum(), leaf)[0]
    assert bool(guided.isfinite().all())
    assert not torch.allclose(guided, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("name", ["vgg", "resnet_basic", "resnet_bottleneck", "densenet", "inception", "shufflenet"])
@pytest.mark.parametrize("rules", ["epsilon", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"])
def test_a_batch_norm_is_part_of_the_layer_before_it(name: str, rules: str) -> None:
    net, x = build(name, dtype=torch.float64).requires_grad_(False), pictures(dtype=torch.float64)
    folded = fold(trace(build(name, dtype=torch.float64)))
    ours, theirs = relevance(net, x, rules, 1e-3)[0], relevance(folded, x, rules, 1e-3)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10 * float(ours.abs().max()))


def test_efficientnet_lite_conserves_relevance() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = EfficientNetLite("lite0", 10).eval().requires_grad_(False)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(2.0)
        net.classifier.bias.zero_()
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for rules in ("epsilon", "epsilon_gamma_box"):
        found, best, _ = relevance(net, x, rules, 1e-9)
        assert gap(found, best) <= 1e-3
    found, best, _ = relevance(net.double(), x.double(), "epsilon", 1e-12)
    assert gap(found, best) <= 1e-6


def test_memory_is_given_back_without_the_garbage_collector() -> None:
    net, x = build("resnet_basic").requires_grad_(False), pictures()
    relevance(net, x, "epsilon_gamma_box", 1e-6)
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
        for _ in range(3):
            relevance(net, x, "epsilon_gamma_box", 1e-6)
        assert sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()) <= before + 2
    finally:
        gc.enable()
