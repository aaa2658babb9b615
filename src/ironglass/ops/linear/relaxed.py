r"""A graph on a region: between which lines and planes its nonlinear steps lie, and what rounding may add at each step.

A product of x in :math:`p \pm r` and y in :math:`q \pm s` lies above the planes of :math:`(x - x_l)(y - y_l) \ge 0` and
:math:`(x - x_u)(y - y_u) \ge 0` (McCormick), and above each of their means, for :math:`-1 \le \mu \le 1`:

.. math:: x y \ge (q - \mu s)\, x + (p - \mu r)\, y - p q - r s + \mu\,(s p + r q)

All have the same volume below; taken is the one whose least value over the box is largest, where :math:`\mu` lies
between :math:`q / s` and :math:`p / r` or as near as can be. The plane above is that of :math:`-x` and y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.ops.bounds import SPARE, Interval, eps_of, gamma, rounding
from ironglass.ops.graph import Absolute, Affine, Graph, Monotone, Product, Step, Sum, Valley

from .curves import Side
from .relaxations import Lines, Planes, Slopes
from .relaxations import relaxed as relaxed_step

BLOCK = 512
"""Products summed in the bounds' dtype before the sums are summed in float64."""
_FEW = 0.8
"""Up to which share of values that rows do not vanish at, those are picked out."""
Nonlinear = (Monotone, Valley, Absolute)


class Tilt(NamedTuple):
    """The slopes of the planes below and above: their mean, and half of their difference."""

    slope: Tensor
    bend: Tensor

    def cut(self, cut: Callable[[Tensor], Tensor]) -> Tilt:
        """Returns those of some samples."""
        return Tilt(cut(self.slope), cut(self.bend))


class Loss(NamedTuple):
    """What rounding takes off at a step, ``|A|`` times ``each`` and ``fixed`` ``(N,)``; and the step's bias.

    A product is off by more than its rounding; ``tilts`` are how its planes lean on its two factors.
    """

    each: Tensor
    fixed: Tensor
    bias: Tensor | None
    tilts: tuple[Tilt, Tilt] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    r"""Lines as rows meet them: :math:`a_l` and :math:`a_u` by their mean and half difference, so do the offsets.

    .. math:: A^+ a_l + A^- a_u = A\,\frac{a_l + a_u}{2} + |A|\,\frac{a_l - a_u}{2}

    The offsets hold what the steps in ``paid``, just before, add and lose. ``alive`` are the places of each sample that
    rows do not vanish at, where those are few and the input is flat.
    """

    slope: Tensor
    bend: Tensor
    offset: Tensor
    width: Tensor
    paid: frozenset[int]
    alive: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """A graph on a region: between which lines its nonlinear steps lie, and what rounding may add.

    Args:
        graph: of the network.
        values: intervals by step, for every step that rows pass and its inputs.
        lines: of the nonlinear steps.
        losses: of the others.
        folds: of the elementwise nonlinear steps.
    """

    graph: Graph
    values: Mapping[int, Interval]
    lines: dict[int, Lines | Planes] = field(default_factory=dict)
    losses: dict[int, Loss] = field(default_factory=dict)
    folds: dict[int, Fold] = field(default_factory=dict)

    def take(self, rows: Tensor | slice) -> Relaxed:
        """Returns the same graph on some of the regions."""
        count = len(self.values[0].lower)

        def cut(value: Tensor) -> Tensor:
            return value[rows] if value.ndim and len(value) == count else value

        def side(one: Side) -> Side:
            return Side(cut(one.slope), cut(one.offset))

        lines: dict[int, Lines | Planes] = {}
        for i, found in self.lines.items():
            lower, upper = side(found.lower), side(found.upper)
            if isinstance(found, Planes):
                lines[i] = Planes(lower, upper, found.pool)
            else:
                lines[i] = Lines(lower, upper, None if found.free is None else cut(found.free), found.choice)
        losses = {
            i: Loss(
                cut(loss.each),
                cut(loss.fixed),
                None if loss.bias is None else cut(loss.bias),
                None if loss.tilts is None else (loss.tilts[0].cut(cut), loss.tilts[1].cut(cut)),
            )
            for i, loss in self.losses.items()
        }
        folds = {
            i: replace(
                fold,
                slope=cut(fold.slope),
                bend=cut(fold.bend),
                offset=cut(fold.offset),
                width=cut(fold.width),
                alive=fold.alive[rows] if isinstance(rows, slice) and fold.alive is not None else None,
            )
            for i, fold in self.folds.items()
        }
        return Relaxed(self.graph, {i: x.take(rows) for i, x in self.values.items()}, lines, losses, folds)


def unit_of(graph: Graph, dtype: torch.dtype, index: int = 0) -> float:
    """Returns the relative error of a dot product over a step's values, in blocks, and of what is added to it after."""
    size = math.prod(graph.steps[index].shape)
    return gamma(min(size, BLOCK) + size // BLOCK + 2 * len(graph.steps) + SPARE, eps_of(dtype))


def relax(graph: Graph, values: Mapping[int, Interval], slopes: Slopes = "adaptive", at: int | None = None) -> Relaxed:
    """Returns the lines and losses of all steps that lead to one.

    Args:
        graph: of the network.
        values: intervals by step, from `intervals` or `ops.bounds.propagate`.
        slopes: how lines are chosen.
        at: the step, or the last one.
    """
    found = Relaxed(graph, values)
    for index in reached(graph, at):
        add(found, index, slopes)
    return found


def reached(graph: Graph, at: int | None = None) -> list[int]:
    """Returns the steps that lead to one, in the order they run, without the input."""
    end = len(graph.steps) - 1 if at is None else at
    needed = {end}
    for index in range(end, 0, -1):
        if index in needed:
            needed.update(graph.steps[index].inputs)
    return sorted(needed - {0})


def add(relaxed: Relaxed, index: int, slopes: Slopes = "adaptive") -> None:
    """Writes down one step's lines or losses, those before it known."""
    graph, values = relaxed.graph, relaxed.values
    step = graph.steps[index]
    inputs = [values[i] for i in step.inputs]
    unit = unit_of(graph, inputs[0].lower.dtype, index)
    if isinstance(step.op, Nonlinear):
        lines = relaxed_step(step, inputs[0], slopes)
        relaxed.lines[index] = _widened(lines, inputs[0], unit)
        if isinstance(lines, Lines):
            relaxed.folds[index] = _folded(relaxed, step.inputs[0], lines, unit)
    else:
        relaxed.losses[index] = _loss(step, inputs, unit)


def _folded(relaxed: Relaxed, before: int, lines: Lines, unit: float) -> Fold:
    """The lines, with what the steps before add and lose folded in where nothing else reads them."""
    gain, loss, paid = _pending(relaxed, before)
    (low_slope, low_offset), (high_slope, high_offset) = lines.lower, lines.upper
    few = 4 * eps_of(low_slope.dtype)
    if paid:
        below, over = low_slope.abs() * loss, high_slope.abs() * loss
        below = below + (below.abs() + (low_slope * gain).abs() + low_offset.abs()) * few
        over = over + (over.abs() + (high_slope * gain).abs() + high_offset.abs()) * few
        low_offset, high_offset = low_offset + low_slope * gain - below, high_offset + high_slope * gain + over
    lost = torch.maximum(low_slope.abs(), high_slope.abs()) * relaxed.values[before].largest() * few
    lost = lost + torch.maximum(low_offset.abs(), high_offset.abs()) * (unit + few)
    slope, bend = (low_slope + high_slope) / 2, (low_slope - high_slope) / 2
    return Fold(
        slope,
        bend,
        (low_offset + high_offset) / 2,
        (low_offset - high_offset) / 2 - lost,
        frozenset(paid),
        _alive(slope, bend) if slope.ndim == 2 and not slope.requires_grad else None,
    )


def _alive(slope: Tensor, bend: Tensor) -> tuple[Tensor, ...] | None:
    there = (slope != 0) | (bend != 0)  # NaN is there
    if float(there.sum()) > _FEW * there.numel():
        return None
    return tuple(row.nonzero()[:, 0] for row in there)


def _pending(relaxed: Relaxed, index: int) -> tuple[Tensor, Tensor, list[int]]:
    """What a step, and the light ones before it, add to each of its values and lose; and which steps those are."""
    loss, step = relaxed.losses.get(index), relaxed.graph.steps[index]
    nothing = relaxed.values[index].lower.new_zeros(())
    if loss is None or relaxed.graph.readers[index] != 1:
        return nothing, nothing, []
    gain, lost = nothing if loss.bias is None else loss.bias, loss.each
    paid = [index]
    if isinstance(step.op, Sum):
        for i, factor in zip(step.inputs, step.op.factors, strict=True):
            if relaxed.graph.steps[i].shape == step.shape and step.inputs.count(i) == 1:
                more, less, others = _pending(relaxed, i)
                gain, lost, paid = gain + factor * more, lost + abs(factor) * less, paid + others
    elif isinstance(step.op, Affine) and step.op.form in ("move", "diagonal"):
        more, less, others = _pending(relaxed, step.inputs[0])
        if others:
            shape = relaxed.values[step.inputs[0]].lower.shape
            gain = gain + step.op.map(more.expand(shape), step.op.weight, None)
            lost = lost + step.op.absolute(less.expand(shape))
            paid = paid + others
    return gain, lost, paid


def _widened(found: Lines | Planes, x: Interval, unit: float) -> Lines | Planes:
    """The lines, moved outward by what is lost where rows pass them."""
    largest = x.largest()
    eps = eps_of(largest.dtype)
    if isinstance(found, Planes):
        pool = found.pool
        size = largest.flatten(-pool.dims)[..., pool.places]
        lost = [
            (side.slope.abs() * size).sum(-1) * (4 * eps * pool.places.shape[1]) for side in (found.lower, found.upper)
        ]
    else:
        steepest = max(map(abs, found.choice))
        below = found.lower.slope.abs()
        below = below if found.free is None else torch.where(found.free, below.clamp(min=steepest), below)
        lost = [below * largest * (2 * eps), found.upper.slope.abs() * largest * (2 * eps)]
    down = found.lower.offset - (lost[0] + found.lower.offset.abs() * unit)
    up = found.upper.offset + (lost[1] + found.upper.offset.abs() * unit)
    return replace(found, lower=Side(found.lower.slope, down), upper=Side(found.upper.slope, up))


def _loss(step: Step, inputs: list[Interval], unit: float) -> Loss:
    each, op, bias, tilts = rounding(step, inputs, rows=True), step.op, None, None
    largest = torch.stack([x.largest().flatten(1).amax(1) for x in inputs]).amax(0)
    if each.ndim:
        each = each * (1 + unit)
    if isinstance(op, Affine) and op.bias is not None and op.size is not None:
        nothing = each.new_zeros(1, *inputs[0].lower.shape[1:])
        bias, each = op(nothing), each + op.absolute(nothing, op.size) * unit
    if isinstance(op, Product):
        bias, width, tilts = _planes(*inputs)
        each = each + width + (bias.abs() + width.abs()) * unit
    tiny = 4 * torch.finfo(largest.dtype).tiny
    count = sum(math.prod(x.lower.shape[1:]) for x in inputs) * (math.prod(step.shape) + 1)
    return Loss(each, largest.double() * (tiny * count), bias, tilts)


def _planes(x: Interval, y: Interval) -> tuple[Tensor, Tensor, tuple[Tilt, Tilt]]:
    """The planes around a product: the mean of their offsets, half of the distance, and how they lean."""
    (p, r), (q, s) = _about_middle(x), _about_middle(y)
    across, along = q / s, p / r
    below, above = _between(across, along), _between(-across, along)
    low = below * (s * p + r * q) - r * s
    high = r * s - above * (s * p - r * q)
    lean, bend = (above - below) / 2, -(above + below) / 2
    lost = x.largest() * y.largest() * (48 * eps_of(p.dtype))
    return (
        (low + high) / 2 - p * q,
        (high - low) / 2 + lost,
        (Tilt(q + lean * s, bend * s), Tilt(p + bend * r, lean * r)),
    )


def _about_middle(x: Interval) -> tuple[Tensor, Tensor]:
    """The middle of an interval, and how far its ends are from it at most."""
    middle, above = x.split()
    return middle, torch.maximum(above, middle - x.lower) * (1 + 2 * eps_of(middle.dtype))


def _between(one: Tensor, other: Tensor) -> Tensor:
    """What is nearest to both, in [-1, 1]; anything where a radius is 0."""
    return ((one + other) / 2).nan_to_num(0.0).clamp(-1, 1)
