"""Query statistics of a result, against counting by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import ironglass as ig
from nets import images, scores_without_autograd


@pytest.fixture(scope="module")
def found() -> ig.AttackResult:
    x = images(6)
    with torch.no_grad():
        y = scores_without_autograd(x).argmax(1)
    result = ig.attack.square(scores_without_autograd, x, y, ig.Linf(0.01), max_queries=4)
    return replace(
        result,
        success=torch.tensor([True, True, True, True, False, False]),
        first_success=torch.tensor([1, 100, 101, 2500, -1, 50]),  # the last reached the goal, and then lost it
    )


def test_success_within_a_budget_counts_the_first_success(found: ig.AttackResult) -> None:
    assert found.success_within(0) == 0
    assert found.success_within(99) == 1 / 6
    assert found.success_by_queries() == {100: 2 / 6, 300: 3 / 6, 1000: 3 / 6, 3000: 4 / 6, 10000: 4 / 6}
    assert found.success_by_queries([101]) == {101: 3 / 6}


def test_medians_are_of_successes_or_with_failures_at_the_budget(found: ig.AttackResult) -> None:
    assert found.median_queries() == 100.5
    assert found.median_queries(failures=5000) == (101 + 2500) / 2
    nothing = replace(found, success=torch.zeros(6, dtype=torch.bool))
    assert math.isnan(nothing.median_queries())
    assert nothing.median_queries(failures=70) == 70
