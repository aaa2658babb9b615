r"""What stands for a nonlinear step in linear bounds: a line below and a line above each of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval, eps_of
from ironglass.ops.graph import Absolute, Bend, Monotone, Pool, Ramp, Smooth, Step, Valley

from .curves import Function, Side, above, secant, straight

Slopes = Literal["adaptive", "same", "shared", "same shared"]
"""``adaptive``: the line with the least area. ``same``: below as steep as above, as in Fast-Lin. ``shared``: besides,
above a maximum a plane that leans on all of its window, as in CNN-Cert, and not on its largest value alone."""


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
    if isinstance(op, Monotone) and not op.error and _is_relu(op.shape):
        return _relu(x.lower, x.upper, slopes)
    low, high = x.lower.double(), x.upper.double()
    dtype = x.lower.dtype
    if isinstance(op, Absolute):
        return _lines(op, Bend(0.0, -1.0, 1.0), low, high, torch.zeros_like(low), slopes, dtype)
    if isinstance(op.shape, Pool):
        return _planes(op.shape, low, high, slopes, dtype)
    lost = _lost(step, low, high)
    if op.shape is None:
        ends = Side(torch.zeros_like(lost), -op(low) + lost), Side(torch.zeros_like(lost), op(high) + lost)
        return Lines(*_rounded(*ends, dtype))
    return _lines(op, op.shape, low, high, lost, slopes, dtype)


def _is_relu(shape: object) -> bool:
    return isinstance(shape, Bend) and (shape.at, shape.left, shape.right) == (0, 0, 1)


def _relu(low: Tensor, high: Tensor, slopes: Slopes) -> Lines:
    r"""The commonest lines, in the bounds' own dtype: :math:`d = u / (u - l)` and :math:`-d l` above.

    A rounded d loses at most :math:`2^{-22} u` at the upper end, and the offset makes up for it.
    """
    free = (low < 0) & (high > 0)
    active = (low >= 0).to(low)
    width = torch.where(free, high - low, 1.0)
    secant = torch.where(free, high / width, active)
    eps = eps_of(low.dtype)
    lift = torch.where(free, secant * -low * (1 + 8 * eps) + high * (4 * eps), 0.0)
    below = secant if slopes.startswith("same") else torch.where(free, (high > -low).to(low), active)
    broken = (low - high) * 0  # NaN where an end is not finite
    return Lines(Side(below, broken), Side(secant, lift + broken), free, (0.0, 1.0))


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
    if slopes.startswith("same") and not isinstance(shape, Smooth):
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


def _planes(pool: Pool, low: Tensor, high: Tensor, slopes: Slopes, dtype: torch.dtype) -> Planes:
    r"""A maximum lies above each of its values, and below a plane.

    Its slopes are :math:`a_n = \max(0, u_n - g) / (u_n - l_n)` for a ground :math:`g`: the largest of all lower bounds
    and of all upper bounds but the largest, so that only one value lies above it. Or, where the slopes are shared, the
    ground that makes them sum to 1, kept between the lower bounds and the upper. Either way the least sound offset is
    :math:`\max_k [(1 - a_k) u_k + a_k l_k] - \sum_n a_n l_n`.
    """
    low, high = (end.flatten(-pool.dims)[..., pool.places] for end in (low, high))
    real, floor = pool.real, torch.finfo(low.dtype).min
    broken = ~(low.isfinite() & high.isfinite()).all(-1)
    least, most = low.masked_fill(~real, floor), high.masked_fill(~real, floor)
    ground, k = least.amax(-1, keepdim=True), most.argmax(-1, keepdim=True)
    width = (high - low).clamp(min=1e-200)
    if slopes.endswith("shared"):
        weights = real / width
        even = ((high * weights).sum(-1, keepdim=True) - 1) / weights.sum(-1, keepdim=True)
        ground = torch.maximum(torch.minimum(even, high.masked_fill(~real, torch.inf).amin(-1, keepdim=True)), ground)
    else:
        ground = torch.maximum(most.scatter(-1, k, floor).amax(-1, keepdim=True), ground)
    slope = (((high - ground).clamp(min=0) / width).clamp(max=1.0) * real).to(dtype).double()
    summit = ((1 - slope) * high + slope * low).masked_fill(~real, floor).amax(-1)
    size = (slope * torch.maximum(low.abs(), high.abs())).sum(-1) + summit.abs()
    offset = summit - (slope * low).sum(-1) + size * (pool.places.shape[1] * 2.0**-48)
    upper = Side(slope.to(dtype), _up(offset, dtype))
    one = torch.zeros_like(slope).scatter(-1, least.argmax(-1, keepdim=True), 1.0).to(dtype)
    lower = Side(one, torch.zeros_like(upper.offset))
    lower, upper = (Side(side.slope, side.offset.masked_fill(broken, torch.nan)) for side in (lower, upper))
    return Planes(lower, upper, pool)
