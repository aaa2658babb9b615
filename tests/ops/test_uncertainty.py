from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.ops.uncertainty import (
    attenuated_loss,
    noisy,
    noisy_cross_entropy,
    of_classes,
    of_values,
    predicted,
)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_draws_that_are_sure_of_different_classes_are_all_epistemic() -> None:
    p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = of_classes(p)
    assert float(found.total) == pytest.approx(math.log(2))
    assert float(found.aleatoric) == 0
    assert float(found.epistemic) == pytest.approx(math.log(2))
    assert found.variance.tolist() == [[0.25, 0.25]]


def test_draws_that_agree_are_all_aleatoric() -> None:
    p = torch.tensor([0.2, 0.3, 0.5]).expand(7, 4, 3)
    found = of_classes(p)
    assert torch.allclose(found.aleatoric, torch.full((4,), -sum(q * math.log(q) for q in (0.2, 0.3, 0.5))))
    assert float(found.epistemic.abs().max()) < 1e-6
    assert float(found.variance.max()) < 1e-12


@pytest.mark.parametrize("grid", [(), (3, 5)], ids=str)
def test_the_parts_sum_to_the_total_and_information_is_never_negative(grid: tuple[int, ...]) -> None:
    p = draws(20, 6, 4, *grid).mul(3).softmax(2)
    found = of_classes(p)
    assert found.total.shape == (6, *grid)
    assert torch.allclose(found.total, found.aleatoric + found.epistemic, atol=1e-12)
    assert float(found.epistemic.min()) >= 0
    divergence = (p * (p.log() - p.mean(0).log())).sum(2).mean(0)  # the mean divergence from the mean prediction
    assert torch.allclose(found.epistemic, divergence, atol=1e-12)


def test_the_variance_of_values_is_that_of_the_mixture() -> None:
    mean, log_variance = draws(5, 3, 2), draws(5, 3, 2, seed=1)
    found = of_values(mean, log_variance)
    noise = draws(200_000, 5, 3, 2, seed=2)
    sampled = (mean + (log_variance / 2).exp() * noise).flatten(0, 1).var(0).sum(1)
    assert torch.allclose(found.total, sampled, rtol=0.01)
    assert torch.allclose(found.total, found.aleatoric + found.epistemic)
    assert torch.equal(of_values(mean, None).aleatoric, torch.zeros(3, dtype=torch.float64))


def test_the_loss_of_a_regression_is_least_where_the_noise_is_the_error() -> None:
    error = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    s = (2 * error.log()).requires_grad_()
    loss = attenuated_loss(torch.zeros(3), s, error).sum()
    (grad,) = torch.autograd.grad(loss, s)
    assert torch.allclose(grad, torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert float(loss.detach()) == pytest.approx(float((0.5 + error.log()).sum()))


def test_without_noise_the_loss_is_cross_entropy_and_with_it_the_integral() -> None:
    logits, y = draws(4, 3, 2, 2), torch.tensor([0, 2, 1, 1]).reshape(4, 1, 1).expand(4, 2, 2)
    none = torch.full_like(logits, -80.0)
    noise = draws(30, 4, 3, 2, 2, seed=1)
    assert torch.allclose(noisy_cross_entropy(logits, none, y, noise), F.cross_entropy(logits, y, reduction="none"))

    f, s = torch.tensor([[0.7, -0.4]], dtype=torch.float64), torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    scale = float((s[0].exp().sum()) ** 0.5)  # the difference of two noisy logits is Gaussian
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    weight = (-0.5 * grid**2).exp()
    wanted = float((torch.sigmoid(1.1 + scale * grid) * weight).sum() / weight.sum())
    many = draws(400_000, 1, 2, seed=3)
    assert float(noisy(f, s, many)[0, 0]) == pytest.approx(wanted, abs=2e-3)
    assert float(noisy_cross_entropy(f, s, torch.tensor([0]), many)) == pytest.approx(-math.log(wanted), abs=4e-3)


def test_tiny_probabilities_do_not_underflow() -> None:
    logits = torch.tensor([[0.0, 500.0]])
    loss = noisy_cross_entropy(logits, torch.full_like(logits, -80.0), torch.tensor([0]), torch.zeros(8, 1, 2))
    assert float(loss.detach()) == pytest.approx(500, rel=1e-6)


def test_noise_on_logits_is_the_same_for_each_sample() -> None:
    out, log_variance = draws(1, 6, 3), draws(1, 6, 3, seed=1)
    whole, part = (
        predicted(out, log_variance, "classes", 16, 0),
        predicted(out[:, 3:5], log_variance[:, 3:5], "classes", 16, 0),
    )
    assert torch.allclose(whole.draws[:, 3:5], part.draws, atol=1e-14)
    assert torch.allclose(whole.draws.sum(2), torch.ones(1, 6, dtype=torch.float64))
    with pytest.raises(InputError, match="of='pixels'"):
        predicted(out, None, "pixels", 16, 0)
