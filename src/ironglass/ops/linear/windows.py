r"""Rows of a convolution's values: what they are of is small, so only their windows are held.

The row of the value at position p of a map is 0 outside a window of the map before, at :math:`s p - o`, and again a
convolution of that window leads to one on the map before. So k rows are ``(k, C, h, w)`` with one geometry for all, and
lines are read from the maps window by window. Where a window would cover most of the map, or an operator does not walk
by windows, the rows are spread on the whole map and go on as others do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.ops.bounds import Interval, eps_of
from ironglass.ops.graph import Affine, Cat, Graph, Step, Sum

from .backward import pulled
from .relaxed import BLOCK, Nonlinear, Relaxed, unit_of

_COVERS = 0.5
"""The share of a map from which on a window is not worth it."""
_HELD = 1 << 22
"""How many values of rows on whole maps are held at a time."""
_DENSER = 12
"""How many times more products a matrix may take than the convolution it stands for."""


Matrices = dict[tuple[int, tuple[int, int]], Tensor]
"""By step and window size, the matrix that stands for a convolution of such a window: the same for all samples."""


class Walk(NamedTuple):
    """Where windows lie: at ``stride * position - offset``, of this size; a pair each."""

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows ``(2, M, C, h, w)``, those of a value and those of its negative, and how they lie."""

    values: Tensor
    walk: Walk


class _Maps:
    """Reads maps window by window.

    Args:
        positions: ``(N, k)``, of each row's value in the map that rows begin at.
        grid: that map's height and width.
    """

    def __init__(self, positions: Tensor, grid: tuple[int, int]) -> None:
        self.grid = grid
        count = torch.arange(len(positions), device=positions.device)[:, None]
        self.alone, self.each = positions.flatten(), (positions + count * math.prod(grid)).flatten()

    def read(self, maps: Tensor, walk: Walk) -> Tensor:
        """Returns the windows ``(M, C, h, w)`` of maps ``(1 or N, C, H, W)``, 0 outside."""
        walks = list(zip(self.grid, maps.shape[2:], *walk, strict=True))
        after = [(out - 1) * s + k - o - side for out, side, k, s, o in walks]
        pads = [(walk.offset[d], max(0, after[d])) for d in (1, 0)]
        padded = F.pad(maps, [n for pair in pads for n in pair])
        for dim, (out, _, k, s, _) in enumerate(walks):
            padded = padded.unfold(2 + dim, k, s).narrow(2 + dim, 0, out)
        columns = padded.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return columns.index_select(0, self.alone if len(maps) == 1 else self.each)

    def spread(self, rows: _Rows, sides: tuple[int, ...]) -> Tensor:
        """Returns the rows on whole maps ``(2, M, C, H, W)``."""
        height, width = sides[1:]
        walks = list(zip(self.grid, (height, width), *rows.walk, strict=True))
        tops, lefts = self.alone // self.grid[1], self.alone % self.grid[1]
        bigs = [o + max(side, (out - 1) * s + k - o) for out, side, k, s, o in walks]
        begin = tops * walks[0][3] * bigs[1] + lefts * walks[1][3]
        h, w = rows.walk.size
        inner = (
            torch.arange(h, device=begin.device)[:, None] * bigs[1] + torch.arange(w, device=begin.device)
        ).flatten()
        flat = rows.values.flatten(3)
        index = (begin[:, None] + inner)[None, :, None].expand(flat.shape)
        canvas = flat.new_zeros(*flat.shape[:3], bigs[0] * bigs[1]).scatter(3, index, flat)
        top, left = rows.walk.offset
        return canvas.reshape(*canvas.shape[:3], *bigs)[..., top : top + height, left : left + width]


def supported(graph: Graph, index: int) -> bool:
    """Returns whether rows of a step's values can begin as windows."""
    step = graph.steps[index]
    return len(step.shape) == 3 and not isinstance(step.op, Nonlinear) and bool(step.inputs) and _walks(graph, step)


def window_bounds(
    start: Interval, relaxed: Relaxed, index: int, places: Tensor, matrices: Matrices | None = None
) -> tuple[Tensor, Tensor]:
    """Returns lower bounds of some of a step's values, and of their negatives, float64 ``(N, k)`` each.

    Args:
        start: the region.
        relaxed: of the graph on it.
        index: of the step, with values ``(C, H, W)``.
        places: in the flattened values ``(N, k)``.
        matrices: that were made before; new ones are added.
    """
    graph, matrices = relaxed.graph, {} if matrices is None else matrices
    channels, height, width = graph.steps[index].shape
    area = height * width
    maps = _Maps(places % area, (height, width))
    one = F.one_hot(places.flatten() // area, channels).to(start.lower.dtype)[..., None, None]
    waiting = {index: _Rows(torch.stack([one, -one]), Walk((1, 1), (1, 1), (0, 0)))}
    total = one.new_zeros(2, len(one), dtype=torch.float64)
    paid: set[int] = set()
    for at in range(index, 0, -1):
        if at not in waiting:
            continue
        step = graph.steps[at]
        if not _walks(graph, step) or any(_covers(rows.walk, graph.steps[i].shape) for i, rows in waiting.items()):
            return _whole(start, relaxed, waiting, maps, total, paid, at, places)
        rows = waiting.pop(at)
        if isinstance(step.op, Nonlinear):
            fold = relaxed.folds[at]
            slope, bend, offset, wide = (
                maps.read(part.expand(len(part), *step.shape), rows.walk)
                for part in (fold.slope, fold.bend, fold.offset, fold.width)
            )
            size = rows.values.abs()
            total = total + _dot(rows.values, offset) + _dot(size, wide)
            if rows.values.requires_grad or slope.requires_grad:
                parts = [replace(rows, values=torch.addcmul(rows.values * slope, size, bend))]
            else:
                parts = [replace(rows, values=rows.values.mul_(slope).addcmul_(size, bend))]
            paid |= fold.paid
        else:
            loss = relaxed.losses[at]
            fixed = loss.fixed[:, None].expand(places.shape).flatten()
            total = total - fixed
            if at not in paid:
                if loss.each.ndim:
                    each = maps.read(loss.each.expand(len(loss.each), *step.shape), rows.walk)
                    total = total - _dot(rows.values.abs(), each)
                if loss.bias is not None:
                    total = total + _dot(rows.values, maps.read(loss.bias, rows.walk))
            parts = _back(graph, at, rows, maps, matrices)
        for i, part in zip(step.inputs, parts, strict=True):
            if i in waiting:
                waiting[i] = _joined(waiting[i], part)
                largest = maps.read(relaxed.values[i].largest() * (2 * eps_of(one.dtype)), waiting[i].walk)
                total = total - _dot(waiting[i].values.abs(), largest)
            else:
                waiting[i] = part
    if 0 in waiting:
        total = total + _least(waiting[0], start, maps, unit_of(graph, one.dtype))
    lower, upper = total.reshape(2, *places.shape)
    return lower, upper


def _walks(graph: Graph, step: Step) -> bool:
    """Whether windows pass this step."""
    op, shapes = step.op, [graph.steps[i].shape for i in step.inputs]
    if any(len(shape) != 3 for shape in (step.shape, *shapes)):
        return False
    if isinstance(op, Nonlinear):
        return getattr(op, "shape", None) is None or not hasattr(op.shape, "places")  # type: ignore[union-attr]
    if isinstance(op, Affine):
        return op.stencil is not None or op.form == "diagonal"
    if isinstance(op, Sum):
        return all(shape == step.shape for shape in shapes)
    return isinstance(op, Cat) and op.dim == 1


def _covers(walk: Walk, shape: tuple[int, ...]) -> bool:
    return len(shape) != 3 or math.prod(walk.size) > _COVERS * math.prod(shape[1:])


def _back(graph: Graph, index: int, rows: _Rows, maps: _Maps, matrices: Matrices) -> list[_Rows]:
    """The rows of a linear step's inputs."""
    step = graph.steps[index]
    op = step.op
    if isinstance(op, Affine) and op.stencil is not None:
        found = _convolved(op, rows, index, matrices)
        before = graph.steps[step.inputs[0]]
        if any(found.walk.offset) and not (isinstance(before.op, Nonlinear) or not before.inputs):
            inside = maps.read(found.values.new_ones(1, *before.shape), found.walk)
            found = replace(found, values=found.values * inside)
        return [found]
    if isinstance(op, Affine):
        weight = op.weight.reshape((1,) * (4 - op.weight.ndim) + op.weight.shape)
        if weight.shape[2:] != (1, 1):
            weight = maps.read(weight.expand(1, *step.shape), rows.walk)
        return [replace(rows, values=rows.values * weight)]
    if isinstance(op, Cat):
        sizes = [graph.steps[i].shape[0] for i in step.inputs]
        return [replace(rows, values=part) for part in torch.split(rows.values, sizes, 2)]
    assert isinstance(op, Sum)
    return [replace(rows, values=rows.values * factor) for factor in op.factors]


def _convolved(op: Affine, rows: _Rows, index: int, matrices: Matrices) -> _Rows:
    """Windows on the map before a convolution: by the matrix of its walk over one window, or by the transpose."""
    assert op.stencil is not None
    stride, padding, dilation, groups = op.stencil
    kernel = op.weight.shape[2:]
    size, walk = rows.walk.size, rows.walk
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    wide = [(n - 1) * s + span for n, s, span in zip(size, stride, spans, strict=True)]
    flat = rows.values.flatten(0, 1)
    inputs = op.weight.shape[1] * groups
    products, dense = op.weight.shape[1] * math.prod(kernel), inputs * math.prod(wide)

    def turned(windows: Tensor) -> Tensor:
        return F.conv_transpose2d(windows, op.weight, None, stride, 0, 0, groups, dilation)

    if dense <= _DENSER * products and len(flat) > flat[0].numel():
        matrix = matrices.get((index, size))
        if matrix is None:
            eye = torch.eye(flat[0].numel(), dtype=flat.dtype, device=flat.device)
            matrix = matrices[index, size] = turned(eye.reshape(-1, *flat.shape[1:]))
        found = (flat.flatten(1) @ matrix.flatten(1)).reshape(-1, *matrix.shape[1:])
    else:
        found = turned(flat)
    strides = [a * b for a, b in zip(walk.stride, stride, strict=True)]
    offsets = [o * s + p for o, s, p in zip(walk.offset, stride, padding, strict=True)]
    return _Rows(
        found.reshape(*rows.values.shape[:2], *found.shape[1:]),
        Walk((wide[0], wide[1]), (strides[0], strides[1]), (offsets[0], offsets[1])),
    )


def _joined(one: _Rows, other: _Rows) -> _Rows:
    """The sum of rows whose windows move alike: each put into one that holds both."""
    assert one.walk.stride == other.walk.stride
    offset = tuple(max(a, b) for a, b in zip(one.walk.offset, other.walk.offset, strict=True))
    end = tuple(max(one.walk.size[d] - one.walk.offset[d], other.walk.size[d] - other.walk.offset[d]) for d in (0, 1))

    def put(rows: _Rows) -> Tensor:
        pads = []
        for d in (1, 0):
            first = offset[d] - rows.walk.offset[d]
            pads += [first, offset[d] + end[d] - first - rows.walk.size[d]]
        return F.pad(rows.values, pads)

    walk = Walk((offset[0] + end[0], offset[1] + end[1]), one.walk.stride, (offset[0], offset[1]))
    return _Rows(put(one) + put(other), walk)


def _least(rows: _Rows, start: Interval, maps: _Maps, unit: float) -> Tensor:
    """The least values over the region, ``(2, M)``."""
    middle = start.lower.lerp(start.upper, 0.5)
    radius = torch.maximum(start.upper - middle, middle - start.lower) * (1 + 2 * unit) + middle.abs() * unit
    size = rows.values.abs()
    found = _dot(rows.values, maps.read(middle, rows.walk)) - _dot(size, maps.read(radius, rows.walk))
    ball = start.ball
    if ball is None:
        return found
    scale = maps.read(ball.scale, rows.walk)
    order = 2 if ball.norm == "l2" else torch.inf
    length = torch.linalg.vector_norm((rows.values * scale).flatten(2), order, 2, dtype=torch.float64)
    noise = maps.read(ball.noise * (1 + 2 * unit) + ball.centre.abs() * unit, rows.walk)
    inside = _dot(rows.values, maps.read(ball.centre, rows.walk)) - _dot(size, noise)
    inside = inside - ball.eps * (1 + 2.0**-40) * length
    return torch.where(inside > found, inside, found)


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """Inner products ``(2, M)`` of rows ``(2, M, …)`` with windows ``(M, …)``, float64."""
    rows, values = rows.flatten(2), values.flatten(1)
    if rows.shape[2] <= BLOCK:
        return (rows * values).sum(2).double()
    total = rows.new_zeros(rows.shape[:2], dtype=torch.float64)
    for part, value in zip(torch.split(rows, BLOCK, 2), torch.split(values, BLOCK, 1), strict=True):
        total = total + (part * value).sum(2)
    return total


def _whole(
    start: Interval,
    relaxed: Relaxed,
    waiting: dict[int, _Rows],
    maps: _Maps,
    total: Tensor,
    paid: set[int],
    at: int,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    """Goes on with whole maps, some rows at a time, both ways beside each other: ``(N, 2 k, …)``."""
    shapes = [relaxed.graph.steps[i].shape for i in range(at + 1)]
    size = max(1, _HELD // (2 * len(places) * max(math.prod(shape) for shape in shapes)))
    total = total.reshape(2, *places.shape)
    found = []
    for first in range(0, places.shape[1], size):
        part = slice(first, first + size)
        ours = _Maps(places[:, part] % math.prod(maps.grid), maps.grid)
        whole = {}
        for i, rows in waiting.items():
            values = rows.values.reshape(2, *places.shape, *rows.values.shape[2:])[:, :, part].flatten(1, 2)
            spread = ours.spread(replace(rows, values=values), shapes[i])
            spread = spread.reshape(2, len(places), -1, *spread.shape[2:])
            whole[i] = torch.cat([spread[0], spread[1]], 1)
        some = torch.cat([total[0, :, part], total[1, :, part]], 1)
        found.append(pulled(start, relaxed, whole, some, set(paid), at).chunk(2, 1))
    lower, upper = (torch.cat(ends, 1) for ends in zip(*found, strict=True))
    return lower, upper
