"""The one loop of iterative attacks: goal × threat × loss × step rule."""

from __future__ import annotations

from collections.abc import Sequence
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
    sizes: Sequence[float],
    loss: Loss,
    start: Tensor | None = None,
    decay: float | None = None,
    onward: bool = False,
) -> Climb:
    r"""Climbs the loss within the threat; samples that reach the goal, or whose budget is spent, leave the batch.

    .. math:: x_{t+1} = \Pi_{B(x_0, \varepsilon) \cap \mathrm{box}}
        \bigl(x_t + \arg\max_{\|u\| \le \alpha} \langle \nabla L(x_t), u\rangle\bigr)

    In ``n`` steps a sample costs at most ``n + 1`` forward and ``n`` backward passes. Of a sample that never gets
    there the point nearest to the goal is returned, by the logit margin: unlike cross-entropy it does not saturate.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``.
        goal: of each sample.
        threat: norm, radius and mask.
        sizes: the length of each step in the threat's norm, input units.
        loss: to ascend.
        start: where to start ``(N, *shape)``; ``x`` if None.
        decay: of the momentum, if not None: the steps then follow the sum of all gradients so far, each divided by its
            mean size, with those before weighted down by ``decay`` a step.
        onward: go on after the goal is reached, to the greatest margin: what is to fool another model too needs some.
    """
    point = x.clone() if start is None else start
    margin_of = goal.loss("margin")
    best, best_margin = point.clone(), x.new_full((len(x),), -torch.inf)
    momentum = None if decay is None else torch.zeros_like(x)
    active = torch.arange(len(x), device=x.device)
    for size in (*sizes, None):
        active = active[model.left(active) > 0]
        if not len(active):
            break
        here = point[active]
        grad = here
        if size is None:
            scores = model.scores(here, active)
        else:
            _, grad, scores = model.value_and_grad(here, loss, active)
        reached = goal.reached(scores, active) & (not onward)
        margin = torch.where(reached, torch.inf, margin_of(scores, active).to(best_margin.dtype))
        better = margin > best_margin[active]
        best[active[better]], best_margin[active[better]] = here[better], margin[better]
        if size is not None:
            on = ~reached
            active, here, grad = active[on], here[on], grad[on]
            origin, part = x[active], threat.take(active)
            if momentum is not None and decay is not None:
                grad = momentum[active] = momentum[active] * decay + _of_mean_one(grad, part)
            moved = here + lp.stride(grad, here, origin, part, size, model.bounds)
            point[active] = lp.project(moved, origin, part, model.bounds)
    return Climb(best, best_margin)


def _of_mean_one(grad: Tensor, threat: Threat) -> Tensor:
    """Divides each gradient by its mean absolute value within the mask; one of zeros stays."""
    seen = grad if threat.mask is None else grad * threat.mask
    size = seen.abs().flatten(1).mean(1)
    return seen / lp.column(torch.where(size > 0, size, 1), grad)
