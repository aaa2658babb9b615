r"""Lower slopes that rows choose for themselves, climbing by the exact gradient of their own bounds.

A bound is the least value of a row's line over the region, so at the place :math:`x^*` where it is least (envelope
theorem) its derivative by the lower slope of a bent value j is :math:`[A_j]_+\, \hat z_j`: the row there, and the value
before the activation when :math:`x^*` runs forward through the lines that the row took. A step costs one pass back and
one forward of R vectors; nothing is recorded. Any slope in range is sound, so the climb may stop at any time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval

from .backward import least as least_of
from .backward import lower
from .relaxations import Lines
from .relaxed import Relaxed, reached, unit_of

Slope = dict[int, Tensor]
FIRST, SECOND, SMALL = 0.7, 0.9, 1e-12
"""Decay of the mean gradient and its square, and what keeps from dividing by 0."""


def climbed(
    start: Interval,
    rows: Tensor,
    relaxed: Relaxed,
    *,
    at: int | None = None,
    steps: int,
    rate: float = 0.3,
    enough: float = torch.inf,
) -> tuple[Tensor, Slope]:
    r"""Returns the best lower bounds found of ``rows · values`` of a step, float64 ``(N, R)``, and their slopes.

    Projected Adam from the lines' own slopes, with a rate that falls to a fifth; the best of each row is kept.

    Args:
        start: the region; N of them.
        rows: ``(N, R, *shape)``.
        relaxed: of the graph on these regions.
        at: the step whose values are meant; the scores if None.
        steps: of the climb.
        rate: of the first step, in units of the slope's range.
        enough: stop when every bound is larger.
    """
    bent = free(relaxed, at)
    tape: Slope = {}
    best = lower(start, rows, relaxed, at=at, tape=tape)
    slopes = {
        i: lines.lower.slope[:, None].expand(-1, rows.shape[1], *lines.lower.slope.shape[1:]) for i, lines in bent
    }
    kept = dict(slopes)
    mean = {i: torch.zeros_like(slope) for i, slope in slopes.items()}
    square = {i: torch.zeros_like(slope) for i, slope in slopes.items()}
    for step in range(1, steps + 1 if bent else 0):
        if bool((best > enough).all()):
            break
        seen = replayed(start, relaxed, tape, slopes, at)
        pace = rate * 0.2 ** (step / steps) / (1 - FIRST**step) * (1 - SECOND**step) ** 0.5
        moved: Slope = {}
        for i, lines in bent:
            gradient = tape[i].clamp(min=0) * seen[i] * lines.free[:, None]  # type: ignore[index]
            mean[i] = mean[i].lerp(gradient, 1 - FIRST)
            square[i] = square[i].lerp(gradient.square(), 1 - SECOND)
            low, high = lines.choice
            change = mean[i] / (square[i].sqrt() + SMALL) * (pace * (high - low))
            moved[i] = (slopes[i] + change).clamp(low, high)
        slopes, tape = moved, {}
        found = lower(start, rows, relaxed, at=at, alphas=slopes, tape=tape)
        better = found > best
        best = torch.where(better, found, best)
        for i, slope in slopes.items():
            kept[i] = torch.where(better.reshape(*better.shape, *(1,) * (slope.ndim - 2)), slope, kept[i])
    return best, kept


def free(relaxed: Relaxed, at: int | None) -> list[tuple[int, Lines]]:
    """Returns the nonlinear steps on the way whose lower slope may be chosen somewhere."""
    found = []
    for index in reached(relaxed.graph, at):
        lines = relaxed.lines.get(index)
        if isinstance(lines, Lines) and lines.free is not None and bool(lines.free.any()):
            found.append((index, lines))
    return found


def minimizer(a: Tensor, start: Interval, unit: float = 0.0) -> Tensor:
    """Returns where rows ``(N, R, *shape)`` are least over a region, of ball and box the one with the larger bound."""
    corner = torch.where(a > 0, start.lower[:, None], start.upper[:, None])
    ball = start.ball
    if ball is None:
        return corner
    scaled = a * ball.scale[:, None].to(a.dtype)
    if ball.norm == "l2":
        length = scaled.flatten(2).norm(dim=2).reshape(*a.shape[:2], *(1,) * (a.ndim - 2))
        way = scaled / length.clamp(min=torch.finfo(a.dtype).tiny)
    else:
        flat = scaled.flatten(2)
        most = flat.abs().argmax(2, keepdim=True)
        way = torch.zeros_like(flat).scatter(2, most, flat.gather(2, most).sign()).reshape(a.shape)
    inside = ball.centre[:, None] - ball.eps * ball.scale[:, None].to(a.dtype) * way
    box = Interval(start.lower, start.upper)
    boxed = (least_of(a, box, unit) >= least_of(a, start, unit)).reshape(*a.shape[:2], *(1,) * (a.ndim - 2))
    return torch.where(boxed, corner, inside)


def replayed(
    start: Interval,
    relaxed: Relaxed,
    tape: Mapping[int, Tensor],
    slopes: Mapping[int, Tensor],
    at: int | None = None,
    point: Tensor | None = None,
) -> Slope:
    """Returns what each nonlinear step reads ``(N, R, *shape)`` when every row's minimizer runs through its own lines.

    Args:
        start: the region.
        relaxed: of the graph on it.
        tape: rows at each nonlinear step's output, and at the input, from `lower`.
        slopes: that the rows took.
        at: the step that the rows began at.
        point: what runs in the minimizers' place ``(N, any, *shape)``, where the rows' lines are the same for all.
    """
    graph = relaxed.graph
    point = minimizer(tape[0], start, unit_of(graph, tape[0].dtype)) if point is None else point
    lead = point.shape[:2]
    values = {0: point}
    seen: Slope = {}
    for index in reached(graph, at):
        step, row = graph.steps[index], tape.get(index)
        inputs = [values[i] for i in step.inputs]
        lines = relaxed.lines.get(index)
        if lines is None:
            out = step.op(*(value.flatten(0, 1) for value in inputs))
            values[index] = out.reshape(*lead, *out.shape[1:])
            continue
        seen[index] = inputs[0]
        if row is None:
            values[index] = inputs[0].new_zeros(*lead, *step.shape)
            continue
        below = lines.lower.slope[:, None]
        if isinstance(lines, Lines):
            if index in slopes and lines.free is not None:
                below = torch.where(lines.free[:, None], slopes[index], below)
            low = below * inputs[0] + lines.lower.offset[:, None]
            high = lines.upper.slope[:, None] * inputs[0] + lines.upper.offset[:, None]
        else:
            windows = inputs[0].flatten(-lines.pool.dims)[..., lines.pool.places]
            low, high = (
                ((side.slope[:, None] * windows).sum(-1) + side.offset[:, None]).reshape(*lead, *row.shape[2:])
                for side in (lines.lower, lines.upper)
            )
        values[index] = torch.where(row[:, :1] >= 0 if row.shape[1] != lead[1] else row >= 0, low, high)
    return seen
