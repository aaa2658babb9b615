from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, weibull_max
from torch import Tensor

from ironglass.ops.extremes import agreement, fit, limit_of_maxima


def drawn(shape: float, count: int, rows: int, end: float = 5.0, scale: float = 2.0, seed: int = 0) -> Tensor:
    values = weibull_max.rvs(shape, end, scale, size=(rows, count), random_state=np.random.default_rng(seed))
    return torch.from_numpy(values)


@pytest.mark.parametrize(("shape", "tolerance"), [(1.5, 0.05), (3.0, 0.2), (6.0, 0.6)])
def test_the_end_point_of_a_known_distribution_is_recovered(shape: float, tolerance: float) -> None:
    maxima = drawn(shape, 500, 20)
    end, quality = limit_of_maxima(maxima)
    assert bool(((end - 5.0).abs() < 2 * tolerance).all())
    assert abs(float(end.mean()) - 5.0) < tolerance
    assert bool((end > maxima.amax(1)).all())
    assert float(quality.min()) > 0.05
    assert float((5.0 - maxima.amax(1)).mean()) > 1.5 * abs(5.0 - float(end.mean()))  # better than the largest


def test_a_shape_below_1_is_not_fitted() -> None:
    """There the likelihood grows without bound as the end point nears the largest value."""
    maxima = drawn(0.5, 200, 6)
    _, shape, _ = fit(maxima.amax(1, keepdim=True) - maxima)
    assert bool((shape >= 1).all())
    assert bool(limit_of_maxima(maxima)[0].isfinite().all())


def test_shape_and_scale_are_recovered() -> None:
    maxima = drawn(3.0, 20000, 2)
    top = maxima.amax(1, keepdim=True)
    gap, shape, scale = fit(top - maxima)
    assert torch.allclose(shape, torch.tensor(3.0).double(), rtol=0.1)
    assert torch.allclose(scale, torch.tensor(2.0).double(), rtol=0.1)
    assert torch.allclose(top[:, 0] + gap, torch.tensor(5.0).double(), atol=0.1)


@pytest.mark.parametrize("shape", [1.2, 2.5, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_as_likely_as_scipys(shape: float, seed: int) -> None:
    """Penalized likelihoods: ours has to be the best of all that scipy's optimizer finds from many starts."""
    maxima = drawn(shape, 60, 1, seed=seed)[0]
    below = ((maxima.amax() - maxima) / (maxima.amax() - maxima.amin()))[None]
    gap, c, scale = (float(value) for value in fit(below))

    def cost(c: float, end: float, scale: float) -> float:
        return float(-weibull_max.logpdf(-below[0].numpy(), c, end, scale).sum() + 0.01 * c * c)

    ours = cost(c, gap, scale)
    for start in (1.0, 2.0, 5.0, 20.0):
        found, end, width = weibull_max.fit(-below[0].numpy(), start)
        if found >= 1:
            assert ours <= cost(found, end, width) + 1e-6
    for wobble in (0.995, 1.005):
        assert ours <= cost(c * wobble, gap, scale)
        assert ours <= cost(c, gap * wobble, scale)
        assert ours <= cost(c, gap, scale * wobble)


def test_the_p_value_is_scipys() -> None:
    below = torch.rand(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gap, shape, scale = (torch.full((4,), value, dtype=torch.float64) for value in (0.2, 1.7, 0.8))
    for row, p in enumerate(agreement(below, gap, shape, scale).tolist()):
        assert p == pytest.approx(kstest(-below[row].numpy(), weibull_max(1.7, 0.2, 0.8).cdf).pvalue, rel=1e-9)


def test_maxima_that_do_not_vary_are_the_end_point() -> None:
    maxima = torch.full((2, 3, 40), 7.0)
    maxima[1] = 0.0
    maxima[0, 1] += torch.rand(40) * 1e-6
    end, quality = limit_of_maxima(maxima)
    assert torch.allclose(end, maxima.double().amax(-1))
    assert torch.equal(quality, torch.ones(2, 3).double())
    single, _ = limit_of_maxima(torch.rand(4, 1))
    assert bool(single.isfinite().all())


def test_a_rejected_fit_gives_the_largest_value() -> None:
    maxima = torch.cat([torch.full((1, 200), 1.0), torch.full((1, 200), 9.0)], 1)
    end, quality = limit_of_maxima(maxima)
    assert float(end) == 9.0
    assert float(quality) < 1e-3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_end_point_and_spoils_no_other(value: float) -> None:
    maxima = drawn(3.0, 100, 3)
    alone = limit_of_maxima(maxima[::2])
    maxima[1, 7] = value
    end, quality = limit_of_maxima(maxima)
    assert bool(end[1].isnan())
    assert float(quality[1]) == 0.0
    assert torch.allclose(end[::2], alone[0])
    assert torch.allclose(quality[::2], alone[1])


def test_the_end_point_scales_with_the_maxima() -> None:
    maxima = drawn(3.0, 80, 4)
    end, quality = limit_of_maxima(maxima)
    for factor in (1e-12, 1e9):
        scaled, same = limit_of_maxima(maxima * factor)
        assert torch.allclose(scaled, end * factor, rtol=1e-6)
        assert torch.allclose(same, quality, rtol=1e-4)
