"""The one loop of iterative attacks: goal × threat × loss × step rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.values import Goal, Threat

from . import lp


class Climb(NamedTuple):
    """The best point of each sample and its logit margin to the goal, infinite where the goal is reached."""

    point: Tensor
    margin: Tensor


def ascend(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int,
    step_size: float,
    loss: Loss,
    start: Tensor | None = None,
) -> Climb:
    r"""Climbs the loss within the threat; samples that reach the goal, or whose budget is spent, leave the batch.

    .. math:: x_{t+1} = \Pi_{B(x_0, \varepsilon) \cap \mathrm{box}}
        \bigl(x_t + \arg\max_{\|u\| \le \alpha} \langle \nabla L(x_t), u\rangle\bigr)

    A sample costs at most ``steps + 1`` forward and ``steps`` backward passes. Of a sample that never reaches the goal
    the point nearest to it is returned, by the logit margin: unlike cross-entropy it does not saturate.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``.
        goal: of each sample.
        threat: norm, radius and mask.
        steps: how many.
        step_size: length of a step in the threat's norm, input units.
        loss: to ascend.
        start: where to start ``(N, *shape)``; ``x`` if None.
    """
    point = x.clone() if start is None else start
    margin_of = goal.loss("margin")
    best, best_margin = point.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        active = active[model.left(active) > 0]
        if not len(active):
            break
        here = point[active]
        last = step == steps
        grad = here
        if last:
            scores = model.scores(here, active)
        else:
            _, grad, scores = model.value_and_grad(here, loss, active)
        reached = goal.reached(scores, active)
        margin = torch.where(reached, torch.inf, margin_of(scores, active).to(best_margin.dtype))
        better = margin > best_margin[active]
        best[active[better]], best_margin[active[better]] = here[better], margin[better]
        if not last:
            on = ~reached
            active, here = active[on], here[on]
            origin, part = x[active], threat.take(active)
            moved = here + lp.stride(grad[on], here, origin, part, step_size, model.bounds)
            point[active] = lp.project(moved, origin, part, model.bounds)
    return Climb(best, best_margin)
