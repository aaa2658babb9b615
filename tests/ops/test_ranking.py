from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from ironglass.ops.ranking import auroc


@pytest.mark.parametrize("levels", [5, 10_000])
def test_the_area_is_scikit_learns_with_ties_by_half(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    high, low = (torch.randint(levels, (count,), generator=generator) for count in (83, 61))
    high = high + levels // 4
    wanted = roc_auc_score([1] * 83 + [0] * 61, [*high.tolist(), *low.tolist()])
    assert auroc(high, low)[0] == pytest.approx(wanted, abs=1e-12)


def test_the_interval_covers_what_it_should() -> None:
    generator = torch.Generator().manual_seed(0)
    shift, covered = 1.0, 0
    true = 0.5 * (1 + math.erf(shift / 2))
    for _ in range(400):
        area, low, high = auroc(torch.randn(60, generator=generator) + shift, torch.randn(40, generator=generator))
        covered += low <= true <= high
        assert low <= area <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_groups_that_do_not_overlap_still_have_an_interval() -> None:
    area, low, high = auroc(torch.arange(20) + 100, torch.arange(50))
    assert (area, high) == (1, 1)
    assert 0.8 < low < 0.9
    assert all(math.isnan(value) for value in auroc(torch.ones(0), torch.ones(3)))
