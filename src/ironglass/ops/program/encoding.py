r"""A network on a region as a system of linear inequalities with binary variables.

The variables are the inputs that may move, and the outputs of those pieces whose kind is not settled; what is linear
between them is multiplied out. A value of a step is an *expression*: :math:`v = R w + b \pm n` over the variables w,
where the *noise* n covers how far rounding may carry the network that runs in floating point (as in `ops.bounds`), and
our own. For a ReLU on :math:`[l, u]` with :math:`l < 0 < u` and a binary t

.. math:: a \ge 0,\quad a \ge z - n,\quad a \le u t,\quad a \le z + n - l (1 - t)

which is exact for t in {0, 1} and the smallest triangle for t in [0, 1] (Tjeng et al. 2019). Leaky ReLU, clamp and the
absolute value are sums of these; a maximum has a binary an input, of which one is 1. The limits l and u come from
outside and only have to hold; `Tighten` improves them as the program grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ironglass.core.errors import InputError
from ironglass.ops.bounds import Ball, Interval, eps_of, gamma, rounding
from ironglass.ops.graph import Affine, Cat, Graph, Input, Monotone, Step, Sum

from .matrices import Matrix, Vector, vector
from .pieces import bends, pools
from .solve import EPS, System, stacked


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """Values that are linear in the variables: ``rows w + offset``, off by at most ``noise``, a row a value."""

    rows: Matrix
    offset: Vector
    noise: Vector

    def __getitem__(self, picked: Vector) -> Expression:
        return Expression(self.rows[picked], self.offset[picked], self.noise[picked])

    def __len__(self) -> int:
        return len(self.offset)

    def scaled(self, factor: Vector | float, shift: Vector | float = 0.0) -> Expression:
        """Returns ``factor * value + shift``."""
        factors = np.broadcast_to(np.asarray(factor, dtype=float), self.offset.shape)
        rows = sparse.csr_array(sparse.diags_array(factors) @ self.rows)
        lost = 2 * EPS * (np.abs(factors * self.offset) + np.abs(shift))
        return Expression(rows, factors * self.offset + shift, np.abs(factors) * self.noise + lost)


Tighten = Callable[["Program", Expression, Vector, Vector], tuple[Vector, Vector]]
"""``tighten(program, values, lower, upper)``: better limits of those values, from the program so far."""


class Program:
    """One sample's program, which grows step by step.

    Args:
        graph: in float64.
        matrices: from `matrices.compile`.
        limits: of all steps, batched.
        row: which sample.
        tighten: improves the limits of what is not settled.
    """

    def __init__(
        self,
        graph: Graph,
        matrices: Mapping[int, Any],
        limits: Mapping[int, Interval],
        row: int,
        tighten: Tighten | None = None,
    ) -> None:
        self._tighten = tighten
        self._parts: list[Matrix] = []
        self._right: list[Vector] = []
        self.lower, self.upper, self.whole = np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
        self.pieces = 0
        only = torch.tensor([row])
        one = {i: value.take(only) for i, value in limits.items()}
        values: dict[int, Expression] = {}
        for index, step in enumerate(graph.steps):
            inputs = [values[i] for i in step.inputs]
            values[index] = self._step(index, step, inputs, [one[i] for i in step.inputs] or [one[0]], matrices)
        self.scores = values[len(graph.steps) - 1]
        self._inputs, self._shape = values[0], graph.steps[0].shape

    def system(self) -> System:
        """Returns the inequalities so far."""
        columns = len(self.lower)
        right = np.concatenate(self._right) if self._right else np.zeros(0)
        return System(stacked(self._parts, columns), right, self.lower, self.upper, self.whole)

    def costs(self, values: Expression, row: int) -> Vector:
        """Returns one value's coefficients over all variables so far."""
        dense = np.zeros(len(self.lower))
        picked = values.rows[[row]]
        dense[picked.indices] = picked.data
        return dense

    def difference(self, first: int, second: int) -> Expression:
        """Returns a score less another."""
        pair = [self.scores[np.array([i])] for i in (first, second)]
        rows = sparse.csr_array(pair[0].rows - pair[1].rows)
        noise = pair[0].noise + pair[1].noise
        noise = noise + 4 * EPS * (self._size(rows) + np.abs(pair[0].offset) + np.abs(pair[1].offset))
        return Expression(rows, pair[0].offset - pair[1].offset, noise)

    def input_of(self, point: Vector) -> torch.Tensor:
        """Returns the input at a point of the program, float64 of a sample's shape."""
        grown = self._inputs.rows.copy()
        grown.resize((len(self._inputs), len(point)))
        return torch.from_numpy(grown @ point + self._inputs.offset).reshape(self._shape)

    def box(self, value: Expression) -> tuple[Vector, Vector]:
        """Returns what the variables' own limits say of these values, rounded outward."""
        rows, low, high = value.rows, self.lower[: value.rows.shape[1]], self.upper[: value.rows.shape[1]]
        rising, falling = rows.maximum(0.0), rows.minimum(0.0)
        size = self._size(rows) + np.abs(value.offset)
        lost = value.noise * (1 + 4 * EPS) + 2 * gamma(rows.shape[1] + 10, EPS) * size
        return (
            rising @ low + falling @ high + value.offset - lost,
            rising @ high + falling @ low + value.offset + lost,
        )

    def _size(self, rows: Matrix) -> Vector:
        """The largest sum of absolute products of each row."""
        most = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return abs(rows) @ most[: rows.shape[1]]

    def _variables(self, lower: Vector, upper: Vector, whole: bool = False) -> Expression:
        first, count = len(self.lower), len(lower)
        self.lower, self.upper = np.concatenate([self.lower, lower]), np.concatenate([self.upper, upper])
        self.whole = np.concatenate([self.whole, np.full(count, whole)])
        rows = sparse.csr_array((np.ones(count), (np.arange(count), first + np.arange(count))), (count, first + count))
        return Expression(rows, np.zeros(count), np.zeros(count))

    def require(self, *terms: tuple[float | Vector, Expression], most: Vector | float = 0.0) -> None:
        """Adds the rows that the sum of factor times value is at most ``most``; noise and rounding widen them."""
        columns = len(self.lower)
        rows, right = None, np.broadcast_to(np.asarray(most, dtype=float), (len(terms[0][1]),)).copy()
        lost = np.abs(right) * EPS
        for factor, value in terms:
            part = value.scaled(factor)
            part.rows.resize((len(value), columns))
            rows = part.rows if rows is None else rows + part.rows
            right = right - part.offset + part.noise
            lost = lost + (np.abs(part.offset) + part.noise + self._size(part.rows)) * EPS
        if not np.isfinite(right).all():
            raise FloatingPointError("a row is not finite")
        self._parts.append(sparse.csr_array(rows))
        self._right.append(right + 8 * lost)

    # One step after the other.

    def _step(
        self, index: int, step: Step, inputs: list[Expression], limits: list[Interval], matrices: Mapping[int, Any]
    ) -> Expression:
        op = step.op
        if isinstance(op, Input):
            return self._input(limits[0])
        if isinstance(op, Affine):
            return self._affine(step, inputs[0], limits, *matrices[index])
        if isinstance(op, Sum):
            return self._sum(step, op, inputs, limits)
        if isinstance(op, Cat):
            return _joined(step, op, inputs, limits)
        lower, upper = (vector(side) for side in (limits[0].lower, limits[0].upper))
        if pools(op):
            return self._maximum(inputs[0], lower, upper, matrices[index])
        return self._pieces(step, inputs[0], lower, upper)

    def _input(self, region: Interval) -> Expression:
        lower, upper = vector(region.lower), vector(region.upper)
        free = np.flatnonzero(lower < upper)
        moved = self._variables(lower[free], upper[free])
        rows = sparse.csr_array((np.ones(len(free)), (free, np.arange(len(free)))), (len(lower), len(free)))
        if region.ball is not None:
            self._ball(region.ball, moved, free)
        return Expression(rows, np.where(lower < upper, 0.0, lower), np.zeros(len(lower)))

    def _ball(self, ball: Ball, moved: Expression, free: Vector) -> None:
        r"""Adds :math:`\sum_i |x_i - c_i| \le \varepsilon` by a variable for each move."""
        if ball.norm != "l1":
            raise InputError(f"a ball in {ball.norm} is not linear", "use linf or l1")
        centre, noise = vector(ball.centre)[free], vector(ball.noise)[free]
        span = np.maximum(self.upper - centre, centre - self.lower)
        sizes = self._variables(np.zeros(len(centre)), span)
        self.require((1.0, moved), (-1.0, sizes), most=centre + noise)
        self.require((-1.0, moved), (-1.0, sizes), most=noise - centre)
        total = sparse.csr_array(np.ones((1, len(centre))) @ sizes.rows)
        self.require((1.0, Expression(total, np.zeros(1), np.zeros(1))), most=ball.eps)

    def _affine(
        self, step: Step, value: Expression, limits: list[Interval], weight: Matrix, bias: Vector
    ) -> Expression:
        noise = vector(rounding(step, limits))
        noise = noise if len(noise) == len(bias) else np.full(len(bias), noise.item())
        size = self._size(value.rows) + np.abs(value.offset)
        terms = int(max(1, np.diff(weight.indptr).max(initial=1))) + 10
        ours = 2 * gamma(terms, EPS) * (abs(weight) @ size + np.abs(bias))
        rows = _product(weight, value.rows)
        return Expression(rows, weight @ value.offset + bias, abs(weight) @ value.noise * (1 + 1e-9) + noise + ours)

    def _sum(self, step: Step, op: Sum, inputs: list[Expression], limits: list[Interval]) -> Expression:
        count, columns = int(np.prod(step.shape)), len(self.lower)
        rows, offset, noise = sparse.csr_array((count, columns)), np.zeros(count), vector(rounding(step, limits))
        noise = np.broadcast_to(noise, count).copy() if noise.size in (1, count) else np.full(count, noise.max())
        for value, factor, limit in zip(inputs, op.factors, limits, strict=True):
            spread = _places(limit, step)
            part = value[spread].scaled(factor)
            part.rows.resize((count, columns))
            rows, offset, noise = rows + part.rows, offset + part.offset, noise + part.noise
            noise = noise + 4 * EPS * (self._size(part.rows) + np.abs(part.offset))
        return Expression(sparse.csr_array(rows), offset, noise)

    def _pieces(self, step: Step, value: Expression, lower: Vector, upper: Vector) -> Expression:
        """Writes a function of one value as a line plus ReLUs: ``slope * z + shift + sum(factor * relu(z - kink))``."""
        slope, shift, kinks = bends(step)
        total = value.scaled(slope, shift)
        for at, factor in kinks:
            piece = self._relu(value.scaled(1.0, -at), lower - at, upper - at)
            total = self._plus(total, piece.scaled(factor))
        op = step.op
        if isinstance(op, Monotone) and op.error:
            tiny = 4 * torch.finfo(step.dtype).tiny
            most = np.abs(vector(op(torch.from_numpy(np.stack([lower, upper]))))).reshape(2, -1).max(0)
            total = Expression(total.rows, total.offset, total.noise + op.error * eps_of(step.dtype) * most + tiny)
        return total

    def _plus(self, first: Expression, second: Expression) -> Expression:
        for part in (first, second):
            part.rows.resize((len(part), len(self.lower)))
        offset = first.offset + second.offset
        noise = first.noise + second.noise + 2 * EPS * (np.abs(first.offset) + np.abs(second.offset))
        return Expression(sparse.csr_array(first.rows + second.rows), offset, noise)

    def _relu(self, value: Expression, lower: Vector, upper: Vector) -> Expression:
        lower, upper = self._tightened(value, lower, upper)
        alive, open_ = upper > 0, (lower < 0) & (upper > 0)
        settled = sparse.csr_array(sparse.diags_array((alive & ~open_).astype(float)) @ value.rows)
        kept = np.where(alive & ~open_, 1.0, 0.0)
        places = np.flatnonzero(open_)
        if not len(places):
            return Expression(settled, kept * value.offset, kept * value.noise)
        z, low, high = value[places], lower[places], upper[places]
        a = self._variables(np.zeros(len(places)), high)
        t = self._variables(np.zeros(len(places)), np.ones(len(places)), whole=True)
        self.pieces += len(places)
        self.require((1.0, z), (-1.0, a))
        self.require((1.0, a), (-high, t))
        self.require((1.0, a), (-1.0, z), (-low, t), most=-low)
        settled.resize((len(value), len(self.lower)))
        rows = sparse.csr_array((np.ones(len(places)), (places, a.rows.indices)), settled.shape)
        return Expression(sparse.csr_array(settled + rows), kept * value.offset, kept * value.noise)

    def _maximum(self, value: Expression, lower: Vector, upper: Vector, members: Matrix) -> Expression:
        """The largest of each window; inputs that lie below another's lower limit are left out."""
        picked = [members.indices[members.indptr[i] : members.indptr[i + 1]] for i in range(members.shape[0])]
        kept = [window[upper[window] >= lower[window].max()] for window in picked]
        several = [i for i, window in enumerate(kept) if len(window) > 1]
        source = np.array([window[0] for window in kept])
        if not several:
            return value[source]
        top = np.array([upper[kept[i]].max() for i in several])
        floor = np.array([lower[kept[i]].max() for i in several])
        y = self._variables(floor, top)
        owner = np.concatenate([np.full(len(kept[i]), n) for n, i in enumerate(several)])
        inputs = np.concatenate([kept[i] for i in several])
        t = self._variables(np.zeros(len(inputs)), np.ones(len(inputs)), whole=True)
        self.pieces += len(inputs)
        x, big = value[inputs], top[owner] - lower[inputs]
        self.require((1.0, x), (-1.0, y[owner]))
        self.require((1.0, y[owner]), (-1.0, x), (big, t), most=big)
        chosen = sparse.csr_array((np.ones(len(inputs)), (owner, np.arange(len(inputs)))))
        each = Expression(_product(chosen, t.rows), np.zeros(len(several)), np.zeros(len(several)))
        self.require((1.0, each), most=1.0)
        self.require((-1.0, each), most=-1.0)
        self._plane(y, x, owner, lower[inputs], upper[inputs], floor)
        rows = value[source].rows
        rows.resize((len(source), len(self.lower)))
        keep = np.ones(len(source))
        keep[several] = 0.0
        joined = sparse.csr_array((np.ones(len(several)), (several, y.rows.indices)), rows.shape)
        settled = sparse.diags_array(keep) @ rows
        return Expression(sparse.csr_array(settled + joined), keep * value.offset[source], keep * value.noise[source])

    def _plane(self, y: Expression, x: Expression, owner: Vector, low: Vector, high: Vector, floor: Vector) -> None:
        r"""Adds :math:`y \le g + \sum_i \frac{(u_i - g)^+}{u_i - l_i} (x_i - l_i)`, sound for any g from max l on."""
        slope = np.clip(high - floor[owner], 0.0, None) / np.maximum(high - low, 1e-30) * (1 + 4 * EPS)
        sums = sparse.csr_array((slope, (owner, np.arange(len(owner)))))
        noise = sums @ x.noise + 8 * EPS * (abs(sums) @ (self._size(x.rows) + np.abs(x.offset) + np.abs(low)))
        total = Expression(_product(sums, x.rows), sums @ (x.offset - low), noise)
        self.require((1.0, y), (-1.0, total), most=floor)

    def _tightened(self, value: Expression, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """Limits of what may switch, by the expression itself over its variables' limits and by ``tighten``."""
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise FloatingPointError("a limit is not finite")
        open_ = np.flatnonzero((lower < 0) & (upper > 0))
        if not len(open_):
            return lower, upper
        lower, upper = lower.copy(), upper.copy()
        low, high = self.box(value[open_])
        lower[open_], upper[open_] = np.fmax(lower[open_], low), np.fmin(upper[open_], high)
        open_ = np.flatnonzero((lower < 0) & (upper > 0))
        if self._tighten is not None and len(open_):
            lower[open_], upper[open_] = self._tighten(self, value[open_], lower[open_], upper[open_])
        return lower, upper


def _product(weight: Matrix, rows: Matrix) -> Matrix:
    """``weight @ rows``, by dense arithmetic where both are nearly full."""
    full = min(part.nnz / max(1, part.shape[0] * part.shape[1]) for part in (weight, rows))
    if full > 0.1:
        return sparse.csr_array(weight.toarray() @ rows.toarray())
    return sparse.csr_array(weight @ rows)


def _places(limit: Interval, step: Step) -> Vector:
    """Which value of a smaller input each value of the step takes."""
    numbers = torch.arange(limit.lower[0].numel()).reshape(limit.lower.shape[1:])
    spread: Vector = numbers.expand(step.shape).reshape(-1).numpy()
    return spread


def _joined(step: Step, op: Cat, inputs: list[Expression], limits: list[Interval]) -> Expression:
    columns = max(value.rows.shape[1] for value in inputs)
    for value in inputs:
        value.rows.resize((len(value), columns))
    starts = np.cumsum([0, *(len(value) for value in inputs)])
    numbers = [
        torch.arange(int(start), int(start) + len(value)).reshape(1, *limit.lower.shape[1:])
        for start, value, limit in zip(starts, inputs, limits, strict=False)
    ]
    order = torch.cat(numbers, op.dim).reshape(-1).numpy()
    return Expression(
        sparse.csr_array(sparse.vstack([value.rows for value in inputs]))[order],
        np.concatenate([value.offset for value in inputs])[order],
        np.concatenate([value.noise for value in inputs])[order],
    )
