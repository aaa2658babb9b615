"""Feature adversaries on linear features, where the nearest activations are known, and the gradient at a layer."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import lsq_linear
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import AccessError
from nets import images, small_cnn

SIZE = 25


def net_of(hidden: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, hidden), nn.Tanh(), nn.Linear(hidden, 4)).double().eval()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def raw(net: nn.Module, x: Tensor, threat: ig.Threat, **options: object) -> Tensor:
    """The points of an untargeted attack, also of samples that are misclassified."""
    y = net(x).argmax(1)
    return ig.attack.feature_adversary(net, x, y, threat, **options).adversarial


def test_in_a_large_ball_the_guides_activations_are_met_exactly() -> None:
    net, x, guide = net_of(SIZE), pictures(6), pictures(1, seed=9)[0]
    found = raw(net, x, ig.Linf(0.99), guide=guide, layer="1", steps=400)
    phi = net[:2]
    reached = net(found).argmax(1) != net(x).argmax(1)
    apart = (phi(found) - phi(guide[None])).norm(dim=1) / (phi(x) - phi(guide[None])).norm(dim=1)
    same = net(guide[None]).argmax(1) == net(x).argmax(1)
    assert bool((apart[~same] < 1e-3).all())
    assert bool(reached[~same].all())
    assert bool((~same).any())


@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_in_a_small_ball_they_are_as_near_as_bounded_least_squares_brings_them(eps: float) -> None:
    net, x, guide = net_of(12), pictures(6), pictures(1, seed=9)[0]
    with torch.no_grad():
        net[3].bias[0] += 100  # the label never changes: the nearest point is returned, whatever its label
    found = raw(net, x, ig.Linf(eps), guide=guide, layer="1", steps=300)
    matrix, phi = net[1].weight.detach().numpy(), net[:2]
    for row in range(6):
        start = x[row].flatten()
        low, high = (start - eps).clamp(min=0), (start + eps).clamp(max=1)
        gap = (phi(guide[None]) - phi(x[row : row + 1]))[0].detach().numpy()
        bounds = ((low - start).numpy() - 1e-12, (high - start).numpy() + 1e-12)
        known = lsq_linear(matrix, gap, bounds=bounds, tol=1e-13)
        ours = float((phi(found[row : row + 1]) - phi(guide[None])).detach().square().sum() / 2)
        assert ours <= known.cost + 1e-4 * float((gap**2).sum() / 2)


def test_guides_of_a_class_go_to_the_samples_that_want_it() -> None:
    net, x, guides = net_of(SIZE), pictures(8), pictures(4, seed=3)
    y = net(x).argmax(1)
    target = (y + 1) % 4
    result = ig.attack.feature_adversary(net, x, ig.Reach(target), ig.Linf(0.1), guide=guides, layer="1", steps=60)
    for label in range(4):
        rows = (target == label).nonzero()[:, 0]
        if len(rows):
            alone = ig.attack.feature_adversary(
                net, x[rows], ig.Reach(target[rows]), ig.Linf(0.1), guide=guides[label], layer="1", steps=60
            )
            assert torch.allclose(alone.adversarial, result.adversarial[rows], atol=1e-8)


def test_without_a_guide_it_finds_what_an_attack_finds() -> None:
    net, x = net_of(SIZE), pictures(40)
    y = net(x).argmax(1)
    for goal in (ig.Avoid(y), ig.Reach((y + 1) % 4)):
        ours = ig.attack.feature_adversary(net, x, goal, ig.Linf(0.15))
        noise = ig.attack.random_noise(net, x, goal, ig.Linf(0.15))
        assert int(ours.success.sum()) > 2 * int(noise.success.sum())
        assert ours.success_rate > 0.3


def test_the_layer_before_the_scores_is_taken_unless_one_is_named() -> None:
    net, x, guide = net_of(12), pictures(4), pictures(1, seed=9)[0]
    default = raw(net, x, ig.Linf(0.1), guide=guide)
    assert torch.equal(default, raw(net, x, ig.Linf(0.1), guide=guide, layer="2"))
    assert not torch.equal(default, raw(net, x, ig.Linf(0.1), guide=guide, layer="1"))


def test_the_mask_is_honoured_and_requests_that_make_no_sense_are_refused() -> None:
    net, x = net_of(12), pictures(4)
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[:, 1:4] = True
    found = raw(net, x, ig.Linf(0.2, mask), guide=pictures(1, seed=9)[0])
    assert torch.equal(torch.where(mask, x, found), x)
    assert not torch.equal(found, x)
    with pytest.raises(ValueError, match="one a class"):
        raw(net, x, ig.Linf(0.2), guide=pictures(3))
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        raw(net, x, ig.Linf(0.2), layer="nowhere")
    with pytest.raises(ValueError, match="at least 1"):
        raw(net, x, ig.Linf(0.2), steps=0)
    with pytest.raises(ValueError, match="no layer before its scores"):
        raw(nn.Linear(SIZE, 4).double().eval(), x.flatten(1), ig.Linf(0.2))


@pytest.mark.parametrize("layer", ["conv", "bn", "act", "drop", "head"])
def test_the_gradient_of_a_layers_loss_is_autograds(layer: str) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(7, dtype=torch.float64)
    weight = torch.linspace(-1, 1, 7, dtype=torch.float64)
    adapter = ig.wrap(net)
    adapter.probe(x)
    session, meter = adapter.session(x)
    rows = torch.tensor([4, 1, 5])

    def loss(out: Tensor, part: Tensor | slice) -> Tensor:
        return weight[part] * out.flatten(1).sin().sum(1)

    got = session.value_and_grad(x[rows], loss, rows, layer)
    leaf = x[rows].clone().requires_grad_()
    value = leaf
    for name, module in net.named_children():
        value = module(value.mean((2, 3)) if name == "head" else value)
        if name == layer:
            break
    if layer == "drop":  # the network drops out after pooling
        value = value.mean((2, 3))
    if layer == "act":
        value = net.bn(net.conv(leaf)).relu()
    expected = loss(value, rows)
    assert torch.allclose(got.value, expected)
    assert torch.allclose(got.grad, torch.autograd.grad(expected.sum(), leaf)[0])
    assert torch.allclose(got.scores, net(x[rows]))
    assert meter.queries.tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert (meter.cost.forward, meter.cost.backward) == (3, 3)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layers_loss_takes_internals() -> None:
    x = images(2)
    adapter = ig.wrap(small_cnn().eval())
    adapter.probe(x)
    session, _ = adapter.session(x, "gradient")
    with pytest.raises(AccessError, match="declares gradient and asks for internals"):
        session.value_and_grad(x, lambda out, rows: out.flatten(1).sum(1), None, "conv")
