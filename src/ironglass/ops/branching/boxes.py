"""Branch and bound over input boxes: for networks of few inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Graph
from ironglass.ops.linear import lower
from ironglass.ops.linear.engine import bounded

from .problem import Budget, Problem, Settled
from .witness import Witness

BATCH, CHUNK = 512, 64
"""Boxes that are halved together, those with the lowest bounds; and boxes whose halves are bounded at once."""


@dataclass(slots=True)
class _Open:
    """Boxes that are still open, rows first.

    Args:
        low: ends ``(n, inputs)``.
        high: ends.
        bound: float64 ``(n, cases)``.
        side: to cut next ``(n,)``.
        known: the intervals that each box's parts inherit, by step.
    """

    low: Tensor
    high: Tensor
    bound: Tensor
    side: Tensor
    known: dict[int, Interval]

    def take(self, rows: Tensor) -> _Open:
        """Returns some of the boxes."""
        known = {index: value.take(rows) for index, value in self.known.items()}
        return _Open(self.low[rows], self.high[rows], self.bound[rows], self.side[rows], known)

    def unstable(self) -> Tensor:
        """Returns how many inherited intervals hold 0 ``(n,)``: how much work a box is."""
        parts = (((x.lower < 0) & (x.upper > 0)).flatten(1).sum(1) for x in self.known.values())
        return sum(parts, torch.zeros(len(self.low), dtype=torch.long))

    def chunks(self) -> Iterator[_Open]:
        """Yields the boxes in groups that are about as much work each: rows are filled up to a group's largest."""
        for rows in torch.split(self.unstable().argsort(stable=True), CHUNK):
            yield self.take(rows)


def _joined(parts: Sequence[_Open]) -> _Open:
    known = {
        index: Interval(
            torch.cat([p.known[index].lower for p in parts]), torch.cat([p.known[index].upper for p in parts])
        )
        for index in parts[0].known
    }
    low, high, bound, side = (torch.cat([getattr(p, n) for p in parts]) for n in ("low", "high", "bound", "side"))
    return _Open(low, high, bound, side, known)


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
        fresh = [todo]
        for chunk in part.chunks():
            halves, stuck = _halved(chunk)
            if stuck:
                return Settled(least, None, -1, "a box that is open is as small as the inputs' precision")
            bounded, found = _bounded(problem, graph, witness, halves.low, halves.high, halves)
            fresh.append(bounded)
            budget.charge(len(halves.low), len(todo.low), "boxes")
            if found is not None or budget.late:
                break
        else:
            todo = _joined(fresh)
            continue
        if found is None:
            return Settled(least, None, -1, f"{len(todo.low)} of {budget.used} boxes are open", spent=True)
    return found


def _halved(part: _Open) -> tuple[_Open, bool]:
    """Both halves of each box, first all lower ones; and whether there is one that cannot be cut."""
    side = part.side[:, None]
    low, high = part.low.gather(1, side), part.high.gather(1, side)
    middle = low.lerp(high, 0.5)
    halves = part.take(torch.arange(len(part.low)).repeat(2))
    halves.low = torch.cat([part.low, part.low.scatter(1, side, middle)])
    halves.high = torch.cat([part.high.scatter(1, side, middle), part.high])
    return halves, bool(((middle <= low) | (middle >= high)).any())


def _bounded(
    problem: Problem, graph: Graph, witness: Witness, low: Tensor, high: Tensor, parents: _Open | None
) -> tuple[_Open, Settled | None]:
    """Bounds boxes, and tries their centres and worst corners. A parent's bound holds for its parts as well."""
    count, shape = len(low), problem.shape
    cases, most = problem.rows.shape[:2]
    box = Interval(low.reshape(count, *shape), high.reshape(count, *shape))
    with torch.no_grad():
        lines = bounded(graph, box, known=None if parents is None else parents.known)
        trace: dict[int, Tensor] = {}
        found = lower(box, problem.rows.flatten(0, 1).expand(count, -1, -1), lines, tape=trace)
        bound, best = problem.over(found.reshape(count, cases, most)).max(2)
    bound = bound if parents is None else torch.maximum(bound, parents.bound)
    worst = torch.where(bound > 0, torch.inf, bound).argmin(1)
    every = torch.arange(count)
    row = trace[0].flatten(2)[every, worst * most + best[every, worst]].nan_to_num(0.0)
    side = ((row.abs() + row.abs().mean(1, keepdim=True) * 1e-3 + 1e-30) * (high - low)).argmax(1)
    still = ~(bound > 0).all(1)
    corner = torch.where(row > 0, low, high)[still]
    points = torch.cat([corner, low.lerp(high, 0.5)[still]])
    known = {graph.steps[i].inputs[0]: lines.values[graph.steps[i].inputs[0]] for i in lines.lines}
    return _Open(low, high, bound, side, known), _tried(problem, witness, points, float(bound.amin()))


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
