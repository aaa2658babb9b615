"""The attack before the proof: random points and corners, then descent on how far the outputs are from breaking."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .problem import Budget, Problem, Settled
from .witness import Witness

STEPS, HELD = 60, 1 << 22


def falsified(
    problem: Problem, witness: Witness, budget: Budget, *, restarts: int = 16, seed: int = 0
) -> Settled | None:
    r"""Searches for a counterexample; returns one, or None.

    From random points, corners and the centre of the box, the best of each case go on:

    .. math:: x \leftarrow \Pi\bigl(x - \alpha_t\, r \odot \mathrm{sign} \nabla \max_i (A y - b)_i\bigr)

    with r half the box's sides and :math:`\alpha_t` falling from 1/2 to 1/50 on a cosine. Each point on the way counts.

    Args:
        problem: the network and its cases.
        witness: the judge.
        budget: to keep to.
        restarts: points a case.
        seed: of the random points.
    """
    low, high = (end.reshape(1, *problem.shape) for end in problem.cases[0].rounded(problem.dtype))
    generator = torch.Generator().manual_seed(seed)
    size = int(low[0].numel())
    drawn = max(restarts * 4, min(4096, HELD // max(size * 64, 1)))
    points = _drawn(low, high, drawn, generator)
    with torch.no_grad():
        outputs = problem.net(points)
    starts, owners = [], []
    for index, case in enumerate(problem.cases):
        excess = case.excess(outputs)
        best = excess.topk(min(restarts, len(points)), largest=False).indices
        if bool((excess[best] <= 0).any()):
            place = witness.first(case, points[best])
            if place is not None:
                return Settled(-torch.inf, points[best][place : place + 1], index, "a random point breaks it")
        starts.append(points[best])
        owners.append(torch.full((len(best),), index))
    return descended(problem, witness, budget, torch.cat(starts), torch.cat(owners))


def _drawn(low: Tensor, high: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The centre, uniform points and corners."""
    share = torch.rand(count, *low.shape[1:], generator=generator, dtype=low.dtype)
    share[0] = 0.5
    share[count // 2 :] = share[count // 2 :].round()
    return torch.minimum(torch.maximum(low + share * (high - low), low), high)


def descended(problem: Problem, witness: Witness, budget: Budget, x: Tensor, owner: Tensor) -> Settled | None:
    """Descends from points, as `falsified` does; returns a counterexample, or None.

    Args:
        problem: the network and its cases.
        witness: the judge.
        budget: to keep to.
        x: where to start ``(n, *shape)``.
        owner: the case of each ``(n,)``.
    """
    low, high = (end.reshape(1, *problem.shape) for end in problem.cases[0].rounded(problem.dtype))
    x = problem.inside(x)
    reach = (high - low) / 2
    rows, limits = problem.rows[owner].to(x.dtype), problem.limits[owner].to(x.dtype)
    for step in range(STEPS):
        if budget.late:
            return None
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            excess = ((rows @ problem.net(x)[..., None])[..., 0] - limits).amax(1)
            (slope,) = torch.autograd.grad(excess.nan_to_num().sum(), x)
        for case in sorted(set(owner[excess.detach() <= 0].tolist())):
            own = x.detach()[(owner == case) & (excess.detach() <= 0)]
            place = witness.first(problem.cases[case], own)
            if place is not None:
                return Settled(-torch.inf, own[place : place + 1], case, "an attack breaks it")
        size = 0.02 + 0.48 * (1 + math.cos(math.pi * step / STEPS)) / 2
        x = torch.minimum(torch.maximum(x.detach() - size * reach * slope.sign(), low), high)
    return None
