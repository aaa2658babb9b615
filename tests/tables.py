"""Tables for tests, and the paths of trees and rule lists followed cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from ironglass.explain.model_based.columns import Condition


def cancer() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    bunch = datasets.load_breast_cancer()
    return torch.from_numpy(bunch.data), torch.from_numpy(bunch.target), tuple(map(str, bunch.feature_names))


def mixed(count: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns a number, a category of 3 whose order means nothing, and noise; and a class of the first two."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.rand(count, generator=generator, dtype=torch.double) * 4 - 2
    category = torch.randint(0, 3, (count,), generator=generator)
    noise = torch.rand(count, generator=generator, dtype=torch.double)
    y = ((number.abs() > 1) ^ (category == 1)).long()
    return torch.stack([number, category.double(), noise], 1), y


def holding(paths: Sequence[Sequence[Condition]], x: Tensor) -> list[list[int]]:
    """Returns which paths hold of each row, cell by cell."""
    signs: dict[str, Callable[[float, float], bool]] = {
        "≤": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        "=": lambda a, b: a == b,
        "≠": lambda a, b: a != b,
    }
    return [
        [i for i, path in enumerate(paths) if all(signs[c.sign](float(row[c.column]), c.value) for c in path)]
        for row in x
    ]
