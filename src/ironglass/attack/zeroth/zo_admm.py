"""ZO-ADMM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Bounds, Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Ask, Kind, RandomDirections, tile_of
from ironglass.ops.zeroth import BlackBox, Rule, climb

Term = Literal["l2", "l1", "l0", "linf"]
HALVINGS = 50
REACH = 0.1
"""How far the first step goes where eps is infinite, in spans of the bounds."""


@attack(
    title="ZO-ADMM",
    paper="zhao2019admm",
    access="scores",
    norms=("linf", "l2", "l1", "l0"),
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order, operator splitting",
)
def zo_admm(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 20,
    radius: float = 0.2,
    weight: float | None = None,
    term: Term = "l2",
    gamma: float = 1.0,
    rho: float = 20.0,
    alpha: float = 10.0,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Split the change in two: one follows the estimated gradient, the other keeps the distance and the constraints.

    .. math:: z = \arg\min_{z \in B \cap \mathrm{box}} \gamma D(z) + \tfrac\rho2 \|z - \delta + s/\rho\|^2, \quad
        \delta \leftarrow \frac{\alpha\sqrt k\,\delta + \rho z + s + c \hat g(\delta)}{\alpha\sqrt k + \rho}, \quad
        s \leftarrow s + \rho(z - \delta)

    ``D`` is the square of the l2 norm, the l1 norm, the number of values changed, or the linf norm: a closed form each.
    A step costs ``samples + 1`` queries, and each is made within bounds and mask.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: length of a difference, in spans of the bounds.
        weight: ``c`` of the margin; if None, so large a sample that its first step moves values by about eps.
        term: the distance ``D``.
        gamma: weight of the distance.
        rho: weight of the split's gap.
        alpha: of the quadratic term that keeps steps short.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds; with an infinite eps the shortest that succeed.

    Raises:
        InputError: if an option is out of range.
    """
    if not (gamma >= 0 and rho > 0 and alpha > 0):
        raise InputError(f"gamma={gamma}, rho={rho}, alpha={alpha}", "give gamma ≥ 0, rho > 0 and alpha > 0")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    scale = torch.full_like(box.margin, torch.nan if weight is None else weight)
    spread = {"l2": x[0].numel() ** 0.5, "l1": x[0].numel()}.get(threat.norm, 1)
    value = torch.inf if threat.norm == "l0" else threat.eps / spread
    target = min(value, REACH * model.bounds.span) * (alpha + rho)
    split = splitting(x, threat, model.bounds, term=term, gamma=gamma, rho=rho, alpha=alpha)

    def rule(grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        fresh = scale[rows].isnan()
        if bool(fresh.any()):
            size = grad.square().flatten(1).mean(1).sqrt().clamp(min=torch.finfo(grad.dtype).tiny)
            scale[rows] = torch.where(fresh, target / size, scale[rows])
        return split(grad * lp.column(scale[rows], x), here, rows, step)

    estimate = RandomDirections(samples, radius * model.bounds.span, directions, tile_of(x.shape[1:], tile))
    climb(box, model.draws(seed), estimate, rule, ask=_until_reached(box) if box.minimum else None)
    return box.best


def _until_reached(box: BlackBox) -> Ask:
    """The margin up to 0: beyond the boundary the distance alone is left to lessen."""

    def ask(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        return box.ask(points, rows, count).clamp(max=0)

    return ask


def splitting(
    x: Tensor, threat: Threat, bounds: Bounds, *, term: Term, gamma: float, rho: float, alpha: float
) -> Rule[Tensor]:
    """Returns the rule of the linearized splitting: it ascends a function less ``gamma`` times the distance.

    Args:
        x: where the changes start ``(N, *shape)``.
        threat: ball and mask.
        bounds: of the inputs.
        term: the distance.
        gamma: its weight.
        rho: weight of the split's gap.
        alpha: of the quadratic term.
    """
    dual = torch.zeros_like(x)
    nearest: Callable[[Tensor, Tensor, float], Tensor] = {"l2": _square, "l1": _soft, "l0": _hard, "linf": _level}[term]

    def rule(grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        origin, part = x[rows], threat.take(rows)
        delta, s = here - origin, dual[rows]
        wanted = delta - s / rho
        limit = lp.room(wanted, origin, bounds, part.mask)
        z = nearest(wanted.abs(), limit, gamma / rho) * wanted.sign()
        z = lp.project(origin + z, origin, part, bounds) - origin
        keep = alpha * math.sqrt(step + 1)
        delta = (keep * delta + rho * z + s + grad) / (keep + rho)
        dual[rows] = s + rho * (z - delta)
        return origin + delta

    return rule


def _square(size: Tensor, limit: Tensor, weight: float) -> Tensor:
    """The nearest sizes under a penalty ``weight * sum of squares``."""
    return size / (1 + 2 * weight)


def _soft(size: Tensor, limit: Tensor, weight: float) -> Tensor:
    """The nearest sizes under a penalty ``weight * sum``."""
    return (size - weight).clamp(min=0)


def _hard(size: Tensor, limit: Tensor, weight: float) -> Tensor:
    """The nearest sizes within the limit under a penalty ``weight`` a value that is not 0."""
    kept = size.minimum(limit)
    return torch.where(size.square() - (size - kept).square() > 2 * weight, kept, 0)


def _level(size: Tensor, limit: Tensor, weight: float) -> Tensor:
    """The nearest sizes within the limit under a penalty ``weight * maximum``: all above one level come down to it."""
    flat, most = size.flatten(1), size.minimum(limit).flatten(1)
    low, high = torch.zeros_like(flat[:, :1]), most.amax(1, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = torch.where(most > middle, flat - middle, 0).sum(1, keepdim=True) > weight
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return most.minimum(high).reshape_as(size)
