"""The attack of Carlini and Wagner."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.halfspace import shortest
from ironglass.ops.losses import difference, likely
from ironglass.ops.polish import Aim, descend

from .deepfool import nearest_class

RAISED, LONGER, POLISH = 5.0, 2.0, 15
"""What constant and step are multiplied by after a run that failed; and steps along the boundary at the end."""
TIGHTER, SPARED = 0.9, 0.1
"""In linf, tau as a part of the best found; in l0, the part of all that the values do which is given up a run."""
MEAN, SQUARE = 0.9, 0.99
"""What Adam keeps of its two averages from step to step."""


@attack(
    title="Carlini and Wagner",
    paper="carlini2017",
    access="gradient",
    norms=("l2", "linf", "l0"),
    cost="4 * steps * search_steps + min(classes, 10) + 132",
    lecture="white-box evasion: minimum norm",
)
def carlini_wagner(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 40,
    search_steps: int = 3,
    step_size: float = 1.0,
    constant: float = 1.5,
    confidence: float = 0.0,
) -> Tensor:
    r"""Minimize the size of the change and what is missing to the goal together.

    .. math:: \min_\delta\ D(\delta) + c \cdot \max(\kappa - m(x + \delta), 0), \qquad x + \delta \in \text{box}

    ``m`` is the logit margin and D is :math:`\|\delta\|_2^2`; in linf it is :math:`\sum_i \max(|\delta_i| - \tau, 0)`
    with tau at nine tenths of the best found, in l0 that of l2, on ever fewer values: from run to run those leave which
    do least. Adam steps, and the box is kept by clipping: a hyperbolic tangent would hardly move values at its ends.

    The first c is the one that is right for the first gradient; as the penalty is exact, a larger one has the same
    minimum, so c is raised where a run fails, which then goes on, and the sample leaves where it does not. Without a
    target, a last run aims at the class whose boundary is nearest at x, besides the one that was met. The shortest
    point met is then moved along the boundary (`ops.polish`).

    Args:
        steps: gradients a run.
        search_steps: runs a sample, at most, each with a larger constant; in l0, each with fewer values.
        step_size: of Adam, as a part of the root mean square of the first gradient's way to the boundary.
        constant: the first c, as a part of what the first gradient tells.
        confidence: the logit margin kappa by which the goal is to be reached.

    Returns:
        The smallest changes that reach the goal ``(N, *shape)``; of a sample that never got there, x.

    Raises:
        InputError: if an option is out of range.
    """
    if min(steps, search_steps) < 1 or min(step_size, constant) <= 0 or confidence < 0:
        raise InputError(
            f"steps={steps}, search_steps={search_steps}, step_size={step_size:g}, constant={constant:g}, "
            f"confidence={confidence:g}",
            "give steps of at least 1, positive sizes and a confidence of at least 0, e.g. 40, 3, 1, 1.5 and 0",
        )
    aim, rows = Aim(goal, confidence), (model.left() > 0).nonzero()[:, 0]
    smooth = replace(threat, norm="l2" if threat.norm == "l0" else threat.norm)
    task = Task(model, x, aim, smooth, steps, aim.margin, step_size, constant)
    best = Found(x.clone(), x.new_full((len(x),), torch.inf), x.new_zeros(len(x)), x.new_zeros(len(x)))
    _search(task, best, rows, search_steps)
    if threat.norm == "l0":
        _take_away(task, best, rows[best.least[rows].isfinite()], search_steps)
    elif not goal.targeted and model.classes > 2:
        rows = rows[model.left(rows) > 3]
        if len(rows):
            other = goal.labels.clone()
            met = likely(goal.take(rows), model.scores(best.points[rows], rows), 1)[:, 0]
            met = torch.where(best.least[rows].isfinite(), met, goal.labels[rows])
            other[rows] = nearest_class(model, x, goal, threat, met, rows)
            apart = difference(goal.labels, other)
            _search(task._replace(loss=lambda scores, at: apart(scores, at) - confidence), best, rows, 1)
    return descend(model, x, best.points, aim, threat, steps=POLISH, slack=0.005)


class Task(NamedTuple):
    """What runs are to minimize, and how."""

    model: Model
    x: Tensor
    aim: Aim
    threat: Threat
    steps: int
    loss: Loss
    step_size: float
    constant: float


class Found(NamedTuple):
    """The best points so far and their norms (infinite where there is none), and each sample's c and Adam step."""

    points: Tensor
    least: Tensor
    c: Tensor
    step: Tensor


def _search(task: Task, best: Found, rows: Tensor, runs: int) -> None:
    """Searches the constant, from the one that the first gradient tells; ``best`` is renewed in place."""
    model, x, threat = task.model, task.x, task.threat
    if not len(rows):
        return
    value, grad, _ = model.value_and_grad(x[rows], task.loss, rows)
    way = shortest(grad, -1.01 * value, x[rows], threat.take(rows), model.bounds)
    size, flat, start = lp.norm(way, "l2"), grad.flatten(1), torch.zeros_like(x)
    if threat.norm == "l2":
        rate, stride = 2 * size.square() / -value, 1.0
    else:  # so large that nearly all values give way to the margin, and short steps, as all values take them
        rate, stride = 10 * flat.abs().sum(1) / flat.square().sum(1), 0.3
    best.c[rows] = (task.constant * rate).nan_to_num(0, 0, 0).to(x.dtype)
    best.step[rows] = task.step_size * stride * size / math.sqrt(flat.shape[1])
    start[rows] = way
    for _ in range(runs):
        failed = rows[~_minimize(task, best, start, rows)]
        rows = failed[model.left(failed) > 0]
        if not len(rows):
            break
        best.c[rows] *= RAISED
        best.step[rows] *= LONGER


def _take_away(task: Task, best: Found, rows: Tensor, runs: int) -> None:
    """Minimizes over ever fewer values, until that fails; ``best`` is renewed in place."""
    model, x, threat = task.model, task.x, task.threat
    for _ in range(runs):
        rows = rows[model.left(rows) > 1]
        if not len(rows):
            break
        _, grad, _ = model.value_and_grad(best.points[rows], task.aim.margin, rows)
        start = best.points - x
        done, order = (grad * start[rows]).flatten(1).clamp(min=0).sort(dim=1, descending=True, stable=True)
        kept = done.cumsum(1) - done < (1 - SPARED) * done.sum(1, keepdim=True)
        free = torch.zeros_like(x, dtype=torch.bool)
        free[rows] = torch.zeros_like(kept).scatter_(1, order, kept).reshape_as(grad)
        part = task._replace(threat=replace(threat, mask=free if threat.mask is None else free & (threat.mask != 0)))
        best.least[rows] = torch.inf
        rows = rows[_minimize(part, best, start * free, rows)]


def _minimize(task: Task, best: Found, start: Tensor, rows: Tensor) -> Tensor:
    """Minimizes with the constants as they are; ``best`` and ``start``, which is where it ends, are renewed in place.

    Returns:
        Which of the rows met the aim ``(n,)``.
    """
    model, x, aim, threat, steps = task[:5]
    met = torch.zeros_like(rows, dtype=torch.bool)
    on = torch.arange(len(rows), device=x.device)
    delta, mean, square = start[rows], torch.zeros_like(x[rows]), torch.zeros_like(x[rows])
    tau = torch.where(best.least.isfinite(), best.least, lp.norm(start, threat.norm))[rows] * TIGHTER
    for step in range(steps):
        on = on[model.left(rows[on]) > 0]
        if not len(on):
            break
        at = rows[on]
        part, origin = threat.take(at), x[at]
        here = lp.inside(origin + delta[on], origin, part, model.bounds)
        value, grad, scores = model.value_and_grad(here, task.loss, at)
        change, reached = here - origin, aim.reached(scores, at)
        length = lp.norm(change, threat.norm)
        met[on] |= reached
        better = reached & (length < best.least[at])
        best.points[at[better]], best.least[at[better]] = here[better], length[better]
        if threat.norm == "l2":
            pull = 2 * change
        else:
            tau[on] = torch.where(better, TIGHTER * length, tau[on])
            pull = change.sign() * (change.abs() > lp.column(tau[on], x))
        pull = pull - lp.column(torch.where(value < 0, best.c[at], 0), x) * grad.nan_to_num(0, 0, 0)
        mean[on] = MEAN * mean[on] + (1 - MEAN) * pull
        square[on] = SQUARE * square[on] + (1 - SQUARE) * pull.square()
        size = best.step[at] * (1 + math.cos(math.pi * step / steps)) / 2
        scale = (square[on] / (1 - SQUARE ** (step + 1))).sqrt() + torch.finfo(x.dtype).tiny
        delta[on] = change - lp.column(size, x) * (mean[on] / (1 - MEAN ** (step + 1))) / scale
    start[rows] = delta
    return met
