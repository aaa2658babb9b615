from __future__ import annotations

import math
import random

import pytest
from scipy.stats import binomtest

from ironglass.core.statistics import bootstrap, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 12), (12, 12), (50, 100), (999, 1000)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_everything_and_nonsense_is_refused() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = random.Random(1)
    hits = 0
    for trial in range(200):
        low, high = bootstrap([generator.gauss(3, 1) for _ in range(40)], draws=400, seed=trial)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_leaves_the_global_generator_alone_and_repeats() -> None:
    random.seed(5)
    state = random.getstate()
    assert bootstrap([1.0, 2.0, 4.0], seed=3) == bootstrap([1.0, 2.0, 4.0], seed=3)
    assert random.getstate() == state
    assert all(math.isnan(v) for v in bootstrap([]))
