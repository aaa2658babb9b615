"""Sign-OPT: the sign of a directional derivative costs one query."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, PerSample, Threat
from ironglass.ops.estimators import Kind, Probe, RandomDirections, tile_of
from ironglass.ops.rays import Rays, Stage, check_starts, descend, stages
from ironglass.ops.separating import Separating


@attack(
    title="Sign-OPT",
    paper="cheng2020signopt",
    access="labels",
    norms=("l2",),
    cost="max_queries",
    lecture="black-box evasion: labels",
)
def sign_opt(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 100,
    radius: float = 0.01,
    step_size: float = 0.2,
    svm: bool = False,
    tries: int = 20,
    starts: PerSample | None = None,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Turn the ray to the boundary by the signs of its distance's directional derivatives.

    .. math:: \hat g = \frac1q \sum_j \mathrm{sign}\bigl(g(\theta + \beta u_j) - g(\theta)\bigr) u_j, \qquad
        \theta \leftarrow \frac{\theta - \alpha \hat g}{\|\theta - \alpha \hat g\|}

    Each sign is one query: does the point at distance :math:`g(\theta)` in direction :math:`\theta + \beta u_j` reach
    the goal? With ``svm`` (SVM-OPT) the estimate is the direction whose signs agree with all that were seen, by the
    widest margin: :math:`\min \|z\|^2` with :math:`s_j\, z^\top u_j \ge 1`. A step costs ``samples`` queries and a line
    search of some tens. It minimizes the l2 norm; with a finite eps a sample is done when it is within.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: ``β``, in lengths of the ray's direction; a tenth of it each time that no step helps any more.
        step_size: ``α``, in the same; doubled while it helps, quartered where not.
        svm: take the direction of the widest margin in place of the mean.
        tries: random pictures in whose directions the boundary is looked for first.
        starts: points that reach the goal, if known; a target mostly needs them.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
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
    kind = Separating if svm else RandomDirections
    base = x.new_zeros(len(x))

    def longer(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """-1 where the ray in that direction is shorter than the sample's, 1 where it is longer."""
        return -rays.box.ask(rays.at(rays.unit(points), distance[rows, None], rows), rows, count)

    def turn(stage: Stage, rows: Tensor, here: Tensor) -> Tensor:
        estimate = kind(samples, stage.difference, directions, stage.tile)
        left, mask = rays.box.left(rows) - 1, rays.box.mask(rows)
        return estimate(Probe(longer, rays.box.place, here, rows, left, draws, base[rows], mask))

    plan = stages(tile_of(x.shape[1:], tile), radius)
    return descend(rays, theta, distance, turn, plan, least=1, step_size=step_size)
