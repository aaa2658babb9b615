"""Small problems and networks to train on."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ironglass.core.method import Method
from ironglass.core.values import Threat
from ironglass.models.adapter import check, wrap
from ironglass.run.training import Course

Pair = tuple[Tensor, Tensor]


def seeded(make: object, seed: int = 0) -> nn.Module:
    """Returns what a function makes, its weights drawn from a seed without touching the global generator."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make()  # type: ignore[operator,no-any-return]


def blobs(count: int = 80, dims: int = 6, dtype: torch.dtype = torch.float64) -> Pair:
    """Returns two overlapping clouds of points."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(count) % 2
    x = torch.randn(count, dims, generator=generator, dtype=dtype) + (y[:, None] * 2 - 1) * 0.5
    return x.clamp(-4, 4), y


def digits() -> Pair:
    """Returns the digits of scikit-learn as pictures ``(1797, 1, 8, 8)`` in [0, 1]."""
    bunch = load_digits()
    return torch.tensor(bunch.images / 16).float()[:, None], torch.tensor(bunch.target).long()


def digit_net() -> nn.Module:
    """Returns a small network for them, untrained."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
        )
    )  # fmt: skip


def course(
    method: Method[Any],
    net: nn.Module,
    data: Pair,
    threat: Threat,
    bounds: tuple[float, float] = (0, 1),
    **options: object,
) -> Course:
    """Returns a training that is ready to begin: its student, its loop, its recipe."""
    model = wrap(net.eval(), bounds=bounds)
    check(model, data[0], data[1], threat)
    return Course(method.raw(threat, **options), model, data, threat)
