"""The loop of attacks that walk in a ball and let its radius shrink and grow with success."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.values import Bounds, Goal, Threat

from . import lp, radii
from .halfspace import shortest
from .polish import Aim, descend

EAGER = 4.0
"""How much faster a radius grows until the goal is first reached."""

ROUNDS, SLACK = 10, 0.002
"""Of the polish at the end."""

Onto = Callable[[Tensor, Tensor, Tensor, Threat, Bounds], Tensor]
"""``onto(delta, x, radius, threat, bounds)``: the change brought back to its ball or its sphere."""


def nearest(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int,
    loss: Loss | None,
    step_size: float,
    shrink: tuple[float, float],
    onto: Onto,
    jump: bool,
) -> Tensor:
    """Returns the end of a `walk`, moved along the boundary (`polish.descend`).

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``.
        goal: of each sample.
        threat: norm and mask.
        steps: as for `walk`, like what follows.
        loss: to ascend; None for the logit margin.
        step_size: above 0.
        shrink: between 0 and 1.
        onto: brings a change back to its ball.
        jump: until the goal is first reached.

    Raises:
        InputError: if an option is out of range.
    """
    if steps < 1 or step_size <= 0 or not 0 < shrink[0] < 1:
        raise InputError(
            f"steps={steps}, step_size={step_size:g}, gamma={shrink[0]:g}",
            "give steps of at least 1, a positive step_size and 0 < gamma < 1, e.g. 50, 1 and 0.05",
        )
    aim = Aim(goal)
    found = walk(
        model, x, aim, threat, steps=steps, loss=loss or aim.margin, step_size=step_size, shrink=shrink, onto=onto,
        jump=jump,
    )  # fmt: skip
    return descend(model, x, found, aim, threat, steps=ROUNDS, slack=SLACK)


def walk(
    model: Model,
    x: Tensor,
    aim: Aim,
    threat: Threat,
    *,
    steps: int,
    loss: Loss,
    step_size: float,
    shrink: tuple[float, float],
    onto: Onto,
    jump: bool,
) -> Tensor:
    r"""Returns the shortest points met that reach the goal; of a sample that never gets there, the last one.

    .. math:: \delta_{t+1} = \Pi_{\varepsilon_t}\bigl(\delta_t + \alpha_t \nabla L / \|\nabla L\|_2\bigr), \qquad
        \varepsilon_{t+1} = (1 \mp \gamma_t)\, \varepsilon_t

    The radius falls where the goal is reached and grows where it is not; it starts at the distance to the boundary that
    the first gradient tells. Step and decay fall on a cosine. A sample costs at most ``2 * steps`` passes.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``.
        aim: of each sample.
        threat: norm and mask.
        steps: gradients a sample.
        loss: to ascend.
        step_size: the first step's l2 length, as a part of the first distance's.
        shrink: the first and the last :math:`\gamma`.
        onto: brings a change back to its ball.
        jump: until the goal is first reached, set the radius anew from the gradient instead of growing it.
    """
    best, point = x.clone(), x.clone()
    least, radius, size = x.new_full((len(x),), torch.inf), x.new_zeros(len(x)), x.new_zeros(len(x))
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        rows = rows[model.left(rows) > 0]
        if not len(rows):
            break
        here, origin, part = point[rows], x[rows], threat.take(rows)
        value, grad, scores = model.value_and_grad(here, loss if step else aim.margin, rows)
        reached, length = aim.reached(scores, rows), lp.norm(here - origin, threat.norm)
        better = rows[reached & (length < least[rows])]
        best[better], least[better] = point[better], lp.norm(point[better] - x[better], threat.norm)
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        gamma = shrink[1] + (shrink[0] - shrink[1]) * cosine
        if step == 0 or (jump and bool(least[rows].isinf().any())):
            across = shortest(grad, -1.01 * value, here, part, model.bounds)
            if step == 0:
                size[rows] = lp.norm(across, "l2") * step_size
            sought = rows[least[rows].isinf()]
            radius[sought] = (length + lp.norm(across, threat.norm))[least[rows].isinf()]
        faster = torch.where(least[rows].isinf(), EAGER * gamma, gamma)
        grown = torch.where(reached, length.minimum(radius[rows]) * (1 - gamma), radius[rows] * (1 + faster))
        if threat.norm == "l0":
            grown = torch.where(reached, grown.floor(), grown.ceil())
        if step and jump:
            grown = torch.where(least[rows].isinf(), radius[rows], grown)
        radius[rows] = grown.minimum(least[rows]) if step else radius[rows]
        stride = radii.stretch(grad, here, size[rows] * max(cosine, 0.01), part, model.bounds)
        change = onto(here + stride - origin, origin, radius[rows], part, model.bounds)
        point[rows] = lp.inside(origin + change, origin, part, model.bounds)
        best[rows] = torch.where(lp.column(least[rows].isinf(), x), point[rows], best[rows])
    return best
