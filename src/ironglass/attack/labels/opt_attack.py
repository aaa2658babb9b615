"""Opt-attack: zeroth-order optimization of the distance to the boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, PerSample, Threat
from ironglass.ops.estimators import Kind, Probe, RandomDirections, tile_of
from ironglass.ops.rays import LOOK, Rays, Stage, check_starts, descend, stages


@attack(
    title="Opt-attack",
    paper="cheng2019opt",
    access="labels",
    norms=("l2",),
    cost="max_queries",
    lecture="black-box evasion: labels",
)
def opt_attack(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 10,
    radius: float = 0.01,
    step_size: float = 0.2,
    tries: int = 20,
    starts: PerSample | None = None,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Estimate how the distance to the boundary changes with the direction, and turn where it falls.

    .. math:: \hat g = \frac1q \sum_j \frac{g(\theta + \beta u_j) - g(\theta)}{\beta} u_j, \qquad
        g(\theta) = \min\{r : x + r\theta/\|\theta\| \text{ reaches the goal}\}, \qquad
        \theta \leftarrow \frac{\theta - \alpha \hat g}{\|\theta - \alpha \hat g\|}

    Each ``g`` is a search of its own along a ray, about ten queries; Sign-OPT asks for its sign alone, and needs fewer.
    It minimizes the l2 norm; with a finite eps a sample is done when it is within.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: ``β``, in lengths of the ray's direction; a tenth of it each time that no step helps any more.
        step_size: ``α``, in the same; doubled while it helps, quartered where not.
        tries: random pictures in whose directions the boundary is looked for first.
        starts: points that reach the goal, if known; a target mostly needs them.
        tile: side of the squares of values that move alike, halved when no step pays any more; 1 for single values, a
            fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of all directions.

    Returns:
        The shortest points asked that reach the goal ``(N, *shape)``, within bounds; the samples where there is none.

    Raises:
        InputError: if an option is out of range.
    """
    if min(samples, tries) < 1 or not (0 < radius < 1 and step_size > 0):
        given = f"samples={samples}, tries={tries}, radius={radius}, step_size={step_size}"
        raise InputError(given, "give at least 1 of each, 0 < radius < 1 and a step above 0")
    check_starts(starts, x)
    rays, draws = Rays(model, x, goal, threat, max_queries), model.draws(seed)
    theta, distance = rays.first(draws, tries, starts, all_of_them=True)

    def turn(stage: Stage, rows: Tensor, here: Tensor) -> Tensor:
        def length(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
            on = torch.arange(points.shape[1], device=points.device) < count[:, None]
            around = distance[rows, None].expand(on.shape)
            return rays.nearby(rays.unit(points), around, rows, on, stage.difference)

        estimate = RandomDirections(samples, stage.difference, directions, stage.tile)
        left, mask = (rays.box.left(rows) - 1) // LOOK, rays.box.mask(rows)
        return estimate(Probe(length, rays.box.place, here, rows, left, draws, distance[rows], mask))

    plan = stages(tile_of(x.shape[1:], tile), radius)
    return descend(rays, theta, distance, turn, plan, least=LOOK, step_size=step_size)
