"""ZO-signSGD: its steps, redone from its own queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ironglass as ig
from attack.watched import asked, bent


@pytest.mark.parametrize("variant", ["forward", "central", "majority"])
def test_its_steps_are_those_of_the_paper(variant: str) -> None:
    shape, mu, size = (1, 5, 5), 1e-3, 0.01
    margin = bent(shape)
    x = 0.45 + 0.1 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options: dict[str, Any] = {"samples": 6, "radius": mu, "step_size": size, "variant": variant}
    queries, _ = asked("zo_signsgd", x, ig.Linf(0.2), margin, 84, directions="gaussian", **options)
    values, queries = margin(queries), queries.flatten(1)
    wide = 12 if variant == "central" else 7
    point = x.flatten()
    for step in range(5):
        start = wide * step
        if variant == "central":
            ends, worth = queries[start : start + 12].reshape(6, 2, 25), values[start : start + 12].reshape(6, 2)
            assert torch.allclose(ends.mean(1), point.expand(6, -1), atol=1e-9), "pairs about the point"
            u, change = (ends[:, 0] - ends[:, 1]) / 2, worth[:, 0] - worth[:, 1]
        else:
            assert torch.allclose(queries[start], point, atol=1e-9)
            u, change = queries[start + 1 : start + 7] - point, values[start + 1 : start + 7] - values[start]
        grad = change @ u if variant != "majority" else (change.sign()[:, None] * u.sign()).sum(0)
        point = point + size * grad.sign()
    assert float((point - x.flatten()).abs().max()) > 0.02
