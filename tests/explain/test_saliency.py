from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.errors import AccessError
from ironglass.explain.saliency import saliency
from ironglass.models.adapter import wrap
from nets import images, scores_without_autograd, small_cnn


def linear(inputs: int = 12, classes: int = 4) -> nn.Linear:
    net = nn.Linear(inputs, classes).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-2, 3, classes * inputs, dtype=torch.float64).sin().reshape(classes, inputs))
    return net


def rows(count: int, inputs: int = 12) -> Tensor:
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_of_a_linear_model_it_is_the_weights() -> None:
    net, target = linear(), torch.tensor([0, 3, 1])
    result = saliency(net, rows(3), target)
    assert torch.equal(result.values, net.weight.detach()[target].abs())
    assert torch.equal(saliency(net, rows(3), target, absolute=False).values, net.weight.detach()[target])
    assert (result.cost.forward, result.cost.backward) == (3, 3)


def test_it_agrees_with_central_differences() -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double().eval()
    x, target, step = rows(4, 6), torch.tensor([2, 0, 1, 2]), 1e-6
    found = saliency(net, x, target, absolute=False).values
    with torch.no_grad():
        for i in range(6):
            up, down = x.clone(), x.clone()
            up[:, i] += step
            down[:, i] -= step
            slope = (net(up) - net(down)).gather(1, target[:, None])[:, 0] / (2 * step)
            torch.testing.assert_close(found[:, i], slope, rtol=1e-6, atol=1e-9)


def test_it_explains_the_logit_where_the_softmax_is_saturated() -> None:
    net = linear()
    with torch.no_grad():
        net.weight.mul_(1e4)
    x = rows(3)
    softmax = x.clone().requires_grad_()
    probabilities = net(softmax).softmax(1)
    (gradient,) = torch.autograd.grad(probabilities.amax(1).sum(), softmax)
    assert float(gradient.abs().max()) < 1e-6
    result = saliency(net, x)
    assert torch.equal(result.target, probabilities.argmax(1))
    assert torch.equal(result.values, net.weight.detach()[result.target].abs())


def test_values_are_per_unit_of_the_users_input() -> None:
    net = linear()
    model = wrap(net, bounds=(0, 255), mean=127.0, std=64.0)
    found = saliency(model, rows(2) * 255, torch.tensor([1, 2])).values
    torch.testing.assert_close(found, net.weight.detach()[[1, 2]].abs() / 64, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_has_its_own_gradient_and_the_inputs_shape(dtype: torch.dtype) -> None:
    net, x = small_cnn(dtype=dtype).eval(), images(5, dtype=dtype)
    whole = saliency(net, x, 3)
    assert whole.values.shape == x.shape
    assert whole.values.dtype == dtype
    for i in range(5):
        torch.testing.assert_close(saliency(net, x[i : i + 1], 3).values[0], whole.values[i])


def test_a_black_box_is_refused() -> None:
    with pytest.raises(AccessError, match="saliency needs gradient, this model gives scores"):
        saliency(scores_without_autograd, images(2))
