"""HopSkipJump: gradient steps from a boundary that only labels show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, PerSample, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Kind, Probe, RandomDirections, tile_of
from ironglass.ops.rays import Rays, check_starts, scaled

HALVINGS = 12
"""How often at most a step is halved until it reaches the goal."""


@attack(
    title="HopSkipJump",
    paper="chen2020hopskipjump",
    access="labels",
    norms=("l2", "linf"),
    cost="max_queries",
    lecture="black-box evasion: labels",
)
def hop_skip_jump(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 100,
    radius: float = 0.01,
    tries: int = 20,
    starts: PerSample | None = None,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Estimate the boundary's normal where one stands, step along it, and come back to the boundary.

    .. math:: v = \frac{1}{B - 1} \sum_b (\phi_b - \bar\phi)\,u_b, \qquad
        x_{t+1} = \mathrm{bisect}\Bigl(x,\ x_t + \xi_t \frac{v}{\|v\|}\Bigr), \qquad
        \xi_t = \frac{\|x_t - x\|}{\sqrt t}

    :math:`\phi_b = \pm 1` says whether :math:`x_t + \delta u_b` reaches the goal, with
    :math:`B = B_0 \sqrt t` directions. In linf the step is along :math:`\mathrm{sign}(v)`. ``ξ`` is halved until the
    step reaches the goal. With a finite eps a sample is done when it is within.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: ``B₀``, directions of the first step.
        radius: ``δ``, in distances to the sample.
        tries: random pictures tried until one reaches the goal.
        starts: points that reach the goal, if known; a target mostly needs them.
        tile: side of the squares of values that move alike, halved where a step is worth nothing; 1 for single values,
            a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of all directions.

    Returns:
        The shortest points asked that reach the goal ``(N, *shape)``, within bounds; the samples where there is none.

    Raises:
        InputError: if an option is out of range.
    """
    if min(samples, tries) < 1 or not 0 < radius < 1:
        given = f"samples={samples}, tries={tries}, radius={radius}"
        raise InputError(given, "give at least 1 of each, and 0 < radius < 1")
    check_starts(starts, x)
    rays, draws, linf = Rays(model, x, goal, threat, max_queries), model.draws(seed), threat.norm == "linf"
    box = rays.box
    theta, distance = rays.first(draws, tries, starts, all_of_them=False)
    fine = min(radius / math.sqrt(x[0].numel()), 1e-3)
    rows = (distance < torch.inf).nonzero()[:, 0]
    point = x.clone()
    point[rows] = _placed(rays, theta[rows], distance[rows], rows)
    side = torch.full_like(rows.new_zeros(len(x)), tile_of(x.shape[1:], tile))
    step = 0
    while len(rows := rows[box.open(rows, 3)]):
        step += 1
        for size in sorted(set(side[rows].tolist())):
            part = rows[side[rows] == size]
            wide = torch.zeros_like(distance)
            wide[part] = radius * lp.norm(point[part] - x[part], "l2")
            ask = scaled(box.ask, point, wide)
            estimate = RandomDirections(round(samples * math.sqrt(step)), 1.0, directions, size, center=True)
            at = Probe(ask, box.place, point[part], part, box.left(part) - 1, draws, None, box.mask(part))
            normal = estimate(at)
            way = normal.sign() if linf else rays.unit(normal[:, None])[:, 0]
            before = distance[part]
            _jump(rays, point, theta, distance, part, way, before / math.sqrt(step), fine)
            idle = part[distance[part] >= before * (1 - fine)]
            side[idle] = (side[idle] // 2).clamp(min=1)
    return rays.answer()


def _jump(
    rays: Rays, point: Tensor, theta: Tensor, distance: Tensor, rows: Tensor, way: Tensor, size: Tensor, fine: float
) -> None:
    """Steps, halved until the goal is reached, and goes back to the boundary; who comes no nearer stays."""
    live = torch.arange(len(rows), device=rows.device)
    landed = torch.zeros_like(size, dtype=torch.bool)
    target = point[rows]
    for _ in range(HALVINGS):
        live = live[rays.box.open(rows[live])]
        if not len(live):
            break
        part = rows[live]
        tried = rays.box.place((point[part] + lp.column(size[live], way) * way[live])[:, None], part)
        hit = rays.box.ask(tried, part)[:, 0] > 0
        target[live[hit]], landed[live[hit]] = tried[hit, 0], True
        live = live[~hit]
        size[live] /= 2
    got = landed.nonzero()[:, 0]
    part = rows[got]
    ray, length = rays.to(target[got], part)
    low = torch.zeros_like(length)
    high = rays.bisect(ray[:, None], low[:, None], length[:, None], part, (fine * length)[:, None])[:, 0]
    nearer = high < distance[part]
    kept = part[nearer]
    theta[kept], distance[kept] = ray[nearer], high[nearer]
    point[kept] = _placed(rays, ray[nearer], high[nearer], kept)


def _placed(rays: Rays, theta: Tensor, distance: Tensor, rows: Tensor) -> Tensor:
    return rays.box.place(rays.at(theta[:, None], distance[:, None], rows), rows)[:, 0]
