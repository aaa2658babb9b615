from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.ops.calibration import reliability, temperature


def test_the_error_is_the_definition_bin_by_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = (3 * torch.randn(500, 4, generator=generator)).softmax(1), torch.randint(4, (500,), generator=generator)
    found = reliability(p, y, 10)
    total, error = 0, 0.0
    for index in range(10):
        rows = [n for n in range(500) if index / 10 < float(p[n].max()) <= (index + 1) / 10]
        assert int(found.counts[index]) == len(rows)
        if rows:
            confidence = sum(float(p[n].max()) for n in rows) / len(rows)
            accuracy = sum(int(p[n].argmax()) == int(y[n]) for n in rows) / len(rows)
            error += len(rows) / 500 * abs(confidence - accuracy)
            total += len(rows)
    assert total == 500
    assert found.error == pytest.approx(error, abs=1e-6)


def test_known_errors() -> None:
    sure = torch.tensor([[0.9, 0.1]]).repeat(10, 1)
    assert reliability(sure, torch.tensor([0] * 9 + [1])).error == pytest.approx(0, abs=1e-6)
    assert reliability(sure, torch.zeros(10, dtype=torch.long)).error == pytest.approx(0.1, abs=1e-6)
    assert reliability(sure, torch.ones(10, dtype=torch.long)).error == pytest.approx(0.9, abs=1e-6)
    maps = sure.T.reshape(1, 2, 2, 5)
    assert reliability(maps, torch.ones(1, 2, 5, dtype=torch.long)).error == pytest.approx(0.9, abs=1e-6)
    with pytest.raises(InputError, match="bins=0"):
        reliability(sure, torch.zeros(10, dtype=torch.long), 0)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(1)
    z = 2 * torch.randn(40_000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial((z / true).softmax(1), 1, generator=generator)[:, 0]
    found = temperature(z, y)
    assert found == pytest.approx(true, rel=0.05)
    losses = [float(F.cross_entropy(z / at, y)) for at in (found * 0.99, found, found * 1.01)]
    assert losses[1] == min(losses)
    assert reliability((z / found).softmax(1), y).error < 0.02


def test_a_model_that_is_always_right_or_no_better_than_chance_has_its_end() -> None:
    z = torch.eye(3, dtype=torch.float64)
    assert temperature(z, torch.arange(3)) == pytest.approx(1e-3)
    assert temperature(z, torch.tensor([1, 2, 0])) == pytest.approx(1e3)
