"""ZO-AdaMM: its steps, redone from its own queries."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.watched import asked, bent


@pytest.mark.parametrize("beta2", [0.3, 0.9])
def test_its_steps_are_those_of_the_paper(beta2: float) -> None:
    shape, samples, mu, alpha, eps = (1, 5, 5), 6, 1e-3, 0.01, 0.2
    margin = bent(shape)
    x = 0.45 + 0.1 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"samples": samples, "radius": mu, "step_size": alpha, "beta2": beta2}
    queries, _ = asked("zo_adamm", x, ig.Linf(eps), margin, 7 * 12, **options)
    values, queries = margin(queries), queries.flatten(1)
    m = v = top = torch.zeros(25, dtype=torch.float64)
    for step in range(11):
        base, first = queries[7 * step], slice(7 * step + 1, 7 * step + 7)
        moves = queries[first] - base
        assert torch.allclose(moves.norm(dim=1), torch.full((6,), mu, dtype=torch.float64))
        grad = 25 / (samples * mu) * ((values[first] - values[7 * step])[:, None] * moves / mu).sum(0)
        m, v = 0.9 * m + 0.1 * grad, beta2 * v + (1 - beta2) * grad**2
        top = torch.maximum(top, v)
        moved = base + alpha / (step + 1) ** 0.5 * m / top.sqrt()
        origin = x.flatten()
        assert torch.allclose(queries[7 * step + 7], moved.maximum(origin - eps).minimum(origin + eps), atol=1e-9)
