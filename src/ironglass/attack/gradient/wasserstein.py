"""Attacks that move the mass of a picture: Frank-Wolfe on the plan of transport, and projected Sinkhorn."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Threat
from ironglass.ops.plans import MOVES, Ground

TURNS = 8
"""Steps of Frank-Wolfe a gradient: with the prices of full pixels moving, the best plan is another each time."""
PRICE = 6.0
"""Price of a pixel that would hold twice what it can, in standard deviations of the gradient."""
SWEEPS = 20
"""Rounds of Sinkhorn's updates a gradient; they go on from the last ones."""
AT_ONCE = 1 << 23
"""Values of plans that are held at once; more samples are taken one group after the other."""


@attack(
    title="Wasserstein attack",
    paper="wong2019wasserstein",
    access="gradient",
    norms=("wasserstein",),
    finite=True,
    cost="2 * steps + 1",
    inputs=("image",),
    lecture="white-box evasion: beyond lp norms",
)
def wasserstein(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    algorithm: Literal["frank_wolfe", "sinkhorn"] = "frank_wolfe",
    steps: int = 40,
    step_size: float = 0.3,
    regularization: float = 0.005,
    loss: LossName = "ce",
) -> Tensor:
    r"""Move the mass of each picture to where it raises the loss, at most ``eps`` pixels on the mean.

    A plan :math:`\pi` says how much goes from pixel ``i`` to pixel ``j`` of the 5 × 5 window around it:

    .. math:: \max_\pi L(\pi^\top 1) \quad \text{such that} \quad
        \pi 1 = x,\; \pi \ge 0,\; \langle \pi, C\rangle \le \varepsilon \textstyle\sum x,\; \pi^\top 1 \le \text{high}

    ``frank_wolfe`` (wu2020wasserstein) goes from plan to plan, a share :math:`2 / (t + 2)` of the way to the plan that
    is best for the gradient; that one is found exactly, by sorting (`Ground.best`). What pixels can hold is a price on
    the gradient, of an augmented Lagrangian, that rises where too much arrives. ``sinkhorn`` (wong2019wasserstein)
    takes a steepest step of the pixels and projects it on the ball, with entropy added to make that simple.

    Either way the model sees plans that are cut until they keep budget and capacity, so that each point is within ball
    and box, with its mass. A sample leaves as soon as it is fooled; of one that is not, the point of greatest margin
    comes back.

    Args:
        algorithm: ``frank_wolfe``, or ``sinkhorn`` for the older projected gradient.
        steps: gradients a sample.
        step_size: of ``sinkhorn``: the largest step of a value, in parts of the bounds' range.
        regularization: of ``sinkhorn``: the weight of entropy, beside half the squared distance to the point that is
            projected; in parts of the bounds' range.
        loss: ``ce`` for cross-entropy or ``margin`` for the logit margin.

    Returns:
        Adversarial samples ``(N, channels, height, width)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is not above 0.
    """
    if min(steps, step_size, regularization) <= 0:
        given = f"steps={steps}, step_size={step_size}, regularization={regularization}"
        raise InputError(f"{given}: all must be above 0", "e.g. steps=40, step_size=0.3, regularization=0.005")
    group = max(1, AT_ONCE // (len(MOVES) * x[0].numel()))
    parts = []
    for start in range(0, len(x), group):
        rows = torch.arange(start, min(start + group, len(x)), device=x.device)
        ground = Ground.of(x[rows], threat.take(rows), model.bounds)
        walk = _FrankWolfe(ground) if algorithm == "frank_wolfe" else _Sinkhorn(ground, step_size, regularization)
        parts.append(_climb(model.take(rows), ground.x, goal.take(rows), walk, steps, loss))
    return torch.cat(parts)


def _climb(model: Model, x: Tensor, goal: Goal, walk: _FrankWolfe | _Sinkhorn, steps: int, loss: LossName) -> Tensor:
    """Returns the first point of each sample that reaches the goal, or the one of greatest margin."""
    ascended, margin_of = goal.loss(loss), goal.loss("margin")
    point, best, most = x.clone(), x.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        active = active[model.left(active) > 0]
        if not len(active):
            break
        here = point[active]
        if step < steps:
            _, grad, scores = model.value_and_grad(here, ascended, active)
        else:
            grad, scores = here, model.scores(here, active)
        reached = goal.reached(scores, active)
        margin = torch.where(reached, torch.inf, margin_of(scores, active).to(most.dtype))
        better = margin > most[active]
        best[active[better]], most[active[better]] = here[better], margin[better]
        active = active[~reached]
        if step < steps and len(active):
            point[active] = walk(grad[~reached].nan_to_num(0, 0, 0), active)
    return best


class _FrankWolfe:
    """Plans on their way, the prices of the pixels, and how many steps were taken."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.steps = ground, 0
        self.moves, self.price = ground.rest(), torch.zeros_like(ground.x)

    def __call__(self, grad: Tensor, rows: Tensor) -> Tensor:
        """Walks on with those samples' gradient, and returns their points."""
        ground, moves, price = self.ground.take(rows), self.moves[rows], self.price[rows]
        spread = grad.flatten(1).std(1, correction=0).reshape(-1, 1, 1, 1)
        worth = grad / torch.where(spread > 0, spread, 1)
        excess = ground.source + ground.change(moves) - 1
        for turn in range(self.steps, self.steps + TURNS):
            way = ground.best(worth - (price + PRICE * excess).clamp(min=0)).sub_(moves)
            share = 2 / (turn + 2)
            moves.add_(way, alpha=share)
            excess = ground.source + ground.change(moves) - 1
        self.steps += TURNS
        self.moves[rows], self.price[rows] = moves, (price + PRICE * excess).clamp(min=0)
        return ground.point(ground.within(moves.clamp(min=0)))


class _Sinkhorn:
    r"""Points on their way, and the duals of their last projection.

    Projected is ``z`` on the plans: the least :math:`\tfrac12\|w - z\|^2 + r \sum \pi \log \pi` with
    :math:`\pi 1 = x`, :math:`w = \pi^\top 1` within [0, 1] and :math:`\langle\pi, C\rangle \le B`. It has
    :math:`\log \pi_{ij} = a_i + b_j - \psi C_{ij}`, and each dual is set in turn to what the others ask for: ``a`` by
    the rows, ``b`` by :math:`w = z - r b`, :math:`\psi` by a step of Newton towards the budget. All in logarithms.
    """

    def __init__(self, ground: Ground, step_size: float, regularization: float) -> None:
        self.ground, self.step_size, self.weight = ground, step_size, regularization
        self.here = ground.source.clone()
        self.b, self.psi = torch.zeros_like(ground.x), ground.x.new_ones(len(ground.x))
        self.length = ground.x.new_tensor([0.0, *(math.hypot(*move) for move in MOVES)]).reshape(1, -1, 1, 1, 1)

    def __call__(self, grad: Tensor, rows: Tensor) -> Tensor:
        """Takes a steepest step with those samples' gradient, projects it, and returns their points."""
        ground, b, psi = self.ground.take(rows), self.b[rows], self.psi[rows]
        peak = grad.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
        z = self.here[rows] + self.step_size * grad / torch.where(peak > 0, peak, 1)
        log_source = ground.source.log()
        for _ in range(SWEEPS):
            away = self.length * psi.reshape(-1, 1, 1, 1, 1)
            a = log_source - (_here_and_ends(ground, b) - away).logsumexp(1)
            b = self._columns((_here_and_ends(ground, a) - away).logsumexp(1), z)
            plan = (a.unsqueeze(1) + _here_and_ends(ground, b) - away).clamp(max=1).exp()
            cost = (plan * self.length).flatten(1).sum(1, dtype=torch.float64)
            slope = (plan * self.length.square()).flatten(1).sum(1, dtype=torch.float64)
            newton = ((cost - ground.budget) / slope.clamp(min=1e-12)).to(psi.dtype)
            psi = (psi + newton.maximum(-psi / 2).clamp(max=10.0)).clamp(min=1e-3)
        away = self.length * psi.reshape(-1, 1, 1, 1, 1)
        parts = (_here_and_ends(ground, b) - away).softmax(1) * ground.source.unsqueeze(1)
        moves = ground.within(parts[:, 1:])
        self.b[rows], self.psi[rows], self.here[rows] = b, psi, ground.source + ground.change(moves)
        return ground.point(moves)

    def _columns(self, log_sum: Tensor, z: Tensor) -> Tensor:
        r"""Returns the ``b`` at which ``exp(log_sum + b)`` is ``z - r b``, or 1 where that is more than 1.

        With ``y = w / r`` this is :math:`y + \log y = z / r + s - \log r`, the equation of Wright's omega function.
        """
        target = (z / self.weight + log_sum - math.log(self.weight)).clamp(min=-60.0)
        y = torch.where(target > 1, target - target.clamp(min=1).log(), target.clamp(max=1).exp().clamp(max=1))
        for _ in range(4):  # Newton in the logarithm where y is small, else in y itself: both without overflow
            y = y * (1 + target - y.log()).clamp(min=1e-6) / (1 + y)
        b = z / self.weight - y
        return torch.where(y * self.weight > 1, -log_sum, b)


def _here_and_ends(ground: Ground, values: Tensor) -> Tensor:
    """Returns the values where mass stays and where its moves end ``(N, 25, …)``; none where it may not go."""
    return torch.cat([values.unsqueeze(1), ground.ends(values, -torch.inf)], 1)
