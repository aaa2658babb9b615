r"""Interval bound propagation: every step of a graph, forward, with rounding inside the intervals.

**What is guaranteed.** Let the network run in float32 (or float64): every sum in any order, with or without fused
multiply-add, rounded to nearest, a batch norm folded into its neighbour or not. Then for every input of the network's
dtype in the threat's set, each value of each step lies in its interval, and each difference of scores is at least the
margin. The same holds for the network in exact arithmetic. A value that is not finite makes all that depends on it
NaN: not proven. Not covered are arithmetics that round more coarsely: TF32, Winograd or FFT convolutions, autocast.

**How.** With :math:`u` the unit roundoff and :math:`\gamma_n = nu/(1-nu)`, a sum of :math:`n` products is computed to
within :math:`\gamma_n` times the sum of their absolute values (Higham 2002, section 3.1). For an affine step on
:math:`[m - r, m + r]` both the network and these bounds make such an error, of at most :math:`\gamma S` each with
:math:`S = |W|(|m| + r) + |b|`. So the interval is

.. math:: W m + b \;\pm\; \left(|W|\,(\kappa r + \delta\,(|m| + r)) + \delta |b| + \tau\right),\qquad
          \delta = \gamma_n^{\mathrm{network}} + 2\gamma_n^{\mathrm{bounds}},\ \kappa = 1 + 2\gamma_n^{\mathrm{bounds}}

where :math:`n` counts ten more than the products, for the operations around the sum, and :math:`\tau` covers underflow.
In l2 and l1 the first affine step also has the bound of the dual norm, :math:`W x_0 + b \pm \varepsilon \|W_i\|_q`,
carried through elementwise scaling such as normalization; both bounds hold, so the tighter one of each side is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.core.values import Bounds, Norm, Threat

from .graph import Absolute, Affine, Cat, Graph, Monotone, Product, Step, Sum, Valley

SPARE = 10
"""Roundings beside the products of a sum: bias, splitting into midpoint and radius, putting together, constants."""
FEW = 6
"""Roundings of one product in the network: its own, and those of a weight that a batch norm is folded into."""


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    r"""The values :math:`c + s \odot v + e` with :math:`\|v\|_p \le \varepsilon` and :math:`|e| \le` ``noise``.

    Args:
        centre: ``(N, *shape)``.
        scale: float64 ``(1 or N, *shape)``, at least 0; 0 where nothing moves.
        noise: rounding so far ``(N, *shape)``.
        norm: l2 or l1.
        eps: radius.
    """

    centre: Tensor
    scale: Tensor
    noise: Tensor
    norm: Norm
    eps: float

    def take(self, rows: Tensor | slice) -> Ball:
        """Returns the balls of those samples."""
        scale = self.scale if len(self.scale) == 1 else self.scale[rows]
        return Ball(self.centre[rows], scale, self.noise[rows], self.norm, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Values between ``lower`` and ``upper`` ``(N, *shape)``, and in the ball where one is known."""

    lower: Tensor
    upper: Tensor
    ball: Ball | None = None

    def split(self) -> tuple[Tensor, Tensor]:
        """Returns midpoint and radius."""
        middle = self.lower.lerp(self.upper, 0.5)
        return middle, self.upper - middle

    def take(self, rows: Tensor | slice) -> Interval:
        """Returns the intervals of those samples."""
        return Interval(self.lower[rows], self.upper[rows], None if self.ball is None else self.ball.take(rows))

    def largest(self) -> Tensor:
        """Returns the largest absolute value."""
        return torch.maximum(self.lower.abs(), self.upper.abs())


def region(x: Tensor, threat: Threat, bounds: Bounds, network: torch.dtype, dtype: torch.dtype) -> Interval:
    """Returns the inputs that the threat allows: the smallest box around them, and in l2 and l1 the ball as well.

    Both are wider by what rounding adds where an attack projects in floating point.

    Args:
        x: ``(N, *shape)``, input units.
        threat: linf, l2 or l1; its mask is respected.
        bounds: of the inputs; the box is cut to them.
        network: the dtype that the network computes in; inputs are rounded to it.
        dtype: the dtype that bounds are computed in.
    """
    free = torch.ones_like(x[:1], dtype=torch.bool)
    if threat.mask is not None:
        free = free & (threat.mask != 0).to(x.device)
    eps = threat.eps * (1 + 2**-20)
    centre = x.clamp(bounds.low, bounds.high).to(network)
    low, high = ((x + move).to(network) for move in (-eps, eps))
    low = torch.nextafter(low, torch.full_like(low, -torch.inf)).clamp(bounds.low, bounds.high)
    high = torch.nextafter(high, torch.full_like(high, torch.inf)).clamp(bounds.low, bounds.high)
    box = Interval(torch.where(free, low, centre).to(dtype), torch.where(free, high, centre).to(dtype))
    if threat.norm == "linf" or threat.eps == float("inf"):
        return box
    noise = torch.finfo(network).eps * box.largest()
    return Interval(box.lower, box.upper, Ball(centre.to(dtype), free.double(), noise, threat.norm, eps))


def propagate(graph: Graph, start: Interval, keep: Iterable[int] | None = None) -> dict[int, Interval]:
    """Returns the intervals of the steps by index: of all of them, or of those to keep."""
    kept = set(range(len(graph.steps)) if keep is None else keep)
    last = {i: index for index, step in enumerate(graph.steps) for i in step.inputs}
    values: dict[int, Interval] = {}
    for index, step in enumerate(graph.steps):
        inputs = [values[i] for i in step.inputs]
        values[index] = bound(step, inputs) if inputs else start
        for i in set(step.inputs):
            if last[i] == index and i not in kept:
                del values[i]
    return values


def bound(step: Step, inputs: list[Interval]) -> Interval:
    """Returns the interval of one step from those of its inputs."""
    x, op = inputs[0], step.op
    if isinstance(op, Affine):
        return _affine(step, op, x)
    if isinstance(op, Monotone):
        lower, upper = op(x.lower), op(x.upper)
        if op.error:
            unit, tiny = op.error * max(eps_of(step.dtype), eps_of(lower.dtype)), _tiny(step)
            lower, upper = lower - (lower.abs() * unit + tiny), upper + (upper.abs() * unit + tiny)
            lower = lower.clamp(min=op.least)
        return Interval(lower, upper)
    if isinstance(op, Valley):
        lowest = torch.maximum(torch.minimum(torch.full_like(x.lower, op.bottom), x.upper), x.lower)
        noise = x.largest() * (op.error * max(eps_of(step.dtype), eps_of(x.lower.dtype))) + _tiny(step)
        return Interval(op(lowest) - noise, torch.maximum(op(x.lower), op(x.upper)) + noise)
    if isinstance(op, Absolute):
        return Interval(torch.maximum(x.lower, -x.upper).clamp(min=0), x.largest())
    if isinstance(op, Cat):
        return Interval(op(*(value.lower for value in inputs)), op(*(value.upper for value in inputs)))
    if isinstance(op, Sum):
        noise = rounding(step, inputs)
        rising = [
            value if factor >= 0 else Interval(value.upper, value.lower)
            for value, factor in zip(inputs, op.factors, strict=True)
        ]
        return Interval(op(*(value.lower for value in rising)) - noise, op(*(value.upper for value in rising)) + noise)
    if isinstance(op, Product):
        ends = torch.stack([op(one, other) for one in _ends(x) for other in _ends(inputs[1])])
        noise = rounding(step, inputs)
        return Interval(ends.amin(0) - noise, ends.amax(0) + noise)
    return x


def _ends(x: Interval) -> tuple[Tensor, Tensor]:
    return x.lower, x.upper


def _affine(step: Step, op: Affine, x: Interval) -> Interval:
    if not op.terms or op.form == "repeat":
        ball = x.ball if op.form == "move" else None
        if ball is not None:
            ball = Ball(op(ball.centre), op(ball.scale), op(ball.noise), ball.norm, ball.eps)
        return Interval(op(x.lower), op(x.upper), ball)
    delta, kappa = _slack(step, op.terms, x.lower.dtype)
    offset = _offset(step, op, delta)
    if op.rising and x.ball is None and bool((x.lower >= 0).all()):
        lower, upper = op(x.lower), op(x.upper)
        reach = _finite(upper * delta + offset, step, delta)
        return Interval((lower - (lower * delta + offset + 0 * reach)).clamp(min=0), upper + reach)
    middle, radius = x.split()
    centre = op(middle)
    if x.ball is None:
        inner = radius.mul_(kappa + delta).add_(middle.abs(), alpha=delta)
        reach = _finite(op.absolute(inner, offset), step, delta)
        return Interval(centre - reach, centre + reach)
    noise = rounding(step, [x])
    reach = op.absolute(radius * kappa) + noise
    lower, upper = centre - reach, centre + reach
    centre, carried = op(x.ball.centre), op.absolute(x.ball.noise * kappa) + noise
    if op.form == "diagonal":
        scale = op.map(x.ball.scale, op.weight.double().abs(), None)
        return Interval(lower, upper, Ball(centre, scale, carried, x.ball.norm, x.ball.eps))
    if op.form in ("matrix", "kernel"):
        reach = (_norms(op, x.ball) * (x.ball.eps * kappa)).to(centre.dtype) + carried
        lower, upper = torch.maximum(lower, centre - reach), torch.minimum(upper, centre + reach)
    return Interval(lower, upper)


def _norms(op: Affine, ball: Ball) -> Tensor:
    """The dual norm of each row of ``W diag(scale)``, or what it cannot exceed, float64."""
    weight, tiny = op.weight.double(), torch.finfo(torch.float64).tiny
    if ball.norm == "l2":
        return (op.map(ball.scale.square(), weight.square(), None) + tiny * op.terms).sqrt()
    if op.form == "matrix":
        return (ball.scale[..., None, :] * weight.abs()).amax(-1)
    largest, scale = weight.abs().flatten(2).amax(2), ball.scale.flatten(2).amax(2)  # of a kernel, of a channel
    inputs = largest.shape[1]
    groups = scale.shape[1] // inputs
    parts = (largest.reshape(groups, -1, inputs) * scale.reshape(-1, groups, 1, inputs)).amax(-1)
    return parts.reshape(len(parts), -1, *(1,) * (weight.ndim - 2))


def rounding(step: Step, inputs: list[Interval], rows: bool = False) -> Tensor:
    """Returns how far the rounding of one step, the network's and ours, may move its values; a scalar 0 where exact.

    Args:
        step: whose.
        inputs: of the step.
        rows: ours is that of rows pulled back through the step, not of values carried forward.
    """
    op, dtype = step.op, inputs[0].lower.dtype
    if isinstance(op, Affine) and op.terms:
        if rows and op.form in ("matrix", "kernel"):
            return _summed(step, op, inputs[0])
        delta, _ = _slack(step, op.terms, dtype)
        if rows:
            delta = gamma(op.terms + SPARE, eps_of(step.dtype)) + gamma((op.back or op.terms) + SPARE, eps_of(dtype))
        return _finite(op.absolute(inputs[0].largest() * delta, _offset(step, op, delta)), step, delta)
    if isinstance(op, Sum):
        repeats = max(math.prod(step.shape) // value.lower[0].numel() for value in inputs)
        delta, _ = _slack(step, len(inputs) * repeats, dtype)
        parts = (value.largest() * (abs(factor) * delta) for value, factor in zip(inputs, op.factors, strict=True))
        return _finite(sum(parts, inputs[0].lower.new_full((), _tiny(step))), step, delta)
    if isinstance(op, Product):
        delta, _ = _slack(step, 1, dtype)
        return _finite(op(*(value.largest() for value in inputs)) * delta + _tiny(step), step, delta)
    return inputs[0].lower.new_zeros(())


def _summed(step: Step, op: Affine, x: Interval) -> Tensor:
    r"""What sums of products over a step's inputs lose in the network, and products of rows with it in these bounds.

    A sum in any order is a tree of additions, and is off by the sum of what they lose, each at most u times its exact
    result. That is no larger than all positive terms together or all negative ones, but for what was lost before, at
    most :math:`\gamma_n S` with S the sum of absolute values. Adding 0 loses nothing, so only the n inputs count that
    may be anything else:

    .. math:: n u\,(M + \gamma_n S), \qquad M = \tfrac12 \bigl(|W|\,(x^+ + x^-) + |W (x^+ - x^-)|\bigr)

    with :math:`x^+` the most that x is above 0 and :math:`x^-` below it. Products, and weights that a batch norm is
    folded into, lose a few units of S on top.
    """
    above, below = x.upper.clamp(min=0), (-x.lower).clamp(min=0)
    network, ours = eps_of(step.dtype), eps_of(x.lower.dtype)
    size = op.size if op.size is None or op.form == "matrix" else op.size.reshape(-1, *(1,) * (x.lower.ndim - 2))
    largest = op.absolute(x.largest(), op.size)
    whole = largest if bool((x.lower >= 0).all()) else op.absolute(above + below, op.size)
    most = (whole + op.map(above - below, op.weight, None).abs()) / 2 + (0 if size is None else size / 2)
    most = torch.where(most < largest, most, largest)
    most = most + whole * (gamma(op.terms + SPARE, network) + gamma(op.terms + SPARE, ours))
    there = ((x.lower != 0) | (x.upper != 0)).to(x.lower.dtype)  # NaN is there
    count = there.sum(-1, keepdim=True) if op.form == "matrix" else op.map(there, torch.ones_like(op.weight), None)
    each = gamma(FEW, network) + gamma((op.back or op.terms) + SPARE, ours)
    lost = (op.weight.detach().abs().amax() + 1) * (op.terms * _tiny(step))
    found = most * ((count.detach().round() + 2) * (network / 2)) + largest * each + lost
    return found.masked_fill(~(largest < torch.finfo(step.dtype).max / 8), torch.nan)


def _offset(step: Step, op: Affine, delta: float) -> Tensor:
    """What the bias's rounding and underflow add to a radius: the products' own, and what they lose of the inputs'."""
    lost = (op.weight.detach().abs().amax() + 1) * (op.terms * _tiny(step))
    return lost if op.size is None else op.size * delta + lost


def _tiny(step: Step) -> float:
    """More than underflow loses in one operation, also where it flushes to 0."""
    return 4 * torch.finfo(step.dtype).tiny


def _finite(noise: Tensor, step: Step, delta: float) -> Tensor:
    """NaN where the network's own sums might overflow: ``noise / delta`` is at least as large as any of them."""
    limit = delta * torch.finfo(step.dtype).max / 8
    return noise if bool(noise.detach().amax() < limit) else noise.masked_fill(~(noise < limit), torch.nan)


def _slack(step: Step, terms: int, dtype: torch.dtype) -> tuple[float, float]:
    """Returns delta and kappa."""
    network, ours = (gamma(terms + SPARE, eps_of(kind)) for kind in (step.dtype, dtype))
    return network + 2 * ours, 1 + 2 * ours


def gamma(terms: int, eps: float) -> float:
    """Returns the relative error of a sum of products, for a precision ``eps`` of twice the unit roundoff."""
    part = terms * eps / 2
    return part / (1 - part) if part < 0.2 else torch.nan


def eps_of(dtype: torch.dtype) -> float:
    """Returns the distance from 1 to the next number."""
    return torch.finfo(dtype).eps
