r"""Activations between two lines: how far a line of a given slope has to be moved to bound a function on an interval.

Any slope may be asked for: the offset makes the line sound. With :math:`g(z) = s(z) - a z` on :math:`[l, u]`, the line
:math:`a z + b` lies above where :math:`b \ge \max g`.

* Straight pieces: :math:`g` is largest at an end or at a corner.
* Smooth pieces: where :math:`s` is convex, at an end; where it is concave, :math:`g` lies below each of its tangents,
  and so below that at any touching point, however well it was found.

All of it in float64, each offset widened by what its own rounding may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.ops.graph import Bend, Ramp, Smooth

Function = Callable[[Tensor], Tensor]
_HALVINGS = 24
_UNIT = 2.0**-48
"""More than what evaluating a function and its line may lose in float64, relative to their size."""


class Side(NamedTuple):
    """A line ``slope * z + offset``."""

    slope: Tensor
    offset: Tensor


def above(
    function: Function, shape: Bend | Ramp | Smooth, low: Tensor, high: Tensor, sign: float, dtype: torch.dtype
) -> Side:
    """Returns the line above ``sign * function`` on ``[low, high]`` with the least area below it, of a few tried.

    Args:
        function: of the values.
        shape: of the function.
        low: float64.
        high: float64.
        sign: 1 or -1.
        dtype: that the slope is rounded to.
    """
    if isinstance(shape, Smooth):
        curve = _Curve(function, shape, sign)
        pairs = [(slope.to(dtype).double(), touch) for slope, touch in curve.slopes(low, high)]
        trials = [(slope, curve.offset(slope, touch, low, high)) for slope, touch in pairs]
    else:
        slopes = [slope.to(dtype).double() for slope in _straight_slopes(function, shape, low, high, sign)]
        trials = [(slope, straight(function, shape, slope, low, high, sign)) for slope in slopes]
    middle = low + (high - low) / 2
    slope, offset = trials[0]
    for other, shift in trials[1:]:
        better = other * middle + shift < slope * middle + offset
        slope, offset = torch.where(better, other, slope), torch.where(better, shift, offset)
    return Side(slope, offset)


def corners(shape: Bend | Ramp) -> tuple[float | Tensor, ...]:
    """Returns where straight pieces meet."""
    return (shape.at,) if isinstance(shape, Bend) else (shape.low, shape.high)


def straight(
    function: Function, shape: Bend | Ramp, slope: Tensor, low: Tensor, high: Tensor, sign: float = 1
) -> Tensor:
    """Returns the offset with which a line of this slope lies above ``sign * function`` on ``[low, high]``."""
    offset = None
    for point in (low, high, *(_within(corner, low, high) for corner in corners(shape))):
        value, line = sign * function(point), slope * point
        most = value - line + (value.abs() + line.abs()) * _UNIT
        offset = most if offset is None else torch.maximum(offset, most)
    assert offset is not None
    return offset


def secant(function: Function, low: Tensor, high: Tensor) -> Tensor:
    """Returns the slope from one end to the other; 0 where they are so near that it cannot be told."""
    width = high - low
    wide = width > 1e-9 * (low.abs() + high.abs()) + 1e-200
    return torch.where(wide, (function(high) - function(low)) / torch.where(wide, width, 1.0), 0.0)


def _straight_slopes(function: Function, shape: Bend | Ramp, low: Tensor, high: Tensor, sign: float) -> list[Tensor]:
    if isinstance(shape, Bend):
        left, right = sign * shape.left, sign * shape.right
        outside = torch.where(high <= shape.at, left, right)
        if right >= left:  # convex: the secant, or the one piece
            across = sign * secant(function, low, high).clamp(*sorted((shape.left, shape.right)))
            return [torch.where((low < shape.at) & (high > shape.at), across, outside)]
        inside = (low < shape.at) & (high > shape.at)
        return [torch.where(inside, left, outside), torch.where(inside, right, outside)]
    first, second = _within(shape.low, low, high), _within(shape.high, low, high)
    meeting = secant(function, low, second) if sign > 0 else secant(function, first, high)
    ramp = (low >= shape.low) & (high <= shape.high)
    one = torch.ones_like(low)
    tried = [torch.where(ramp, one, 0.0), torch.where((high <= shape.low) | (low >= shape.high), 0.0, one)]
    return [sign * slope for slope in (*tried, torch.where(ramp, one, meeting))]


def _within(corner: float | Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(torch.zeros_like(low) + corner, low), high)


class _Curve:
    """A smooth function, or its negative, whose upper side is looked for."""

    def __init__(self, function: Function, shape: Smooth, sign: float) -> None:
        self.function, self.shape, self.sign = function, shape, sign
        self.ends = (-math.inf, *shape.turns, math.inf)
        self.concave = [(index % 2 == 0) != shape.convex for index in range(len(self.ends) - 1)]
        if sign < 0:
            self.concave = [not concave for concave in self.concave]

    def value(self, z: Tensor) -> Tensor:
        return self.sign * self.function(z)

    def slope(self, z: Tensor) -> Tensor:
        return self.sign * self.shape.slope(z)

    def slopes(self, low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The tangent in the middle, and the lines from either end that touch; each with its touching point."""
        middle = low + (high - low) / 2
        with torch.no_grad():
            points = []
            for index, concave in enumerate(self.concave):
                begin, end = (low.clamp(min=self.ends[index]), high.clamp(max=self.ends[index + 1]))
                if concave and index > 0:
                    points.append((self._touch(low, begin.clamp(max=high), high, 1.0), low))
                if concave and index + 1 < len(self.concave):
                    points.append((self._touch(high, low, end.clamp(min=low), -1.0), high))
        found = [(self.slope(middle), middle)]
        found += [(secant(self.value, torch.minimum(a, b), torch.maximum(a, b)), a) for a, b in points]
        if not points:
            found.append((secant(self.value, low, high), low))
        return found

    def _touch(self, base: Tensor, begin: Tensor, end: Tensor, way: float) -> Tensor:
        """Where a line from ``base`` touches: as far from it as it still gets steeper."""
        near, far = (begin, end) if way > 0 else (end, begin)
        start = self.value(base)
        for _ in range(_HALVINGS):
            half = near + (far - near) / 2
            steeper = (self.slope(half) * (half - base) - (self.value(half) - start)) > 0
            near, far = torch.where(steeper, half, near), torch.where(steeper, far, half)
        return far

    def offset(self, slope: Tensor, touch: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The offset with which a line of this slope lies above, thought to touch near ``touch``."""
        most = torch.full_like(low, -math.inf)
        width, steep = high - low, self._steepest(low, high)
        for index, concave in enumerate(self.concave):
            begin, end = low.clamp(min=self.ends[index]), high.clamp(max=self.ends[index + 1])
            there = begin <= end
            begin, end = torch.minimum(begin, high), torch.maximum(end, low)
            if not concave:
                found = torch.maximum(self._over(slope, begin), self._over(slope, end))
            else:
                found = self._below_tangent(slope, torch.minimum(torch.maximum(touch, begin), end), begin, end)
                if len(self.concave) > 2:
                    half = self._tangent_at(slope, begin, end)
                    found = torch.minimum(found, self._below_tangent(slope, half, begin, end))
            most = torch.where(there, torch.maximum(most, found), most)
        largest = torch.maximum(low.abs(), high.abs())
        size = (slope.abs() + steep) * (largest + width) + self.function(torch.zeros_like(low)).abs()
        return most + size * _UNIT + (low + high) * 0  # NaN stays NaN

    def _steepest(self, low: Tensor, high: Tensor) -> Tensor | float:
        if self.shape.steepest is not None:
            return self.shape.steepest
        return torch.maximum(self.shape.slope(low).abs(), self.shape.slope(high).abs())

    def _over(self, slope: Tensor, z: Tensor) -> Tensor:
        return self.value(z) - slope * z

    def _below_tangent(self, slope: Tensor, at: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        lead = self.slope(at) - slope
        return self._over(slope, at) + torch.maximum(lead * (begin - at), lead * (end - at))

    def _tangent_at(self, slope: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        """Where the derivative of a concave piece comes near the slope."""
        with torch.no_grad():
            for _ in range(_HALVINGS):
                half = begin + (end - begin) / 2
                rising = self.slope(half) > slope
                begin, end = torch.where(rising, half, begin), torch.where(rising, end, half)
        return begin
