r"""Linear bounds that a network is trained on: rows pulled back between two lines around each activation.

As in `ops.linear`, for the piecewise linear activations alone, in exact arithmetic and the network's own precision:
differentiable, and a few times faster. What they come to is proven afterwards by the certificates of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.training import Student
from ironglass.core.values import Threat
from ironglass.ops.graph import Absolute, Bend, Graph, Monotone, Product, Step, Valley
from ironglass.ops.linear import Slopes

from .bounds import Pair, box, graph_of, intervals, meet, pull

BENT = (Monotone, Valley, Absolute, Product)
LARGEST = 1 << 28
"""Values that the rows of one batch may take; beyond, exact bounds of every value are too many to train on."""


class Fan(NamedTuple):
    """An activation between ``below * z`` and ``above * z + offset``, each ``(n, *shape)``."""

    below: Tensor
    above: Tensor
    offset: Tensor


def fan(step: Step, x: Pair, slopes: Slopes) -> Fan:
    r"""Returns the lines around a convex activation of two pieces that meet at 0.

    Where its input may be of either sign, the line above goes through both ends, and that below is as steep (``same``),
    or the piece that leaves the smaller area (``adaptive``).

    Raises:
        InputError: if the activation is another.
    """
    left, right = _pieces(step)
    lower, upper = x
    both = (lower < 0) & (upper > 0)
    width = torch.where(both, upper - lower, 1.0)
    straight = torch.where(lower >= 0, right, left).to(lower)
    secant = torch.where(both, (right * upper - left * lower) / width, straight)
    offset = torch.where(both, (right - left) * -lower * upper / width, 0.0)
    nearer = torch.where(both, torch.where(upper > -lower, right, left).to(lower), straight)
    return Fan(secant if slopes == "same" else nearer, secant, offset)


def _pieces(step: Step) -> tuple[float, float]:
    op = step.op
    if isinstance(op, Absolute):
        return -1.0, 1.0
    shape = getattr(op, "shape", None)
    if isinstance(shape, Bend) and isinstance(shape.at, float | int) and shape.at == 0 and shape.left < shape.right:
        return shape.left, shape.right
    raise InputError(
        f"the lines to train on are known for relu, leaky relu and the absolute value; this network has {step.name}",
        "use interval_training, which takes any activation that rises",
    )


def lower(graph: Graph, start: Pair, ball: Threat | None, rows: Tensor, fans: Mapping[int, Fan], at: int) -> Tensor:
    """Returns lower bounds of ``rows · values`` of a step over a region ``(n, R)``.

    Args:
        graph: of the network.
        start: the box of the inputs.
        ball: an l2 or l1 ball around its middle, in place of the box; None for the box.
        rows: ``(n or 1, R, *shape)``.
        fans: lines of the activations before that step.
        at: the step.
    """
    count, size = rows.shape[1], len(start[0])
    waiting = {at: rows.flatten(0, 1)}
    total = rows.new_zeros(1, count)
    for index in range(at, 0, -1):
        if index not in waiting:
            continue
        step = graph.steps[index]
        if not isinstance(step.op, BENT):
            total = total + pull(graph, index, waiting).reshape(-1, count)
            continue
        lines, a = fans[index], waiting.pop(index)
        a = a.reshape(-1, count, *step.shape)
        positive, negative = a.clamp(min=0), a.clamp(max=0)
        total = total + torch.einsum("nrd,nd->nr", negative.flatten(2).expand(size, -1, -1), lines.offset.flatten(1))
        below, above = (line[:, None] for line in (lines.below, lines.above))
        meet(waiting, step.inputs[0], (positive * below + negative * above).flatten(0, 1))
    a = waiting[0].reshape(-1, count, math.prod(graph.steps[0].shape)).expand(size, -1, -1)
    middle, radius = ((start[1] + start[0]) / 2).flatten(1), ((start[1] - start[0]) / 2).flatten(1)
    total = total + torch.bmm(a, middle[:, :, None])[:, :, 0]
    if ball is None:
        return total - torch.bmm(a.abs(), radius[:, :, None])[:, :, 0]
    free = a * (radius > 0).to(a)[:, None]
    length: Tensor = torch.linalg.vector_norm(free, 2 if ball.norm == "l2" else torch.inf, 2)
    return total - ball.eps * length


def of_scores(graph: Graph, start: Pair, ball: Threat | None, fans: Mapping[int, Fan], y: Tensor) -> Tensor:
    """Returns lower bounds of :math:`z_y - z_j` for all classes j ``(n, classes)``; 0 for y itself."""
    classes = graph.steps[-1].shape[0]
    eye = torch.eye(classes).to(start[0])
    others = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    others = others + (others >= y[:, None])
    found = lower(graph, start, ball, eye[y][:, None] - eye[others], fans, len(graph.steps) - 1)
    return found.new_zeros(len(y), classes).scatter(1, others, found)


def crown_ibp_margins(student: Student, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Graph, list[Pair]]:
    """Returns lower bounds of the margins by lines between intervals ``(n, classes)``, the graph and the intervals.

    Args:
        student: the network that learns.
        x: samples ``(n, *shape)``, input units.
        y: labels ``(n,)``.
        threat: linf; its mask is respected.

    Raises:
        InputError: if an activation is not piecewise linear.
    """
    graph = graph_of(student, x)
    start = box(x, threat, student.bounds)
    values = intervals(graph, start)
    fans = {
        index: fan(step, values[step.inputs[0]], "adaptive")
        for index, step in enumerate(graph.steps)
        if isinstance(step.op, BENT)
    }
    passes = (graph.steps[-1].shape[0] + 1) * len(x)
    student.pay(passes, passes)
    return of_scores(graph, start, None, fans, y), graph, values


def convex_margins(student: Student, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    r"""Returns lower bounds of the margins by the dual of the convex outer polytope ``(n, classes)``.

    The intervals before each activation are bounds of the same kind, a row a value.

    Args:
        student: the network that learns.
        x: samples ``(n, *shape)``, input units.
        y: labels ``(n,)``.
        threat: linf on the box; in l2 and l1 the ball alone. Its mask is respected.

    Raises:
        InputError: if an activation is not piecewise linear, or the network has too many values.
    """
    graph = graph_of(student, x)
    start = box(x, threat, student.bounds) if threat.norm == "linf" else _free(x, threat)
    ball = None if threat.norm == "linf" else threat
    fans: dict[int, Fan] = {}
    widest = 0
    passes = graph.steps[-1].shape[0] * len(x)
    for index, step in enumerate(graph.steps):
        if not isinstance(step.op, BENT):
            widest = max(widest, math.prod(step.shape))
            continue
        before = step.inputs[0]
        count = math.prod(graph.steps[before].shape)
        if fans and len(x) * count * widest > LARGEST:
            raise InputError(
                f"exact bounds of the {count} values before {step.name} take {len(x)} x {count} x {widest} numbers",
                "a smaller batch, a smaller network, or crown_ibp_training",
            )
        rows = torch.eye(count).to(x).reshape(1, count, *graph.steps[before].shape)
        found = lower(graph, start, ball, torch.cat([rows, -rows], 1), fans, before)
        ends = (found[:, :count], -found[:, count:])
        fans[index] = fan(step, tuple(end.reshape(-1, *step.shape) for end in ends), "same")  # type: ignore[arg-type]
        passes += 2 * count * len(x) if len(fans) > 1 else 0
    student.pay(passes, passes)
    return of_scores(graph, start, ball, fans, y)


def _free(x: Tensor, threat: Threat) -> Pair:
    """A box that says which values may move: those with room between its ends."""
    moves = torch.full_like(x, threat.eps) if threat.mask is None else threat.eps * (threat.mask != 0).to(x)
    return x - moves, x + moves
