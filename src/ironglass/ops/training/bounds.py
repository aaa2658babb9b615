r"""Bounds that a network is trained on: differentiable, as fast as two passes, and without the slack of a proof.

A certificate has to hold for the network as it rounds (`ops.bounds`). What is trained on need not: it is a loss. So the
intervals here are those of exact arithmetic, :math:`W m + b \pm |W| r`, and what they come to is proven afterwards by
the certificates of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ironglass.core.training import Student
from ironglass.core.values import Bounds, Threat
from ironglass.ops.capture import capture
from ironglass.ops.graph import Absolute, Affine, Cat, Graph, Product, Step, Sum, Valley
from ironglass.ops.margins import tail_of

Pair = tuple[Tensor, Tensor]
"""The lower and the upper end of an interval ``(n, *shape)``."""


def graph_of(student: Student, x: Tensor) -> Graph:
    """Returns the network's graph, with a graph of autograd to its parameters.

    It is read with what layers do in eval mode: batch norms go by their running statistics, which the passes over clean
    samples keep. A graph that holds the parameters themselves is read once; one that holds what was computed from them,
    anew for each batch.

    Args:
        student: the network that learns.
        x: some samples ``(n, *shape)``, input units.

    Raises:
        InputError: if the network has an operator that cannot be bounded.
    """
    graph: Graph | None = student.cache.get("graph")
    if graph is None:
        with _evaluated(student.net), torch.enable_grad():
            graph = capture(student.net, x, x.dtype)
        student.pay(7)
        if all(_lives(step) for step in graph.steps):
            student.cache["graph"] = graph
    return graph


def _lives(step: Step) -> bool:
    """Whether a step changes along with the parameters: it holds them, or constants."""
    held = (step.op.weight, step.op.bias) if isinstance(step.op, Affine) else ()
    return all(tensor is None or tensor.is_leaf for tensor in held)


@contextmanager
def _evaluated(net: nn.Module) -> Iterator[None]:
    """In this context the network is in eval mode; its parameters keep their gradients."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def box(x: Tensor, threat: Threat, bounds: Bounds) -> Pair:
    """Returns the smallest box around what the threat allows, within the bounds and the mask."""
    lower, upper = ((x + move).clamp(bounds.low, bounds.high) for move in (-threat.eps, threat.eps))
    if threat.mask is None:
        return lower, upper
    return torch.where(threat.mask != 0, lower, x), torch.where(threat.mask != 0, upper, x)


def intervals(graph: Graph, start: Pair) -> list[Pair]:
    """Returns the interval of each step, of exact arithmetic.

    Args:
        graph: of the network.
        start: of the input.
    """
    values: list[Pair] = []
    for step in graph.steps:
        values.append(_passed(step, [values[i] for i in step.inputs]) if step.inputs else start)
    return values


def _passed(step: Step, inputs: list[Pair]) -> Pair:
    op = step.op
    lower, upper = inputs[0]
    if isinstance(op, Affine) and op.terms:
        centre, reach = op((lower + upper) / 2), op.absolute((upper - lower) / 2)
        return centre - reach, centre + reach
    if isinstance(op, Absolute):
        return torch.maximum(lower, -upper).clamp(min=0), torch.maximum(lower.abs(), upper.abs())
    if isinstance(op, Valley):
        lowest = torch.maximum(torch.minimum(torch.full_like(lower, op.bottom), upper), lower)
        return op(lowest), torch.maximum(op(lower), op(upper))
    if isinstance(op, Sum):
        inputs = [pair[::-1] if factor < 0 else pair for pair, factor in zip(inputs, op.factors, strict=True)]
    if isinstance(op, Sum | Cat):
        return op(*(pair[0] for pair in inputs)), op(*(pair[1] for pair in inputs))
    if isinstance(op, Product):
        ends = torch.stack([op(one, other) for one in inputs[0] for other in inputs[1]])
        return ends.amin(0), ends.amax(0)
    return op(lower), op(upper)


def least_margins(graph: Graph, values: list[Pair], y: Tensor) -> Tensor:
    r"""Returns the least of :math:`z_y - z_j` over the intervals before the last affine steps ``(n, classes)``.

    The rows of the scores are pulled back through the affine steps at the end, as in `ops.margins`: what the scores
    share cancels. The entry of y itself is 0.

    Args:
        graph: of the network.
        values: from `intervals`.
        y: labels ``(n,)``.
    """
    tail, ends = tail_of(graph)
    classes = graph.steps[-1].shape[0]
    waiting = {len(graph.steps) - 1: torch.eye(classes).to(values[-1][0])}
    offset = waiting[len(graph.steps) - 1].new_zeros(classes)
    for index in tail:
        gain = pull(graph, index, waiting)
        offset = offset + gain
    least = offset[y][:, None] - offset
    for index in ends:
        row = waiting[index].flatten(1)
        lower, upper = (end.flatten(1) for end in values[index])
        middle, radius = (lower + upper) / 2, (upper - lower) / 2
        centre = middle @ row.T
        apart = (row[:, None] - row).abs()  # (classes, classes, values): few classes, so it is small
        reach = torch.bmm(apart[y], radius[:, :, None])[:, :, 0]
        least = least + centre.gather(1, y[:, None]) - centre - reach
    return least.scatter(1, y[:, None], 0.0)


def pull(graph: Graph, index: int, waiting: dict[int, Tensor]) -> Tensor:
    """Pulls rows back through a linear step: they wait at its inputs then. Returns what its offset adds ``(k,)``.

    Args:
        graph: of the network.
        index: of the step.
        waiting: rows by step ``(k, *shape)``; that of this step is taken out.
    """
    step, a = graph.steps[index], waiting.pop(index)
    op, parts = step.op, [a] * len(step.inputs)
    gain = a.new_zeros(len(a))
    if isinstance(op, Affine):
        shape = graph.steps[step.inputs[0]].shape
        if op.bias is not None:
            gain = a.flatten(1) @ op(a.new_zeros(1, *shape)).flatten()
        parts = [op.adjoint(a, shape)]
    elif isinstance(op, Cat):
        parts = list(torch.split(a, [graph.steps[i].shape[op.dim - 1] for i in step.inputs], op.dim))
    elif isinstance(op, Sum):
        factors = zip(step.inputs, op.factors, strict=True)
        parts = [(a * factor).sum_to_size(len(a), *graph.steps[i].shape) for i, factor in factors]
    for i, part in zip(step.inputs, parts, strict=True):
        meet(waiting, i, part)
    return gain


def meet(waiting: dict[int, Tensor], index: int, part: Tensor) -> None:
    """Adds rows to those that wait at a step; rows that are the same for all samples are repeated for each."""
    if index in waiting:
        one, other = sorted((waiting[index], part), key=len)
        part = other + one.repeat(len(other) // len(one), *(1,) * (one.ndim - 1))
    waiting[index] = part


def interval_margins(student: Student, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Returns lower bounds of the margins over a ball by intervals ``(n, classes)``; two passes.

    Args:
        student: the network that learns.
        x: samples ``(n, *shape)``, input units.
        y: labels ``(n,)``.
        threat: linf; its mask is respected.
    """
    graph = graph_of(student, x)
    student.pay(2 * len(x), 2 * len(x))
    return least_margins(graph, intervals(graph, box(x, threat, student.bounds)), y)
