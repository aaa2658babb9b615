"""ZO-signSGD."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.estimators import Kind, RandomDirections, tile_of
from ironglass.ops.zeroth import BlackBox, climb, steepest

Variant = Literal["forward", "central", "majority"]


@attack(
    title="ZO-signSGD",
    paper="liu2019signsgd",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order",
)
def zo_signsgd(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 10,
    radius: float = 0.1,
    step_size: float | None = None,
    variant: Variant = "forward",
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Step along the sign of an estimated gradient.

    .. math:: x_{t+1} = \Pi\bigl(x_t + \eta\,\mathrm{sign}(\hat g)\bigr), \qquad
        \hat g = \frac{d}{q\mu} \sum_j \bigl(m(x_t + \mu u_j) - m(x_t)\bigr) u_j

    ``m`` is the margin. ``central`` asks at both ends of each direction, ``majority`` sums the signs of the single
    estimates. In l2 and l1 the step is the steepest one of that norm. A step costs ``samples + 1`` queries, the central
    one ``2 * samples``.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: length of a difference, in spans of the bounds.
        step_size: of a step in the threat's norm, input units; if None, eps / 10.
        variant: of the estimate.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    estimate = RandomDirections(
        samples,
        radius * model.bounds.span,
        directions,
        tile_of(x.shape[1:], tile),
        antithetic=variant == "central",
        vote=variant == "majority",
    )
    climb(box, model.draws(seed), estimate, steepest(box, threat.eps / 10 if step_size is None else step_size))
    return box.best
