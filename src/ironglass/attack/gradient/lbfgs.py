"""The attack by box-constrained L-BFGS, with a line search for the constant."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model, Rows
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.lbfgs import Lbfgs
from ironglass.ops.polish import polish

LEAP = 4.0
"""The factor of the constant while only one side of its threshold is known."""
ROUNDS = 3
"""Of polish, at most."""


@attack(
    title="L-BFGS attack",
    paper="szegedy2014",
    access="gradient",
    norms=("l2",),
    cost="2 * search_steps * steps + 21",
    lecture="white-box evasion: the first attack",
)
def lbfgs(model: Model, x: Tensor, goal: Goal, threat: Threat, *, search_steps: int = 4, steps: int = 12) -> Tensor:
    r"""Minimize length and loss together, within the box, and search the largest weight of the length that succeeds.

    .. math:: \min_r\; c\,\|r\|_2^2 + L(x + r), \qquad \mathrm{low} \le x + r \le \mathrm{high}

    ``L`` is the cross-entropy to the target or, untargeted, :math:`-\log(1 - p_y)`, which is never negative, where
    minus the cross-entropy to y would fall for ever. The search begins with the c at which a linear model's optimum
    lies on the boundary, leaps while all values succeed or none does, then bisects in the logarithm; each minimization
    starts where the last one ended. The shortest point seen is polished in closed form.

    Args:
        search_steps: values of c.
        steps: evaluations a value of c.

    Returns:
        Adversarial samples ``(N, *shape)`` within the bounds, near the smallest change; not cut to the threat's eps.

    Raises:
        InputError: if steps or search_steps are below 1.
    """
    if steps < 1 or search_steps < 1:
        raise InputError(f"steps={steps}, search_steps={search_steps}", "both must be at least 1")
    lower, upper = torch.full_like(x, model.bounds.low), torch.full_like(x, model.bounds.high)
    if threat.mask is not None:
        lower, upper = torch.where(threat.mask != 0, lower, x), torch.where(threat.mask != 0, upper, x)
    best, least = x.clone(), x.new_full((len(x),), torch.inf)
    c, low, high = x.new_zeros(len(x)), torch.zeros_like(least), torch.full_like(least, torch.inf)
    start = x
    for _ in range(search_steps):
        solver, ended = Lbfgs(start, lower, upper), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(steps):
            rows = solver.active.nonzero()[:, 0]
            rows = rows[model.left(rows) > 0]
            if not len(rows):
                break
            here = solver.trial(rows)
            value, grad, scores = model.value_and_grad(here, lambda s, r: _loss(goal, s, r), rows)
            new = c[rows] == 0
            c[rows[new]] = _linear_constant(grad[new], value[new], goal, scores[new], rows[new])
            delta = here - x[rows]
            size = lp.norm(delta, "l2")
            weight = lp.column(c[rows], x)
            solver.tell(rows, value + c[rows] * size.square(), grad + 2 * weight * delta)
            reached = goal.reached(scores, rows)
            shorter = reached & (size < least[rows])
            best[rows[shorter]], least[rows[shorter]] = here[shorter], size[shorter]
            ended[rows] = torch.where((solver.point[rows] == here).flatten(1).all(1), reached, ended[rows])
        start = solver.point
        low, high = torch.where(ended, c, low), torch.where(ended, high, c)
        middle = (low * high).sqrt()
        c = torch.where(low == 0, c / LEAP, torch.where(high == torch.inf, c * LEAP, middle))
    return polish(model, x, best, goal, threat, steps=ROUNDS)


def _loss(goal: Goal, scores: Tensor, rows: Rows) -> Tensor:
    """The loss to descend."""
    label = goal.labels[rows]
    if goal.targeted:
        return F.cross_entropy(scores, label, reduction="none")
    return scores.logsumexp(1) - scores.scatter(1, label[:, None], -torch.inf).logsumexp(1)


def _linear_constant(grad: Tensor, value: Tensor, goal: Goal, scores: Tensor, rows: Tensor) -> Tensor:
    r"""Returns the c whose minimizer lies on the boundary of two classes with linear margin m: |m'|^2 / (4 |m|).

    The loss is :math:`\log(1 + e^{-m})`, so its gradient is :math:`m'` times the probability of what is to be left.
    """
    margin = goal.loss("margin")(scores, rows).clamp(max=-1e-6)
    slope = torch.linalg.vector_norm(grad.flatten(1), dim=1) / (1 - (-value).exp()).clamp(min=1e-3)
    constant: Tensor = (slope.square() / (-4 * margin)).clamp(min=1e-12)
    return constant
