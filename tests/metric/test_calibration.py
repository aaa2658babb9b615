from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError


def oracle(scale: float) -> tuple[object, Tensor, Tensor]:
    """A model whose logits are its inputs, and labels drawn at a temperature."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 5, generator=generator)
    y = torch.multinomial((6 * x / scale).softmax(1), 1, generator=generator)[:, 0]
    return lambda batch: 6 * batch, x, y


def test_a_calibrated_model_has_the_error_that_chance_explains() -> None:
    model, x, y = oracle(1.0)
    found = ig.metric.calibration(model, x, y, resamples=50)
    error, low, high = (part[0, 2] for part in (found.values, found.low, found.high))
    assert float(low) <= float(error) <= float(high)
    assert float(error) < 0.04
    chance = float(found.notes[0].split("would be ")[1].split("%")[0]) / 100
    assert 0.3 * chance < float(error) < 3 * chance
    assert float(found.extras["model 0: temperature"]) == pytest.approx(1, abs=0.1)


def test_one_that_is_too_sure_is_mended_by_its_temperature() -> None:
    model, x, y = oracle(3.0)
    found = ig.metric.calibration({"sure": model}, x, y, resamples=20)
    accuracy, confidence, error, scaled, mended = found.values[0].tolist()
    assert confidence > accuracy + 0.15
    assert error > 0.15
    assert abs(scaled - accuracy) < 0.03
    assert mended < 0.04
    assert float(found.extras["sure: temperature"]) == pytest.approx(3, rel=0.1)
    assert int(found.extras["sure: counts"].sum()) == 2000
    assert found.table().columns[0] == "model"
    assert torch.equal(found.values, ig.metric.calibration({"sure": model}, x, y, resamples=20).values)


def test_wrong_requests_are_refused() -> None:
    model, x, y = oracle(1.0)
    with pytest.raises(InputError, match="at least 4"):
        ig.metric.calibration(model, x[:3], y[:3])
