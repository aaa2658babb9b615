"""The margin over each other class, by linear or by mixed-integer programs, one sample after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.results import Proof
from ironglass.core.values import Threat
from ironglass.ops import lp
from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Affine, Cat, Graph, Input, Sum
from ironglass.ops.linear import intervals, margins
from ironglass.ops.proofs import opened

from .encoding import Expression, Program, Tighten
from .matrices import Vector, compile
from .pieces import check_pieces
from .solve import integer, linear

MOST = 50_000
"""Values of all nonlinear steps together, or of the input, beyond which no program is written."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How far to go.

    Args:
        whole: solve with whole binaries, not the linear relaxation alone.
        tighten: improve the limits of what may switch by linear programs.
        every: find the least margin over every class, also where a cheaper bound settles it.
        seconds: for one sample.
        nodes: of each mixed-integer program.
        target: the one class that the margin is over; None for all.
    """

    whole: bool
    tighten: bool
    every: bool
    seconds: float
    nodes: int | None = None
    target: int | None = None


def search(model: Model, x: Tensor, y: Tensor, threat: Threat, effort: Effort) -> Proof:
    """Returns the proven margin of each sample, and points of the ball that break those which are not safe.

    Raises:
        InputError: if the network is too large, or has a step that no finite number of linear pieces writes; if the
            effort makes no sense.
    """
    if not effort.seconds > 0 or (effort.nodes is not None and effort.nodes < 0):
        raise InputError(f"seconds={effort.seconds}, nodes={effort.nodes}", "give a positive time, and 0 nodes or more")
    if effort.target is not None and not 0 <= effort.target < model.classes:
        raise InputError(f"target={effort.target}", f"give a class from 0 to {model.classes - 1}")
    graph, start = opened(model, x, threat, double=True)
    _check(graph)
    limits = intervals(graph, start)
    least = margins(graph, start, y.to(start.lower.device), limits).cpu()
    matrices = compile(graph)
    right = model.scores(x).argmax(1) == y
    margin, points = torch.empty(len(x), dtype=torch.float64), x.clone()
    for row in range(len(x)):
        classes = range(least.shape[1]) if effort.target is None else [effort.target]
        others = [j for j in classes if j != int(y[row])]
        if bool(right[row]) or effort.every:
            sample = _Sample(model, graph, matrices, limits, row, x, int(y[row]), threat, effort)
            least[row], points[row] = sample.settle(least[row], others)
        worst = least[row, others].min() if others else torch.tensor(torch.inf)
        margin[row] = worst if bool(worst.isfinite()) else -torch.inf
    margin = margin.to(x)
    return Proof(torch.nextafter(margin, torch.full_like(margin, -torch.inf)), points)


class _Sample:
    """One sample's targets."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        matrices: dict[int, object],
        limits: dict[int, Interval],
        row: int,
        x: Tensor,
        label: int,
        threat: Threat,
        effort: Effort,
    ) -> None:
        self._model, self._graph, self._matrices, self._limits = model, graph, matrices, limits
        self._row, self._x, self._label, self._effort = row, x[row : row + 1], label, effort
        self._threat = threat.take(torch.tensor([row], device=x.device))
        self._end = monotonic() + effort.seconds
        self._seen = torch.full((model.classes,), torch.inf, dtype=torch.float64)

    def settle(self, least: Tensor, others: list[int]) -> tuple[Tensor, Tensor]:
        """Returns the margins, improved from ``least``, and a point that breaks the sample, or x itself.

        Raises:
            MethodFailed: if a point has a smaller margin than what is proven: then we have a bug.
        """
        least, point = least.clone(), self._x[0]
        open_ = [j for j in others if self._effort.every or not bool(least[j] > 0)]
        if not open_ or not bool(least[others].isfinite().all()):
            return least, point
        tighten = by_programs(lambda: self._end - monotonic()) if self._effort.tighten else None
        try:
            program = Program(self._graph, self._matrices, self._limits, self._row, tighten)
        except FloatingPointError:  # nothing can be proven where values overflow
            return least, point
        system = program.system()
        for j in sorted(open_, key=lambda j: float(least[j])):
            value = program.difference(self._label, j)
            costs = program.costs(value, 0)
            for whole in (False, True) if self._effort.whole else (False,):
                left = self._end - monotonic()
                if left <= 0 or (bool(least[j] > 0) and not self._effort.every):
                    break
                found = integer(system, costs, left, self._effort.nodes) if whole else linear(system, costs, left)
                least[j] = max(float(least[j]), _shifted(found.bound, value))  # a NaN is no bound
                if found.point is not None:
                    here, broken = self._ask(program.input_of(found.point))
                    point = here if broken else point
                    if broken and not self._effort.every:
                        return self._checked(least, others), point
        return self._checked(least, others), point

    def _ask(self, point: Tensor) -> tuple[Tensor, bool]:
        """The nearest input of the ball, and whether the network itself labels it otherwise."""
        here = lp.project(point[None].to(self._x), self._x, self._threat, self._model.bounds)
        scores = self._model.scores(here, torch.tensor([self._row], device=here.device))[0].double().cpu()
        self._seen = torch.minimum(self._seen, scores[self._label] - scores)
        found, wanted = int(scores.argmax()), self._effort.target
        return here[0], found != self._label and wanted in (None, found)

    def _checked(self, least: Tensor, others: list[int]) -> Tensor:
        crossed = [j for j in others if float(least[j]) > float(self._seen[j])]
        if crossed:
            raise MethodFailed(
                f"the margin over class {crossed[0]} is proven to be at least {float(least[crossed[0]]):.6g}, and the "
                f"network has {float(self._seen[crossed[0]]):.6g} in the ball: that is a bug of Ironglass",
                "please report it with this model and this sample; trust neither result",
            )
        return least


def _shifted(bound: float, value: Expression) -> float:
    """The bound on the difference of scores: its constant added, its noise taken off."""
    offset, noise = float(value.offset[0]), float(value.noise[0])
    total = bound + offset - noise - 4e-16 * (abs(bound) + abs(offset) + noise)
    return total if math.isfinite(total) else -math.inf


def by_programs(left: Callable[[], float]) -> Tighten:
    """Returns how to tighten limits by two linear programs a value, which stop as soon as it is settled.

    Args:
        left: seconds that are left; at 0 the rest stays as it is.
    """

    def tighten(program: Program, values: Expression, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        system = program.system()
        lower, upper = lower.copy(), upper.copy()
        if not system.a.shape[0]:  # a box: limits are exact already
            return lower, upper
        for i in range(len(values)):
            for sign in (-1.0, 1.0):
                if left() <= 0:
                    return lower, upper
                found = linear(system, sign * program.costs(values, i))
                least = found.bound - float(values.noise[i]) + sign * float(values.offset[i])
                least -= 4e-16 * (abs(found.bound) + abs(float(values.offset[i])) + float(values.noise[i]))
                if sign < 0:
                    upper[i] = min(upper[i], -least)
                    if upper[i] <= 0:
                        break
                else:
                    lower[i] = max(lower[i], least)
        return lower, np.maximum(upper, lower)

    return tighten


def _check(graph: Graph) -> None:
    check_pieces(graph)
    linear_ones = Affine | Sum | Cat | Input
    values = sum(math.prod(step.shape) for step in graph.steps if not isinstance(step.op, linear_ones))
    inputs = math.prod(graph.steps[0].shape)
    if max(values, inputs) > MOST:
        raise InputError(
            f"a program of {values:,} nonlinear values and {inputs:,} inputs is too large: up to {MOST:,} are written",
            "use a bound that scales, such as interval, or randomized smoothing (smoothing), or the estimate clever",
        )
