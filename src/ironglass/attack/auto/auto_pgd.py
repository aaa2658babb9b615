"""Auto-PGD: projected gradient ascent that sets its own step sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Bounds, Goal, LossName, Threat
from ironglass.ops import lp
from ironglass.ops.ascent import Climb
from ironglass.ops.balls import sample_ball
from ironglass.ops.losses import away, likely

NEW = 0.75
"""The part of the new step in a move; the rest goes on in the direction of the last move."""
RISES = 0.75
"""A step size is kept while more than this part of the steps raise the loss."""
WIDER = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""In l1: the radii in eps that are walked one after other, and their parts of the steps."""


@attack(
    title="Auto-PGD",
    paper="croce2020autoattack",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="restarts * max(min(targets, classes - 1), 1) * (2 * steps + 4) + min(targets, 1)",
    lecture="white-box evasion: parameter-free",
)
def auto_pgd(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: LossName = "ce",
    targets: int = 0,
    seed: int = 0,
) -> Tensor:
    r"""Ascend with momentum; halve the step and go back to the best point where progress stalls.

    .. math:: z_{t+1} = \Pi(x_t + \eta_t\, s(\nabla L(x_t))), \qquad
        x_{t+1} = \Pi\bigl(x_t + \tfrac34 (z_{t+1} - x_t) + \tfrac14 (x_t - x_{t-1})\bigr)

    with :math:`\eta_0 = 2\varepsilon`, ``s`` the sign in linf and the unit vector in l2. The step is judged after 22 %
    of the steps, then after 3 % fewer each time, but at least 6 %: it is halved where at most 3 of 4 steps raised the
    loss, or where neither it nor the best loss has changed since the last time. In l1 a step moves the largest values
    of the gradient alike, as many as the best perturbation has values over 1.5; it starts at eps, is divided by 1.5
    every 4 % of the steps while that number falls slowly, the ball is first 3, then 2, then 1 eps wide, and the last
    step goes to the best point of the ball and the box for the gradient at the best point so far.

    A sample leaves as soon as it is fooled; of one that is not, the point of the greatest loss comes back.

    Args:
        steps: steps a start.
        restarts: random starts, each on the samples that are left.
        loss: ``ce`` for cross-entropy, ``margin`` for the logit margin, ``dlr`` for the difference of logits ratio,
            which is the margin where there are 2 classes, or 3 and targets.
        targets: if not 0, go towards so many of the most likely other classes, one after other; a goal that names a
            target has only that one.
        seed: of the random starts.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if steps < 1 or restarts < 1 or targets < 0:
        raise InputError(
            f"steps={steps}, restarts={restarts}, targets={targets}", "give at least 1, 1 and 0, e.g. 100, 1 and 9"
        )
    return search(model, x, goal, threat, steps=steps, restarts=restarts, loss=loss, targets=targets, seed=seed).point


def search(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int,
    restarts: int,
    loss: LossName,
    targets: int,
    seed: int,
) -> Climb:
    """Returns the best points of all starts and targets, and their margins: infinite where the goal is reached."""
    draws = model.draws(seed)
    aims = likely(goal, model.scores(x), targets).T if targets and not goal.targeted else [None]
    best, best_margin = x.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for aim in aims:
        for _ in range(restarts):
            if not len(active):
                break
            origin, wish, part = x[active], goal.take(active), threat.take(active)
            rise = away(wish, loss, None if aim is None else aim[active])
            climb = _start_and_climb(model.take(active), origin, wish, part, rise, steps, draws, active)
            better = climb.margin > best_margin[active]
            best[active[better]], best_margin[active[better]] = climb.point[better], climb.margin[better]
            active = active[climb.margin < torch.inf]
    return Climb(best, best_margin)


def _start_and_climb(
    model: Model, x: Tensor, goal: Goal, threat: Threat, loss: Loss, steps: int, draws: Draws, rows: Tensor
) -> Climb:
    if threat.norm != "l1":
        start = sample_ball(draws, x, threat, model.bounds, rows)
        return climb(model, x, goal, threat, loss, steps, start)
    left, found = steps, Climb(x + draws.normal(x.shape[1:], rows, x.dtype), x[:0])
    for times, part in WIDER:
        ball = Threat(threat.norm, times * threat.eps, threat.mask)
        count = left if times == 1 else min(-int(-part * steps // 1), left)
        left -= count
        start = lp.project(found.point, x, ball, model.bounds)
        found = climb(model, x, goal, ball, loss, count, start, leave=times == 1)
    return found


def climb(
    model: Model, x: Tensor, goal: Goal, threat: Threat, loss: Loss, steps: int, start: Tensor, leave: bool = True
) -> Climb:
    """Walks once; in ``steps`` steps a sample costs at most ``steps + 1`` forward and ``steps`` backward passes.

    Args:
        model: what is attacked.
        x: clean samples ``(n, *shape)``.
        goal: of each sample.
        threat: norm, radius and mask.
        loss: to ascend.
        steps: how many.
        start: where to start, in the ball ``(n, *shape)``.
        leave: whether samples that reach the goal leave.

    Returns:
        Where the goal was reached and an infinite margin, or the point of greatest loss and its margin.
    """
    margin_of = goal.loss("margin")
    best, margins = start.clone(), x.new_full((len(x),), -torch.inf)
    walk = _Walk.of(x, start, threat, model.bounds)
    rule: _Halving | _Thinning = (_Thinning if threat.norm == "l1" else _Halving).of(walk, threat.eps)
    checks = set(rule.checks(steps))
    for step in range(steps + 1):
        grad = walk.grad
        if step < steps:
            value, grad, scores = model.value_and_grad(walk.point, loss, walk.rows)
        else:
            scores = model.scores(walk.point, walk.rows)
            value = loss(scores, walk.rows)
        walk.see(value, margin_of(scores, walk.rows), grad)
        rule.see(value)
        gone = model.left(walk.rows) < 1
        if leave:
            reached = goal.reached(scores, walk.rows)
            best[walk.rows[reached]], margins[walk.rows[reached]] = walk.point[reached], torch.inf
            walk.margin[reached] = torch.inf
            gone = gone | reached
        if step == steps:
            gone = torch.ones_like(gone)
        if bool(gone.any()):
            failed = gone & (walk.margin < torch.inf)
            best[walk.rows[failed]], margins[walk.rows[failed]] = walk.best[failed], walk.margin[failed]
            walk.keep(~gone)
            rule.keep(~gone)
            if not len(walk.rows):
                break
        if step in checks:
            rule.judge(walk)
        rule.move(walk, first=step == 0, last=step == steps - 1)
    return Climb(best, margins)


class _Rows:
    """Tensors with a row a sample, of which some leave."""

    def keep(self, on: Tensor) -> None:
        """Keeps these rows of every field."""
        for field in fields(self):  # type: ignore[arg-type]
            setattr(self, field.name, _kept(getattr(self, field.name), on))


def _kept(value: object, on: Tensor) -> object:
    if isinstance(value, Tensor):
        return value[on]
    return value.take(on) if isinstance(value, Threat) else value


@dataclass
class _Walk(_Rows):
    """Where the samples stand that are still climbing; in linf ``low`` and ``high`` are the ball within the box."""

    rows: Tensor
    origin: Tensor
    threat: Threat
    bounds: Bounds
    low: Tensor | None
    high: Tensor | None
    point: Tensor
    before: Tensor
    grad: Tensor
    best: Tensor
    best_grad: Tensor
    value: Tensor
    margin: Tensor

    @classmethod
    def of(cls, x: Tensor, start: Tensor, threat: Threat, bounds: Bounds) -> _Walk:
        low = high = None
        if threat.norm == "linf":
            low, high = (lp.move(x, torch.full_like(x, by), threat, bounds) for by in (-threat.eps, threat.eps))
        worst = x.new_full((len(x),), -torch.inf)
        rows = torch.arange(len(x), device=x.device)
        return cls(rows, x, threat, bounds, low, high, start, start, start, start, start, worst, worst)

    def see(self, value: Tensor, margin: Tensor, grad: Tensor) -> None:
        """Takes in what was found at the point."""
        better = value > self.value
        wide = lp.column(better, grad)
        self.grad, self.value = grad, torch.where(better, value, self.value)
        self.margin = torch.where(better, margin, self.margin)
        self.best, self.best_grad = (
            torch.where(wide, self.point, self.best),
            torch.where(wide, grad, self.best_grad),
        )

    def inside(self, x: Tensor) -> Tensor:
        """Returns the nearest points in ball, box and mask."""
        if self.low is not None:
            return torch.clamp(x, self.low, self.high)
        return lp.project(x, self.origin, self.threat, self.bounds)

    def useful(self) -> Tensor:
        """Returns the gradient, 0 where the box or the mask leaves no room for a step along it."""
        free = lp.room(self.grad, self.point, self.bounds, self.threat.mask) > 0
        return torch.where(free, self.grad, 0)

    def back(self, rows: Tensor) -> None:
        """Goes back to the best points; the last move is remembered, for the momentum."""
        wide = lp.column(rows, self.point)
        self.point = torch.where(wide, self.best, self.point)
        self.grad = torch.where(wide, self.best_grad, self.grad)


@dataclass
class _Halving(_Rows):
    """The rule of linf and l2: momentum, and steps that are halved."""

    size: Tensor
    last: Tensor
    rises: Tensor
    best: Tensor
    halved: Tensor
    count: int = -1

    @classmethod
    def of(cls, walk: _Walk, eps: float) -> _Halving:
        none = torch.full_like(walk.value, torch.inf)
        size = torch.full_like(walk.value, 2 * eps)
        return cls(size, none, torch.zeros_like(none), -none, torch.ones_like(none, dtype=torch.bool))

    @staticmethod
    def checks(steps: int) -> Iterator[int]:
        """Yields the steps at which progress is judged."""
        span, at = max(int(0.22 * steps), 1), 0
        while at + span < steps:
            at += span
            yield at
            span = max(span - max(int(0.03 * steps), 1), int(0.06 * steps), 1)

    def see(self, value: Tensor) -> None:
        """Counts the steps that raised the loss."""
        self.rises, self.last = self.rises + (value > self.last), value
        self.count += 1

    def judge(self, walk: _Walk) -> None:
        """Halves the steps that do not help."""
        stalled = (self.rises <= RISES * self.count) | (~self.halved & (self.best >= walk.value))
        self.size = torch.where(stalled, self.size / 2, self.size)
        self.best, self.halved = walk.value, stalled
        self.rises, self.count = torch.zeros_like(self.rises), 0
        walk.back(stalled)

    def move(self, walk: _Walk, first: bool, last: bool) -> None:
        """Makes a step, and a part of the last move again."""
        new = 1.0 if first else NEW
        size = lp.column(self.size, walk.point)
        if walk.threat.norm == "linf":
            step = walk.grad.sign() * size
        else:
            useful = walk.useful()
            length = lp.norm(useful, "l2").reshape(size.shape)
            step = useful * (size / torch.where(length > 0, length, 1))
        there = walk.inside(walk.point + step)
        there = walk.inside(walk.point + new * (there - walk.point) + (1 - new) * (walk.point - walk.before))
        walk.before, walk.point = walk.point, there


@dataclass
class _Thinning(_Rows):
    """The rule of l1: steps along ever fewer values."""

    size: Tensor
    support: Tensor
    longest: float

    @classmethod
    def of(cls, walk: _Walk, eps: float) -> _Thinning:
        return cls(torch.full_like(walk.value, eps), lp.norm(walk.point - walk.origin, "l0"), eps)

    @staticmethod
    def checks(steps: int) -> range:
        """Returns the steps at which progress is judged."""
        span = max(int(0.04 * steps), 1)
        return range(span, steps, span)

    def see(self, value: Tensor) -> None:
        """Needs no count."""

    def judge(self, walk: _Walk) -> None:
        """Shortens the steps where the support has not shrunk by 5 %; starts anew from the best point where it has."""
        support = lp.norm(walk.best - walk.origin, "l0")
        thinner = support < 0.95 * self.support
        self.size = torch.where(thinner, self.longest, self.size / 1.5).clamp(min=self.longest / 10)
        self.support = support
        walk.back(thinner)

    def move(self, walk: _Walk, first: bool, last: bool) -> None:
        """Moves the values of the largest gradient alike; at last, all the way along the best point's gradient."""
        if last:
            ideal = walk.origin + lp.maximize(walk.best_grad, walk.origin, walk.threat, walk.bounds)
            walk.point = walk.inside(ideal)
            return
        size = walk.useful().abs().flatten(1)
        count = (self.support / 1.5).long().clamp(1, size.shape[1])
        largest = size.topk(int(count.max()), 1).values
        bar = largest.gather(1, count[:, None] - 1)
        sign = torch.where((size >= bar) & (size > 0), walk.grad.flatten(1).sign(), 0)
        step = sign * (self.size[:, None] / sign.abs().sum(1, keepdim=True).clamp(min=1))
        walk.point = walk.inside(walk.point + step.reshape_as(walk.point))
