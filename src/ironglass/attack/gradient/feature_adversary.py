"""Adversarial manipulation of deep representations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ironglass.core.access import Model, Rows
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.ascent import ascend
from ironglass.ops.lbfgs import Lbfgs

WALK, STRIDE = 10, 0.04
"""Steps of the walk to a guide, and their length beside the box's half diagonal."""
BEYOND = 2.0
"""A guide lies this much farther from the sample than the point where the walk reached the goal."""


@attack(
    title="Adversarial manipulation of deep representations",
    paper="sabour2016",
    access="internals",
    norms=("linf",),
    cost="2 * steps + 23",
    lecture="white-box evasion: feature adversaries",
)
def feature_adversary(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    guide: Tensor | None = None,
    layer: str | None = None,
    steps: int = 30,
) -> Tensor:
    r"""Give a sample the inside of another one: match a guide's activations within the ball, by box-constrained L-BFGS.

    .. math:: \min_\delta \frac{\|\phi(x + \delta) - \phi(x_g)\|_2^2}{\|\phi(x) - \phi(x_g)\|_2^2}, \qquad
        \|\delta\|_\infty \le \varepsilon,\quad x + \delta \in \mathrm{box}

    The label is not asked for: it follows from the activations. Of the points seen, the nearest to the guide is
    returned among those that reach the goal, or among all where none does.

    Args:
        guide: one picture for all ``(*shape)``, or one a class ``(classes, *shape)``: that of the target, or of the
            likeliest other class. None walks from each sample to a point of its own that reaches the goal.
        layer: whose activations are matched; None takes the last one before the scores.
        steps: evaluations.

    Returns:
        Samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the guide's shape is neither, steps is below 1, or the network has no hidden layer.
    """
    if steps < 1:
        raise InputError(f"steps={steps}", "at least 1")
    name = _last_hidden(model) if layer is None else layer
    guides = _guides(model, x, goal, threat, guide)
    lower = (x - threat.eps).clamp(min=model.bounds.low)
    upper = (x + threat.eps).clamp(max=model.bounds.high)
    if threat.mask is not None:
        lower, upper = torch.where(threat.mask != 0, lower, x), torch.where(threat.mask != 0, upper, x)
    best = guides.maximum(lower).minimum(upper)
    rows = (model.left() > 0).nonzero()[:, 0]
    if not len(rows):
        return best
    wanted = model.activations(guides[rows], [name], rows)[name].flatten(1)
    place = torch.zeros(len(x), dtype=torch.long, device=x.device).index_put_((rows,), torch.arange(len(rows)).to(rows))
    scale = wanted.new_zeros(len(x))

    def apart(activation: Tensor, rows: Rows) -> Tensor:
        return (activation.flatten(1) - wanted[place[rows]]).square().sum(1)

    solver = Lbfgs(x, lower, upper)
    least = scale.new_full((len(x), 2), torch.inf)
    for _ in range(steps):
        rows = rows[solver.active[rows] & (model.left(rows) > 0)]
        if not len(rows):
            break
        here = solver.trial(rows)
        value, grad, scores = model.value_and_grad(here, apart, rows, name)
        new = scale[rows] == 0
        scale[rows[new]] = value[new].clamp(min=torch.finfo(value.dtype).tiny)
        share = value / scale[rows]
        solver.tell(rows, share.to(x.dtype), grad / lp.column(scale[rows].to(x.dtype), x))
        missed = (~goal.reached(scores, rows)).to(share.dtype)
        better = (missed < least[rows, 0]) | ((missed == least[rows, 0]) & (share < least[rows, 1]))
        best[rows[better]], least[rows[better]] = here[better], torch.stack([missed, share], 1)[better]
    return best


def _last_hidden(model: Model) -> str:
    for name, shape in reversed(list(model.layers().items())):
        if name and math.prod(shape) != model.classes:
            return name
    raise InputError("the network has no layer before its scores", "name the layer to match with layer=")


def _guides(model: Model, x: Tensor, goal: Goal, threat: Threat, guide: Tensor | None) -> Tensor:
    """Returns each sample's guide ``(N, *shape)``."""
    if guide is None:
        half = 0.5 * model.bounds.span * math.sqrt(x[0].numel())
        free = Threat("l2", math.inf, threat.mask)
        far = ascend(model, x, goal, free, sizes=[STRIDE * half] * WALK, loss=goal.loss("ce")).point
        return (x + BEYOND * (far - x)).clamp(model.bounds.low, model.bounds.high)
    guide = guide.to(x)
    if guide.shape == x.shape[1:]:
        return guide.expand_as(x)
    if guide.shape != (model.classes, *x.shape[1:]):
        shape = tuple(x.shape[1:])
        raise InputError(
            f"the guide has shape {tuple(guide.shape)}, the samples {shape}",
            f"give one guide {shape}, or one a class {(model.classes, *shape)}",
        )
    if goal.targeted:
        return guide[goal.labels]
    scores = model.scores(x)
    return guide[scores.scatter(1, goal.labels[:, None], -torch.inf).argmax(1)]
