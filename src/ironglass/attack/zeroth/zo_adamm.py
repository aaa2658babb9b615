"""ZO-AdaMM."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Kind, RandomDirections, tile_of
from ironglass.ops.weighted import project_weighted
from ironglass.ops.zeroth import BlackBox, climb

FLOOR = 1e-7
"""The least second moment, relative to the mean square of the first estimate."""


@attack(
    title="ZO-AdaMM",
    paper="chen2019adamm",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order",
)
def zo_adamm(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 10,
    radius: float = 0.1,
    step_size: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.9,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Adaptive momentum on estimated gradients, projected in the metric of its own second moments.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1)\hat g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\hat g_t^2,
        \quad \hat v_t = \max(\hat v_{t-1}, v_t), \quad
        x_{t+1} = \Pi^{\sqrt{\hat v_t}}\bigl(x_t + \alpha_t\, m_t / \sqrt{\hat v_t}\bigr)

    with :math:`\alpha_t = \alpha / \sqrt t`, and :math:`\Pi^w` the nearest point by :math:`\sum_i w_i (z_i - x_i)^2`:
    in linf that is clipping, in l2 and l1 it is found by bisection. A step costs ``samples + 1`` queries.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: length of a difference, in spans of the bounds.
        step_size: alpha, of a value, input units; if None eps in linf, in l2 and l1 what makes a step of all values
            that long.
        beta1: what is kept of the first moment.
        beta2: what is kept of the second moment.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise InputError(f"beta1={beta1}, beta2={beta2}", "give both in [0, 1), e.g. 0.9 and 0.3")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    if step_size is None:
        step_size = threat.eps / {"linf": 1, "l2": x[0].numel() ** 0.5}.get(threat.norm, x[0].numel())
    alpha = step_size
    first, second, top = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def rule(grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        first[rows] = m = beta1 * first[rows] + (1 - beta1) * grad
        second[rows] = v = beta2 * second[rows] + (1 - beta2) * grad.square()
        if step == 0:
            floor = FLOOR * grad.square().flatten(1).mean(1).clamp(min=torch.finfo(grad.dtype).tiny)
            top[rows] = lp.column(floor, grad).expand_as(grad)
        top[rows] = highest = top[rows].maximum(v)
        metric = highest.sqrt()
        moved = here + alpha / (step + 1) ** 0.5 * m / metric
        if threat.norm == "linf":
            return box.project(moved, rows)
        return project_weighted(moved, metric, x[rows], threat.take(rows), model.bounds)

    estimate = RandomDirections(samples, radius * model.bounds.span, directions, tile_of(x.shape[1:], tile))
    climb(box, model.draws(seed), estimate, rule)
    return box.best
