"""Branch and bound over input boxes: for networks of few inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Graph
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


def by_boxes(problem: Problem, graph: Graph, witness: Witness, budget: Budget) -> Settled:
    r"""Halves boxes until every part of every case is settled.

    A part is settled for a case where one of its rows is bounded above its limit. The side that is cut is the one with
    the largest :math:`|A_i| r_i` in the linear bound of the worst case that is open. The centre and the corner that
    minimizes the bound of each part are tried as counterexamples.

    Args:
        problem: the network and its cases.
        graph: of the network.
        witness: the judge of counterexamples.
        budget: to keep to.
    """
    start = problem.start
    todo, found = _bounded(problem, graph, witness, start.lower.flatten(1), start.upper.flatten(1), None)
    budget.charge(1, 0, "boxes")
    proven = torch.inf
    while found is None:
        settled = (todo.bound > 0).all(1)
        if bool(settled.any()):
            proven = min(proven, float(todo.bound[settled].amin()))
            todo = todo.take((~settled).nonzero()[:, 0])
        if not len(todo.low):
            return Settled(proven, None, -1, f"{budget.used} boxes")
        least = float(todo.bound.amin())
        if budget.spent:
            return Settled(least, None, -1, f"{len(todo.low)} of {budget.used} boxes are open", spent=True)
        order = todo.bound.amin(1).argsort(stable=True)
        part, todo = todo.take(order[:BATCH]), todo.take(order[BATCH:])
        low, high, stuck = _halved(part)
        if bool(stuck.any()):
            return Settled(least, None, -1, "a box that is open is as small as the inputs' precision")
        fresh, found = _bounded(problem, graph, witness, low, high, part.bound.repeat(2, 1))
        budget.charge(len(low), len(todo.low), "boxes")
        todo = _Open.joined(todo, fresh)
    return found


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
    problem: Problem, graph: Graph, witness: Witness, low: Tensor, high: Tensor, known: Tensor | None
) -> tuple[_Open, Settled | None]:
    """Bounds boxes, and tries their centres and worst corners. A parent's bound holds for its parts as well."""
    count, shape = len(low), problem.shape
    cases, most = problem.rows.shape[:2]
    box = Interval(low.reshape(count, *shape), high.reshape(count, *shape))
    with torch.no_grad():
        lines = relax(graph, intervals(graph, box))
        trace: dict[int, Tensor] = {}
        found = lower(box, problem.rows.flatten(0, 1).expand(count, -1, -1), lines, tape=trace)
        bound, best = problem.over(found.reshape(count, cases, most)).max(2)
    bound = bound if known is None else torch.maximum(bound, known)
    worst = torch.where(bound > 0, torch.inf, bound).argmin(1)
    every = torch.arange(count)
    row = trace[0].flatten(2)[every, worst * most + best[every, worst]].nan_to_num(0.0)
    side = ((row.abs() + row.abs().mean(1, keepdim=True) * 1e-3 + 1e-30) * (high - low)).argmax(1)
    still = ~(bound > 0).all(1)
    corner = torch.where(row > 0, low, high)[still]
    points = torch.cat([corner, low.lerp(high, 0.5)[still]])
    return _Open(low, high, bound, side), _tried(problem, witness, points, float(bound.amin()))


def _tried(problem: Problem, witness: Witness, points: Tensor, bound: float) -> Settled | None:
    if not len(points):
        return None
    points = problem.inside(points.reshape(len(points), *problem.shape))
    with torch.no_grad():
        outputs = problem.net(points)
    for index, case in enumerate(problem.cases):
        likely = points[case.excess(outputs) <= 0]
        place = witness.first(case, likely) if len(likely) else None
        if place is not None:
            return Settled(bound, likely[place : place + 1], index, "a box's corner or centre breaks it")
    return None
