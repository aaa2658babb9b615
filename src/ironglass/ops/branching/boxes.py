"""Branch and bound over input boxes: for networks of few inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.linear import intervals, lower, relax

from .problem import Budget, Problem, Settled
from .witness import Witness

BATCH = 256
"""Boxes bounded at once."""


@dataclass(slots=True)
class _Open:
    """Boxes that are still open: their ends ``(n, inputs)``, bounds ``(n, cases)`` and the side to cut next."""

    low: Tensor
    high: Tensor
    bound: Tensor
    side: Tensor

    def take(self, rows: Tensor) -> _Open:
        return _Open(self.low[rows], self.high[rows], self.bound[rows], self.side[rows])

    @staticmethod
    def joined(first: _Open, second: _Open) -> _Open:
        names = ("low", "high", "bound", "side")
        return _Open(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in names))


def by_boxes(problem: Problem, witness: Witness, budget: Budget) -> Settled:
    r"""Halves boxes until every part of every case is settled.

    A part is settled for a case where one of its rows is bounded above its limit. The side that is cut is the one with
    the largest :math:`|A_i| r_i` in the linear bound of the worst case that is open. The centre and the corner that
    minimizes the bound of each part are tried as counterexamples.

    Args:
        problem: the network and its cases.
        witness: the judge of counterexamples.
        budget: to keep to.
    """
    start = problem.start
    todo, found = _bounded(problem, witness, start.lower.flatten(1), start.upper.flatten(1), None)
    budget.charge(1, 0, "boxes")
    proven = float(todo.bound.amin()) if len(todo.low) == 0 else torch.inf
    least = todo.bound.amin() if todo.bound.numel() else torch.tensor(torch.inf)
    proven = torch.inf
    if found is not None:
        return found
    while True:
        open_rows = (~(todo.bound > 0)).any(1)
        if bool((~open_rows).any()):
            proven = min(proven, float(todo.bound[~open_rows].amin()))
        todo = todo.take(open_rows.nonzero()[:, 0])
        if not len(todo.low):
            return Settled(proven, None, -1, f"{budget.used} boxes")
        least = todo.bound.amin()
        if budget.spent:
            return Settled(float(least), None, -1, f"{len(todo.low)} of {budget.used} boxes are open", spent=True)
        order = todo.bound.amin(1).argsort()
        part, todo = todo.take(order[:BATCH]), todo.take(order[BATCH:])
        low, high, stuck = _halved(part)
        if bool(stuck.any()):
            return Settled(float(least), None, -1, "a box that is open is as small as the inputs' precision")
        done = part.bound.repeat(2, 1)
        fresh, found = _bounded(problem, witness, low, high, done)
        budget.charge(len(low), len(todo.low), "boxes")
        if found is not None:
            return found
        todo = _Open.joined(todo, fresh)


def _halved(part: _Open) -> tuple[Tensor, Tensor, Tensor]:
    """Both halves of each box, first all lower ones; and where there is nothing to cut."""
    side = part.side[:, None]
    low, high = part.low.gather(1, side), part.high.gather(1, side)
    middle = low.lerp(high, 0.5)
    stuck = (middle <= low) | (middle >= high)
    lower_half = torch.cat([part.low, part.low.scatter(1, side, middle)])
    upper_half = torch.cat([part.high.scatter(1, side, middle), part.high])
    return lower_half, upper_half, stuck[:, 0]


def _bounded(
    problem: Problem, witness: Witness, low: Tensor, high: Tensor, known: Tensor | None
) -> tuple[_Open, Settled | None]:
    """Bounds boxes, and tries their centres and worst corners. A parent's bound holds for its parts as well."""
    shape, count = problem.shape, len(low)
    cases, most = problem.rows.shape[:2]
    box = Interval(low.reshape(count, *shape), high.reshape(count, *shape))
    with torch.no_grad():
        lines = relax(problem.graph, intervals(problem.graph, box))
    ends = [low.reshape(count, *shape).clone().requires_grad_(), high.reshape(count, *shape).clone().requires_grad_()]
    with torch.enable_grad():
        rows = problem.rows.flatten(0, 1).expand(count, -1, -1)
        found = lower(Interval(*ends), rows, lines).reshape(count, cases, most)
        over = found.detach() - problem.limits - problem.excess_slack
        bound, best = over.max(2)
        bound = torch.where(bound.isnan(), -torch.inf, bound)
        bound = bound if known is None else torch.maximum(bound, known)
        worst = torch.where(bound > 0, torch.inf, bound).argmin(1)
        picked = found[torch.arange(count), worst, best[torch.arange(count), worst]]
        down, up = (grad.flatten(1) for grad in torch.autograd.grad(picked.sum(), ends))
    # with A the row at the input, the bound's slopes to the ends are (A + |A|) / 2 and (A - |A|) / 2
    weight = (down - up).nan_to_num(0.0)
    side = (weight * (high - low) + (high - low) * 1e-9).argmax(1)
    corner = torch.where(down + up > 0, low, high)
    return _Open(low, high, bound, side), _tried(problem, witness, low, high, corner, bound, worst)


def _tried(
    problem: Problem, witness: Witness, low: Tensor, high: Tensor, corner: Tensor, bound: Tensor, worst: Tensor
) -> Settled | None:
    own_low, own_high = problem.cases[0].rounded(problem.dtype)
    open_rows = (~(bound > 0)).any(1)
    for points in (corner[open_rows], low.lerp(high, 0.5)[open_rows]):
        points = torch.minimum(torch.maximum(points.to(problem.dtype), own_low), own_high)
        points = points.reshape(len(points), *problem.shape)
        if not len(points):
            continue
        with torch.no_grad():
            outputs = problem.net(points)
        for index, case in enumerate(problem.cases):
            likely = points[case.excess(outputs) <= 0]
            place = witness.first(case, likely) if len(likely) else None
            if place is not None:
                return Settled(float(bound.amin()), likely[place : place + 1], index, "a box's corner or centre breaks it")
    _ = worst
    return None
