"""ZO-NGD: zeroth-order natural gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model, Rows
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Kind, RandomDirections, tile_of
from ironglass.ops.zeroth import BlackBox, climb, steepest


@attack(
    title="ZO natural gradient",
    paper="zhao2020ngd",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order, natural gradient",
)
def zo_ngd(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 20,
    radius: float = 0.1,
    step_size: float | None = None,
    damping: float = 1.0,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Step along the estimated gradient in the geometry of the predicted distribution.

    .. math:: x_{t+1} = \Pi\bigl(x_t + \eta\,\mathrm{steepest}\,[(\hat s \hat s^\top + \gamma I)^{-1} \hat g]\bigr),
        \qquad \hat s = \hat\nabla \log p_y, \quad \gamma = \kappa \|\hat s\|^2

    Gradient and score come from the same queries, ``samples + 1`` a step, and the inverse is one of rank one. The
    damping is relative to the score: an absolute one, where it is small beside that, cancels the very direction the
    attack needs.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        radius: length of a difference, in spans of the bounds.
        step_size: of a step in the threat's norm, input units; if None, eps / 10.
        damping: ``κ``, above 0.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if not damping > 0:
        raise InputError(f"damping={damping} is not above 0", "e.g. damping=1.0")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries, also=[_log_chance(goal)])
    step_to = steepest(box, threat.eps / 10 if step_size is None else step_size)

    def rule(grads: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        grad, score = grads.unbind(1)
        return step_to(natural(grad, score, damping * score.square().flatten(1).sum(1)), here, rows, step)

    estimate = RandomDirections(samples, radius * model.bounds.span, directions, tile_of(x.shape[1:], tile))
    climb(box, model.draws(seed), estimate, rule)
    return box.best


def natural(grad: Tensor, score: Tensor, damping: Tensor) -> Tensor:
    r"""Returns :math:`(s s^\top + \gamma I)^{-1} g`, by Sherman and Morrison's formula; ``g`` where s and γ are 0.

    Args:
        grad: ``g (n, *shape)``.
        score: ``s (n, *shape)``.
        damping: ``γ (n,)``.
    """
    along, size = (score * grad).flatten(1).sum(1), score.square().flatten(1).sum(1)
    share = torch.where(size + damping > 0, along / (size + damping), 0)
    return (grad - score * lp.column(share, grad)) / lp.column(torch.where(damping > 0, damping, 1), grad)


def _log_chance(goal: Goal) -> Loss:
    """The logarithm of the probability of the goal's labels."""

    def loss(scores: Tensor, rows: Rows) -> Tensor:
        return scores.log_softmax(1).gather(1, goal.labels[rows][:, None])[:, 0]

    return loss
