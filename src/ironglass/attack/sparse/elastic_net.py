"""Elastic-net attack."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Reach, Threat
from ironglass.ops import lp
from ironglass.ops.losses import likely
from ironglass.ops.polish import polish

Rule = Literal["norm", "en"]
SPARSE = 30.0
"""The default beta in l1, in spans of the bounds: the sum of squares then hardly matters."""
RISING, UP, DOWN, PATIENCE = 0.8, 1.2, 0.85, 10
"""The share of the steps in which beta rises; the factors of the constant below and beyond the boundary; steps without
a shorter change after which a sample leaves, once beta has risen."""
FIRST, LAST = 0.5, 0.01
"""The size of the proximal steps, where 1/2 is the inverse curvature of the sum of squares."""
ROUNDS = 10
"""Of polish, at most."""


@attack(
    title="Elastic-net attack",
    paper="chen2018ead",
    access="gradient",
    norms=("l1", "l2"),
    cost="2 * (targets + 1) * steps + 49",
    lecture="white-box evasion: elastic net, minimum l1",
)
def elastic_net(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    beta: float | None = None,
    rule: Rule = "norm",
    steps: int = 26,
    targets: int = 2,
) -> Tensor:
    r"""Find a short and sparse change by proximal steps: gradient, shrinkage, box.

    .. math:: \min_\delta\; -c\, m(x + \delta) + \beta\|\delta\|_1 + \|\delta\|_2^2, \qquad
        \delta \leftarrow S_{\alpha\beta}\bigl(\delta - \alpha(2\delta - c \nabla m)\bigr)

    ``m`` is the logit margin. The constant c is searched while the steps are made: it begins where a linear model's
    optimum has it, rises while the goal is not reached and falls beyond it, so one run does the work of a nest of runs.
    Beta rises geometrically to its value, from dense changes to sparse ones: the l1 optimum found is a better one. The
    momentum of FISTA gains nothing while c moves, and is left out. A sample that no run brings to the goal gets one
    more with beta 0.

    Every point the model sees is weighed by the decision rule. The L1 rule (``norm``, in l1) keeps the least norm, and
    ends with a closed-form polish; the EN rule keeps the least elastic-net distance, and ends on the line to x.

    Args:
        beta: weight of the l1 norm beside the sum of squares, input units; None is 0 in l2, and nearly pure l1 in l1.
        rule: which point is kept: the least ``norm`` of the threat, or the least elastic net ``en``.
        steps: proximal steps a run.
        targets: runs of an untargeted attack: the first is free, the next ones aim at the next likely classes.

    Returns:
        Adversarial samples ``(N, *shape)`` within the bounds, near the smallest change; not cut to the threat's eps.

    Raises:
        InputError: if steps or targets are below 1, or beta is negative.
    """
    if steps < 1 or targets < 1 or (beta is not None and not beta >= 0):
        raise InputError(f"steps={steps}, targets={targets}, beta={beta}", "give at least 1 step, 1 target, beta >= 0")
    if beta is None:
        beta = SPARSE * model.bounds.span if threat.norm == "l1" else 0.0
    losses = [goal.loss("margin")]
    if not goal.targeted and targets > 1:
        others = likely(goal, model.scores(x), targets)
        losses += [Reach(others[:, rank]).loss("margin") for rank in range(1, others.shape[1])]
    best, least = x.clone(), x.new_full((len(x),), torch.inf)
    for loss in losses:
        found, length = _run(model, x, goal, threat, loss, beta, rule, steps)
        shorter = length < least
        best[shorter], least[shorter] = found[shorter], length[shorter]
    lost = (least == torch.inf).nonzero()[:, 0]
    if beta > 0 and len(lost):
        wish, part = goal.take(lost), threat.take(lost)
        best[lost] = _run(model.take(lost), x[lost], wish, part, wish.loss("margin"), 0.0, rule, steps)[0]
    return polish(model, x, best, goal, threat, steps=ROUNDS if rule == "norm" else 0)


def _run(
    model: Model, x: Tensor, goal: Goal, threat: Threat, loss: Loss, beta: float, rule: Rule, steps: int
) -> tuple[Tensor, Tensor]:
    """Returns each sample's best point and its size by the rule, infinite where the goal was not reached."""
    span = model.bounds.span
    best, least = x.clone(), x.new_full((len(x),), torch.inf)
    point, constant, stale = x.clone(), torch.zeros_like(least), torch.zeros_like(least)
    now = low = min(beta, span)
    active = torch.arange(len(x), device=x.device)
    for step in range(steps):
        active = active[(model.left(active) > 0) & (stale[active] < PATIENCE)]
        if not len(active):
            break
        here, origin = point[active], x[active]
        value, grad, scores = model.value_and_grad(here, loss, active)
        reached, size = goal.reached(scores, active), _size(here - origin, threat, rule, beta)
        better = reached & (size < least[active])
        best[active[better]], least[active[better]] = here[better], size[better]
        risen = step / steps >= RISING
        stale[active] = torch.where(better, 0, stale[active] + float(risen))
        if step == 0:
            constant[active] = _linear_constant(grad, -value, origin, threat, now, model) * UP
        else:
            before = now
            now = beta if risen or low == beta else low * (beta / low) ** (step / steps / RISING)
            constant[active] *= torch.where(reached, DOWN, UP) * (now + span) / (before + span)
        stride = FIRST * (LAST / FIRST) ** (step / steps)
        delta = here - origin
        delta = delta - stride * (2 * delta - lp.column(constant[active], x) * grad)
        delta = delta.sign() * (delta.abs() - stride * now).clamp(min=0)
        point[active] = lp.inside(origin + delta, origin, threat.take(active), model.bounds)
    return best, least


def _size(delta: Tensor, threat: Threat, rule: Rule, beta: float) -> Tensor:
    if rule == "norm":
        return lp.norm(delta, threat.norm)
    return beta * lp.norm(delta, "l1") + lp.norm(delta, "l2").square()


def _linear_constant(grad: Tensor, gap: Tensor, x: Tensor, threat: Threat, beta: float, model: Model) -> Tensor:
    r"""Returns the c at which a linear model's optimum :math:`\min((c|g| - \beta)_+/2, r)` just closes the gap."""
    size = grad.abs().flatten(1)
    limit = lp.room(grad, x, model.bounds, threat.mask).flatten(1)
    top = size.amax(1).clamp(min=torch.finfo(size.dtype).tiny)
    size = size / top[:, None]
    need = (gap / top).minimum(0.9 * (size * limit).sum(1)).clamp(min=0)
    low, high = torch.zeros_like(need), torch.full_like(need, beta + 2 * model.bounds.span)
    for turn in range(60):
        middle = high if turn < 20 else (low + high) / 2
        moved = ((middle[:, None] * size - beta) / 2).clamp(min=0).minimum(limit)
        short = (size * moved).sum(1) < need
        if turn < 20:
            high = torch.where(short, 2 * high, high)
        else:
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high / top
