r"""Rounding to the 256 levels of a saved picture, so that what is adversarial stays so in the file.

A value moves on the grid :math:`\mathrm{low} + k\,(\mathrm{high} - \mathrm{low})/255`. Rounding is a choice a value,
between the level nearer to the clean sample and the next one outward; the inner ones alone never leave the ball, and
the room that is left goes to the values that help the goal most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.values import Bounds, Goal, Threat

LEVELS = 255
REPAIRS = 4


def snap(x: Tensor, bounds: Bounds) -> Tensor:
    """Returns the nearest levels: what a reader of the saved file sees."""
    return bounds.low + levels(x, bounds) * bounds.span / LEVELS


def levels(x: Tensor, bounds: Bounds) -> Tensor:
    """Returns the numbers 0 to 255 of the nearest levels."""
    return ((x - bounds.low) * (LEVELS / bounds.span)).round().clamp(0, LEVELS)


def check_grid(x: Tensor, bounds: Bounds) -> None:
    """Checks that samples are pictures of 8 bits.

    Raises:
        InputError: if a value lies between two levels.
    """
    off = float((x - snap(x, bounds)).abs().max()) if x.numel() else 0.0
    if off > 1e-3 * bounds.span / LEVELS:
        raise InputError(
            f"quantize='uint8' needs samples of 8 bits, and a value is {off * LEVELS / bounds.span:.2f} levels off",
            "round the samples first: x = (x * 255).round() / 255 for the bounds (0, 1)",
        )


def quantize(model: Model, x: Tensor, found: Tensor, goal: Goal, threat: Threat, *, gradients: bool) -> Tensor:
    """Returns points on the grid, in ball and mask; those that lose the goal by rounding are repaired where it can be.

    The nearest levels are tried first, then those that the margin's gradient prefers, then a few more levels where it
    is steepest, as many as close what is missing by its own measure.

    Args:
        model: what is attacked.
        x: clean samples on the grid ``(N, *shape)``.
        found: an attack's points, within ball and bounds ``(N, *shape)``.
        goal: of each sample.
        threat: norm, radius and mask; its eps holds on the grid.
        gradients: whether the model's gradient may be asked.
    """
    origin, wanted = levels(x, model.bounds), (found - model.bounds.low) * (LEVELS / model.bounds.span)
    grid = _Grid(x, origin, threat, model.bounds)
    result = grid.round(wanted, torch.zeros_like(wanted))
    margin = goal.loss("margin")
    active = torch.arange(len(x), device=x.device)
    for turn in range(REPAIRS + 1):
        active = active[model.left(active) > 0]
        if not len(active):
            break
        here = grid.take(active).pixels(result[active])
        if not gradients:
            lost = ~goal.reached(model.scores(here, active), active)
            active = active[lost]
            if turn or not len(active):
                break
            result[active] = grid.take(active).round(wanted[active], (wanted - origin)[active])
            continue
        value, slope, scores = model.value_and_grad(here, margin, active)
        lost = ~goal.reached(scores, active)
        active, slope, short = active[lost], slope[lost], -value[lost]
        if not len(active):
            break
        part = grid.take(active)
        if turn == 0:
            result[active] = part.round(wanted[active], slope)
        else:
            result[active] = part.push(result[active], slope * (model.bounds.span / LEVELS), short * (1.2 + 0.4 * turn))
    return grid.pixels(result)


class _Grid:
    """Levels around clean ones, within ball, bounds and mask. The unit of all lengths is a level."""

    def __init__(self, x: Tensor, origin: Tensor, threat: Threat, bounds: Bounds) -> None:
        self.x, self.origin, self.threat, self.bounds = x, origin, threat, bounds
        self.eps = threat.eps if threat.norm == "l0" else threat.eps * LEVELS / bounds.span * (1 + 1e-6)

    def take(self, rows: Tensor) -> _Grid:
        """Returns the grid of those samples."""
        return _Grid(self.x[rows], self.origin[rows], self.threat.take(rows), self.bounds)

    def pixels(self, number: Tensor) -> Tensor:
        """Returns the values that a file with these levels holds; what did not change keeps its own bits."""
        return torch.where(number == self.origin, self.x, self.bounds.low + number * self.bounds.span / LEVELS)

    def round(self, wanted: Tensor, slope: Tensor) -> Tensor:
        """Rounds each value inward, then outward where the slope says so, or where that is nearer if it says nothing.

        What the ball has no room for stays inward: the values that gain least.
        """
        delta = wanted - self.origin
        size, sign = delta.abs().flatten(1), delta.sign().flatten(1)
        inner = (size + 1e-4).floor()
        part = size - inner
        uphill = (slope.flatten(1) * sign).sign()
        outward = torch.where(uphill == 0, part >= 0.5, uphill > 0) & (part > 1e-3)
        worth = torch.where(uphill == 0, part, slope.flatten(1).abs())
        return self._grown(inner, sign, outward, worth)

    def push(self, number: Tensor, slope: Tensor, short: Tensor) -> Tensor:
        """Moves the steepest values one level uphill: as many as gain what is ``short`` by the slope, if there are."""
        delta = (number - self.origin).flatten(1)
        uphill, gain = slope.flatten(1).sign(), slope.flatten(1).abs()
        here = number.flatten(1)
        free = (here + uphill >= 0) & (here + uphill <= LEVELS) & (gain > 0)
        if self.threat.mask is not None:
            free &= (self.threat.mask != 0).flatten(1)
        back = free & (delta * uphill < 0)  # towards the clean value: these always stay in the ball
        gain = torch.where(free, gain, 0)
        order = gain.argsort(dim=1, descending=True)
        ordered = gain.gather(1, order)
        needed = (ordered.cumsum(1) - ordered < short[:, None]) & (ordered > 0)
        chosen = torch.zeros_like(free).scatter_(1, order, needed)
        size = torch.where(chosen & back, delta.abs() - 1, delta.abs())
        sign = torch.where(delta == 0, uphill, delta.sign())
        return self._grown(size, sign, chosen & ~back, gain)

    def _grown(self, size: Tensor, sign: Tensor, outward: Tensor, worth: Tensor) -> Tensor:
        """Adds a level to the ``outward`` values, those of most worth a length first, as far as box and ball allow."""
        origin = self.origin.flatten(1)
        far = torch.where(sign > 0, LEVELS - origin, origin)
        outward = outward & (size + 1 <= far)
        if self.threat.norm == "linf":
            size = torch.where(outward & (size + 1 <= self.eps), size + 1, size)
        else:
            power = {"l2": 2, "l1": 1, "l0": 0}[self.threat.norm]
            paid = torch.where(size > 0, size**power, 0)
            price = torch.where(outward, (size + 1) ** power - paid, 0)
            order = torch.where(outward, worth / price.clamp(min=1e-9), -1).argsort(dim=1, descending=True)
            spent = price.gather(1, order).cumsum(1) + paid.sum(1, keepdim=True)
            fits = torch.zeros_like(outward).scatter_(1, order, spent <= self.eps ** max(power, 1))
            size = torch.where(outward & fits, size + 1, size)
        return (origin + size * sign).clamp(0, LEVELS).reshape_as(self.origin)
