"""Sensitivity, gradient × input, SmoothGrad and expected gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError
from ironglass.core.results import load
from ironglass.explain.expected_gradients import expected_gradients
from ironglass.explain.gradient_x_input import gradient_x_input
from ironglass.explain.integrated_gradients import integrated_gradients
from ironglass.explain.saliency import saliency
from ironglass.explain.sensitivity import sensitivity
from ironglass.explain.smooth_grad import smooth_grad
from nets import images, small_cnn


def linear(inputs: int = 12, classes: int = 4) -> nn.Linear:
    net = nn.Linear(inputs, classes).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-2, 3, classes * inputs, dtype=torch.float64).sin().reshape(classes, inputs))
    return net


def rows(count: int, inputs: int = 12, seed: int = 1) -> Tensor:
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic(nn.Module):
    """``x A x`` and its negative."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 2, inputs * inputs, dtype=torch.float64).cos().reshape(inputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("ni,ij,nj->n", x, self.a, x)
        return torch.stack([y, -y], 1)


TARGET = torch.tensor([0, 3, 1])


def test_of_a_linear_model_each_is_known() -> None:
    net, x = linear(), rows(3)
    w = net.weight.detach()[TARGET]
    torch.testing.assert_close(sensitivity(net, x, TARGET).values, w**2, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient_x_input(net, x, TARGET).values, w * x, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        gradient_x_input(net, x, TARGET, baseline="white").values, w * (x - 1), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(smooth_grad(net, x, TARGET).values, w, rtol=1e-13, atol=0)
    torch.testing.assert_close(smooth_grad(net, x, TARGET, variant="squared").values, w**2, rtol=1e-13, atol=0)
    assert float(smooth_grad(net, x, TARGET, variant="variance").values.max()) < 1e-25
    data = rows(1, seed=8)
    one = expected_gradients(net, x, TARGET, baselines=data, samples=3)
    torch.testing.assert_close(one.values, w * (x - data), rtol=1e-13, atol=1e-15)
    assert one.error is not None
    assert float(one.error.max()) < 1e-12


def test_sensitivity_of_a_quadratic_and_its_sum() -> None:
    net, x = Quadratic(5).eval(), rows(4, 5)
    gradient = x @ (net.a + net.a.T).detach()
    found = sensitivity(net, x, 0).values
    torch.testing.assert_close(found, gradient**2, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.sum(1), saliency(net, x, 0).values.norm(dim=1) ** 2, rtol=1e-12, atol=0)


def test_smooth_grad_without_noise_is_the_gradient() -> None:
    net, x = small_cnn().eval(), images(3)
    plain = saliency(net, x, 1, absolute=False).values
    torch.testing.assert_close(smooth_grad(net, x, 1, noise=0.0, samples=4).values, plain)
    torch.testing.assert_close(smooth_grad(net, x, 1, noise=0.0, samples=4, of="gradient_x_input").values, plain * x)


def test_the_noise_has_the_stated_spread() -> None:
    net, x = Quadratic(5).eval(), rows(3, 5)  # the gradient's variance is (A + A') times that of the noise
    found = smooth_grad(net, x, 0, variant="variance", samples=1500, noise=0.2, seed=3).values
    sigma = 0.2 * (x.amax(1) - x.amin(1))
    expected = sigma[:, None] ** 2 * (net.a + net.a.T).detach().square().sum(0)
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0)
    mean = smooth_grad(net, x, 0, samples=1500, noise=0.2, seed=3).values
    error = (mean - x @ (net.a + net.a.T).detach()).abs()
    assert bool((error < 5 * (expected / 1500).sqrt()).all())


def test_smooth_grad_costs_its_samples_and_works_in_any_batch() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(40, dtype=torch.float64)
    whole = smooth_grad(net, x, 1, samples=5, seed=2)
    assert (whole.cost.forward, whole.cost.backward) == (200, 200)
    alone = smooth_grad(net, x[7:8], 1, samples=5, seed=2)
    torch.testing.assert_close(alone.values, whole.values[7:8], rtol=1e-9, atol=1e-12)


def test_expected_gradients_come_near_the_mean_of_integrated_gradients() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 20), nn.Softplus(), nn.Linear(20, 3)).double().eval()
    x, constants = rows(3, 6), (0.1, 0.5, 0.9)
    data = torch.tensor(constants, dtype=torch.float64)[:, None].expand(3, 6)
    exact = sum(integrated_gradients(net, x, 1, baseline=c, steps=30).values for c in constants) / 3
    found = expected_gradients(net, x, 1, baselines=data, samples=1500, seed=1)
    torch.testing.assert_close(found.values, exact, rtol=0, atol=0.08 * float(exact.abs().max()))
    assert found.error is not None
    assert float(found.error.max()) < 0.05
    assert (found.cost.forward, found.cost.backward) == (3 * (2 * 1500 + 1), 3 * 1500)


def test_expected_gradients_are_saved_with_the_hash_of_their_baselines(tmp_path: object) -> None:
    result = expected_gradients(small_cnn().eval(), images(2), 1, baselines=images(4, seed=2), samples=4)
    path = f"{tmp_path}/map.safetensors"
    result.save(path)
    assert torch.equal(load(path).values, result.values)  # type: ignore[attr-defined]


def test_without_data_baselines_come_from_the_bounds() -> None:
    net, x = linear(), rows(3)
    found = expected_gradients(net, x, TARGET, samples=2000, seed=5).values
    torch.testing.assert_close(found, net.weight.detach()[TARGET] * (x - 0.5), rtol=0, atol=0.05)


def test_wrong_options_are_refused() -> None:
    net, x = small_cnn().eval(), images(2)
    for call in (
        lambda: smooth_grad(net, x, 1, samples=0),
        lambda: smooth_grad(net, x, 1, samples=1, variant="variance"),
        lambda: smooth_grad(net, x, 1, noise=-0.1),
        lambda: smooth_grad(net, x, 1, variant="median"),  # type: ignore[arg-type]
        lambda: expected_gradients(net, x, 1, samples=0),
        lambda: expected_gradients(net, x, 1, baselines=torch.zeros(3, 1, 4, 4)),
    ):
        with pytest.raises(InputError):
            call()
