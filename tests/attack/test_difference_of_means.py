"""Difference of means: where it goes, and that it asks nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.attack.blackbox.difference_of_means import class_means


def gaussians(count: int, apart: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes of normal samples about 0, and the unit direction between their means."""
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(20, generator=generator, dtype=torch.float64)
    way = way / way.norm()
    y = torch.arange(count) % 2
    x = torch.randn(count, 20, generator=generator, dtype=torch.float64) + (y - 0.5)[:, None] * apart * way
    return x, y, way


def test_between_gaussians_it_goes_the_way_of_the_discriminant_and_errs_as_the_normal_law_says() -> None:
    apart, eps = 4.0, 1.0
    x, y, way = gaussians(20_000, apart)
    means = class_means(x, y, 2)
    model = ig.wrap(lambda x: torch.stack([-(x @ way), x @ way], 1) * 10, bounds=(-50, 50))
    result = ig.attack.difference_of_means(model, x, y, ig.L2(eps), means=means)
    right = result.first_success != 1
    step = (result.adversarial - x)[right]
    wanted = torch.where(y[right, None] == 1, -way, way)
    assert float((step * wanted).sum(1).min()) > 0.99 * eps
    expected = 0.5 * (1 + math.erf(-(apart / 2 - eps) / math.sqrt(2)))
    assert float(result.success.double().mean()) == pytest.approx(expected, abs=0.01)
    assert result.queries.tolist() == [1] * len(x)


def test_the_nearest_mean_is_taken_or_the_targets() -> None:
    means = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.2, 0.4]])
    x = torch.full((1, 2), 0.5)
    y = torch.zeros(1, dtype=torch.long)
    scores = torch.tensor([[9.0, 0.0, 0.0]])
    model = ig.wrap(lambda x: scores.expand(len(x), -1))
    found = ig.attack.difference_of_means(model, x, y, ig.Linf(0.1), means=means)
    assert torch.allclose(found.adversarial, torch.tensor([[0.5, 0.6]]))
    aimed = ig.attack.difference_of_means(model, x, ig.Reach(y + 1), ig.L2(0.1), means=means)
    way = means[1] - means[2]  # the sample lies nearest to the mean of class 2
    assert torch.allclose(aimed.adversarial - x, (0.1 * way / way.norm())[None], atol=1e-6)


def test_means_are_asked_for_and_checked() -> None:
    x = torch.rand(2, 4)
    y = torch.zeros(2, dtype=torch.long)
    model = ig.wrap(lambda x: torch.stack([x.sum(1) + 1, x.sum(1)], 1))
    with pytest.raises(ValueError, match="difference_of_means needs means"):
        ig.attack.difference_of_means(model, x, y, ig.Linf(0.1))
    with pytest.raises(ValueError, match=r"means of shape \(3, 4\)"):
        ig.attack.difference_of_means(model, x, y, ig.Linf(0.1), means=torch.rand(3, 4))
    with pytest.raises(ValueError, match="finite eps"):
        ig.attack.difference_of_means(model, x, y, ig.Linf(float("inf")), means=torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"samples a class: \[2, 0\]"):
        class_means(x, y, 2)
