r"""Which gradients a network's scores can have anywhere in a region: intervals of rows, pulled back through the graph.

A row of the output is multiplied by the derivative of each step, last first. A straight step's derivative is its
matrix; of a nonlinear one it lies, value by value, in an interval that the limits of its input give: 0 or 1 for a ReLU
that is settled, [0, 1] for one that may switch. So entries become intervals :math:`m \pm r`, and :math:`m W \pm r |W|`
behind a straight step. This is the recursion of Fast-Lip (Weng et al. 2018, section 4.3), from the output to the input
rather than the other way, which holds a row a score and not one a neuron; both agree for one hidden layer.

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
from .graph import Absolute, Affine, Bend, Cat, Graph, Monotone, Pool, Ramp, Smooth, Step, Sum, Valley

Pair = tuple[Tensor, Tensor]


def gradients(graph: Graph, values: Mapping[int, Interval], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the least and largest entries of ``rows`` times the Jacobian, and what rounding adds to each row's value.

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
    middle, radius = waiting[0]
    radius = radius * (1 + 4 * len(graph.steps) * eps_of(radius.dtype))
    return middle - radius, middle + radius, lost * (1 + 1e-9)


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
    low, high = (side[:, None] for side in slopes(step, inputs[0]))
    ends = [end * side for end in (middle - radius, middle + radius) for side in (low, high)]
    return [_centred(torch.stack(ends).amin(0), torch.stack(ends).amax(0))]


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
        spare = 1e-12 * max(1.0, shape.steepest)
        return ends.amin(0) - spare, ends.amax(0) + spare
    raise InputError(
        f"the derivative of the operator {step.name} is not known", "use a bound that does not need it, such as crown"
    )


def _pooled(pool: Pool, x: Interval, middle: Tensor, radius: Tensor) -> Pair:
    """Through a maximum: an input that is surely the largest takes the row, one that may be takes it or 0."""
    lower, upper = x.lower.flatten(-pool.dims), x.upper.flatten(-pool.dims)
    outer = lower.shape[1:-1]
    low, high = (torch.where(pool.real, side[..., pool.places], -torch.inf) for side in (lower, upper))
    ground = low.amax(-1, keepdim=True)
    maybe = pool.real & (high >= ground)
    sure = maybe & (maybe.sum(-1, keepdim=True) == 1)
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
