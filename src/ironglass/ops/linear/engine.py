r"""Intervals of every step, each tightened by linear bounds where a nonlinear step reads it; and margins from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.ops import margins as by_intervals
from ironglass.ops.bounds import Interval, bound
from ironglass.ops.graph import Absolute, Affine, Bend, Cat, Graph, Input, Monotone, Pool, Product, Ramp, Sum, Valley

from .backward import lower
from .relaxations import Slopes
from .relaxed import Nonlinear, Relaxed, add, relax
from .windows import supported, window_bounds

How = Literal["linear", "interval"]
MOST = 1 << 29
"""Up to how many values of rows are pulled back for one sample: about a minute."""
HELD = 1 << 20
"""How many values of rows are held at a time: as much as fast memory holds."""
WIDE = 1 << 23
"""How many where memory is touched but once."""
WINDOW = 1 << 12
"""How many values a window has at most, as a rule."""


def intervals(
    graph: Graph,
    start: Interval,
    how: How = "linear",
    slopes: Slopes = "adaptive",
    known: Mapping[int, Interval] | None = None,
) -> dict[int, Interval]:
    """Returns the intervals of all steps by index.

    Args:
        graph: of the network.
        start: the region, from `ops.bounds.region`.
        how: ``interval`` carries them forward alone. ``linear`` also pulls a row back for each value that a nonlinear
            step reads and may bend, and keeps the tighter of both.
        slopes: how lines are chosen.
        known: intervals of some steps that hold already, such as those of a region around this one. What they show not
            to be bent gets no row.
    """
    return dict(bounded(graph, start, how, slopes, known).values)


def bounded(
    graph: Graph,
    start: Interval,
    how: How = "linear",
    slopes: Slopes = "adaptive",
    known: Mapping[int, Interval] | None = None,
) -> Relaxed:
    """Returns the intervals of all steps as `intervals` does, with the lines and losses that they lead to.

    Raises:
        InputError: if that would take hours.
    """
    values: dict[int, Interval] = {}
    relaxed = Relaxed(graph, values)
    mixed = [0] * len(graph.steps)
    readers, work = _readers(graph), 0
    for index, step in enumerate(graph.steps):
        values[index] = bound(step, [values[i] for i in step.inputs]) if step.inputs else start
        if known is not None and index in known:
            values[index] = both(values[index], known[index])
        mixed[index] = _mixed(graph, index, mixed, start)
        if not index:
            continue
        add(relaxed, index, slopes)
        if how == "linear" and mixed[index] > 1 and readers[index]:
            bends = _bends(graph, readers[index], values[index])
            if bends is not None:
                work = _check(graph, index, bends, work)
                values[index] = _tightened(start, relaxed, index, bends)
                mixed[index] = 1
    return relaxed


def both(one: Interval, other: Interval) -> Interval:
    """Returns what lies in both of two intervals that hold."""
    lower = torch.where(other.lower > one.lower, other.lower, one.lower)
    return Interval(lower, torch.where(other.upper < one.upper, other.upper, one.upper), one.ball)


def margins(
    graph: Graph,
    start: Interval,
    y: Tensor,
    values: Mapping[int, Interval] | Relaxed,
    slopes: Slopes = "adaptive",
    alphas: Mapping[int, Tensor] | None = None,
) -> Tensor:
    r"""Returns lower bounds of :math:`z_y - z_j` for all classes j, float64 ``(N, classes)``; 0 for y itself.

    Args:
        graph: of the network.
        start: the region, from `ops.bounds.region`.
        y: labels ``(N,)``.
        values: intervals by step, from `intervals`; or what `bounded` or `relax` made of them.
        slopes: how lines are chosen, where they are not yet.
        alphas: lower slopes, as `lower` takes them for a row a class.
    """
    relaxed = values if isinstance(values, Relaxed) else relax(graph, values, slopes)
    alone = by_intervals.margins(graph, start, y, dict(relaxed.values))
    if alphas is not None:
        rows = differences(y, alone.shape[1], start.lower.dtype)
        found = lower(start, rows, relaxed, alphas=alphas)
    else:
        found = torch.cat([_differences(start, y, relaxed, part) for part in _groups(graph, *alone.shape)])
    return torch.where(found > alone, found, alone)


def _groups(graph: Graph, samples: int, classes: int) -> list[slice]:
    """The samples, as many at a time as are held at ease with a row a class."""
    size = max(1, WIDE // (widest_of(graph) * classes))
    return [slice(first, first + size) for first in range(0, samples, size)]


def _differences(start: Interval, y: Tensor, relaxed: Relaxed, part: slice) -> Tensor:
    region, ours = start.take(part), relaxed.take(part)
    rows = differences(y[part], relaxed.graph.steps[-1].shape[0], start.lower.dtype)
    group = max(1, WIDE // (widest_of(relaxed.graph) * len(rows)))
    return torch.cat([lower(region, some, ours) for some in torch.split(rows, group, 1)], 1)


def differences(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Returns the rows of ``z_y - z_j`` for all j ``(N, classes, classes)``."""
    eye = torch.eye(classes, dtype=dtype, device=y.device)
    return eye[y][:, None] - eye


def _check(graph: Graph, index: int, bends: Tensor, work: int) -> int:
    """Returns how many values of rows are pulled back for a sample so far; refuses what would take hours.

    Raises:
        InputError: if too many rows of too many values would be pulled back.
    """
    count, widest = int(bends.flatten(1).sum(1).max()), widest_of(graph, index)
    if work + count * widest > MOST:
        raise InputError(
            f"linear bounds would pull {count} rows of up to {widest} values back from the operator "
            f"{graph.steps[index].name}, for each sample",
            "use interval or crown_ibp, which carry intervals forward instead; a smaller eps; or a method that does "
            "not look inside, such as randomized smoothing",
        )
    return work + count * widest


def widest_of(graph: Graph, index: int | None = None) -> int:
    """Returns the most values that a step has, of those up to one."""
    return max(math.prod(step.shape) for step in graph.steps[: None if index is None else index + 1])


def _readers(graph: Graph) -> list[list[int]]:
    """Of each step the nonlinear ones that read it; what a product reads moved or repeated is tightened before that."""
    readers: list[list[int]] = [[] for _ in graph.steps]
    for index, step in enumerate(graph.steps):
        if isinstance(step.op, Nonlinear):
            readers[step.inputs[0]].append(index)
        elif isinstance(step.op, Product):
            for i in {_origin(graph, i) for i in step.inputs}:
                readers[i].append(index)
    return readers


def _origin(graph: Graph, index: int) -> int:
    """Where the values of a step stood before they were moved and repeated."""
    op = graph.steps[index].op
    while isinstance(op, Affine) and op.form in ("move", "repeat"):
        index = graph.steps[index].inputs[0]
        op = graph.steps[index].op
    return index


def _mixed(graph: Graph, index: int, mixed: list[int], start: Interval) -> int:
    """How often values were mixed since an interval was as tight as can be: 1 is as good as a row."""
    step = graph.steps[index]
    op, before = step.op, max((mixed[i] for i in step.inputs), default=0)
    if isinstance(op, Input):
        return 0
    if isinstance(op, Nonlinear):
        return max(before, 1)
    if isinstance(op, Product):
        return 1
    if isinstance(op, Cat) or (isinstance(op, Affine) and op.form in ("move", "repeat", "diagonal")):
        return before
    if isinstance(op, Affine) and (start.ball is None or op.form in ("matrix", "kernel") or before):
        return before + 1
    if isinstance(op, Sum) and start.ball is None and before == 0 and len(set(step.inputs)) == len(step.inputs):
        return 1 if len(step.inputs) == 1 else 2
    return before + 2


def _bends(graph: Graph, readers: list[int], x: Interval) -> Tensor | None:
    """Which values of an interval a nonlinear step bends ``(N, *shape)``; None if none."""
    found = torch.zeros_like(x.lower, dtype=torch.bool)
    for index in readers:
        op = graph.steps[index].op
        if isinstance(op, Product):
            return x.lower < x.upper if bool((x.lower < x.upper).any()) else None
        assert isinstance(op, Monotone | Valley | Absolute)
        shape = Bend(0.0, -1, 1) if isinstance(op, Absolute) else op.shape
        if isinstance(shape, Bend):
            found = found | ((x.lower < shape.at) & (x.upper > shape.at))
        elif isinstance(shape, Ramp):
            for corner in (shape.low, shape.high):
                found = found | ((x.lower < corner) & (x.upper > corner))
        elif isinstance(shape, Pool):
            found = found | _rivals(shape, x)
        else:
            found = found | (x.lower < x.upper)
    return found if bool(found.any()) else None


def _rivals(pool: Pool, x: Interval) -> Tensor:
    """Which values may be the largest of a window where another may be it too."""
    lower, upper = x.lower.flatten(-pool.dims), x.upper.flatten(-pool.dims)
    ground = torch.where(pool.real, lower[..., pool.places], -torch.inf).amax(-1, keepdim=True)
    rival = pool.real & (upper[..., pool.places] > ground)
    rival = rival & (rival.sum(-1, keepdim=True) > 1)
    flat = torch.zeros_like(lower).index_add(-1, pool.places.flatten(), rival.flatten(-2).to(lower))
    return (flat > 0).reshape(x.lower.shape)


def _tightened(start: Interval, relaxed: Relaxed, index: int, which: Tensor) -> Interval:
    """The interval of a step, with a row pulled back either way for some of its values."""
    which = which.flatten(1)
    count = which.sum(1)
    places = which.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    if supported(relaxed.graph, index):
        bounding = partial(window_bounds, matrices={})
        return tightened(start, relaxed, index, places, bounding, count=count.tolist())
    return tightened(start, relaxed, index, places, partial(row_bounds, lower))


Bounding = Callable[[Interval, Relaxed, int, Tensor], tuple[Tensor, Tensor]]
"""From a region, a graph on it, a step and places ``(N, k)`` in its values to lower bounds of those values, and of
their negatives."""


class Pulling(Protocol):
    """From a region, rows and a graph to lower bounds, as `lower`."""

    def __call__(self, start: Interval, rows: Tensor, relaxed: Relaxed, *, at: int) -> Tensor:
        """Returns them ``(N, R)``."""


def row_bounds(pull: Pulling, start: Interval, relaxed: Relaxed, index: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Returns lower bounds of some of a step's values, and of their negatives, float64 ``(N, k)`` each."""
    step = relaxed.graph.steps[index]
    op, loss = step.op, relaxed.losses.get(index)
    if isinstance(op, Affine) and op.form == "matrix" and len(step.shape) == 1 and loss is not None:
        rows = op.weight[places]
        found = pull(start, torch.cat([rows, -rows], 1), relaxed, at=step.inputs[0])
        lost = loss.each.expand(len(places), -1).gather(1, places) + loss.fixed[:, None]
        gain = 0.0 if loss.bias is None else loss.bias.expand(len(places), -1).gather(1, places).double()
        least, most = found.chunk(2, 1)
        return least + gain - lost, most - gain - lost
    size = math.prod(step.shape)
    rows = torch.zeros(*places.shape, size, dtype=relaxed.values[index].lower.dtype, device=places.device)
    rows = rows.scatter(2, places[..., None], 1.0).reshape(*places.shape, *step.shape)
    least, most = pull(start, torch.cat([rows, -rows], 1), relaxed, at=index).chunk(2, 1)
    return least, most


def tightened(
    start: Interval,
    relaxed: Relaxed,
    index: int,
    places: Tensor,
    bounding: Bounding,
    count: Sequence[int] | None = None,
) -> Interval:
    """Returns the interval of a step, cut with bounds of some of its values.

    Args:
        start: the region.
        relaxed: of the graph on it.
        index: of the step.
        places: in the flattened values ``(N, k)``.
        bounding: of places.
        count: how many places each sample has, where rows are windows: then one sample at a time is bounded, and its
            lines are read by windows once.
    """
    x = relaxed.values[index]
    widest = widest_of(relaxed.graph, index)
    held = HELD // (2 * widest) if count is None else WIDE // (2 * min(widest, WINDOW))
    samples = 1 if count is not None else max(1, held // places.shape[1])
    parts = []
    for first in range(0, len(places), samples):
        rows = slice(first, first + samples)
        region, ours = start.take(rows), relaxed.take(rows)
        low, high = x.lower[rows].flatten(1), x.upper[rows].flatten(1)
        own = places[rows] if count is None else places[rows, : count[first]]
        for part in torch.split(own, max(1, held // len(own)), 1) if own.shape[1] else ():
            least, most = bounding(region, ours, index, part)
            low = _kept(low, part, _down(least, low.dtype), torch.gt)
            high = _kept(high, part, -_down(most, low.dtype), torch.lt)
        parts.append((low, high))
    low, high = (torch.cat(ends).reshape(x.lower.shape) for ends in zip(*parts, strict=True))
    return Interval(low, high, x.ball)


def _kept(ends: Tensor, places: Tensor, found: Tensor, better: object) -> Tensor:
    own = ends.gather(1, places)
    assert callable(better)
    return ends.scatter(1, places, torch.where(better(found, own), found, own))


def _down(found: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return found
    rounded = found.to(dtype)
    return torch.where(rounded > found, torch.nextafter(rounded, torch.full_like(rounded, -torch.inf)), rounded)
