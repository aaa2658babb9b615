r"""Which gradients a network's scores can have anywhere in a region: intervals of entries, in both directions.

A straight step's derivative is its matrix; of a nonlinear one it lies, value by value, in an interval that the limits
of its input give: 0 or 1 for a ReLU that is settled, [0, 1] for one that may switch. The product over the steps becomes
intervals :math:`m \pm r`, with :math:`W m \pm |W| r` behind a straight step. *Forward*, from the input on, a row an
input, this is the recursion of Fast-Lip (Weng et al. 2018, section 4.3). *Backward*, from the scores on, a row a score,
it needs far less memory. For one hidden layer both are the same; for more neither is always the tighter, and since both
hold, so does what they have in common. The forward one is left out where it would hold too much.

By the mean value theorem a score moves by no more than such a gradient times the move of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ironglass.core.errors import InputError

from .bounds import SPARE, Interval, eps_of, gamma, rounding
from .graph import Absolute, Affine, Bend, Cat, Graph, Monotone, Pool, Product, Ramp, Smooth, Step, Sum, Valley
from .margins import tail_of

Pair = tuple[Tensor, Tensor]


def gradients(graph: Graph, values: Mapping[int, Interval], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the least and largest entries of ``rows`` times the Jacobian, and what rounding adds to each row's value.

    The samples together should be few: what is held grows with their number.

    Args:
        graph: of the network, in float64.
        values: intervals of all steps over the region.
        rows: of the scores ``(N, R, classes)``.

    Returns:
        Entries ``(N, R, *shape)`` at the input, from and to; and how far the network in floating point may be from the
        one in exact arithmetic ``(N, R)``, at any point of the region.

    Raises:
        InputError: if a step's derivative is not known.
    """
    last = len(graph.steps) - 1
    waiting: dict[int, Pair] = {last: (rows, torch.zeros_like(rows))}
    lost = rows.new_zeros(rows.shape[:2])
    for index in range(last, 0, -1):
        if index not in waiting:
            continue
        step, (middle, radius) = graph.steps[index], waiting.pop(index)
        inputs = [values[i] for i in step.inputs]
        noise = _noise(step, inputs, values[index])
        if noise is not None:
            lost = lost + ((middle.abs() + radius).flatten(2) * noise.flatten(1)[:, None]).sum(2)
        for i, part in zip(step.inputs, _back(graph, step, inputs, middle, radius), strict=True):
            if i in waiting:
                part = waiting[i][0] + part[0], waiting[i][1] + part[1]
            waiting[i] = part
    low, high = _ends(*waiting[0])
    if held(graph) <= MOST:
        ahead = _forward(graph, values, rows)
        low, high = torch.maximum(low, ahead[0]), torch.minimum(high, ahead[1])
    return low, high, lost * (1 + 1e-9)


MOST = 1 << 22
"""How many values the forward recursion may hold for one sample."""


def held(graph: Graph) -> int:
    """Returns how many values the forward recursion holds for one sample."""
    return math.prod(graph.steps[0].shape) * max(math.prod(step.shape) for step in graph.steps)


def _ends(middle: Tensor, radius: Tensor) -> Pair:
    radius = radius * (1 + 1e-12)
    return middle - radius, middle + radius


def _forward(graph: Graph, values: Mapping[int, Interval], rows: Tensor) -> Pair:
    """The entries by the derivatives of all values that a nonlinear step gives, and the straight steps behind them."""
    tail, ends = tail_of(graph)
    waiting: dict[int, Pair] = {len(graph.steps) - 1: (rows, torch.zeros_like(rows))}
    for index in tail:
        step, (middle, radius) = graph.steps[index], waiting.pop(index)
        inputs = [values[i] for i in step.inputs]
        for i, part in zip(step.inputs, _back(graph, step, inputs, middle, radius), strict=True):
            waiting[i] = (waiting[i][0] + part[0], waiting[i][1] + part[1]) if i in waiting else part
    last = {i: index for index, step in enumerate(graph.steps) for i in step.inputs}
    size, shape = math.prod(graph.steps[0].shape), graph.steps[0].shape
    unit = torch.eye(size, dtype=rows.dtype, device=rows.device).reshape(1, size, *shape)
    ahead: dict[int, Pair] = {0: (unit, torch.zeros_like(unit))}
    middle, radius = rows.new_zeros(*rows.shape[:2], size), rows.new_zeros(*rows.shape[:2], size)
    for index in range(max(ends) + 1):
        step = graph.steps[index]
        if index:
            parts = [ahead[i] for i in step.inputs]
            ahead[index] = _ahead(step, [values[i] for i in step.inputs], parts)
        if index in ends:
            (a, spare), (m, r) = (tuple(part.flatten(2) for part in pair) for pair in (waiting[index], ahead[index]))
            middle = middle + a @ m.mT
            radius = radius + (a.abs() + spare) @ (r + m.abs() * 1e-12).mT + spare @ m.abs().mT
        for i in set(step.inputs):
            if last[i] == index:
                ahead.pop(i, None)
    low, high = _ends(middle, radius)
    return low.reshape(*rows.shape[:2], *shape), high.reshape(*rows.shape[:2], *shape)


def _ahead(step: Step, inputs: list[Interval], parts: list[Pair]) -> Pair:
    """The derivatives of a step's values to the input ``(N, d, *shape)``, from those of what it reads."""
    op, (middle, radius) = step.op, parts[0]
    if isinstance(op, Affine):
        slack = 2 * gamma((op.terms or 1) + SPARE, eps_of(middle.dtype))
        wider = op.map((radius * (1 + slack) + middle.abs() * slack).flatten(0, 1), op.weight.abs(), None)
        return tuple(
            part.reshape(*middle.shape[:2], *step.shape)
            for part in (op.map(middle.flatten(0, 1), op.weight, None), wider)
        )  # type: ignore[return-value]
    if isinstance(op, Sum):
        pairs = list(zip(op.factors, parts, strict=True))
        return sum(f * m for f, (m, _) in pairs), sum(abs(f) * r for f, (_, r) in pairs)  # type: ignore[return-value]
    if isinstance(op, Cat):
        several = max(len(part[0]) for part in parts)
        return tuple(
            torch.cat([part[k].expand(several, *part[k].shape[1:]) for part in parts], op.dim + 1) for k in (0, 1)
        )  # type: ignore[return-value]
    if isinstance(op, Monotone) and isinstance(op.shape, Pool):
        maybe, _ = _members(op.shape, inputs[0])
        low, high = (end.flatten(-op.shape.dims)[..., op.shape.places] for end in (middle - radius, middle + radius))
        low = torch.where(maybe[:, None], low, torch.inf).amin(-1)
        high = torch.where(maybe[:, None], high, -torch.inf).amax(-1)
        return _centred(*(end.reshape(*end.shape[:2], *step.shape) for end in (low, high)))
    if isinstance(op, Product):
        (one, first), (other, second) = (_scaled(inputs[1 - k], *parts[k]) for k in (0, 1))
        return one + other, (first + second) * (1 + 8 * eps_of(one.dtype))
    low, high = (side[:, None] for side in slopes(step, inputs[0]))
    ends = torch.stack([end * side for end in (middle - radius, middle + radius) for side in (low, high)])
    return _centred(ends.amin(0), ends.amax(0))


def _noise(step: Step, inputs: list[Interval], out: Interval) -> Tensor | None:
    """How far the network's own arithmetic may carry a step's values ``(N, *shape)``; None where it is exact."""
    op = step.op
    if isinstance(op, Monotone | Valley):
        if not op.error:
            return None
        most = inputs[0].largest() if isinstance(op, Valley) else out.largest()
        return most * (op.error * eps_of(step.dtype)) + 4 * torch.finfo(step.dtype).tiny
    noise = rounding(step, inputs)
    return noise.expand(len(noise), *step.shape) if noise.ndim else None


def _back(graph: Graph, step: Step, inputs: list[Interval], middle: Tensor, radius: Tensor) -> list[Pair]:
    op, lead = step.op, middle.shape[:2]
    shapes = [graph.steps[i].shape for i in step.inputs]
    if isinstance(op, Affine):
        slack = 2 * gamma((op.back or op.terms or 1) + SPARE, eps_of(middle.dtype))
        size = replace(op, weight=op.weight.abs(), pull=None)

        def pulled(which: Affine, rows: Tensor) -> Tensor:
            return which.adjoint(rows.flatten(0, 1), shapes[0]).reshape(*lead, *shapes[0])

        wider = pulled(size, radius * (1 + slack) + middle.abs() * slack)
        return [(pulled(op, middle), wider)]
    if isinstance(op, Sum):
        return [
            (_summed(middle * factor, shape), _summed(radius * abs(factor), shape))
            for factor, shape in zip(op.factors, shapes, strict=True)
        ]
    if isinstance(op, Cat):
        sizes = [shape[op.dim - 1] for shape in shapes]
        return list(zip(*(torch.split(part, sizes, op.dim + 1) for part in (middle, radius)), strict=True))
    if isinstance(op, Monotone) and isinstance(op.shape, Pool):
        return [_pooled(op.shape, inputs[0], middle, radius)]
    if isinstance(op, Product):
        return [_scaled(inputs[1 - k], middle, radius) for k in (0, 1)]
    low, high = (side[:, None] for side in slopes(step, inputs[0]))
    ends = [end * side for end in (middle - radius, middle + radius) for side in (low, high)]
    return [_centred(torch.stack(ends).amin(0), torch.stack(ends).amax(0))]


def _scaled(x: Interval, middle: Tensor, radius: Tensor) -> Pair:
    """What derivatives become that are multiplied by a value of an interval."""
    centre, reach = (part[:, None] for part in x.split())
    size = middle.abs() + radius
    slack = 8 * eps_of(middle.dtype)
    return middle * centre, radius * centre.abs() * (1 + slack) + size * (reach * (1 + slack) + centre.abs() * slack)


def _summed(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    return rows.sum_to_size(*rows.shape[:2], *(1,) * (rows.ndim - 2 - len(shape)), *shape).reshape(
        *rows.shape[:2], *shape
    )


def _centred(low: Tensor, high: Tensor) -> Pair:
    middle = low.lerp(high, 0.5)
    return middle, torch.maximum(high - middle, middle - low) * (1 + 4 * eps_of(low.dtype))


def slopes(step: Step, x: Interval) -> Pair:
    """Returns the least and largest derivative of a step of one value each ``(N, *shape)``, where its input is there.

    Raises:
        InputError: if the step's shape is not known.
    """
    op, low, high = step.op, x.lower, x.upper
    shape = Bend(0.0, -1.0, 1.0) if isinstance(op, Absolute) else getattr(op, "shape", None)
    if isinstance(shape, Bend):
        below, above = low >= shape.at, high <= shape.at
        left, right = (torch.full_like(low, side) for side in (shape.left, shape.right))
        least, most = torch.minimum(left, right), torch.maximum(left, right)
        return tuple(torch.where(below, right, torch.where(above, left, rest)) for rest in (least, most))  # type: ignore[return-value]
    if isinstance(shape, Ramp):
        inside = ((low >= shape.low) & (high <= shape.high)).to(low)
        outside = (high <= shape.low) | (low >= shape.high)
        return inside, (~outside).to(low)
    if isinstance(shape, Smooth):  # its derivative is monotone between the turns
        at = [shape.slope(low), shape.slope(high)]
        for turn in shape.turns:
            there = (low < turn) & (high > turn)
            at.append(torch.where(there, shape.slope(torch.full_like(low, turn)), at[0]))
        ends = torch.stack(at)
        steepest = ends.abs().amax(0) if shape.steepest is None else shape.steepest
        spare = 1e-12 * (1.0 + steepest)
        return ends.amin(0) - spare, ends.amax(0) + spare
    raise InputError(
        f"the derivative of the operator {step.name} is not known", "use a bound that does not need it, such as crown"
    )


def _pooled(pool: Pool, x: Interval, middle: Tensor, radius: Tensor) -> Pair:
    """Through a maximum: an input that is surely the largest takes the row, one that may be takes it or 0."""
    maybe, sure = _members(pool, x)
    outer = x.lower.shape[1 : x.lower.ndim - pool.dims]
    least, most = (part.reshape(*part.shape[:2], *outer, -1)[..., None] for part in (middle - radius, middle + radius))
    sure_, maybe_ = sure[:, None], maybe[:, None]
    ends = [
        torch.where(sure_, part, torch.where(maybe_, limit, 0.0))
        for part, limit in ((least, least.clamp(max=0)), (most, most.clamp(min=0)))
    ]
    shape = (*middle.shape[:2], *x.lower.shape[1:])
    size = math.prod(x.lower.shape[x.lower.ndim - pool.dims :])
    spread = [
        part.new_zeros(*part.shape[:-2], size).index_add(-1, pool.places.flatten(), part.flatten(-2)).reshape(shape)
        for part in ends
    ]
    return _centred(*spread)


def _members(pool: Pool, x: Interval) -> Pair:
    """Which of a window's values may be the largest, and which surely is ``(N, …, outputs, size)``."""
    lower, upper = x.lower.flatten(-pool.dims), x.upper.flatten(-pool.dims)
    low, high = (torch.where(pool.real, side[..., pool.places], -torch.inf) for side in (lower, upper))
    maybe = pool.real & (high >= low.amax(-1, keepdim=True))
    return maybe, maybe & (maybe.sum(-1, keepdim=True) == 1)
