"""AutoZOOM: codes, decoders, and what a step costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from attack.oracles import case
from attack.watched import asked


def test_all_queries_are_enlarged_codes_and_a_step_costs_two() -> None:
    made = case("interior", 2, lead=40.0, count=1)
    queries, _ = asked(
        "autozoom", made.x, ig.L2(2.0), lambda x: x.flatten(1) @ made.weight - 900, 101, size=7, radius=0.01
    )
    moves = (queries - queries[0]).flatten(1)
    assert int(torch.linalg.matrix_rank(moves, tol=1e-8)) <= 49
    pairs = moves[:100].reshape(50, 2, -1)
    assert float((pairs[:, 1] - pairs[:, 0]).norm(dim=1).max()) < 0.1, "a look, and a probe near by"


def test_a_decoder_of_the_users_is_the_space_that_is_searched() -> None:
    made = case("interior", 2, lead=1.0, count=4)
    other = torch.randn(3, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.cat([made.weight[None], other]) / 28

    def decoder(codes: Tensor) -> Tensor:
        return (codes @ basis).reshape(-1, 1, 28, 28)

    eps = 3 * float(made.least("l2").max())
    result = ig.attack.autozoom(made.net, made.x, made.y, ig.L2(eps), decoder=decoder, latent=(4,), step_size=0.5)
    assert bool(result.success.all())
    assert int(result.first_success.max()) < 300
    moves = (result.adversarial - made.x).flatten(1)
    solved = torch.linalg.lstsq(basis.T, moves.T).solution
    assert torch.allclose(basis.T @ solved, moves.T, atol=1e-6)


def test_a_decoder_that_does_not_fit_is_refused() -> None:
    x = torch.rand(2, 1, 6, 6)
    y = (x.flatten(1)[:, :3]).argmax(1)
    with pytest.raises(ValueError, match=r"the decoder makes \(4,\) of codes \(4,\)"):
        ig.attack.autozoom(lambda x: x.flatten(1)[:, :3], x, y, ig.Linf(0.1), decoder=lambda z: z, latent=(4,))


def test_after_the_first_success_the_change_is_shortened() -> None:
    made = case("interior", 2, lead=1.0, count=3)
    short, long = (
        ig.attack.autozoom(made.net, made.x, made.y, ig.L2(float("inf")), max_queries=budget) for budget in (800, 3000)
    )
    assert bool((short.success & long.success).all())
    assert bool((long.distance <= short.distance).all())
    assert float((long.distance / short.distance).min()) < 0.98
