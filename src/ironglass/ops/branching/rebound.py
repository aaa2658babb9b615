"""Splits of early layers with all intervals behind them bounded again; each piece is then searched by signs."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from functools import partial

import torch

from ironglass.ops.bounds import bound
from ironglass.ops.linear import Relaxed
from ironglass.ops.linear.cuts import Cuts, climbed_within, half_spaces
from ironglass.ops.linear.engine import both, row_bounds, tightened
from ironglass.ops.linear.relaxed import add

from .choice import lost
from .lined import ByStep, Lined, clipped, lined
from .problem import Settled
from .signs import Parts, Search

NEAR = 0.25
"""A piece is searched by signs before it is cut again where its worst bound is this share of the whole box's."""
CLIMB = 5
"""Steps of the climb for each interval."""
EAGER = 8
"""Worst points are descended from on one of so many pieces."""
MOST = 300
"""Up to so many ReLU inputs of either sign intervals are bounded again; beyond, a piece takes too long."""


def rebounded(net: Lined, signs: ByStep) -> Lined | None:
    r"""Returns the network between lines that hold where ReLU inputs have these signs; None where no input has them.

    What is before a split input is bounded again with its half-space: :math:`s z(x) \ge 0` and :math:`-s z(x) \ge g x +
    h` from a row pulled back give :math:`g x + h \le 0`. The split inputs themselves stay of either sign in the result,
    so that the search can hold a multiplier against each.

    Args:
        net: between lines that hold at least there.
        signs: by step ``(1, *shape)``: 1 for at least 0, -1 for at most 0, 0 for either.
    """
    graph, start = net.relaxed.graph, net.start
    values, kept = dict(net.relaxed.values), dict(net.relaxed.values)
    ours = Relaxed(graph, values)
    by_input = {net.before(step): sign for step, sign in signs.items()}
    cuts: Cuts | None = None
    for index, step in enumerate(graph.steps):
        if not index:
            continue
        values[index] = both(bound(step, [values[i] for i in step.inputs]), net.relaxed.values[index])
        add(ours, index)
        if index in by_input:
            sign = by_input[index]
            unstable = ((values[index].lower < 0) & (values[index].upper > 0)).flatten(1)
            places = unstable.nonzero()[:, 1][None]
            if cuts is not None and places.shape[1]:
                climb = partial(row_bounds, partial(climbed_within, cuts, CLIMB, 0.6))
                values[index] = tightened(start, ours, index, places, climb)
            kept[index] = values[index]
            values[index] = clipped(values[index], sign)
            chosen = sign.flatten().nonzero()[:, 0]
            if len(chosen):
                rows = values[index].lower.new_zeros(1, len(chosen), sign.numel())
                rows[0, torch.arange(len(chosen)), chosen] = -sign.flatten()[chosen].to(rows.dtype)
                found = half_spaces(start, rows.reshape(1, len(chosen), *step.shape), ours, at=index)
                cuts = found if cuts is None else cuts.and_(found)
        else:
            kept[index] = values[index]
        if bool((values[index].lower > values[index].upper).any()):
            return None
    return lined(graph, start, kept)


def applies(search: Search) -> bool:
    """Returns whether it is worth it: a box, three layers of ReLUs, and not too many that may be of either sign."""
    net = search.net
    if search.effort.gap is not None or net.start.ball is not None or len(net.relus) < 3:
        return False
    return sum(int(net.unstable(step).sum()) for step in net.relus) <= MOST


@dataclass(order=True, slots=True)
class _Piece:
    """A piece of the box, for the cases that are open there.

    Args:
        bound: the lowest of its parts.
        number: breaks ties.
        net: between lines that hold on what it was cut from.
        parts: one a case, all of the same signs.
    """

    bound: float
    number: int
    net: Lined = field(compare=False)
    parts: Parts = field(compare=False)


def by_pieces(whole: Search) -> Settled:
    """Settles the cases that a search left open.

    The box is split on the signs of the first ReLUs, where all lines behind gain; each piece gets intervals of its own,
    shared by all cases, and then some parts of the search by signs.

    Args:
        whole: the search on the box, after its budget of parts.
    """
    assert whole.left is not None
    assert whole.root is not None
    root = whole.root.take(torch.tensor(sorted(set(whole.left.case.tolist()))))
    numbers = itertools.count()
    waiting = [_Piece(float(root.bound.amin()), next(numbers), whole.net, root)]
    proven, stay = whole.proven, whole.open_leaves
    while waiting:
        if whole.budget.spent:
            least = min(proven, *(piece.bound for piece in waiting))
            why = f"{len(waiting)} pieces are open after {whole.budget.used} parts"
            return Settled(least, None, -1, why, spent=True)
        piece = heapq.heappop(waiting)
        net = rebounded(piece.net, {step: sign[:1] for step, sign in piece.parts.signs.items()})
        if net is None:
            whole.budget.charge(1, len(waiting), "parts")
            continue
        search = Search(whole.problem, net, whole.witness, whole.budget, whole.effort, eager=piece.number % EAGER == 0)
        parts = search.again(piece.parts)
        done = parts.bound > 0
        if bool(done.any()):
            proven = min(proven, float(parts.bound[done].amin()))
        parts = parts.take((~done).nonzero()[:, 0])
        if search.found is None and len(parts):
            split = _split(search, parts)
            near = float(parts.bound.amin()) >= NEAR * float(root.bound.amin())
            most = None if split is None else whole.effort.piece * len(parts) * near
            settled = search.run(parts, most)
            if search.left is None or split is None:
                proven = min(proven, settled.bound)
            else:
                proven = min(proven, search.proven)
                parts = parts.take(torch.isin(parts.case, search.left.case).nonzero()[:, 0])
                for half in _halves(parts, *split):
                    heapq.heappush(waiting, _Piece(float(half.bound.amin()), next(numbers), net, half))
        stay += search.open_leaves
        if search.found is not None:
            return search.found
    return Settled(proven, None, -1, f"{whole.budget.used} parts" + f", {stay} leaves stay open" * bool(stay))


def _split(search: Search, parts: Parts) -> tuple[int, int] | None:
    """The step and the place whose lines lose most over all parts, of the first layer that has one; not the last's."""
    net, every = search.net, torch.arange(len(parts))
    relaxed = net.split(parts.signs)
    pulled = net.pull(relaxed, search.rows[parts.case], parts.signs, parts.alphas, parts.betas)
    best = (pulled.bound - search.problem.limits[parts.case]).argmax(1)
    for step, upper, below in lost(net, relaxed, pulled, parts.alphas, every, best):
        loss = (upper + below).clamp(min=0).sum(0)
        if step != net.relus[-1] and bool((loss > 0).any()):
            return step, int(loss.argmax())
    return None


def _halves(parts: Parts, step: int, place: int) -> list[Parts]:
    found = []
    for sign in (1, -1):
        half = parts.take(torch.arange(len(parts)))
        half.signs[step] = half.signs[step].clone()
        half.signs[step].flatten(1)[:, place] = sign
        found.append(half)
    return found
