"""A black box that keeps what it is asked, for tests that redo a method's steps from its own queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ironglass.core.method import get
from ironglass.core.values import Threat
from ironglass.models.adapter import wrap
from ironglass.run import Runner


class Watched:
    """A margin that is never above 0, as scores of two classes; keeps every input, and fails whoever asks autograd."""

    def __init__(self, margin: Callable[[Tensor], Tensor]) -> None:
        self.margin = margin
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        self.asked.append(x.clone())
        return torch.stack([torch.full_like(x.flatten(1)[:, 0], 1e3), self.margin(x)], 1)


def bent(shape: tuple[int, ...], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A smooth function that is not linear."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    weight = torch.randn(size, generator=generator, dtype=torch.float64)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64) / size

    def margin(x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        return (flat @ weight + (flat @ root).square().sum(1)).to(x.dtype)

    return margin


def asked(
    name: str, x: Tensor, threat: Threat, margin: Callable[[Tensor], Tensor], budget: int, **options: Any
) -> tuple[Tensor, Tensor]:
    """Attacks one sample that never falls; returns its queries in order ``(budget, *shape)``, and what came back."""
    box = Watched(margin)
    model = wrap(box)
    label = torch.zeros(1, dtype=torch.long)
    Runner(model)(get("random_noise"), x, label, Threat("linf", 0.0))  # the model is probed but once
    box.asked.clear()
    result = Runner(model)(get(name), x, label, threat, max_queries=budget, **options)
    queries = torch.cat(box.asked)[1:-1]  # the runner's first look and its last
    assert result.queries.tolist() == [len(queries) + 1]  # type: ignore[attr-defined]
    return queries, result.adversarial  # type: ignore[attr-defined]
