from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.lime import lime
from ironglass.explain.sp_lime import sp_lime
from nets import images, small_cnn


def explained(values: Tensor) -> ig.Attribution:
    return ig.Attribution(x=values, method="lime", values=values, target=torch.zeros(len(values), dtype=torch.long))


def covered(values: Tensor, rows: tuple[int, ...], features: int) -> float:
    """The coverage by its definition, a feature at a time."""
    kept = torch.zeros_like(values)
    for i, row in enumerate(values):
        for j in row.abs().argsort(descending=True)[:features].tolist():
            kept[i, j] = row[j]
    return sum(
        math.sqrt(float(kept[:, j].abs().sum())) for j in range(values.shape[1]) if any(kept[i, j] != 0 for i in rows)
    )


@pytest.mark.parametrize("seed", range(8))
def test_greedy_picks_reach_what_is_promised_of_the_best(seed: int) -> None:
    values = torch.randn(9, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    picks = sp_lime(explained(values), budget=3, features=4)
    best = max(covered(values, rows, 4) for rows in itertools.combinations(range(9), 3))
    ours = covered(values, tuple(picks.rows.tolist()), 4)
    assert ours >= (1 - 1 / math.e) * best
    assert float(picks.coverage[-1]) == pytest.approx(ours / covered(values, tuple(range(9)), 4))
    assert picks.coverage.tolist() == sorted(picks.coverage.tolist())


def test_each_kind_of_explanation_is_picked_once_and_then_it_ends() -> None:
    values = torch.zeros(7, 6)
    values[:4, 0], values[4:6, 3], values[6, 5] = 1, -2, 0.5
    picks = sp_lime(explained(values), budget=7)
    assert picks.rows.tolist() == [0, 4, 6]
    assert float(picks.coverage[-1]) == pytest.approx(1)


def test_cells_of_a_grid_are_features_and_superpixels_are_not() -> None:
    net, x = small_cnn().eval(), images(5)
    picks = sp_lime(lime(net, x, samples=80, view="grid"), budget=3)
    assert len(picks.rows.unique()) == len(picks.rows) <= 3
    with pytest.raises(InputError, match="differ from sample to sample"):
        sp_lime(lime(net, x, samples=20))
    with pytest.raises(InputError, match="budget=0"):
        sp_lime(explained(torch.rand(2, 3)), budget=0)
