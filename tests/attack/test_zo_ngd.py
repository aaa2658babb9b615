"""ZO-NGD: the inverse of rank one against a dense solve."""

from __future__ import annotations

import torch

from ironglass.attack.zeroth.zo_ngd import natural


def test_sherman_morrison_is_the_dense_solve() -> None:
    generator = torch.Generator().manual_seed(0)
    grad, score = torch.randn(2, 6, 3, 4, generator=generator, dtype=torch.float64)
    damping = 10 ** torch.linspace(-4, 2, 6, dtype=torch.float64)
    found = natural(grad, score, damping)
    for row in range(6):
        s = score[row].flatten()
        dense = torch.outer(s, s) + damping[row] * torch.eye(12, dtype=torch.float64)
        expected = torch.linalg.solve(dense, grad[row].flatten())
        assert torch.allclose(found[row].flatten(), expected, rtol=1e-8)


def test_much_damping_leaves_the_gradient_and_none_is_no_error() -> None:
    grad, score = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    damped = natural(grad, score, torch.full((4,), 1e9, dtype=torch.float64))
    assert torch.allclose(damped * 1e9, grad, atol=1e-6)
    nothing = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(natural(grad, torch.zeros_like(score), nothing), grad)
