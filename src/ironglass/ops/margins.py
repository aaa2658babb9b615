r"""Margins of a label: differences of scores, pulled back to where the last nonlinear values enter."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.values import Norm

from .bounds import SPARE, Ball, Interval, eps_of, gamma, propagate, rounding
from .graph import Affine, Cat, Graph, Sum


def margins(graph: Graph, start: Interval, y: Tensor, values: dict[int, Interval] | None = None) -> Tensor:
    r"""Returns lower bounds of :math:`z_y - z_j` for all classes j, float64 ``(N, classes)``; 0 for y itself.

    Let :math:`P_k` be the row of score k pulled back through the affine steps at the network's end. The margin is the
    least of :math:`(P_y - P_j) v` over the nonlinear values (or the inputs) v before them: what scores share cancels,
    and an affine network's margins on a box are exact, up to rounding. They hold for the rounded scores too: each step
    that row k passes adds :math:`|P_k|` times its own rounding.

    Args:
        graph: of the network.
        start: from `bounds.region`.
        y: labels ``(N,)``.
        values: intervals of the steps by index, where they are known already.

    Raises:
        InputError: if the network does not return one score a class.
    """
    tail, ends = tail_of(graph)
    last = len(graph.steps) - 1
    if values is None:
        values = propagate(graph, start, {last, *ends, *(i for index in tail for i in graph.steps[index].inputs)})
    scores = values[last]
    if scores.lower.ndim != 2:
        raise InputError(f"the network returns {tuple(scores.lower.shape)}", "return logits (N, classes)")
    rows, offset, lost, size = _back(graph, tail, values)
    own = y[:, None]
    least = offset[y][:, None] - offset
    for index in ends:
        value, most = _least(rows[index], values[index], y)
        least, size = least + value, size + most
    terms = SPARE + sum(math.prod(graph.steps[i].shape) for i in (*tail, *ends))
    lost = lost + 4 * gamma(terms, eps_of(torch.float64)) * size
    separate = scores.lower.double().gather(1, own) - scores.upper.double()
    return torch.maximum(least - (lost.gather(1, own) + lost), separate).scatter(1, own, 0.0)


def tail_of(graph: Graph) -> tuple[list[int], list[int]]:
    """Returns the affine steps that lead to the output, last first, and the steps before them."""
    tail: list[int] = []
    ends: list[int] = []
    seen = {len(graph.steps) - 1}
    for index in range(len(graph.steps) - 1, -1, -1):
        if index in seen:
            step = graph.steps[index]
            affine = isinstance(step.op, Affine | Sum | Cat)
            (tail if affine else ends).append(index)
            seen.update(step.inputs if affine else ())
    return tail, ends


def _back(
    graph: Graph, tail: list[int], values: dict[int, Interval]
) -> tuple[dict[int, Tensor], Tensor, Tensor, Tensor]:
    """Pulls every score's row through the tail.

    Returns the rows ``(classes, *shape)`` at each of its ends, and of what was met on the way the offsets
    ``(classes,)``, the rounding ``(N, classes)`` and the sum of absolute values ``(N, classes)``.
    """
    scores = values[len(graph.steps) - 1].lower
    classes = scores.shape[1]
    waiting = {len(graph.steps) - 1: torch.eye(classes, dtype=scores.dtype, device=scores.device)}
    offset = scores.new_zeros(classes, dtype=torch.float64)
    lost = size = scores.new_zeros(scores.shape, dtype=torch.float64)
    for index in tail:
        step, a = graph.steps[index], waiting.pop(index)
        noise = rounding(step, [values[i] for i in step.inputs])
        if noise.ndim:
            lost = lost + _dot(noise, a.abs())
        op, parts = step.op, [a] * len(step.inputs)
        if isinstance(op, Affine):
            shape = graph.steps[step.inputs[0]].shape
            if op.bias is not None:
                bias = op(a.new_zeros(1, *shape))
                offset, size = offset + _dot(bias, a)[0], size + _dot(bias.abs(), a.abs())
            parts = [op.adjoint(a, shape)]
        elif isinstance(op, Cat):
            parts = list(torch.split(a, [graph.steps[i].shape[op.dim - 1] for i in step.inputs], op.dim))
        elif isinstance(op, Sum):
            parts = [
                (a * factor).sum_to_size(classes, *graph.steps[i].shape)
                for i, factor in zip(step.inputs, op.factors, strict=True)
            ]
        for i, part in zip(step.inputs, parts, strict=True):
            waiting[i] = waiting[i] + part if i in waiting else part
    return waiting, offset, lost, size + lost


def _least(rows: Tensor, values: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
    """The least of ``(rows[y] - rows[j]) v`` over the values v of one step, and absolute values: ``(N, classes)``."""
    rows, lower, upper = rows.flatten(1), values.lower.flatten(1), values.upper.flatten(1)
    middle = lower.lerp(upper, 0.5)
    radius = torch.maximum(upper - middle, middle - lower)  # as good as exact about this middle
    outward = 1 + 2 * gamma(rows.shape[1] + SPARE, eps_of(rows.dtype))
    centre, size = _dot(middle, rows), (((middle.abs() + radius) @ rows.abs().T) * outward).double()
    ball = None if values.ball is None else _flat(values.ball)
    heart = centre if ball is None else _dot(ball.centre, rows)
    least = torch.empty_like(centre)
    for label in torch.unique(y):
        own = (y == label).nonzero()[:, 0]
        differences = rows[label] - rows
        reach = ((radius[own] @ differences.abs().T) * outward).double()
        found = centre[own, label, None] - centre[own] - reach
        if ball is not None:
            scale = ball.scale if len(ball.scale) == 1 else ball.scale[own]
            reach = ball.eps * _longest(scale, differences.double(), ball.norm) + _dot(
                ball.noise[own], differences.abs()
            )
            found = torch.maximum(found, heart[own, label, None] - heart[own] - reach)
        least[own] = found
    return least, size


def _flat(ball: Ball) -> Ball:
    return replace(ball, **{name: getattr(ball, name).flatten(1) for name in ("centre", "scale", "noise")})


def _longest(scale: Tensor, rows: Tensor, norm: Norm) -> Tensor:
    """The dual norm of each row times each scale: ``(1 or n, d)`` with ``(classes, d)`` to ``(1 or n, classes)``."""
    if norm == "l2":
        return (scale.square() @ rows.square().T).sqrt()
    return torch.stack([(rows * one).abs().amax(1) for one in scale])


def _dot(values: Tensor, rows: Tensor) -> Tensor:
    """Inner products in float64: ``(n, *shape)`` with ``(classes, *shape)`` to ``(n, classes)``."""
    return values.flatten(1).double() @ rows.flatten(1).double().T
