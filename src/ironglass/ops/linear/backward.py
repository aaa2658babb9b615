r"""Rows pulled back through a graph: lower bounds of linear functions of a step's values.

A row :math:`A` of a step's values :math:`v` starts as :math:`A v`, and at each step before it becomes a row of that
step's inputs, and an offset:

.. math:: A (W x + b) = (A W) x + A b, \qquad
          A\, s(z) \ge (A^+ a_l + A^- a_u)\, z + A^+ b_l + A^- b_u

A product is met between planes of which `relaxed` says how they lean.

Rows meet where a value is used more than once, and are added there. At the input the least value over box and ball is
known: :math:`A m - |A| r` and :math:`A x_0 - \varepsilon \|A\|_q`, of which the larger holds.

**Rounding.** The bounds hold for the network as it runs in floating point, as `ops.bounds` has it. Where the network's
own step is off by at most :math:`\nu`, :math:`|A|\,\nu` is taken off. As :math:`\nu` counts what our products of the
same size lose too, this covers :math:`A W`. What else is rounded, dot products in blocks and each line's slope times
its row, widens the offsets that it meets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval, eps_of
from ironglass.ops.graph import Affine, Cat, Graph, Op, Product, Step, Sum

from .relaxations import Lines, Planes
from .relaxed import BLOCK, Loss, Nonlinear, Relaxed, unit_of


def lower(
    start: Interval,
    rows: Tensor,
    relaxed: Relaxed,
    *,
    at: int | None = None,
    alphas: Mapping[int, Tensor] | None = None,
    betas: Mapping[int, Tensor] | None = None,
    tape: dict[int, Tensor] | None = None,
) -> Tensor:
    r"""Returns sound lower bounds of ``rows · values`` of a step over a region, float64 ``(N, R)``.

    Args:
        start: the region, from `ops.bounds.region` or a box of one's own; N of them.
        rows: ``(N, R, *shape)`` in the region's dtype.
        relaxed: of the graph on these regions, from `relax`.
        at: the step whose values are meant; the scores if None.
        alphas: by nonlinear step, lower slopes ``(N, R, *shape)``: taken where the lines are ``free`` and within their
            ``choice``.
        betas: by nonlinear step ``(N, 1 or R, *shape)``, subtracted from the rows of its input: for a multiplier
            :math:`\beta \ge 0` of the constraint :math:`s z \ge 0`, give :math:`\beta s`.
        tape: gets the rows ``(N, R, *shape)`` of each nonlinear step's output, and of the input under 0.
    """
    end = len(relaxed.graph.steps) - 1 if at is None else at
    total = rows.new_zeros(rows.shape[:2], dtype=torch.float64)
    return pulled(start, relaxed, {end: rows}, total, set(), end, alphas, betas, tape)


def pulled(
    start: Interval,
    relaxed: Relaxed,
    waiting: dict[int, Tensor],
    total: Tensor,
    paid: set[int],
    end: int,
    alphas: Mapping[int, Tensor] | None = None,
    betas: Mapping[int, Tensor] | None = None,
    tape: dict[int, Tensor] | None = None,
) -> Tensor:
    """Pulls rows that wait at some steps back to the input, from the step ``end`` on; see `lower`.

    Args:
        start: the region.
        relaxed: of the graph on it.
        waiting: rows by step; used up.
        total: what was met on the way so far ``(N, R)``.
        paid: steps whose losses and bias are in it.
        end: the last step that rows may wait at.
        alphas: as `lower` takes them.
        betas: as `lower` takes them.
        tape: as `lower` takes it.
    """
    graph = relaxed.graph
    unit = unit_of(graph, next(iter(waiting.values())).dtype)
    given = {_home(rows) for rows in waiting.values()}
    alive: dict[int, tuple[Tensor, ...]] = {}
    for index in range(end, 0, -1):
        if index not in waiting:
            continue
        step, a = graph.steps[index], waiting.pop(index)
        if isinstance(step.op, Nonlinear):
            if tape is not None:
                tape[index] = a
            fold = relaxed.folds.get(index)
            alpha = None if alphas is None else alphas.get(index)
            split = None if betas is None else betas.get(index)
            if fold is None or alpha is not None or split is not None:
                part, gain = _through(a, relaxed.lines[index], graph.steps[step.inputs[0]].shape, alpha)
            else:
                size = a.abs()
                gain = dot(a, fold.offset) + dot(size, fold.width)
                if tape is None and _home(a) not in given and not (a.requires_grad or fold.slope.requires_grad):
                    part = a.mul_(fold.slope[:, None]).addcmul_(size, fold.bend[:, None])  # nobody else has it
                else:
                    part = torch.addcmul(a * fold.slope[:, None], size, fold.bend[:, None])
                paid |= fold.paid
                if fold.alive is not None and _is_matrix(graph, step.inputs[0]) and not part.requires_grad:
                    alive[step.inputs[0]] = fold.alive
            total = total + gain
            if split is not None:
                part = part - split
                total = total - dot(part.abs(), relaxed.values[step.inputs[0]].largest() * (2 * eps_of(part.dtype)))
            parts = [part]
        else:
            loss = relaxed.losses[index]
            total = total - loss.fixed[:, None]
            if index not in paid:
                if loss.each.ndim:
                    total = total - dot(a.abs(), loss.each)
                if loss.bias is not None:
                    total = total + dot(a, loss.bias)
            parts = [_picked(step.op, a, alive[index])] if index in alive else _back(graph, step, loss, a)
        for i, part in zip(step.inputs, parts, strict=True):
            if i in waiting:
                waiting[i] = waiting[i] + part
                total = total - dot(waiting[i].abs(), relaxed.values[i].largest() * (2 * eps_of(part.dtype)))
            else:
                waiting[i] = part
    if not waiting:
        return total
    if tape is not None:
        tape[0] = waiting[0]
    return total + least(waiting[0], start, unit, ours=tape is None and _home(waiting[0]) not in given)


def _home(rows: Tensor) -> int:
    """Where a tensor's memory begins: rows may be overwritten where nobody else's do."""
    return rows.untyped_storage().data_ptr()


def _is_matrix(graph: Graph, index: int) -> bool:
    op = graph.steps[index].op
    return graph.readers[index] == 1 and isinstance(op, Affine) and op.form == "matrix" and not op.weight.requires_grad


def _picked(op: Op, a: Tensor, alive: tuple[Tensor, ...]) -> Tensor:
    """The rows of the input of a linear layer, from the places of each sample where they are not 0."""
    assert isinstance(op, Affine)
    found = a.new_empty(*a.shape[:2], op.weight.shape[1])
    for row, places, out in zip(a, alive, found, strict=True):
        torch.mm(row.index_select(1, places), op.weight.index_select(0, places), out=out)
    return found


def _back(graph: Graph, step: Step, loss: Loss, a: Tensor) -> list[Tensor]:
    """The rows of the inputs of a linear step, or of a product."""
    op, lead = step.op, a.shape[:2]
    if isinstance(op, Affine):
        shape = graph.steps[step.inputs[0]].shape
        part = op.adjoint(a.flatten(0, 1), shape)
        part = part.contiguous() if 0 in part.stride() else part  # of a sum: rows may be overwritten later
        return [part.reshape(*lead, *shape)]
    if isinstance(op, Cat):
        return list(torch.split(a, [graph.steps[i].shape[op.dim - 1] for i in step.inputs], op.dim + 1))
    if isinstance(op, Sum):
        factors = zip(step.inputs, op.factors, strict=True)
        return [(a * factor).sum_to_size(*lead, *graph.steps[i].shape) for i, factor in factors]
    if isinstance(op, Product):
        assert loss.tilts is not None
        size = a.abs()
        return [torch.addcmul(a * tilt.slope[:, None], size, tilt.bend[:, None]) for tilt in loss.tilts]
    return [a]


def _through(a: Tensor, lines: Lines | Planes, shape: tuple[int, ...], alpha: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows of a nonlinear step's input, and what the offsets add."""
    positive, negative = a.clamp(min=0), a.clamp(max=0)
    gain = dot(positive, lines.lower.offset.flatten(1)) + dot(negative, lines.upper.offset.flatten(1))
    if isinstance(lines, Planes):
        pool = lines.pool
        plus, minus = (part.flatten(-pool.dims)[..., None] for part in (positive, negative))
        spread = plus * lines.lower.slope[:, None] + minus * lines.upper.slope[:, None]
        flat = a.new_zeros(*a.shape[:2], *shape).flatten(-pool.dims)
        return flat.index_add(-1, pool.places.flatten(), spread.flatten(-2)).reshape(*a.shape[:2], *shape), gain
    below = lines.lower.slope[:, None]
    if alpha is not None and lines.free is not None:
        below = torch.where(lines.free[:, None], alpha.clamp(*lines.choice), below)
    return positive * below + negative * lines.upper.slope[:, None], gain


def least(a: Tensor, start: Interval, unit: float, *, ours: bool = False) -> Tensor:
    """Returns the least value of rows ``(N, R, *shape)`` over a region, float64 ``(N, R)``; uses up rows of ours."""
    middle = start.lower.lerp(start.upper, 0.5)
    radius = torch.maximum(start.upper - middle, middle - start.lower)
    found, ball, inside = dot(a, middle), start.ball, None
    if ball is not None:
        order = 2 if ball.norm == "l2" else torch.inf
        length = torch.linalg.vector_norm((a * ball.scale[:, None]).flatten(2), order, 2, dtype=torch.float64)
        inside = dot(a, ball.centre) - ball.eps * (1 + 2.0**-40) * length
    size = a.abs_() if ours and not a.requires_grad else a.abs()
    found = found - dot(size, radius * (1 + 2 * unit) + middle.abs() * unit)
    if ball is None or inside is None:
        return found
    inside = inside - dot(size, ball.noise * (1 + 2 * unit) + ball.centre.abs() * unit)
    return torch.where(inside > found, inside, found)


def dot(rows: Tensor, values: Tensor) -> Tensor:
    """Returns inner products, float64: ``(N, R, *shape)`` with ``(1 or N, *shape)`` to ``(N, R)``."""
    rows = rows.flatten(2)
    values = values.to(rows.dtype).flatten(1).expand(len(rows), -1)[:, None]
    if rows.shape[2] <= BLOCK:
        return (values @ rows.mT)[:, 0].double()
    total = rows.new_zeros(rows.shape[:2], dtype=torch.float64)
    for part, value in zip(torch.split(rows, BLOCK, 2), torch.split(values, BLOCK, 2), strict=True):
        total = total + (value @ part.mT)[:, 0]
    return total
