"""A network between its lines on a box, and on the parts of it where some ReLU inputs are known to be of one sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Bend, Graph, Monotone
from ironglass.ops.linear import Lines, Relaxed, lower, relax
from ironglass.ops.linear.curves import Side
from ironglass.ops.linear.relaxed import Fold, add
from ironglass.ops.linear.slopes import minimizer

ByStep = dict[int, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Pulled:
    """What pulling rows back gave: their bounds, float64 ``(N, R)``, and the rows at each step ``(N, R, *shape)``."""

    bound: Tensor
    rows: Mapping[int, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Lined:
    """A graph on a box, with its lines, and the ReLU steps that may be split.

    Args:
        relaxed: of the whole box, of one region.
        start: the box.
        relus: the steps that are ReLUs with a value that may be of either sign.
        positive: its lines where the inputs of all of those are at least 0.
        negative: and where they are at most 0.
    """

    relaxed: Relaxed
    start: Interval
    relus: tuple[int, ...]
    positive: Relaxed
    negative: Relaxed

    def before(self, step: int) -> int:
        """Returns the step whose values a ReLU reads."""
        return self.relaxed.graph.steps[step].inputs[0]

    def unstable(self, step: int) -> Tensor:
        """Returns which of a ReLU's inputs may be of either sign ``(1, *shape)``."""
        x = self.relaxed.values[self.before(step)]
        return (x.lower < 0) & (x.upper > 0)

    def split(self, signs: Mapping[int, Tensor]) -> Relaxed:
        """Returns the lines where some inputs of ReLUs are taken to be of one sign.

        Lines are made value by value, so each is one of three that are known.

        Args:
            signs: by step ``(N, *shape)``: 1 for at least 0, -1 for at most 0, 0 for either.
        """
        whole, values = self.relaxed, dict(self.relaxed.values)
        found = Relaxed(whole.graph, values, dict(whole.lines), whole.losses, dict(whole.folds))
        for step, sign in signs.items():
            values[self.before(step)] = clipped(values[self.before(step)], sign)
            below, above = sign < 0, sign > 0

            def pick(one: Tensor, plus: Tensor, minus: Tensor, below: Tensor = below, above: Tensor = above) -> Tensor:
                return torch.where(above, plus, torch.where(below, minus, one))

            lines = [each.lines[step] for each in (whole, self.positive, self.negative)]
            found.lines[step] = _lines_of([line for line in lines if isinstance(line, Lines)], pick)
            folds = [each.folds[step] for each in (whole, self.positive, self.negative)]
            parts = ([getattr(fold, name) for fold in folds] for name in ("slope", "bend", "offset", "width"))
            slope, bend, offset, width = (pick(*part) for part in parts)
            found.folds[step] = Fold(slope, bend, offset, width, folds[0].paid)
        return found

    def pull(
        self,
        relaxed: Relaxed,
        rows: Tensor,
        signs: Mapping[int, Tensor],
        alphas: Mapping[int, Tensor],
        betas: Mapping[int, Tensor],
    ) -> Pulled:
        """Returns sound bounds of ``rows`` and the rows on the way.

        Args:
            relaxed: from `split`.
            rows: of the outputs ``(N, R, outputs)``.
            signs: as in `split`.
            alphas: lower slopes by step ``(N, R, *shape)``.
            betas: multipliers by step ``(N, R, *shape)``, at least 0 and 0 where the sign is 0.
        """
        pushes = {step: beta * signs[step][:, None] for step, beta in betas.items()}
        trace: ByStep = {}
        bound = lower(self.start, rows, relaxed, alphas=alphas, betas=pushes, tape=trace)
        return Pulled(torch.where(bound.isnan(), -torch.inf, bound), trace)

    def corner(self, pulled: Pulled) -> Tensor:
        """Returns the input that each bound is attained at, in the lines ``(N, R, *shape)``."""
        return minimizer(pulled.rows[0], self.start)


def clipped(x: Interval, sign: Tensor) -> Interval:
    """Returns what is left of intervals where their values have these signs."""
    low = torch.where(sign > 0, x.lower.clamp(min=0), x.lower)
    return Interval(low, torch.where(sign < 0, x.upper.clamp(max=0), x.upper))


def _lines_of(lines: list[Lines], pick: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Lines:
    lower, upper = ([getattr(line, side) for line in lines] for side in ("lower", "upper"))
    sides = [
        Side(pick(*(each.slope for each in side)), pick(*(each.offset for each in side))) for side in (lower, upper)
    ]
    free = [torch.zeros_like(line.lower.slope, dtype=torch.bool) if line.free is None else line.free for line in lines]
    return Lines(sides[0], sides[1], pick(*free), lines[0].choice)


def lined(graph: Graph, start: Interval, values: Mapping[int, Interval]) -> Lined:
    """Returns the graph between its lines on a box.

    Args:
        graph: of the network.
        start: the box.
        values: intervals by step, of one region.
    """
    relaxed = relax(graph, values)
    for step, fold in relaxed.folds.items():
        relaxed.folds[step] = replace(fold, alive=None)  # which says of each region what rows of many parts do not have
    relus = tuple(
        index
        for index, step in enumerate(graph.steps)
        if index in relaxed.lines and is_relu(step.op) and _either(values[step.inputs[0]])
    )
    return Lined(relaxed, start, relus, *(_all_of(relaxed, relus, sign) for sign in (1, -1)))


def _all_of(whole: Relaxed, relus: tuple[int, ...], sign: int) -> Relaxed:
    """The lines where the inputs of all these ReLUs have one sign, as far as they can."""
    values = dict(whole.values)
    found = Relaxed(whole.graph, values, dict(whole.lines), whole.losses, dict(whole.folds))
    for step in relus:
        before = whole.graph.steps[step].inputs[0]
        x = whole.values[before]
        unstable = (x.lower < 0) & (x.upper > 0)
        values[before] = clipped(x, torch.where(unstable, sign, 0))
        add(found, step)
    return found


def is_relu(op: object) -> bool:
    """Returns whether an operation is a ReLU: flat below 0, itself above."""
    if not isinstance(op, Monotone) or op.error or not isinstance(op.shape, Bend):
        return False
    bend = op.shape
    return not isinstance(bend.at, Tensor) and (bend.at, bend.left, bend.right) == (0, 0, 1)


def _either(x: Interval) -> bool:
    return bool(((x.lower < 0) & (x.upper > 0)).any())
