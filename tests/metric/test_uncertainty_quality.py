from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.ops.ranking import auroc
from ironglass.ops.uncertainty import of_classes


def found(p: Tensor) -> ig.Uncertainty:
    return ig.Uncertainty(x=torch.zeros(p.shape[1], 2), method="test", draws=len(p), **of_classes(p)._asdict())


def draws(*shape: int, seed: int = 0) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(2)


def test_the_areas_are_those_of_each_kind() -> None:
    p, other = draws(6, 50, 3), draws(6, 40, 3, seed=1)
    y = torch.arange(50) % 3
    clean, bad = found(p), found(other)
    quality = ig.metric.uncertainty_quality(clean, y, bad)
    wrong = p.mean(0).argmax(1) != y
    for row, measure in enumerate(("total", "aleatoric", "epistemic")):
        value = clean.of(measure)
        assert float(quality.values[row, 0]) == pytest.approx(auroc(value[wrong], value[~wrong])[0])
        assert float(quality.values[row, 1]) == pytest.approx(auroc(bad.of(measure), value)[0])
    assert int(quality.extras["counts"].sum()) == 50
    assert "calibration error" in quality.notes[0]


def test_maps_count_pixels_for_answers_and_samples_for_attacks() -> None:
    p = draws(4, 5, 3, 6, 6)
    y = torch.randint(3, (5, 6, 6), generator=torch.Generator().manual_seed(0))
    quality = ig.metric.uncertainty_quality(found(p), y, found(draws(4, 7, 3, 6, 6, seed=2)))
    assert int(quality.counts[0, 0]) <= 90
    assert int(quality.counts[0, 1]) == 7
    assert int(quality.extras["counts"].sum()) == 180
    assert ig.metric.uncertainty_quality(found(p), y).table().rows[0][2] == "—"
    with pytest.raises(InputError, match="a label an answer"):
        ig.metric.uncertainty_quality(found(p), y[:, 0])
