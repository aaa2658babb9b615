r"""What stands for a nonlinear step in linear bounds: a line below and a line above each of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval, eps_of
from ironglass.ops.graph import Absolute, Bend, Monotone, Pool, Ramp, Smooth, Step, Valley

from .curves import Function, Side, above, secant, straight

Slopes = Literal["adaptive", "same"]
"""``adaptive``: the line with the least area. ``same``: below as steep as above, as in Fast-Lin."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    r"""For each value :math:`a_l z + b_l \le s(z) \le a_u z + b_u`, four tensors ``(N, *shape)``.

    Where ``free`` is true any lower slope in the range ``choice`` is sound with the offset 0, and so a row may choose
    its own (:math:`\alpha`).
    """

    lower: Side
    upper: Side
    free: Tensor | None = None
    choice: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """For each maximum over a window of k values, planes ``slope · z + offset``: slopes ``(N, *shape, k)``."""

    lower: Side
    upper: Side
    pool: Pool


Nonlinear = Monotone | Valley | Absolute


def relaxed(step: Step, x: Interval, slopes: Slopes = "adaptive") -> Lines | Planes:
    """Returns the lines of a nonlinear step whose input lies in this interval.

    Bounds that are not finite give lines that are not: nothing is proven by them. A step without a known shape gets
    horizontal lines at the ends of its interval.
    """
    op = step.op
    assert isinstance(op, Nonlinear)
    low, high = x.lower.double(), x.upper.double()
    dtype = x.lower.dtype
    if isinstance(op, Absolute):
        return _lines(op, Bend(0.0, -1.0, 1.0), low, high, torch.zeros_like(low), slopes, dtype)
    if isinstance(op.shape, Pool):
        return _planes(op.shape, step, low, high, dtype)
    lost = _lost(step, low, high)
    if op.shape is None:
        ends = Side(torch.zeros_like(lost), -op(low) + lost), Side(torch.zeros_like(lost), op(high) + lost)
        return Lines(*_rounded(*ends, dtype))
    return _lines(op, op.shape, low, high, lost, slopes, dtype)


def _lost(step: Step, low: Tensor, high: Tensor) -> Tensor:
    """How far the network's own function may be off, in its dtype."""
    op = step.op
    unit, tiny = eps_of(step.dtype), 4 * torch.finfo(step.dtype).tiny
    if isinstance(op, Valley):
        return torch.maximum(low.abs(), high.abs()) * (op.error * unit) + tiny
    assert isinstance(op, Monotone)
    if not op.error:
        return low.new_zeros(())
    return torch.maximum(op(low).abs(), op(high).abs()) * (op.error * unit) + tiny


def _lines(
    function: Function,
    shape: Bend | Ramp | Smooth,
    low: Tensor,
    high: Tensor,
    lost: Tensor,
    slopes: Slopes,
    dtype: torch.dtype,
) -> Lines:
    upper, lower = (above(function, shape, low, high, sign, dtype) for sign in (1.0, -1.0))
    free, choice = None, (0.0, 0.0)
    if isinstance(shape, Bend) and isinstance(shape.at, float) and shape.at == 0 and shape.left < shape.right:
        free, choice = (low < 0) & (high > 0), (float(shape.left), float(shape.right))
    if slopes == "same" and not isinstance(shape, Smooth):
        slope = -upper.slope if isinstance(shape, Ramp) or shape.left < shape.right else lower.slope
        if isinstance(shape, Ramp):
            slope = -secant(function, low, high).to(dtype).double()
        lower = Side(slope, straight(function, shape, slope, low, high, -1.0))
        upper = Side(-slope, straight(function, shape, -slope, low, high, 1.0))
    return Lines(*_rounded(_moved(lower, lost), _moved(upper, lost), dtype), free, choice)


def _moved(side: Side, lost: Tensor) -> Side:
    return Side(side.slope, side.offset + lost)


def _rounded(lower: Side, upper: Side, dtype: torch.dtype) -> tuple[Side, Side]:
    """The lines in the bounds' dtype: that below given as the line above the negative, with its slope rounded."""
    return Side(-lower.slope.to(dtype), -_up(lower.offset, dtype)), Side(
        upper.slope.to(dtype), _up(upper.offset, dtype)
    )


def _up(offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the dtype, never down."""
    if dtype == torch.float64:
        return offset
    found = offset.to(dtype)
    return torch.where(found < offset, torch.nextafter(found, torch.full_like(found, torch.inf)), found)


def _planes(pool: Pool, step: Step, low: Tensor, high: Tensor, dtype: torch.dtype) -> Planes:
    r"""A maximum lies above each of its values, and below a plane.

    With :math:`g` the largest of all lower bounds and of all upper bounds but the largest, :math:`u_k`, it is at most
    :math:`\max(z_k, g)`, and so below the line through both ends of that.
    """
    low, high = (torch.where(pool.real, end.flatten(-pool.dims)[..., pool.places], -torch.inf) for end in (low, high))
    largest, k = high.max(-1, keepdim=True)
    others = high.scatter(-1, k, -torch.inf).amax(-1, keepdim=True)
    ground = torch.maximum(low.amax(-1, keepdim=True), others)
    begin = low.gather(-1, k)
    width = largest - begin
    slope = ((largest - ground).clamp(min=0) / width.clamp(min=1e-300)).clamp(max=1.0).to(dtype).double()
    ends = ((ground, begin), (torch.maximum(largest, ground), largest))
    most = [value - slope * at + (value.abs() + (slope * at).abs()) * 2.0**-48 for value, at in ends]
    offset = torch.maximum(*most)
    empty = torch.zeros_like(low)
    upper = Side(empty.scatter(-1, k, slope).to(dtype), _up(offset, dtype)[..., 0])
    lower = Side(empty.scatter(-1, low.argmax(-1, keepdim=True), 1.0).to(dtype), torch.zeros_like(upper.offset))
    broken = low.isnan().any(-1) | high.isnan().any(-1) | (low == torch.inf).any(-1) | (high == torch.inf).any(-1)
    lower, upper = (Side(side.slope, side.offset.masked_fill(broken, torch.nan)) for side in (lower, upper))
    return Planes(lower, upper, pool)
