"""ZO-SVRG: snapshots, and steps that share their directions with them."""

from __future__ import annotations

import torch

import ironglass as ig
from attack.watched import asked, bent


def test_its_steps_are_those_of_the_paper() -> None:
    shape, mu, size, snapshot, few, epoch = (1, 5, 5), 1e-3, 0.01, 20, 4, 3
    budget = 2 * (21 + 2 * 9) + 1
    margin = bent(shape)
    x = 0.45 + 0.1 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    queries, _ = asked(
        "zo_svrg", x, ig.Linf(0.2), margin, budget, samples=few, snapshot=snapshot, epoch=epoch, radius=mu,
        step_size=size,
    )  # fmt: skip
    values, queries = margin(queries), queries.flatten(1)
    point, at = x.flatten(), 0
    for _ in range(2):
        anchor, base = point, values[at]
        assert torch.allclose(queries[at], anchor, atol=1e-12)
        u = (queries[at + 1 : at + 21] - anchor) / mu
        known = 25 / (snapshot * mu) * (values[at + 1 : at + 21] - base) @ u
        point, at = point + size * known.sign(), at + 21
        for _ in range(epoch - 1):
            assert torch.allclose(queries[at], point, atol=1e-9)
            pairs = queries[at + 1 : at + 9].reshape(few, 2, 25)
            worth = values[at + 1 : at + 9].reshape(few, 2)
            u = (pairs[:, 0] - point) / mu
            assert torch.allclose(u, (pairs[:, 1] - anchor) / mu, atol=1e-6), "the same directions at both"
            change = (worth[:, 0] - values[at]) - (worth[:, 1] - base)
            point, at = point + size * (known + 25 / (few * mu) * change @ u).sign(), at + 9
    assert at == len(queries) - 1, "and a last look"
