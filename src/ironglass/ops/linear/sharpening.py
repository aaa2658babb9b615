"""Intervals that are climbed for where they matter most to some rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval, bound

from .engine import both, row_bounds, tightened
from .relaxations import Lines
from .relaxed import Relaxed, add
from .slopes import climbed


def sharpened(
    start: Interval,
    relaxed: Relaxed,
    tape: Mapping[int, Tensor],
    *,
    steps: int,
    share: float = 0.5,
    rate: float = 0.6,
) -> dict[int, Interval]:
    r"""Returns tighter intervals: the values that cost some rows most get lower slopes of their own.

    A bent value costs a row :math:`|A_j|` times the gap between its lines. The most costly share of them, over all
    layers, is climbed for, layer by layer, each both ways.

    Args:
        start: the region.
        relaxed: of the graph on it.
        tape: from `lower`, the rows that count.
        steps: of each climb.
        share: of the bent values that are climbed for.
        rate: of each climb.
    """
    graph, old = relaxed.graph, relaxed.values
    chosen = _costly(relaxed, tape, share)
    values: dict[int, Interval] = {}
    ours = Relaxed(graph, values)
    for index, step in enumerate(graph.steps):
        found = bound(step, [values[i] for i in step.inputs]) if step.inputs else start
        values[index] = both(found, old[index])
        if not index:
            continue
        add(ours, index)
        places = chosen.get(index)
        if places is not None:
            climb = partial(row_bounds, partial(_climb, steps, rate))
            values[index] = tightened(start, ours, index, places, climb)
    return values


def _climb(steps: int, rate: float, start: Interval, rows: Tensor, relaxed: Relaxed, *, at: int) -> Tensor:
    return climbed(start, rows, relaxed, at=at, steps=steps, rate=rate)[0]


def _costly(relaxed: Relaxed, tape: Mapping[int, Tensor], share: float) -> dict[int, Tensor]:
    """Of each step that a bent one reads, the places ``(N, k)`` that cost most: none of a first layer's."""
    graph = relaxed.graph
    costs: dict[int, Tensor] = {}
    for index, lines in relaxed.lines.items():
        before = graph.steps[index].inputs[0]
        if index not in tape or not isinstance(lines, Lines) or not _deep(relaxed, before):
            continue
        x = relaxed.values[before]
        middle = (x.lower + x.upper) / 2
        gap = (lines.upper.slope - lines.lower.slope) * middle + lines.upper.offset - lines.lower.offset
        bent = (x.lower < 0) & (x.upper > 0) if lines.free is not None else x.lower < x.upper
        cost = (tape[index].abs().amax(1) * gap.clamp(min=0) * bent).flatten(1)
        costs[before] = costs[before] + cost if before in costs else cost
    if not costs:
        return {}
    whole = torch.cat(list(costs.values()), 1)
    count = max(1, int(share * int((whole > 0).sum(1).max())))
    limit = whole.topk(min(count, whole.shape[1]), 1).values[:, -1:]
    chosen: dict[int, Tensor] = {}
    for before, cost in costs.items():
        many = int(((cost >= limit) & (cost > 0)).sum(1).max())
        if many:
            chosen[before] = cost.topk(many, 1).indices
    return chosen


def _deep(relaxed: Relaxed, index: int) -> bool:
    """Whether a nonlinear step lies before this one: there are slopes to choose."""
    waiting, steps = [index], relaxed.graph.steps
    while waiting:
        at = waiting.pop()
        if at in relaxed.lines:
            return True
        waiting += steps[at].inputs
    return False
