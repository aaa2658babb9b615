"""Schmidt's Gaussian model: closed forms against simulation, and the growth with the dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ironglass as ig
from ironglass.bench.sample_complexity import drawn_errors, limit_error, needed, robust_error, standard_error
from ironglass.core.errors import InputError
from ironglass.core.findings import Curve


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_the_error_of_a_linear_classifier_is_what_simulation_says(eps: float) -> None:
    rng = np.random.default_rng(0)
    dimension, sigma, total = 20, 2.5, 200_000
    means = np.where(rng.random(dimension) < 0.5, -1.0, 1.0)
    weights = means + 1.5 * rng.standard_normal(dimension)
    labels = np.where(rng.random(total) < 0.5, -1.0, 1.0)
    x = labels[:, None] * means + sigma * rng.standard_normal((total, dimension))
    moved = x - eps * labels[:, None] * np.sign(weights)  # the worst there is for a linear classifier
    wrong = float((labels * (moved @ weights) < 0).mean())
    exact = float(robust_error(weights[None], means, sigma, eps)[0])
    assert 0.02 < exact < 0.6
    assert wrong == pytest.approx(exact, abs=4 * math.sqrt(exact / total))
    if not eps:
        assert float(standard_error(weights[None], means, sigma)[0]) == exact


def test_a_classifier_learned_from_samples_is_as_good_as_one_drawn() -> None:
    rng = np.random.default_rng(1)
    dimension, spread, count = 60, 0.8, 9
    sigma = spread * dimension**0.25
    means = np.ones(dimension)
    learned = []
    for _ in range(400):
        labels = np.where(rng.random(count) < 0.5, -1.0, 1.0)
        x = labels[:, None] * means + sigma * rng.standard_normal((count, dimension))
        learned.append(float(robust_error((labels[:, None] * x).mean(0)[None], means, sigma, 0.3)[0]))
    drawn = drawn_errors(count, dimension, spread, 0.3, 400, rng)
    assert np.mean(learned) == pytest.approx(drawn.mean(), rel=0.06)


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("count", [3, 30])
def test_the_limit_is_what_classifiers_drawn_in_many_dimensions_do(eps: float, count: int) -> None:
    seen = drawn_errors(count, 100_000, 3.0, eps, 10, np.random.default_rng(0))
    limit = limit_error(count, 100_000, 3.0, eps)
    assert seen.mean() == pytest.approx(limit, rel=0.05, abs=1e-6)


def test_the_number_needed_is_the_least_and_the_standard_one_has_a_closed_form() -> None:
    for dimension in (500, 20_000):
        for eps in (0.0, 0.4):
            count = needed(dimension, 0.8, eps, 0.01)
            assert limit_error(count, dimension, 0.8, eps) <= 0.01
            assert count == 1 or limit_error(count - 1, dimension, 0.8, eps) > 0.01
        sigma2, z2 = 0.64 * math.sqrt(dimension), 2.3263478740408408**2
        assert needed(dimension, 0.8, 0.0, 0.01) == math.ceil(sigma2 / (dimension / (sigma2 * z2) - 1))


def test_the_robust_number_grows_as_the_root_of_the_dimension_and_the_standard_one_not_at_all() -> None:
    near, far = (needed(dimension, 0.8, 0.5, 0.01) for dimension in (10**10, 10**12))
    assert math.log(far / near) / math.log(100) == pytest.approx(0.5, abs=0.02)
    assert needed(10**10, 0.8, 0.0, 0.01) == needed(10**12, 0.8, 0.0, 0.01)


def test_the_experiment_says_so_and_its_draws_reach_the_error() -> None:
    found = ig.bench.sample_complexity(dimensions=(1_000, 10_000, 10**9), draws=20)
    assert found.row_names == ("1,000", "10,000", "1,000,000,000")
    assert float(found.values[-1, 1]) > 100 * float(found.values[-1, 0])
    assert bool((found.values[:2, 2:] < 0.0125).all())
    assert bool((found.low[:2, 2:] <= 0.01).all())
    assert found.counts[2].tolist() == [20, 20, 0, 0]
    assert found.table().rows[2][3] == "—"
    assert found.growth[1] > 0.35
    assert abs(found.growth[0]) < 0.05
    assert all(isinstance(chart, Curve) for chart in found.charts())
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    again = ig.bench.sample_complexity(dimensions=(1_000, 10_000, 10**9), draws=20)
    assert again.table() == found.table()


def test_without_an_attack_both_numbers_are_the_same() -> None:
    found = ig.bench.sample_complexity(dimensions=(1_000,), eps=0.0, draws=5)
    assert float(found.values[0, 0]) == float(found.values[0, 1])
    assert found.growth == (0, 0)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="0 ≤ eps < 1"):
        ig.bench.sample_complexity(eps=1.0)
    with pytest.raises(InputError, match="in 10 dimensions no classifier has an error"):
        ig.bench.sample_complexity(dimensions=(10, 1000))
    with pytest.raises(InputError, match="takes no model"):
        ig.bench.sample_complexity("net.py")  # type: ignore[call-arg]
