"""ZOO: coordinates, honest counts, and its two solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ironglass as ig
from attack.oracles import case
from attack.watched import asked, bent

SHAPE = (1, 5, 5)
X = 0.45 + 0.1 * torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("solver", ["adam", "newton"])
def test_its_steps_are_those_of_the_paper(solver: str) -> None:
    margin, h, size, few = bent(SHAPE), 1e-3, 0.01, 3
    options: dict[str, Any] = {"samples": few, "radius": h, "step_size": size, "solver": solver}
    queries, _ = asked("zoo", X, ig.Linf(0.4), margin, 7 * 20 + 1, **options)
    values, queries = margin(queries), queries.flatten(1)
    first, second, times = (torch.zeros(25, dtype=torch.float64) for _ in range(3))
    point = X.flatten()
    for step in range(20):
        at = 7 * step
        assert torch.allclose(queries[at], point, atol=1e-9), "2 B + 1 queries a step"
        pairs, worth = queries[at + 1 : at + 7].reshape(few, 2, 25), values[at + 1 : at + 7].reshape(few, 2)
        chosen = (pairs[:, 0] - point).abs().argmax(1)
        assert len(set(chosen.tolist())) == few
        assert torch.allclose((pairs - point).norm(dim=2), torch.full((few, 2), h, dtype=torch.float64))
        grad = (worth[:, 0] - worth[:, 1]) / (2 * h)
        if solver == "adam":
            first[chosen] = 0.9 * first[chosen] + 0.1 * grad
            second[chosen] = 0.999 * second[chosen] + 0.001 * grad**2
            times[chosen] += 1
            t = times[chosen]
            move = size * (1 - 0.999**t).sqrt() / (1 - 0.9**t) * first[chosen] / second[chosen].sqrt()
        else:
            bend = -(worth.sum(1) - 2 * values[at]) / h**2
            move = size * grad / torch.where(bend <= 0, 1.0, bend.clamp(min=0.1))
        point = point.clone()
        point[chosen] += move
        point = point.maximum(X.flatten() - 0.4).minimum(X.flatten() + 0.4).clamp(0, 1)
    assert float((point - X.flatten()).abs().max()) > 0.005


def test_in_stages_the_change_is_enlarged() -> None:
    made = case("interior", 2, lead=40.0, count=1)
    _, found = asked("zoo", made.x, ig.Linf(0.1), lambda x: x.flatten(1) @ made.weight - 900, 200, sizes=(7,))
    moved = (found - made.x)[0, 0]
    small = torch.nn.functional.interpolate(moved[None, None], (7, 7), mode="bilinear")  # of few numbers
    assert int((small != 0).sum()) > 0
    queries, _ = asked("zoo", made.x, ig.Linf(0.1), lambda x: x.flatten(1) @ made.weight - 900, 200, sizes=(7, 28))
    widths = ((queries[1:] - queries[0]).abs() > 1e-9).flatten(1).sum(1)
    assert int(widths[0]) > 8, "a coordinate of the small picture is many values"
    changed = ((queries[150] - queries[151]).abs() > 1e-9).sum()
    assert int(changed) <= 4, "later a single one"


def test_importance_looks_where_the_change_is() -> None:
    weight = torch.zeros(28, 28, dtype=torch.float64)
    weight[:8, :8] = 1.0
    x = torch.full((1, 1, 28, 28), 0.5, dtype=torch.float64)

    def margin(x: torch.Tensor) -> torch.Tensor:
        return (x[:, 0] * weight).sum((1, 2)) - 500

    share = {}
    for importance in (False, True):
        queries, _ = asked("zoo", x, ig.Linf(0.3), margin, 1500, samples=8, importance=importance)
        steps = (queries[1:] - queries[:-1]).abs().sum(1) > 1e-9
        share[importance] = float(steps[-400:, :8, :8].sum() / steps[-400:].sum())
    assert share[True] > 2 * share[False]
