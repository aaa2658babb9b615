"""The boundary attack: a random walk along the boundary, nearer and nearer to the sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, PerSample, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import directions, tile_of
from ironglass.ops.rays import Rays, check_starts

WINDOW = 10
"""Steps after which the step sizes are looked at; of these one asks whether the walk itself stays at the goal."""
FACTOR = 1.5
"""By what they are changed."""


@attack(
    title="Boundary attack",
    paper="brendel2018boundary",
    access="labels",
    norms=("l2",),
    cost="max_queries",
    lecture="black-box evasion: labels",
    tags=("control",),
)
def boundary(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 4,
    aside: float = 0.1,
    towards: float = 0.03,
    tries: int = 20,
    starts: PerSample | None = None,
    tile: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Walk at random on the sphere about the sample, then a little towards it, and stay where the goal is reached.

    .. math:: \tilde x = x + (1 - \varepsilon)\, r\,
        \frac{\theta + \delta u_\perp}{\|\theta + \delta u_\perp\|}, \qquad r = \|x_t - x\|

    Of some steps asked at once the first that reaches the goal is taken. Both step sizes go with how many do: ``ε``
    grows where more than a quarter succeed and shrinks where fewer than a tenth do, ``δ`` likewise with half and a
    fifth of the walks without the step towards. With a finite eps a sample is done when it is within.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: steps asked at once.
        aside: the first ``δ``.
        towards: the first ``ε``.
        tries: random pictures tried until one reaches the goal.
        starts: points that reach the goal, if known; a target mostly needs them.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        seed: of all steps.

    Returns:
        The shortest points asked that reach the goal ``(N, *shape)``, within bounds; the samples where there is none.

    Raises:
        InputError: if an option is out of range.
    """
    if min(samples, tries) < 1 or not (aside > 0 and 0 < towards < 1):
        given = f"samples={samples}, tries={tries}, aside={aside}, towards={towards}"
        raise InputError(given, "give at least 1 of each, aside above 0 and 0 < towards < 1")
    check_starts(starts, x)
    rays, draws = Rays(model, x, goal, threat, max_queries), model.draws(seed)
    box, size = rays.box, tile_of(x.shape[1:], tile)
    theta, radius = rays.first(draws, tries, starts, all_of_them=False)
    delta, epsilon = torch.full_like(radius, aside), torch.full_like(radius, towards)
    walked, stepped = (torch.zeros(len(x), 2, dtype=torch.double, device=x.device) for _ in range(2))
    rows = (radius < torch.inf).nonzero()[:, 0]
    step = 0
    while len(rows := rows[box.open(rows)]):
        step += 1
        here = theta[rows, None]
        u = directions(draws, "gaussian", (samples, *x.shape[1:]), rows, x.dtype, box.mask(rows), None, size)
        u = u - here * (u * here).flatten(2).sum(2).reshape(*u.shape[:2], *(1,) * (u.ndim - 2))
        way = rays.unit(here + lp.column(delta[rows], here) * rays.unit(u))
        looks = step % WINDOW == 0  # at the walk alone
        part = torch.zeros_like(epsilon[rows]) if looks else epsilon[rows]
        length = (radius[rows] * (1 - part))[:, None].expand(way.shape[:2])
        on = torch.arange(samples, device=x.device) < box.left(rows)[:, None]
        hit = rays.reached(way, length, rows, on)
        tally = walked if looks else stepped
        tally[rows] += torch.stack([hit.sum(1), on.sum(1)], 1)
        got = hit.any(1)
        first = hit.int().argmax(1)
        moved = rows[got]
        theta[moved] = way[got, first[got]]
        radius[moved] = length[got, first[got]]
        if looks:
            for sizes, counts, low, high in ((delta, walked, 0.2, 0.5), (epsilon, stepped, 0.1, 0.25)):
                share = counts[rows, 0] / counts[rows, 1].clamp(min=1)
                factor = torch.where(share > high, FACTOR, torch.where(share < low, 1 / FACTOR, 1.0))
                sizes[rows] = (sizes[rows] * factor).clamp(max=0.5)
            walked[rows], stepped[rows] = 0, 0
    return rays.answer()
