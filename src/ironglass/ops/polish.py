"""Shortens what an attack has found: back to the boundary, then along the boundary to the nearest point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model, Rows
from ironglass.core.values import Goal, Threat

from . import lp
from .halfspace import shortest

PAST = 5e-4
"""How far past the boundary a point shall lie: the part of the margin that lies between it and the clean sample."""
NOISE = 4.0
"""How many units in the last place of the largest score two passes of one point may differ by."""
LOOKS, TIGHTENED = 6, 2
"""Forward passes of the line search at the beginning, and of that at the end, at most."""
WORTH, LEAST, GROWTH = 1e-4, 0.01, 1.5
"""A sample leaves when its step can shorten it by no more than this part, or takes less than this share of the way; the
share grows by this factor after each step that shortened it."""

Curve = Callable[[Tensor, Tensor], Tensor]
"""``curve(t, rows)``: those samples' points at ``t (n,)``; their norm rises with t, from 0 at the clean samples."""


class Aim(NamedTuple):
    """A goal, to be reached by a logit margin of at least ``confidence``, and by more than rounding could take back."""

    goal: Goal
    confidence: float = 0.0

    def margin(self, scores: Tensor, rows: Rows) -> Tensor:
        """Returns how far past the boundary of the aim the scores lie ``(n,)``."""
        noise = NOISE * torch.finfo(scores.dtype).eps * scores.detach().abs().amax(1)
        return self.goal.loss("margin")(scores, rows) - self.confidence - noise

    def reached(self, scores: Tensor, rows: Rows) -> Tensor:
        """Returns whether the scores meet the aim ``(n,)``."""
        return self.goal.reached(scores, rows) & (self.margin(scores, rows) >= 0)


def polish(model: Model, x: Tensor, found: Tensor, goal: Goal | Aim, threat: Threat, *, steps: int = 3) -> Tensor:
    r"""Returns points that reach the goal like those found, and are no longer, whatever attack found them.

    The boundary is sought on the line from x to the point found (`shorten`). There the margin ``m`` is linearised, and
    the nearest point beyond the hyperplane, within box and mask, has a closed form (`halfspace.shortest`):

    .. math:: \min \|\delta\| \quad \text{such that} \quad m(z_t) + \langle \nabla m(z_t), x + \delta - z_t\rangle \ge 0

    A step goes towards it as far as the bend of the boundary allows (`descend`). Each point is looked at by the model
    before it is taken. A sample costs at most ``10 + 3 * steps`` passes, and leaves when its steps no longer shorten it
    or its budget is spent.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``, whose goal is not reached.
        found: an attack's points ``(N, *shape)``; those that miss the goal come back as they are.
        goal: of each sample.
        threat: norm and mask; what is found within its radius stays there.
        steps: linearisations.
    """
    aim = goal if isinstance(goal, Aim) else Aim(goal)
    return descend(model, x, shorten(model, x, found, aim, threat), aim, threat, steps=steps)


def shorten(model: Model, x: Tensor, found: Tensor, aim: Aim, threat: Threat) -> Tensor:
    """Returns the points moved towards ``x`` until just past the boundary; one that misses the aim stays.

    It takes at most eight forward passes a sample, two of them to know the margins at the ends. In l0, where nothing is
    gained by going part of the way, nothing is done.
    """
    best, rows = found.clone(), (model.left() > 2).nonzero()[:, 0]
    if threat.norm == "l0" or not len(rows):
        return best
    scores = model.scores(found[rows], rows)
    rows, high = rows[on := aim.reached(scores, rows)], aim.margin(scores, rows)[on]
    if len(rows):
        low, curve = aim.margin(model.scores(x[rows], rows), rows), partial(_along_line, found, x, threat, model)
        seek(model, x, best, aim, threat, curve, rows, low, high, looks=LOOKS)
    return best


def descend(
    model: Model, x: Tensor, found: Tensor, aim: Aim, threat: Threat, *, steps: int = 3, slack: float = 0.02
) -> Tensor:
    """Returns the points moved along the boundary they lie near, nearer to ``x``: `polish` without the line search.

    A step goes a share of the way to the hyperplane's nearest point, then along the line from ``x`` to the boundary.
    The share is 1 at first, halved where that gained nothing, and grows again; the gradient is kept meanwhile. In l0 it
    is the number of values that is sought (`thin`).

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``, whose goal is not reached.
        found: points just past the boundary ``(N, *shape)``; those that miss the goal come back as they are.
        aim: of each sample.
        threat: norm and mask.
        steps: each at most one gradient and one more forward pass; and two of these at the end.
        slack: the part of the margin that a first step leaves for the boundary's bend; less where points are near their
            best already. Later and smaller steps leave less.
    """
    if threat.norm == "l0":
        return thin(model, x, found, aim, threat, steps=steps)
    best, share, length = found.clone(), x.new_ones(len(x)), lp.norm(found - x, threat.norm)
    rows, moved = length.nonzero()[:, 0], torch.ones_like(length, dtype=torch.bool)
    grads, gaps, over, aims = x.clone(), x.new_zeros(len(x)), x.new_zeros(len(x)), x.clone()
    for step in range(steps):
        rows = rows[model.left(rows) > 1]
        new = rows[moved[rows]]
        if len(new):
            value, grad, scores = model.value_and_grad(best[new], aim.margin, new)
            gap = (grad * (best[new] - x[new])).flatten(1).sum(1) - value
            usable = aim.reached(scores, new) & gap.isfinite()
            grads[new], gaps[new], over[new] = grad, torch.where(usable, gap, 0).to(x.dtype), value.to(x.dtype)
            origin, part = x[new], threat.take(new)
            across = shortest(grad, gaps[new] * (1 + PAST), origin, part, model.bounds)
            aims[new] = lp.inside(origin + across, origin, part, model.bounds)
        nearer = lp.norm(aims[rows] - x[rows], threat.norm) < (1 - WORTH) * length[rows]
        rows = rows[nearer & (gaps[rows] > 0) & (share[rows] > LEAST)]
        if not len(rows):
            break
        target = best.clone()
        target[rows] += lp.column(share[rows], x) * (aims[rows] - best[rows])
        curve = partial(_along_line, target, x, threat, model)
        past = (slack * share[rows].sqrt() * (1 - (step + 1) / steps)).clamp(min=PAST)
        hits, margins = seek(model, x, best, aim, threat, curve, rows, -gaps[rows], None, past=past, looks=1)
        over[hits] = margins
        now = lp.norm(best - x, threat.norm)
        moved = now < length
        share, length = torch.where(moved, share * GROWTH, share / 2).clamp(max=1), now
    rows = ((over > 2 * PAST * gaps) & (gaps > 0)).nonzero()[:, 0]
    if len(rows):
        curve = partial(_along_line, best.clone(), x, threat, model)
        seek(model, x, best, aim, threat, curve, rows, -gaps[rows], over[rows], looks=TIGHTENED)
    return best


def thin(model: Model, x: Tensor, found: Tensor, aim: Aim, threat: Threat, *, steps: int = 3) -> Tensor:
    """Returns points that reach the goal with fewer values moved.

    The values that the gradient calls most useful go all the way, as few as suffice: chosen among all values, and where
    that gains nothing among those that are moved already.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``, whose goal is not reached.
        found: points that reach it ``(N, *shape)``; others come back as they are.
        aim: of each sample.
        threat: the mask.
        steps: each at most one gradient and six forward passes.
    """
    best, rows = found.clone(), torch.arange(len(x), device=x.device)
    anywhere, count = torch.ones_like(rows, dtype=torch.bool), lp.norm(found - x, "l0").long()
    for _ in range(steps):
        rows = rows[model.left(rows) > 1]
        if not len(rows):
            break
        value, grad, scores = model.value_and_grad(best[rows], aim.margin, rows)
        on = aim.reached(scores, rows) & grad.flatten(1).isfinite().all(1) & (count[rows] > 1)
        rows, value, grad = rows[on], value[on], grad[on]
        limit = lp.room(grad, x[rows], model.bounds, threat.take(rows).mask)
        limit = torch.where(lp.column(anywhere[rows], x) | (best[rows] != x[rows]), limit, 0)
        worth, order = (limit * grad.abs()).flatten(1).sort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        gap = (grad * (best[rows] - x[rows])).flatten(1).sum(1) - value
        enough = (worth.cumsum(1) < gap[:, None]).sum(1) + 1
        low, high = torch.zeros_like(enough), count[rows]
        far, seeking = limit * grad.sign(), torch.arange(len(rows), device=x.device)
        for _ in range(LOOKS):
            tried = torch.where(high == count[rows], enough.clamp(low + 1, high - 1), (low + high) // 2)
            seeking = seeking[(high - low > 1)[seeking] & (model.left(rows[seeking]) > 0)]
            if not len(seeking):
                break
            at = rows[seeking]
            kept = (rank[seeking] < tried[seeking, None]).reshape_as(x[at])
            points = lp.inside(x[at] + far[seeking] * kept, x[at], threat.take(at), model.bounds)
            reached = aim.reached(model.scores(points, at), at)
            best[at[reached]] = points[reached]
            enough[seeking] = (tried[seeking] + high[seeking]) // 2
            high[seeking] = torch.where(reached, tried[seeking], high[seeking])
            low[seeking] = torch.where(reached, low[seeking], tried[seeking])
        failed = high == count[rows]
        count[rows] = lp.norm(best[rows] - x[rows], "l0").long()
        kept_on = ~failed | anywhere[rows]
        anywhere[rows] &= ~failed
        rows = rows[kept_on]
    return best


def _along_line(target: Tensor, x: Tensor, threat: Threat, model: Model, t: Tensor, rows: Tensor) -> Tensor:
    point = x[rows] + lp.column(t, x) * (target[rows] - x[rows])
    return lp.inside(point, x[rows], threat.take(rows), model.bounds)


def seek(
    model: Model,
    x: Tensor,
    best: Tensor,
    aim: Aim,
    threat: Threat,
    curve: Curve,
    rows: Tensor,
    low_margin: Tensor,
    high_margin: Tensor | None,
    *,
    looks: int,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Seeks the least point of a curve that reaches the goal; better ones replace ``best``, in place.

    A point just past the boundary is aimed at, by the secant of the nearest points on either side (Illinois). While no
    point beyond is known, t = 1 is tried, and then the margin is taken to rise as fast as it should have until there.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``.
        best: the points to replace ``(N, *shape)``.
        aim: of each sample.
        threat: norm and mask.
        curve: where to seek.
        rows: the samples whose points are sought ``(n,)``.
        low_margin: at t = 0 ``(n,)``.
        high_margin: at t = 1 ``(n,)``; None if not known.
        looks: forward passes a sample, at most.
        past: how far past the boundary to aim, as a part of the margin at t = 0 ``(n,)``; `PAST` if None.

    Returns:
        The rows for which a better point was found, and the margins there.
    """
    length = lp.norm(best - x, threat.norm)
    low_margin = low_margin.to(x.dtype)
    past = -low_margin * (PAST if past is None else past)
    slope, low, over = -(1 + PAST) * low_margin, torch.zeros_like(low_margin), torch.full_like(length, torch.nan)
    if high_margin is None:
        high, high_margin = torch.full_like(low, torch.inf), torch.full_like(low, torch.inf)
    else:
        high, high_margin = torch.ones_like(low), high_margin.to(x.dtype)
    last = torch.zeros_like(low)
    for _ in range(looks):
        share = ((past - low_margin) / (high_margin - low_margin)).nan_to_num(0.5).clamp(0.02, 0.98)
        t = torch.where(high < torch.inf, low + share * (high - low), low + (past - low_margin) / slope)
        points = curve(t, rows)
        on = (lp.norm(points - x[rows], threat.norm) < length[rows]) & (model.left(rows) > 0)
        if not bool(on.any()):
            break
        rows, points, t, slope, past, last, low, high, low_margin, high_margin = (
            value[on] for value in (rows, points, t, slope, past, last, low, high, low_margin, high_margin)
        )
        scores = model.scores(points, rows)
        reached, now = aim.reached(scores, rows), aim.margin(scores, rows).to(x.dtype)
        hits = rows[reached]
        best[hits], length[hits] = points[reached], lp.norm(points[reached] - x[hits], threat.norm)
        over[hits] = now[reached]
        side = torch.where(reached, 1.0, -1.0).to(x.dtype)
        again = torch.where(side == last, 0.5, 1.0).to(x.dtype)
        low, low_margin = torch.where(reached, low, t), torch.where(reached, low_margin * again, now)
        high, high_margin = torch.where(reached, t, high), torch.where(reached, now, high_margin * again)
        last = side
        on = ~((reached & (now <= 2 * past)) | (high - low <= PAST * high))
        rows, slope, past, last, low, high, low_margin, high_margin = (
            value[on] for value in (rows, slope, past, last, low, high, low_margin, high_margin)
        )
        if not len(rows):
            break
    hits = over.isfinite().nonzero()[:, 0]
    return hits, over[hits]
