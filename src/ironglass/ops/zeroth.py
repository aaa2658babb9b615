"""The one loop of zeroth-order attacks: goal × threat × estimator × step rule, on an exact budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.values import Goal, Threat

from . import lp
from .estimators import Ask, Decoder, Place, Probe

E = TypeVar("E", covariant=True)
T = TypeVar("T")
Rule = Callable[[T, Tensor, Tensor, int], Tensor]
"""``rule(estimate, here (n, *shape), rows (n,), step) -> (n, *shape)``: where to go, to ascend the loss."""


class Estimates(Protocol[E]):
    """An estimator, and what it needs: ``least`` queries, and perhaps the value at the point itself."""

    @property
    def needs_base(self) -> bool:
        """Whether the value at the point itself is used."""

    @property
    def least(self) -> int:
        """The fewest queries that give an estimate."""

    def __call__(self, at: Probe) -> E:
        """Returns the estimates of all rows."""


class BlackBox:
    """A goal's margin as a function that can only be asked, on a budget, and that keeps the best answer.

    Every point is first moved into bounds, mask and ball (in l0 not into the ball); so one that reaches the goal is an
    answer already, also where it was asked for an estimate. A sample whose goal is reached is done. With an
    infinite eps it goes on, and the shortest change is kept.

    Args:
        model: what is attacked.
        x: clean samples ``(N, *shape)``, input units.
        goal: of each sample.
        threat: norm, radius and mask.
        max_queries: queries a sample; one whose own budget is smaller stops there.
        also: losses whose values are wanted beside the margin.
        labels: ask for labels alone; then the margin is 1 where the goal is reached, and -1 elsewhere.
        enough: with an infinite eps, a length at which a sample is done all the same.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        goal: Goal,
        threat: Threat,
        *,
        max_queries: int,
        also: Sequence[Loss] = (),
        labels: bool = False,
        enough: float = -1.0,
    ) -> None:
        if max_queries < 1:
            raise InputError(f"max_queries={max_queries}: at least 1 is needed", "e.g. max_queries=5000")
        self.model, self.x, self.goal, self.threat = model, x, goal, threat
        self.minimum = threat.eps == float("inf")
        self.best, self.margin = x.clone(), x.new_full((len(x),), -torch.inf)
        self.length = torch.full_like(self.margin, torch.inf)
        self._done = enough * (1 + 1e-6) if self.minimum else float("inf")
        self._start = model.left()
        self.limit(max_queries)
        self._losses: tuple[Loss, ...] = (goal.loss("margin"), *also)
        self._labels = labels
        reach = threat.eps if threat.norm == "linf" else float("inf")
        self._low, self._high = (x - reach).clamp(min=model.bounds.low), (x + reach).clamp(max=model.bounds.high)
        if threat.mask is not None:
            self._low, self._high = (torch.where(threat.mask != 0, end, x) for end in (self._low, self._high))

    @property
    def found(self) -> Tensor:
        """Which samples have reached the goal ``(N,)``."""
        return self.length < torch.inf

    def done(self, rows: Tensor) -> Tensor:
        """Returns which rows are asked no more ``(n,)``: the goal is reached, near enough."""
        return self.length[rows] < self._done

    def spent(self, rows: Tensor) -> Tensor:
        """Returns the queries made so far ``(n,)``."""
        return self._start[rows] - self.model.left(rows)

    def left(self, rows: Tensor) -> Tensor:
        """Returns the queries each sample may still make ``(n,)``."""
        return (self.model.left(rows) - self._kept[rows]).clamp_(min=0)

    def limit(self, max_queries: int) -> None:
        """Lets each sample make that many queries in all."""
        self._kept = (self._start - max_queries).clamp(min=0)

    def open(self, rows: Tensor, least: int = 1) -> Tensor:
        """Returns which rows go on ``(n,)``: those not done that have ``least`` queries left."""
        return (self.left(rows) >= least) & ~self.done(rows)

    def scale(self, finite: float, infinite: float) -> float:
        """Returns a length for single values: a part of what eps allows each, or of the span where eps is infinite."""
        if self.minimum:
            return infinite * self.model.bounds.span
        count = self.x[0].numel()
        values = {"l2": math.sqrt(count), "l1": float(count)}.get(self.threat.norm, 1.0)
        return finite * self.threat.eps / values

    def mask(self, rows: Tensor) -> Tensor | None:
        """Returns which coordinates may change ``(n or 1, *shape)``."""
        mask = self.threat.take(rows).mask
        return None if mask is None else (mask != 0).to(self.x.dtype)

    def room(self, direction: Tensor, rows: Tensor) -> Tensor:
        """Returns which values of points ``(n, k, *shape)`` can move that way at all."""
        x = self.x[rows, None]
        return torch.where(direction > 0, x < self._high[rows, None], x > self._low[rows, None])

    def place(self, points: Tensor, rows: Tensor) -> Tensor:
        """Returns points ``(n, k, *shape)`` moved into bounds and mask, then drawn towards the samples into the ball.

        In linf that is the nearest point, in l2 and l1 about as near; in l0 there is no such move.
        """
        whole = len(rows) == len(self.x)  # rows are in order: then they are all of them
        low, high, x = (part[:, None] if whole else part[rows, None] for part in (self._low, self._high, self.x))
        points = torch.clamp(points, low, high)
        if self.minimum or self.threat.norm in ("linf", "l0"):
            return points
        share = (self.threat.eps / self._length(points, rows)).clamp_(max=1)
        if bool((share < 1).any()):
            torch.lerp(x, points, share.reshape(*share.shape, *(1,) * (points.ndim - 2)), out=points)
        return points

    def project(self, points: Tensor, rows: Tensor) -> Tensor:
        """Returns the points ``(n, *shape)`` of ball, bounds and mask that are nearest to these."""
        if self.threat.norm == "linf":
            return self.place(points[:, None], rows)[:, 0]
        return lp.project(points, self.x[rows], self.threat.take(rows), self.model.bounds)

    def ask(self, points: Tensor, rows: Tensor, count: Tensor | None = None) -> Tensor:
        """Returns the margin, and the other losses if there are any, of points ``(n, k, *shape)``.

        Args:
            points: k of each row; moved by `place` first.
            rows: their samples ``(n,)``, each once, in rising order.
            count: how many points of each row are asked ``(n,)``, or which of them, bool ``(n, k)``: no more than are
                left; all if None. Of a sample that is done none are.

        Returns:
            Values ``(n, k)``, or ``(n, k, losses)``; 0 for points that are not asked.
        """
        points = self.place(points, rows)
        n, k = points.shape[:2]
        asked = self._asked(rows, k, count)
        flat = points.flatten(0, 1) if asked is None else points[asked]
        many = (len(self._losses),) if len(self._losses) > 1 else ()
        if not len(flat):
            return points.new_zeros((n, k, *many))
        ids = rows if k == 1 else rows.repeat_interleave(k)
        ids = ids if asked is None else ids[asked.flatten()]
        got, hits = self._look(flat, ids)
        if asked is None:
            values, reached = got.reshape(n, k, *many), hits.reshape(n, k)
        else:
            values = points.new_zeros((n, k, *many))
            values[asked] = got
            reached = torch.zeros_like(asked).masked_scatter(asked, hits)
        self._keep(points, values[..., 0] if many else values, reached, asked, rows)
        return values

    def _asked(self, rows: Tensor, k: int, count: Tensor | None) -> Tensor | None:
        """Returns which points are asked ``(n, k)``; None for all."""
        done = self.done(rows)
        on = None if not bool(done.any()) else ~done[:, None].expand(-1, k)
        if count is not None:
            chosen = count if count.dtype == torch.bool else torch.arange(k, device=rows.device) < count[:, None]
            if not bool(chosen.all()):
                on = chosen if on is None else on & chosen
        return on

    def _look(self, points: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss ``(m,)`` of points, or several ``(m, losses)``, and whether they reach the goal ``(m,)``."""
        if self._labels:
            hits = self.goal.reached_by(self.model.labels(points, ids), ids)
            return hits.to(points.dtype).mul_(2).sub_(1), hits
        scores = self.model.scores(points, ids)
        got = [loss(scores, ids).to(points.dtype) for loss in self._losses]
        hits = got[0] >= 0  # those that do not reach the goal for certain are out
        if bool(hits.any()):
            hits[hits.clone()] = self.goal.reached(scores[hits], ids[hits])
        return got[0] if len(got) == 1 else torch.stack(got, -1), hits

    def _length(self, points: Tensor, rows: Tensor) -> Tensor:
        x = self.x[:, None] if len(rows) == len(self.x) else self.x[rows, None]
        return lp.norm((points - x).flatten(0, 1), self.threat.norm).reshape(points.shape[:2])

    def _keep(self, points: Tensor, margin: Tensor, reached: Tensor, asked: Tensor | None, rows: Tensor) -> None:
        """Notes the best of these points: the shortest that reaches the goal in the ball, else the greatest margin."""
        if bool(reached.any()):
            self._shorten(points, reached, rows)
        if self._labels:
            return
        margin = torch.nan_to_num(margin, -torch.inf, -torch.inf, -torch.inf)
        top, at = (margin if asked is None else torch.where(asked, margin, -torch.inf)).max(1)
        better = ((top > self.margin[rows]) & (self.length[rows] == torch.inf)).nonzero()[:, 0]
        if len(better):
            self.best[rows[better]], self.margin[rows[better]] = points[better, at[better]], top[better]

    def _shorten(self, points: Tensor, reached: Tensor, rows: Tensor) -> None:
        """Keeps the shortest of the points that reach the goal, where it is shorter than what is kept."""
        length = torch.where(reached, 0.0, torch.inf).to(points.dtype)
        if self.minimum or self.threat.norm == "l0":
            row, column = reached.nonzero(as_tuple=True)
            size = lp.norm(points[row, column] - self.x[rows[row]], self.threat.norm)
            length[row, column] = torch.where(size <= self.threat.eps * (1 + 1e-6), size, torch.inf)
        shortest, at = length.min(1)
        hit = shortest < self.length[rows]
        self.best[rows[hit]], self.length[rows[hit]] = points[hit, at[hit]], shortest[hit]


def climb(
    box: BlackBox,
    draws: Draws,
    estimate: Estimates[T],
    rule: Rule[T],
    *,
    start: Tensor | None = None,
    ask: Ask | None = None,
    place: Callable[[Tensor, Tensor], Tensor] | None = None,
    mask: bool = True,
    steps: int | None = None,
) -> Tensor:
    """Estimates, steps, and looks again, until every sample is done or its queries are spent.

    A sample that can no longer pay for an estimate and a look at where it leads takes its last look where it is.

    Args:
        box: what is asked.
        draws: the samples' streams.
        estimate: called where the samples stand.
        rule: makes the step.
        start: where to start ``(N, *shape)``, in the space of ``ask``; the samples themselves if None.
        ask: the function to climb; the box's margin if None.
        place: where it moves points to; the box's own if None.
        mask: whether the threat's mask is one of the coordinates that are searched.
        steps: how many steps; None for as many as can be paid.

    Returns:
        Where the samples stand at the end, in the space of ``ask``; the best point asked is ``box.best``.
    """
    ask, place = box.ask if ask is None else ask, box.place if place is None else place
    point = box.x.clone() if start is None else start
    rows = torch.arange(len(box.x), device=point.device)
    step = 0
    while len(rows := rows[box.open(rows)]):
        last = step == steps
        looking = rows if estimate.needs_base or last else rows[box.left(rows) <= estimate.least]
        base = None
        if len(looking):
            base = ask(point[looking, None], looking, torch.ones_like(looking))[:, 0]
        on = box.open(rows, estimate.least + 1)
        base, rows = base[on] if estimate.needs_base and base is not None else None, rows[on]
        if last:
            break
        if not len(rows):
            continue
        at = Probe(ask, place, point[rows], rows, box.left(rows) - 1, draws, base, box.mask(rows) if mask else None)
        point[rows] = rule(estimate(at), point[rows], rows, step)
        step += 1
    return point


def steepest(box: BlackBox, step_size: float) -> Rule[Tensor]:
    """Returns the rule that goes a step of that length, in the threat's norm, in the best direction within the box."""

    def rule(grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        if box.threat.norm == "linf":
            return box.project(here + step_size * grad.sign(), rows)
        origin, part = box.x[rows], box.threat.take(rows)
        return box.project(here + lp.stride(grad, here, origin, part, step_size, box.model.bounds), rows)

    return rule


class Weights:
    """The weight ``c`` of the loss beside the distance, sought a sample while the search goes on.

    Every ``period`` steps a sample's weight is multiplied by 10 if the goal was not reached meanwhile, until it was
    reached once; from then on it is halved between the largest that failed and the least that did not.

    Args:
        box: whose samples they are.
        first: the first weight.
        period: steps between changes.
    """

    def __init__(self, box: BlackBox, first: float, period: int) -> None:
        self.now = torch.full_like(box.margin, first)
        self._low, self._high = torch.zeros_like(self.now), torch.full_like(self.now, torch.inf)
        self._period, self._hit = period, torch.zeros_like(box.found)

    def note(self, rows: Tensor, margins: Tensor) -> None:
        """Notes which samples reach the goal, from margins ``(n, k)``."""
        self._hit[rows] |= (margins > 0).any(1)

    def update(self, rows: Tensor, step: int) -> None:
        """Changes the weights, if it is time."""
        if (step + 1) % self._period:
            return
        now, hit = self.now[rows], self._hit[rows]
        self._low[rows] = low = torch.where(hit, self._low[rows], now)
        self._high[rows] = high = torch.where(hit, now, self._high[rows])
        self.now[rows] = torch.where(high < torch.inf, (low + high) / 2, (now * 10).clamp(max=1e10))
        self._hit[rows] = False


class Reduced(NamedTuple):
    """A search over codes: the function of the code, the inputs it stands for, and the weights where there are any."""

    ask: Ask
    inputs: Place
    weights: Weights | None


def reduced(box: BlackBox, decode: Decoder, weight: float, period: int) -> Reduced:
    r"""Returns the search for codes ``z`` of changes.

    With a finite eps the function is the margin of :math:`x + D(z)`, drawn into the ball; with an infinite one
    :math:`c \min(m, 0) - \|D(z)\|_2^2` within the bounds.

    Args:
        box: what is asked.
        decode: from codes to changes.
        weight: the first ``c``.
        period: steps between its changes.
    """
    weights = Weights(box, weight, period) if box.minimum else None

    def inputs(codes: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            change = decode(codes.flatten(0, 1)).to(codes.dtype)
        return box.place(box.x[rows, None] + change.reshape(*codes.shape[:2], *box.x.shape[1:]), rows)

    def ask(codes: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        points = inputs(codes, rows)
        margins = box.ask(points, rows, count)
        if weights is None:
            return margins
        weights.note(rows, margins)
        size = (points - box.x[rows, None]).flatten(2).square().sum(2)
        return weights.now[rows, None] * margins.clamp(max=0) - size

    return Reduced(ask, inputs, weights)


class Adam:
    """The step rule of Adam, which ascends; a sample's moments start anew at its first success.

    Args:
        box: that knows of successes.
        like: what is moved ``(N, *shape)``, for its shape.
        search: whose weights change as the steps go on.
        step_size: of a value.
        betas: what is kept of the first and the second moment.
    """

    def __init__(
        self,
        box: BlackBox,
        like: Tensor,
        search: Reduced,
        step_size: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self._box, self._found = box, box.found
        self._first, self._second, self._times = (torch.zeros_like(like) for _ in range(3))
        self._search, self._step_size, self._betas = search, step_size, betas

    def __call__(self, grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        """Returns where to go."""
        moved = here + self.move(grad, torch.ones_like(grad), rows)
        if self._search.weights is not None:
            self._search.weights.update(rows, step)
        return moved

    def move(self, grad: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
        """Returns the steps of the chosen values; the moments of the others stay as they are."""
        new = rows[self._box.found[rows] & ~self._found[rows]]
        self._found[new] = True
        for moment in (self._first, self._second, self._times):
            moment[new] = 0
        (one, two), on = self._betas, chosen != 0
        self._first[rows] = m = torch.where(on, one * self._first[rows] + (1 - one) * grad, self._first[rows])
        self._second[rows] = v = torch.where(on, two * self._second[rows] + (1 - two) * grad**2, self._second[rows])
        self._times[rows] = t = self._times[rows] + on
        t = t.clamp(min=1)
        tiny = torch.finfo(grad.dtype).tiny
        step = self._step_size * (1 - two**t).sqrt() / (1 - one**t) * m / (v.sqrt() + tiny)
        return torch.where(on, step, 0)
