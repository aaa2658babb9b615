"""ZO-SVRG: zeroth-order stochastic variance reduced gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.estimators import Control, Kind, Probe, RandomDirections, tile_of
from ironglass.ops.zeroth import BlackBox, climb, steepest


@attack(
    title="ZO-SVRG",
    paper="liu2018svrg",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order, variance reduction",
)
def zo_svrg(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    samples: int = 10,
    snapshot: int = 100,
    epoch: int = 10,
    radius: float = 0.1,
    step_size: float | None = None,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Estimate the gradient well once, and on the next steps only how it changes.

    .. math:: v_k = \hat\nabla m(x_k; u) - \hat\nabla m(\tilde x; u) + \hat\nabla m(\tilde x), \qquad
        x_{k+1} = \Pi(x_k + \eta\,\mathrm{steepest}(v_k))

    Both terms of the difference use the same directions ``u``: with fresh ones its variance does not fall as
    :math:`x_k \to \tilde x`. The finite sum of the paper runs over pictures that share one change; here each sample
    has its own, and what is averaged are directions. An epoch costs ``snapshot + 1`` queries, and ``2 * samples + 1``
    for each step after its first.

    Args:
        max_queries: queries a sample, beside the runner's first.
        samples: directions a step.
        snapshot: directions of the estimate at the start of an epoch.
        epoch: steps in an epoch, the first with the snapshot's own estimate.
        radius: length of a difference, in spans of the bounds.
        step_size: of a step in the threat's norm, input units; if None, eps / 10.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if snapshot < 1 or epoch < 1:
        raise InputError(f"snapshot={snapshot}, epoch={epoch}: both must be at least 1", "e.g. 100 and 10")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    side, length = tile_of(x.shape[1:], tile), radius * model.bounds.span
    few, many = (RandomDirections(count, length, directions, side) for count in (samples, snapshot))
    rule = steepest(box, threat.eps / 10 if step_size is None else step_size)
    climb(box, model.draws(seed), Reduced(x, few, many, epoch), rule)
    return box.best


class Reduced:
    """Estimates with the last snapshot as a control variate; the sample's steps are counted by itself.

    Args:
        x: the samples, for their shape ``(N, *shape)``.
        few: the estimator of a step.
        many: the estimator of a snapshot.
        epoch: steps between snapshots.
    """

    needs_base = True
    least = 2

    def __init__(self, x: Tensor, few: RandomDirections, many: RandomDirections, epoch: int) -> None:
        self._few, self._many, self._epoch = few, many, epoch
        self._anchor, self._grad, self._base = x.clone(), torch.zeros_like(x), x.new_zeros(len(x))
        self._step = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def __call__(self, at: Probe) -> Tensor:
        """Returns the estimates ``(n, *shape)``."""
        assert at.base is not None
        grad = torch.empty_like(at.point)
        fresh = self._step[at.rows] % self._epoch == 0
        self._step[at.rows] += 1
        if bool(fresh.any()):
            here = at.take(fresh)
            grad[fresh] = found = self._many(here)
            rows = here.rows
            self._anchor[rows], self._grad[rows], self._base[rows] = here.point, found, at.base[fresh]
        if not bool(fresh.all()):
            here = at.take(~fresh)
            rows = here.rows
            grad[~fresh] = self._few(here, Control(self._anchor[rows], self._base[rows], self._grad[rows]))
        return grad
