"""What a search is given, what it may spend, and what it settles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ironglass.core.properties import Case
from ironglass.ops.bounds import Interval
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph

Tick = Callable[[str, int, int], None]
Clock = Callable[[], float]


@dataclass(slots=True)
class Budget:
    """How long a search may take and how many parts it may look at; either may be None.

    Args:
        seconds: from when it is made.
        domains: parts.
        tick: told ``(what, done, known)``.
        clock: that time is read from.
    """

    seconds: float | None = None
    domains: int | None = None
    tick: Tick | None = None
    clock: Clock = time.monotonic
    used: int = 0
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def late(self) -> bool:
        """Whether the time is spent."""
        return self.seconds is not None and self.clock() - self.begun > self.seconds

    @property
    def spent(self) -> bool:
        """Whether the time or the parts are spent."""
        return self.late or (self.domains is not None and self.used >= self.domains)

    @property
    def left(self) -> float:
        """The seconds that are left; infinite without a limit."""
        return float("inf") if self.seconds is None else max(self.seconds - (self.clock() - self.begun), 0.0)

    def charge(self, count: int, known: int, what: str) -> None:
        """Counts parts, and tells of them."""
        self.used += count
        if self.tick is not None:
            self.tick(what, self.used, self.used + known)


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What a search came to.

    Args:
        bound: the least that is proven of the excess over all cases and all parts; positive where none can be broken.
        point: a counterexample ``(1, *shape)``, or None.
        case: which case it breaks.
        reason: what ended the search.
        spent: whether the budget ended it.
    """

    bound: float
    point: Tensor | None
    case: int
    reason: str
    spent: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    r"""A network and cases on one box: is there an input in it, and a case, with :math:`A y \le b`?

    Args:
        net: takes ``(n, *shape)`` and gives ``(n, outputs)``; frozen, in eval mode.
        cases: that share a box.
        shape: of one input.
        start: the box, as bounds take it: no smaller than the exact one.
        rows: of all cases ``(cases, most rows, outputs)`` in the dtype of bounds; a case with fewer repeats its last.
        limits: float64 ``(cases, most rows)``.
    """

    net: nn.Module
    cases: Sequence[Case]
    shape: tuple[int, ...]
    start: Interval
    rows: Tensor
    limits: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """That the network computes in."""
        held = (p for p in [*self.net.parameters(), *self.net.buffers()] if p.is_floating_point())
        return next(held, self.rows).dtype

    def over(self, bounds: Tensor, case: Tensor | slice = slice(None)) -> Tensor:
        """Returns how far bounds of rows ``(n, most rows)`` are above their limits at least; NaN counts as nothing."""
        limits = self.limits[case]
        found = bounds - limits - limits.abs() * 2.0**-50
        return torch.where(found.isnan(), -torch.inf, found)

    def inside(self, points: Tensor) -> Tensor:
        """Returns points ``(n, *shape)`` moved into the exact box, in the network's dtype."""
        low, high = (end.reshape(1, *self.shape) for end in self.cases[0].rounded(self.dtype))
        return torch.minimum(torch.maximum(points.to(low), low), high)

    def graph(self) -> Graph:
        """Returns the network's graph.

        Raises:
            InputError: if the network has an operator that cannot be bounded.
        """
        ends = torch.cat([self.start.lower, self.start.upper]).to(self.dtype)
        return capture(self.net, ends, self.rows.dtype)


def make_problem(net: nn.Module, cases: Sequence[Case], shape: tuple[int, ...], double: bool = False) -> Problem:
    """Returns the problem of cases that share a box.

    Args:
        net: takes ``(n, *shape)``; frozen, in eval mode.
        cases: that share a box.
        shape: of one input.
        double: bound in float64, as is done anyway where the network or a row needs it.
    """
    held = next((p for p in [*net.parameters(), *net.buffers()] if p.is_floating_point()), torch.zeros(()))
    most = max(1, *(len(case.weights) for case in cases))
    rows = torch.stack([_filled(case.weights, most, 0.0) for case in cases])
    limits = torch.stack([_filled(case.limits, most, torch.inf) for case in cases])
    exact = bool((rows.to(held.dtype).double() == rows).all())
    dtype = held.dtype if exact and not double else torch.float64
    low, high = outward(cases[0].lower, dtype), -outward(-cases[0].upper, dtype)
    start = Interval(low.reshape(1, *shape), high.reshape(1, *shape))
    return Problem(net, tuple(cases), shape, start, rows.to(dtype), limits)


def _filled(rows: Tensor, most: int, empty: float) -> Tensor:
    """As many rows as the most, the last one again; where there is none, one that nothing can be proven of."""
    last = rows[-1:] if len(rows) else rows.new_full((1, *rows.shape[1:]), empty)
    return torch.cat([rows, last.expand(most - len(rows), *rows.shape[1:])])


def outward(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the values in a dtype, rounded down."""
    found = values.to(dtype)
    return torch.where(found.double() > values, torch.nextafter(found, torch.full_like(found, -torch.inf)), found)
