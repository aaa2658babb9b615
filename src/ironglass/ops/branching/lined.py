"""A network between its lines on a box, and on the parts of it where some ReLU inputs are known to be of one sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Bend, Graph, Monotone
from ironglass.ops.linear import Relaxed, lower, relax
from ironglass.ops.linear.backward import add
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
    """

    relaxed: Relaxed
    start: Interval
    relus: tuple[int, ...]

    def before(self, step: int) -> int:
        """Returns the step whose values a ReLU reads."""
        return self.relaxed.graph.steps[step].inputs[0]

    def unstable(self, step: int) -> Tensor:
        """Returns which of a ReLU's inputs may be of either sign ``(1, *shape)``."""
        x = self.relaxed.values[self.before(step)]
        return (x.lower < 0) & (x.upper > 0)

    def split(self, signs: Mapping[int, Tensor]) -> Relaxed:
        """Returns the lines where some inputs of ReLUs are taken to be of one sign.

        Args:
            signs: by step ``(N, *shape)``: 1 for at least 0, -1 for at most 0, 0 for either.
        """
        values = dict(self.relaxed.values)
        for step, sign in signs.items():
            x = values[self.before(step)]
            low = torch.where(sign > 0, x.lower.clamp(min=0), x.lower)
            high = torch.where(sign < 0, x.upper.clamp(max=0), x.upper)
            values[self.before(step)] = Interval(low, high)
        whole = self.relaxed
        part = replace(whole, values=values, lines=dict(whole.lines), folds=dict(whole.folds))
        for step in signs:
            add(part, step)
        return part

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


def lined(graph: Graph, start: Interval, values: Mapping[int, Interval]) -> Lined:
    """Returns the graph between its lines on a box.

    Args:
        graph: of the network.
        start: the box.
        values: intervals by step, of one region.
    """
    relaxed = relax(graph, values)
    relus = tuple(
        index
        for index, step in enumerate(graph.steps)
        if index in relaxed.lines and is_relu(step.op) and _either(values[step.inputs[0]])
    )
    return Lined(relaxed, start, relus)


def is_relu(op: object) -> bool:
    """Returns whether an operation is a ReLU: flat below 0, itself above."""
    if not isinstance(op, Monotone) or op.error or not isinstance(op.shape, Bend):
        return False
    bend = op.shape
    return not isinstance(bend.at, Tensor) and (bend.at, bend.left, bend.right) == (0, 0, 1)


def _either(x: Interval) -> bool:
    return bool(((x.lower < 0) & (x.upper > 0)).any())
