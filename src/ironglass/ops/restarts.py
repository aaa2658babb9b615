"""Climbing from several random starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.values import Goal, LossName, Threat

from .ascent import Climb, ascend
from .balls import sample_ball


def falling(eps: float, steps: int) -> list[float]:
    """Returns step sizes that fall evenly from ``10 eps / steps`` to nothing."""
    return [10 * eps / steps * (1 - step / steps) for step in range(steps)]


def restarted(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    sizes: Sequence[float],
    loss: LossName,
    restarts: int,
    draws: Draws | None,
) -> Climb:
    """Climbs from each start in turn, on the samples that are left, and keeps the best points.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``, input units.
        goal: of each sample.
        threat: norm, radius and mask.
        sizes: the length of each step in the threat's norm.
        loss: of the goal, to ascend.
        restarts: how many starts.
        draws: the samples' streams, for starts uniform in the ball; None to start at ``x``.
    """
    best, best_margin = x.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        origin, wish, part = x[active], goal.take(active), threat.take(active)
        start = None if draws is None else sample_ball(draws, origin, part, model.bounds, active)
        climb = ascend(model.take(active), origin, wish, part, sizes=sizes, loss=wish.loss(loss), start=start)
        better = climb.margin > best_margin[active]
        best[active[better]], best_margin[active[better]] = climb.point[better], climb.margin[better]
        active = active[climb.margin < torch.inf]
        if not len(active):
            break
    return Climb(best, best_margin)
