"""Jacobian-based saliency map attack."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.lp import room

CELLS = 1 << 22
"""Pairs that are weighed at once."""


@attack(
    title="Jacobian-based saliency map attack",
    paper="papernot2016jsma",
    access="gradient",
    norms=("l0",),
    cost="2 * (1 + logits) * steps + 1",
    lecture="white-box evasion: saliency map, few pixels",
)
def jsma(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    theta: float = 1.0,
    gamma: float = 0.145,
    steps: int = 100,
    logits: bool = False,
) -> Tensor:
    r"""Move, again and again, the pair of values that speaks most for the target and against all other classes.

    .. math:: (p, q) = \arg\max_{p \ne q} -\alpha\beta \quad\text{with}\quad
        \alpha = \sum_{i \in \{p, q\}} \theta\,\partial_i F_t > 0,\quad
        \beta = \sum_{i \in \{p, q\}} \theta\,\partial_i \sum_{j \ne t} F_j < 0

    Untargeted, the true class takes the target's part with the signs turned round. A value that has met its bound
    leaves the search, a last value that may change moves alone, and a sample leaves when its goal is reached or no pair
    helps.
    Probabilities sum to 1, so :math:`\beta = -\alpha`: one gradient is enough, and it is taken of the log-odds, whose
    direction is the same and which do not saturate. The best pair is exact, without a table of all pairs.

    Args:
        theta: how far a value moves at a time, as a share of the bounds' span; negative values decrease.
        gamma: share of the values that may change in all, beside the threat's eps.
        steps: pairs at most.
        logits: F is the logits instead of the probabilities; takes two gradients a step.

    Returns:
        Adversarial samples ``(N, *shape)`` within bounds; at most ``min(eps, gamma * d)`` values differ.

    Raises:
        InputError: if theta is 0 or above 1, gamma not within (0, 1], or steps below 1.
    """
    if not (0 < abs(theta) <= 1 and 0 < gamma <= 1 and steps >= 1):
        raise InputError(
            f"theta={theta}, gamma={gamma}, steps={steps}", "give theta within [-1, 1] but not 0, gamma in (0, 1]"
        )
    size = x[0].numel()
    most = int(min(threat.eps, gamma * size))
    own = _own(goal) if logits else _log_odds(goal)
    turn = 1.0 if goal.targeted else -1.0
    point, active = x.clone(), torch.arange(len(x), device=x.device)
    spent = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for _ in range(steps):
        active = active[(model.left(active) > int(logits)) & (spent[active] < size)]
        if not len(active):
            break
        here = point[active]
        _, grad, scores = model.value_and_grad(here, own, active)
        toward = (turn * theta * grad).flatten(1)
        on = ~goal.reached(scores, active)
        active, here, toward = active[on], here[on], toward[on]
        if not len(active):
            break
        against = toward
        if logits:
            against = (-turn * theta * model.value_and_grad(here, _others(goal), active).grad).flatten(1)
        direction = torch.full_like(here, theta)
        space = room(direction, here, model.bounds, threat.take(active).mask).flatten(1)
        changed = (here != x[active]).flatten(1)
        left = most - changed.sum(1)
        free = (space > 0) & (changed | (left > 0)[:, None])
        pair = best_pair(toward, against, free, left == 1)
        found = (pair >= 0).all(1)
        move = torch.zeros_like(space).scatter_(1, pair.clamp(min=0), 1.0) * found[:, None]
        far = (move * space.clamp(max=abs(theta) * model.bounds.span)).reshape_as(here) * direction.sign()
        point[active] = (here + far).clamp(model.bounds.low, model.bounds.high)
        spent[active[~found]] = size
    return point


def _log_odds(goal: Goal) -> Loss:
    """The logarithm of p / (1 - p) of the goal's label."""

    def loss(scores: Tensor, rows: Tensor | slice) -> Tensor:
        label = goal.labels[rows][:, None]
        return scores.gather(1, label)[:, 0] - scores.scatter(1, label, -torch.inf).logsumexp(1)

    return loss


def _own(goal: Goal) -> Loss:
    return lambda scores, rows: scores.gather(1, goal.labels[rows][:, None])[:, 0]


def _others(goal: Goal) -> Loss:
    return lambda scores, rows: scores.sum(1) - scores.gather(1, goal.labels[rows][:, None])[:, 0]


def best_pair(toward: Tensor, against: Tensor, free: Tensor, single: Tensor) -> Tensor:
    r"""Returns the pair :math:`p \ne q` that maximizes :math:`(a_p + a_q)(b_p + b_q)` with both sums positive.

    The product grows in both sums, so a value that two others match or beat in ``a`` and in ``b`` can be exchanged for
    one of them. What is left is usually few: with the values in falling order of ``a``, those whose ``b`` is above the
    second largest so far.

    Args:
        toward: a ``(n, d)``.
        against: b ``(n, d)``.
        free: which values may be chosen ``(n, d)``.
        single: rows that may choose but one value ``(n,)``; it is returned twice.

    Returns:
        Two indices a row ``(n, 2)``; -1 where no pair has both sums positive.
    """
    tiny = torch.finfo(toward.dtype).tiny  # products of small gradients shall not vanish
    toward, against = (table / table.abs().amax(1, keepdim=True).clamp(min=tiny) for table in (toward, against))
    a = torch.where(free, toward, -torch.inf)
    rank = against.argsort(dim=1, descending=True, stable=True)
    rank = rank.gather(1, a.gather(1, rank).argsort(dim=1, descending=True, stable=True))
    a = a.gather(1, rank)
    b = torch.where(a > -torch.inf, against.gather(1, rank), -torch.inf)
    first = b.cummax(1).values
    low = torch.full_like(b[:, :1], -torch.inf)
    second = torch.cat([low, torch.minimum(b[:, 1:], first[:, :-1])], 1).cummax(1).values
    kept = (b > torch.cat([low, second[:, :-1]], 1)) & (a > -torch.inf)
    count = max(int(kept.sum(1).max()), 1)
    place = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    kept, rank, a, b = (table.gather(1, place) for table in (kept, rank, a, b))
    a, b = torch.where(kept, a, 0), torch.where(kept, b, 0)
    places = torch.arange(count, device=a.device)
    best, worth = a.new_full((len(a), 2), -1, dtype=torch.long), a.new_zeros(len(a))
    for part in torch.split(places, max(1, CELLS // (len(a) * count))):
        up, down = a[:, part, None] + a[:, None], b[:, part, None] + b[:, None]
        same = part[:, None] == places
        valid = kept[:, part, None] & kept[:, None] & (same == single[:, None, None]) & (up > 0) & (down > 0)
        product, at = torch.where(valid, up * down, -1).flatten(1).max(1)
        better = product > worth
        pair = torch.stack([part[at // count], at % count], 1)
        best[better], worth[better] = rank.gather(1, pair)[better], product[better]
    return best
