"""Projection in a diagonal metric: clipping in a box, a general solver's answer elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ironglass.core.values import Bounds, Norm, Threat
from ironglass.ops import lp
from ironglass.ops.weighted import project_weighted

BOX = Bounds(0, 1)


def draw(seed: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origin = torch.rand(4, size, generator=generator, dtype=torch.float64)
    point = origin + torch.randn(4, size, generator=generator, dtype=torch.float64)
    weight = 10 ** (2 * torch.rand(4, size, generator=generator, dtype=torch.float64) - 1)
    return point, weight, origin


def test_in_a_box_it_is_clipping() -> None:
    point, weight, origin = draw(0)
    found = project_weighted(point, weight, origin, Threat("linf", 0.2), BOX)
    assert torch.allclose(found, point.maximum(origin - 0.2).minimum(origin + 0.2).clamp(0, 1), atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_equal_weights_are_the_usual_projection(norm: Norm) -> None:
    point, weight, origin = draw(1)
    threat = Threat(norm, 0.5)
    found = project_weighted(point, torch.full_like(weight, 3.0), origin, threat, BOX)
    assert torch.allclose(found, lp.project(point, origin, threat, BOX), atol=1e-8)
    inside = origin + 0.01 * (point.clamp(0, 1) - origin)
    assert torch.allclose(project_weighted(inside, weight, origin, threat, BOX), inside)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_general_solver_finds(norm: Norm, masked: bool, seed: int) -> None:
    point, weight, origin = draw(seed)
    mask = (torch.arange(8) % 3 > 0)[None] if masked else None
    threat = Threat(norm, 0.4, mask)
    found = project_weighted(point, weight, origin, threat, BOX)
    assert float(lp.norm(found - origin, norm).max()) <= 0.4 * (1 + 1e-9)
    for row in range(4):
        x, w, o = (value[row].numpy() for value in (point, weight, origin))
        free = np.ones(8, dtype=bool) if mask is None else mask[0].numpy()

        def cost(z: np.ndarray, x: np.ndarray = x, w: np.ndarray = w) -> float:
            return float((w * (z - x) ** 2).sum())

        if norm == "l2":
            limits = [{"type": "ineq", "fun": lambda z, o=o: 0.16 - ((z - o) ** 2).sum()}]
        else:
            signs = np.sign(x - o)  # the projection never moves against the point
            limits = [{"type": "ineq", "fun": lambda z, o=o, s=signs: 0.4 - (s * (z - o)).sum()}]
        ends = [
            (min(max(min(a, b), 0), 1), max(min(max(a, b), 1), 0)) if f else (a, a)
            for a, b, f in zip(o, x, free, strict=True)
        ]
        solved = minimize(cost, o, bounds=ends, constraints=limits, options={"ftol": 1e-14, "maxiter": 500})
        assert cost(found[row].numpy()) <= solved.fun * (1 + 1e-6) + 1e-9
        assert np.allclose(found[row].numpy()[free], solved.x[free], atol=1e-3)
