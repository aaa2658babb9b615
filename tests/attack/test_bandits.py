"""Bandits: two queries a step, and a guess that learns."""

from __future__ import annotations

import torch

import ironglass as ig
from attack.watched import asked, bent
from ironglass.attack.zeroth.bandits import Guess
from ironglass.core.draws import Draws
from ironglass.ops.estimators import Probe


def test_queries_come_in_pairs_of_the_radius_about_the_point() -> None:
    shape = (1, 4, 4)
    x = 0.45 + 0.1 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    queries, _ = asked("bandits", x, ig.Linf(0.3), bent(shape), 41, radius=0.02, step_size=0.004)
    point = x[0]
    for pair in queries[:40].reshape(20, 2, *shape):
        lengths = (pair - point).flatten(1).norm(dim=1)
        assert torch.allclose(lengths, torch.full((2,), 0.02, dtype=torch.float64), atol=1e-9)
        later = queries[queries.shape[0] - 1]
        moved = ((later - point) / 0.004).round()
        assert float(moved.abs().max()) <= 20
        point = _next(point, queries, pair)


def _next(point: torch.Tensor, queries: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """The corner of the step's cube that the next pair, or the last look, lies about at the radius."""
    at = next(i for i in range(0, 40, 2) if torch.equal(queries[i], pair[0])) + 2
    after = queries[at : at + 2]
    if len(after) == 1:
        return after[0]
    best = None
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 16)
    corners = point.flatten() + 0.004 * signs
    fit = (torch.cdist(corners, after.flatten(1)) - 0.02).abs().amax(1)
    best = corners[fit.argmin()]
    assert float(fit.min()) < 1e-9
    return best.reshape(point.shape)


def test_the_guess_turns_to_the_gradient() -> None:
    slope = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.full((20, 1, 8, 8), 0.5, dtype=torch.float64)
    rows = torch.arange(20)
    draws = Draws(rows, 0)
    for exponentiated, rate in ((True, 0.1), (False, 0.1)):
        guess = Guess(x, 1, 0.01, 1.0, rate, exponentiated)
        cosines = []
        for _ in range(300):
            at = Probe(lambda p, r, c: p.flatten(2) @ slope, lambda p, r: p, x, rows, torch.full((20,), 9), draws)
            found = guess(at).flatten(1)
            cosines.append(float(torch.nn.functional.cosine_similarity(found, slope[None]).mean()))
        assert cosines[0] < 0.3
        assert cosines[-1] > 0.6
        assert not exponentiated or float(found.abs().max()) <= 1
