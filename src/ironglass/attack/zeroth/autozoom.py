"""AutoZOOM: zeroth-order optimization in a space of fewer dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.estimators import Kind, Probe, RandomDirections, bilinear
from ironglass.ops.zeroth import Adam, BlackBox, climb, reduced

AFTER = 4
"""Directions a step once the goal was reached."""


@attack(
    title="AutoZOOM",
    paper="tu2019autozoom",
    access="scores",
    norms=("l2", "linf"),
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order, fewer dimensions",
)
def autozoom(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    size: int | None = None,
    decoder: Callable[[Tensor], Tensor] | None = None,
    latent: tuple[int, ...] = (),
    samples: int = 1,
    radius: float = 0.1,
    step_size: float | None = None,
    weight: float = 1.0,
    period: int = 100,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Adam on a small code of the change, along random directions of the code.

    .. math:: z \leftarrow \mathrm{Adam}(z, \hat g), \qquad
        \hat g = \frac{d_z}{q\mu} \sum_j \bigl(F(z + \mu u_j) - F(z)\bigr) u_j, \qquad x' = x + D(z)

    ``D`` enlarges a small picture bilinearly, or is the decoder of an autoencoder of the user's. With a finite eps
    ``F`` is the margin, of points drawn into the ball. With an infinite one it is
    :math:`c \min(m, 0) - \|D(z)\|_2^2`, and the weight ``c`` is sought meanwhile, by tens up to a first success and by
    halves after it; from then on four directions are averaged. A step costs ``samples + 1`` queries.

    Args:
        max_queries: queries a sample, beside the runner's first.
        size: larger side of the small picture; if None, half of the picture's, at most 32.
        decoder: from codes ``(n, *latent)`` to changes ``(n, *shape)``, input units; bilinear if None.
        latent: shape of the decoder's code.
        samples: directions a step before the first success.
        radius: length of a difference of the code.
        step_size: of Adam, in the units of the code; if None, with a finite eps a tenth of what it allows a value, else
            a hundredth of the span.
        weight: the first ``c``.
        period: steps after which the weight is changed.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds; with an infinite eps the shortest that succeed.

    Raises:
        InputError: if an option is out of range, or the decoder's changes have another shape.
    """
    if min(samples, period) < 1 or not weight > 0:
        raise InputError(
            f"samples={samples}, period={period}, weight={weight}", "give at least 1, and a weight above 0"
        )
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    shape = tuple(x.shape[1:])
    if decoder is None:
        latent, decode = bilinear(shape, max(min(max(shape[-2:]) // 2, 32), 1) if size is None else size)
    else:
        decode = decoder
        with torch.no_grad():
            made = tuple(decode(x.new_zeros(1, *latent)).shape[1:])
        if made != shape:
            raise InputError(f"the decoder makes {made} of codes {latent}, samples are {shape}", "give its latent=")
    search = reduced(box, decode, weight, period)
    rule = Adam(box, x.new_zeros(len(x), *latent), search, box.scale(0.1, 0.01) if step_size is None else step_size)
    length = radius * model.bounds.span
    first, then = (RandomDirections(count, length, directions) for count in (samples, max(samples, AFTER)))
    climb(
        box,
        model.draws(seed),
        Sharpened(box, first, then),
        rule,
        start=x.new_zeros(len(x), *latent),
        ask=search.ask,
        mask=False,
    )
    return box.best


class Sharpened:
    """One estimator before a sample's first success, and another after it.

    Args:
        box: that knows of successes.
        first: the estimator before.
        then: the one after.
    """

    needs_base = True
    least = 1

    def __init__(self, box: BlackBox, first: RandomDirections, then: RandomDirections) -> None:
        self._box, self._first, self._then = box, first, then

    def __call__(self, at: Probe) -> Tensor:
        """Returns the estimates ``(n, *shape)``."""
        found = self._box.found[at.rows]
        grad = torch.empty_like(at.point)
        for part, estimate in ((~found, self._first), (found, self._then)):
            if bool(part.any()):
                grad[part] = estimate(at.take(part))
        return grad
