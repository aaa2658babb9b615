"""Fast-Lip: a bound on how steep each margin gets in the ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops import lp
from ironglass.ops.bounds import Interval
from ironglass.ops.gradients import MOST, gradients, held
from ironglass.ops.linear import differences, intervals
from ironglass.ops.margins import margins
from ironglass.ops.proofs import opened, weakest

_HELD = 1 << 24
"""How many values of rows are held at a time."""


@certify(
    title="Fast-Lip",
    paper="weng2018fastlin",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500",
    lecture="local Lipschitz constant",
)
def fast_lip(model: Model, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    r"""Bound the gradient of each margin anywhere in the ball, and with it how far the margin can fall.

    Let :math:`g_j = z_y - z_j`, and :math:`[L, U]` hold its gradient everywhere in the ball (`ops.gradients`). Then

    .. math:: g_j(x') \ge g_j(x) - \varepsilon \left\| \max(|L|, |U|) \right\|_q

    with the dual norm q, taken over the values that may move. In linf each value's worst move within the bounds is
    taken, of the sign that hurts. The limits and so the constant are those of this ball: a radius
    :math:`\min_j g_j(x) / \|\cdot\|_q` is certified only up to the eps that was given, and a smaller eps has a smaller
    constant. Looser than `fast_lin` as a rule, and much tighter than the product of the layers' norms.

    The margin is proven for the network as it runs in floating point: see `ops.bounds`. All is computed in float64.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; minus infinity where nothing finite is
        proven.

    Raises:
        InputError: if the network has an operator that cannot be bounded, or whose derivative is not known.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Linear(2, 2).double().eval()
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), net.bias.data.zero_()
        >>> x = torch.tensor([[0.9, 0.2]], dtype=torch.float64)
        >>> round(float(ig.certify.fast_lip(net, x, torch.tensor([0]), ig.L2(0.1)).margin), 3)  # 0.7 - 0.1 * sqrt(2)
        0.559
    """
    graph, start = opened(model, x, threat, double=True)
    y = y.to(start.lower.device)
    centre = x.to(start.lower.device).clamp(model.bounds.low, model.bounds.high).to(graph.steps[0].dtype).double()
    here = margins(graph, Interval(centre, centre), y)
    values = intervals(graph, start)
    most = max(here.shape[1] * max(math.prod(step.shape) for step in graph.steps), min(held(graph), MOST))
    found = []
    for rows in torch.split(torch.arange(len(x), device=y.device), max(1, _HELD // most)):
        part = {index: value.take(rows) for index, value in values.items()}
        low, high, lost = gradients(graph, part, differences(y[rows], here.shape[1], torch.float64))
        found.append(here[rows] - _fall(low.flatten(2), high.flatten(2), part[0], centre[rows]) - lost)
    return weakest(torch.cat(found), y, x)


def _fall(low: Tensor, high: Tensor, region: Interval, centre: Tensor) -> Tensor:
    """How far values with gradients between ``low`` and ``high`` ``(N, R, d)`` can fall in the region ``(N, R)``."""
    down, up = ((side - centre).flatten(1)[:, None] for side in (region.lower, region.upper))
    worst = torch.stack([low * down, low * up, high * down, high * up]).amin(0)
    fall = -worst.sum(2)
    ball = region.ball
    if ball is not None:
        most = torch.maximum(low.abs(), high.abs())
        order = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}[lp.dual(ball.norm)]
        length = torch.linalg.vector_norm(most * ball.scale.flatten(1)[:, None], order, 2)
        fall = torch.minimum(fall, ball.eps * length + (most * ball.noise.flatten(1)[:, None]).sum(2))
    return fall * (1 + 1e-12 * low.shape[2])
