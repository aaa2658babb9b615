"""A standard and an adversarially trained network of the digits, trained once."""

from __future__ import annotations

import pytest
from torch import Tensor

from metric.broken import CNN, digits, trained


@pytest.fixture(scope="session")
def pair() -> dict[str, CNN]:
    """The two networks by name."""
    x, y = digits()
    return {
        "standard": trained(CNN(), x[:1400], y[:1400], steps=250),
        "robust": trained(CNN(), x[:1400], y[:1400], steps=500, eps=0.15),
    }


@pytest.fixture(scope="session")
def held_out() -> tuple[Tensor, Tensor]:
    """Digits that neither has seen, and their labels."""
    x, y = digits()
    return x[1500:1560], y[1500:1560]
