r"""Bounds on what half-spaces leave of a box: each row chooses lower slopes and multipliers together.

Pulled back to the input, a row bounds a value from below by a linear function :math:`r x + c` on the whole box. Where
:math:`g_k x + h_k \le 0` is known, for every :math:`\gamma \ge 0`

.. math:: \min_x r x + c \ge \min_{x \in \mathrm{box}} (r + \gamma G) x + c + \gamma h

By the envelope theorem the derivative by :math:`\gamma_k` is :math:`g_k x^* + h_k` at the minimizer :math:`x^*` of the
right side, and that by a lower slope is as in `slopes` with the same :math:`x^*`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval

from .backward import lower
from .relaxed import Relaxed
from .slopes import FIRST, SECOND, SMALL, Slope, free, replayed

UNIT = 2.0**-52


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """Half-spaces ``rows · x + offsets <= 0``, float64: ``(K, inputs)`` and ``(K,)``."""

    rows: Tensor
    offsets: Tensor

    def and_(self, other: Cuts) -> Cuts:
        """Returns these and others."""
        return Cuts(torch.cat([self.rows, other.rows]), torch.cat([self.offsets, other.offsets]))


class _Box:
    """The middle and the half sides of a box, flat, float64; and how much rounding in sums over it can lose."""

    def __init__(self, start: Interval, count: int = 0) -> None:
        low, high = start.lower.flatten().double(), start.upper.flatten().double()
        self.middle, self.radius = (low + high) / 2, (high - low) / 2
        self.most = self.middle.abs() + self.radius
        self.unit = (len(low) + count + 20) * UNIT

    def offset(self, rows: Tensor, bound: Tensor) -> Tensor:
        """What to add to rows ``(R, inputs)`` so that they are least at these bounds ``(R,)``, rounded down."""
        size = rows.abs()
        return bound - (rows @ self.middle - size @ self.radius) - self.unit * (size @ self.most + bound.abs())


def half_spaces(start: Interval, rows: Tensor, relaxed: Relaxed, *, at: int) -> Cuts:
    """Returns what holds of the input where ``rows · values`` of a step are at most 0.

    Args:
        start: the box, one region.
        rows: ``(1, K, *shape)``.
        relaxed: of the graph on it.
        at: the step.
    """
    tape: Slope = {}
    bound = lower(start, rows, relaxed, at=at, tape=tape)[0]
    flat = tape[0][0].flatten(1).double()
    return Cuts(flat, _Box(start).offset(flat, bound))


def climbed_within(
    cuts: Cuts, steps: int, rate: float, start: Interval, rows: Tensor, relaxed: Relaxed, *, at: int | None = None
) -> Tensor:
    """Returns the best lower bounds found of ``rows · values`` of a step where the cuts hold, float64 ``(1, R)``.

    Args:
        cuts: that hold.
        steps: of the climb.
        rate: of the first step, in units of the slope's range.
        start: the box, one region.
        rows: ``(1, R, *shape)``.
        relaxed: of the graph on it.
        at: the step whose values are meant; the scores if None.
    """
    box, bent = _Box(start, len(cuts.rows)), free(relaxed, at)
    count = rows.shape[1]
    slopes = {i: lines.lower.slope[:, None].expand(-1, count, *lines.lower.slope.shape[1:]) for i, lines in bent}
    mean, square = ({i: torch.zeros_like(slope) for i, slope in slopes.items()} for _ in range(2))
    held = cuts.rows @ box.middle + cuts.offsets
    reach = cuts.rows.abs() @ box.most + cuts.offsets.abs()
    size = cuts.rows.abs().mean(1).clamp(min=SMALL)
    gamma, first, second = (torch.zeros(count, len(size), dtype=torch.float64) for _ in range(3))
    best: Tensor | None = None
    units: Tensor | None = None
    for step in range(1, steps + 2):
        tape: Slope = {}
        bound = lower(start, rows, relaxed, at=at, alphas=slopes, tape=tape)[0]
        own = tape[0][0].flatten(1).double()
        offset = box.offset(own, bound)
        mixed = own + gamma @ cuts.rows
        value = own @ box.middle + gamma @ held + offset - mixed.abs() @ box.radius
        value = value - box.unit * (own.abs() @ box.most + offset.abs() + gamma @ reach)
        value = torch.where(value > bound, value, bound)
        best = value if best is None else torch.where(value > best, value, best)
        if step > steps:
            break
        tape[0] = mixed.to(rows.dtype).reshape(tape[0].shape)
        seen = replayed(start, relaxed, tape, slopes, at)
        pace = rate * 0.2 ** (step / steps) / (1 - FIRST**step) * (1 - SECOND**step) ** 0.5
        for i, lines in bent:
            gradient = tape[i].clamp(min=0) * seen[i] * lines.free[:, None]  # type: ignore[index]
            mean[i] = mean[i].lerp(gradient, 1 - FIRST)
            square[i] = square[i].lerp(gradient.square(), 1 - SECOND)
            low, high = lines.choice
            slopes[i] = (slopes[i] + mean[i] / (square[i].sqrt() + SMALL) * (pace * (high - low))).clamp(low, high)
        units = own.abs().mean(1, keepdim=True).clamp(min=SMALL) / size if units is None else units
        gradient = (held - (mixed.sign() * box.radius) @ cuts.rows.T) * units
        first, second = first.lerp(gradient, 1 - FIRST), second.lerp(gradient.square(), 1 - SECOND)
        gamma = (gamma + units * pace * first / (second.sqrt() + SMALL)).clamp(min=0)
    assert best is not None
    return best[None]
