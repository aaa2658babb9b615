"""SimBA: one vector a query, kept if it helps."""

from __future__ import annotations

import pytest
import torch

import ironglass as ig
from attack.watched import asked, bent
from ironglass.attack.zeroth.simba import _cosines

SHAPE = (1, 6, 6)
X = 0.45 + 0.1 * torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_each_query_is_a_step_along_one_vector_and_what_helps_is_kept(basis: str) -> None:
    margin = bent(SHAPE)
    queries, found = asked("simba", X, ig.L2(5.0), margin, 80, step_size=0.03, basis=basis, frequencies=1.0)
    values = margin(queries)
    point, value, last = queries[0], values[0], None
    assert torch.equal(point, X[0])
    used = []
    for query, now in zip(queries[1:], values[1:], strict=True):
        move = (query - point).flatten()
        assert float(move.norm()) == pytest.approx(0.03)
        if last is not None and torch.allclose(move, -last):
            last = None
        else:
            assert last is None, "a step that failed is tried backwards"
            used.append(move.abs() if basis == "pixel" else move)
            last = move
        if now > value:
            point, value, last = query, now, None
    assert torch.allclose(found[0], point)
    first = torch.stack(used[:36])
    assert len(used) > 36
    products = (first @ first.T).abs() / 0.03**2
    assert torch.allclose(products, torch.eye(36, dtype=torch.float64), atol=1e-9), "each vector once, all orthogonal"


def test_in_linf_a_value_goes_to_its_corner() -> None:
    queries, _ = asked("simba", X, ig.Linf(0.1), bent(SHAPE), 40)
    assert float((queries[1] - X[0]).abs().max()) == pytest.approx(0.1)
    assert int((queries[1] != X[0]).sum()) == 1


def test_cosines_are_orthonormal_and_low_ones_are_smooth() -> None:
    x = torch.zeros(1, 2, 8, 6, dtype=torch.float64)
    count, vectors, _ = _cosines(x, 1.0)
    assert count == 96
    every = vectors(torch.arange(count)).flatten(1)
    assert torch.allclose(every @ every.T, torch.eye(96, dtype=torch.float64), atol=1e-12)
    few, low, _ = _cosines(x, 0.25)
    assert few == 2 * 2 * 2
    assert float(low(torch.arange(few)).diff(dim=2).abs().max()) < 0.25


def test_a_mask_is_tried_first() -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 2, 1:4] = True
    queries, found = asked("simba", X, ig.L2(5.0, mask), bent(SHAPE), 7)
    assert bool((queries - X[0])[:, :, mask[0]].flatten(1).abs().sum(1)[1:].gt(0).all())
    assert torch.equal(torch.where(mask, X, found), X)
