"""Attributions to a layer, and of a unit: closed forms on linear stretches, and the slow way by hand."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.catalogue import catalogue
from ironglass.core.errors import AccessError, InputError, IronglassWarning
from ironglass.core.results import Attribution
from ironglass.ops.inside import unit_of
from nets import images, small_cnn

FAMILY = ("saliency", "sensitivity", "gradient_x_input", "integrated_gradients")


def dense(seed: int = 0, last: nn.Module | None = None) -> nn.Sequential:
    """Returns Linear, Tanh, Linear and a layer after; in float64."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = [("first", nn.Linear(6, 5)), ("act", nn.Tanh()), ("second", nn.Linear(5, 4))]
        layers += [("third", last or nn.Linear(4, 3))]
        return nn.Sequential(OrderedDict(layers)).double().eval()


def table(count: int = 7) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(net: nn.Sequential, x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Returns the activation before layer ``start`` and the output of those up to ``stop``, with a graph between."""
    inner = net[:start](x).detach().requires_grad_()
    return inner, net[start:stop](inner)


def test_the_gradient_at_a_layer_is_that_of_the_rest_of_the_network() -> None:
    net, x = dense(), table()
    inner, scores = by_hand(net, x, 1, 4)
    (grad,) = torch.autograd.grad(scores[:, 2].sum(), inner)
    found = ig.explain.saliency(ig.wrap(net), x, 2, absolute=False, at="first")
    assert torch.allclose(found.values, grad, rtol=1e-12)
    assert torch.allclose(ig.explain.sensitivity(ig.wrap(net), x, 2, at="first").values, grad.square(), rtol=1e-12)
    product = ig.explain.gradient_x_input(ig.wrap(net), x, 2, at="first").values
    assert torch.allclose(product, grad * inner, rtol=1e-12)
    assert (found.at, found.unit) == ("first", None)


def test_the_gradient_of_a_unit_is_that_of_the_network_up_to_it() -> None:
    net, x = dense(), table()
    leaf, units = by_hand(net, x, 0, 3)
    (grad,) = torch.autograd.grad(units[:, 1].sum(), leaf)
    found = ig.explain.saliency(ig.wrap(net), x, absolute=False, unit="second[1]")
    assert torch.allclose(found.values, grad, rtol=1e-12)
    assert found.explained(0, str) == "unit second[1]"


def test_from_a_layer_to_a_unit_the_weights_are_the_attribution() -> None:
    net, x = dense(), table()
    found = ig.explain.integrated_gradients(ig.wrap(net), x, at="act", unit="second[3]", baseline=0.0)
    second = net[2]
    assert isinstance(second, nn.Linear)
    expected = second.weight[3] * net[:2](x)
    assert torch.allclose(found.values, expected, rtol=1e-12, atol=1e-14)
    assert found.error is not None
    assert float(found.error.max()) < 1e-12


@pytest.mark.parametrize("which", ["black", "white", 0.25])
def test_integrated_gradients_at_a_layer_add_up_to_the_change_of_the_logit(which: str | float) -> None:
    net, x = dense(last=nn.Sequential(nn.Tanh(), nn.Linear(4, 3))), table()
    found = ig.explain.integrated_gradients(ig.wrap(net), x, 1, at="first", baseline=which, tol=1e-6)
    value = {"black": 0.0, "white": 1.0}.get(str(which))
    begin = torch.full((7, 5), 0.25, dtype=x.dtype) if value is None else net[:1](torch.full_like(x, value))
    change = (net(x) - net[1:](begin))[:, 1]
    assert found.values.shape == (7, 5)
    assert torch.allclose(found.values.sum(1), change, rtol=2e-6)
    score = ig.metric.completeness(ig.wrap(net), found, tol=1e-5)
    assert bool(score.passed.all())


def test_a_wrong_map_of_a_layer_is_not_complete() -> None:
    net, x = dense(), table()
    found = ig.explain.saliency(ig.wrap(net), x, at="first")
    assert not bool(ig.metric.completeness(ig.wrap(net), found).passed.all())


def test_a_channel_is_the_mean_of_its_places_and_one_place_sees_its_window() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net.bn(net.conv(leaf))[:, 2].mean((1, 2)).sum(), leaf)
    channel = ig.explain.saliency(ig.wrap(net), x, absolute=False, unit="bn[2]").values
    assert torch.allclose(channel, grad, rtol=1e-10, atol=1e-15)
    place = ig.explain.saliency(ig.wrap(net), x, unit="bn[2, 4, 5]").values
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[3:6, 4:7] = False
    assert not bool(place[:, :, outside].any())
    assert bool(place[:, :, ~outside].any())


class Branches(nn.Module):
    """Goes round its layer, too, writes in place, and has a layer that the scores do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.idle, self.head = nn.Conv2d(1, 2, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        inner = self.conv(x)
        return self.head((self.act(inner) + x).mean((2, 3)))  # type: ignore[no-any-return]


def branches() -> Branches:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Branches().double().eval()


def test_what_goes_round_the_layer_stays_as_it_is() -> None:
    net, x = branches(), images(4, dtype=torch.float64)
    found = ig.explain.integrated_gradients(ig.wrap(net), x, 2, at="conv", baseline=0.0, tol=1e-9)
    around = net.head((F.relu(torch.zeros_like(net.conv(x))) + x).mean((2, 3)))
    assert torch.allclose(found.values.flatten(1).sum(1), (net(x) - around)[:, 2], rtol=1e-8)


def test_a_layer_that_nothing_depends_on_gets_nothing() -> None:
    found = ig.explain.saliency(ig.wrap(branches()), images(2, dtype=torch.float64), at="idle")
    assert not bool(found.values.any())


@pytest.mark.parametrize("name", FAMILY)
def test_the_whole_network_by_its_last_layer_is_the_class(name: str) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(4, dtype=torch.float64)
    method = getattr(ig.explain, name)
    unit, whole = method(ig.wrap(net), x, unit="head[3]").values, method(ig.wrap(net), x, 3).values
    assert torch.allclose(unit, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_a_sample_at_a_layer_does_not_depend_on_its_batch_and_the_network_is_left_as_it_was(name: str) -> None:
    net, x = small_cnn(dtype=torch.float64), images(6, dtype=torch.float64)
    method = getattr(ig.explain, name)
    with pytest.warns(IronglassWarning, match="train mode"):
        model = ig.wrap(net)
    whole, some = method(model, x, at="conv").values, method(model, x[[4, 1]], at="conv").values
    assert torch.allclose(whole[[4, 1]], some, rtol=1e-9, atol=1e-12)
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_a_layer_costs_one_more_forward_pass() -> None:
    net, x = dense(), table()
    assert ig.explain.saliency(ig.wrap(net), x).cost.forward == 7
    found = ig.explain.saliency(ig.wrap(net), x, at="first").cost
    assert (found.forward, found.backward) == (14, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "firs"}, "no layer 'firs'"),
        ({"unit": "second"}, "names no unit"),
        ({"unit": "second[a]"}, "names no unit"),
        ({"unit": "second[4]"}, r"has no unit \[4\]"),
        ({"unit": "second[1, 1]"}, r"shape \(4,\) has no unit"),
        ({"at": "second", "unit": "first[0]"}, "ends after the unit"),
    ],
)
def test_what_is_not_there_is_an_error(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ig.explain.saliency(ig.wrap(dense()), table(), **options)


def test_a_target_beside_a_unit_is_an_error() -> None:
    with pytest.raises(InputError, match="both a target and a unit"):
        ig.explain.saliency(ig.wrap(dense()), table(), 1, unit="second[0]")


def test_a_model_without_internals_says_so() -> None:
    with pytest.raises(AccessError, match="needs internals"):
        ig.explain.saliency(ig.wrap(dense(), access="gradient"), table(), at="first")


def test_tests_of_maps_of_the_input_refuse_others_and_the_rest_take_them() -> None:
    net, x = dense(), table()
    found: Attribution = ig.explain.gradient_x_input(ig.wrap(net), x, at="first", unit="second[0]")
    with pytest.raises(InputError, match="at=first unit="):
        ig.metric.deletion(ig.wrap(net), found)
    taken = [card.name for card in catalogue().values() if "inside" in card.tags]
    assert taken == ["completeness", "max_sensitivity", "parameter_randomization"]
    for name in taken:
        assert len(getattr(ig.metric, name)(ig.wrap(net), found).values) == 7


def test_units_are_read_as_they_are_indexed() -> None:
    output = torch.arange(24.0).reshape(1, 2, 3, 4)
    for text, expected in (("a[1]", output[:, 1].mean()), ("a.b[:, 2]", output[:, :, 2].mean()), ("a[0,1,2]", 6.0)):
        assert float(unit_of(text).of(output)) == float(expected)


def test_a_map_of_a_layer_is_drawn_over_the_picture_and_one_of_a_vector_as_bars() -> None:
    net, x = branches(), images(2, dtype=torch.float64)
    grid = ig.explain.gradient_x_input(ig.wrap(net), x, at="conv")
    bars = ig.explain.gradient_x_input(ig.wrap(net), x, at="head")
    assert len(grid.plot().axes) == 4  # a sample and its map, twice
    assert len(grid.plot(bars).axes) == 4  # bars, where one is no picture
    assert len(bars.plot().axes) == 2
