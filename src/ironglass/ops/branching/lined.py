"""A network between its lines: rows pulled back, and points pushed forward through the lines those rows chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Affine, Bend, Cat, Graph, Monotone, Sum
from ironglass.ops.linear import Lines, Planes, Relaxed, lower, relax
from ironglass.ops.linear.backward import add

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
        values, lines = dict(self.relaxed.values), dict(self.relaxed.lines)
        for step, sign in signs.items():
            x = values[self.before(step)]
            low = torch.where(sign > 0, x.lower.clamp(min=0), x.lower)
            high = torch.where(sign < 0, x.upper.clamp(max=0), x.upper)
            values[self.before(step)] = Interval(low, high)
            add(self.relaxed.graph, values, step, lines, {}, "adaptive")
        return Relaxed(self.relaxed.graph, values, lines, self.relaxed.losses)

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
        """Returns the input of the box that each bound is attained at, in the lines ``(N, R, *shape)``."""
        rows, ball = pulled.rows.get(0), self.start.ball
        if rows is None:
            return self.start.lower[:, None].expand(*pulled.bound.shape, *self.start.lower.shape[1:])
        if ball is None:
            return torch.where(rows > 0, self.start.lower[:, None], self.start.upper[:, None])
        steep = rows * ball.scale[:, None].to(rows)
        if ball.norm == "l2":
            length = steep.flatten(2).norm(dim=2).clamp(min=1e-30)
            way = steep / length.reshape(*length.shape, *(1,) * (rows.ndim - 2))
        else:
            flat = steep.flatten(2)
            first = flat.abs().argmax(2, keepdim=True)
            way = torch.zeros_like(flat).scatter(2, first, flat.gather(2, first).sign()).reshape(steep.shape)
        nearest: Tensor = ball.centre[:, None] - ball.eps * ball.scale[:, None].to(rows) * way
        return nearest

    def push(self, relaxed: Relaxed, x: Tensor, pulled: Pulled, alphas: Mapping[int, Tensor], keep: set[int]) -> ByStep:
        """Returns the values of some steps ``(N, R, *shape)`` where points pass the lines that the rows chose."""
        graph, lead = relaxed.graph, x.shape[:2]
        values: ByStep = {0: x}
        last = {i: index for index, step in enumerate(graph.steps) for i in step.inputs}
        for index in range(1, max(keep) + 1):
            step = graph.steps[index]
            inputs = [values[i] for i in step.inputs]
            if isinstance(step.op, Affine | Sum | Cat):
                flat = [value.flatten(0, 1) for value in inputs]
                out = step.op(*flat)
                values[index] = out.reshape(*lead, *out.shape[1:])
            else:
                a = pulled.rows.get(index)
                if a is None:
                    values[index] = x.new_zeros(*lead, *step.shape)
                else:
                    values[index] = _passed(a, inputs[0], relaxed.lines[index], alphas.get(index))
            for i in set(step.inputs) - keep:
                if last[i] == index:
                    del values[i]
        return {index: values[index] for index in keep}


def _passed(a: Tensor, z: Tensor, lines: Lines | Planes, alpha: Tensor | None) -> Tensor:
    """What lines, or planes, make of values: the lower where the row is positive, the upper where it is negative."""
    if isinstance(lines, Planes):
        spread = z.flatten(-lines.pool.dims)[..., lines.pool.places]
        below, above = (
            (spread * side.slope[:, None].to(z)).sum(-1).reshape(z.shape[0], z.shape[1], *a.shape[2:])
            + side.offset[:, None].to(z).reshape(-1, 1, *a.shape[2:])
            for side in (lines.lower, lines.upper)
        )
        return torch.where(a >= 0, below, above)
    slope = lines.lower.slope[:, None].to(z)
    if alpha is not None and lines.free is not None:
        slope = torch.where(lines.free[:, None], alpha.clamp(*lines.choice), slope)
    below = slope * z + lines.lower.offset[:, None].to(z)
    above = lines.upper.slope[:, None].to(z) * z + lines.upper.offset[:, None].to(z)
    return torch.where(a >= 0, below, above)


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
