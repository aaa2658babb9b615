r"""Attacks that see labels alone: how far along a ray from the sample the goal begins, and how to turn the ray.

With a direction :math:`\theta` comes the distance :math:`g(\theta)` at which the ray from the sample meets the goal.
Whether a point reaches the goal is all that is asked; a distance is found by bisection, of all rays at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.values import Goal, Threat

from . import lp
from .estimators import BLOCK, Ask, enlarged
from .zeroth import BlackBox

COARSE = 0.02
"""How well the best of the first rays is known, relative to its length."""
GALLOP = (0.002, 0.008, 0.03, 0.1, 0.3, 1.0)
"""By what parts a ray that is known to be shorter is tried shorter still, before bisection."""
TURNS = 15
"""How often at most a step is doubled, or quartered."""
SMALL, PAYS = 1e-4, 0.001
"""A step, and a part by which it shortens a ray, below which the search goes on to its next stage."""
LEAST = 1e-4
"""The smallest difference, in lengths of the ray's direction."""
LOOK = 12
"""Queries that are set aside for the length of a ray beside a known one."""
FINE = 0.01
"""How well distances are known, in differences."""
OUTWARDS = 8
"""Steps at most, each twice the last, that bracket a ray's length beside a known one."""
BEYOND = 1e-5
"""By what part of its length an answer goes on: on the boundary itself it would hang on rounding."""


class Rays:
    r"""Rays from samples, in the norm of the threat, which a finite eps ends where they are short enough.

    In l2 a ray of direction :math:`\theta` leads to :math:`x + r\theta/\|\theta\|_2`; in linf the way to
    :math:`x + \theta` is :math:`x + \mathrm{clip}(\theta, -r, r)`. All points are kept in bounds and mask.

    Args:
        model: asked for labels.
        x: clean samples ``(N, *shape)``, input units.
        goal: of each sample.
        threat: norm, the length that is enough, and mask.
        max_queries: queries a sample.
    """

    def __init__(self, model: Model, x: Tensor, goal: Goal, threat: Threat, max_queries: int) -> None:
        enough = threat.eps if threat.eps < float("inf") else -1.0
        endless = replace(threat, eps=float("inf"))
        self.box = BlackBox(model, x, goal, endless, max_queries=max_queries, labels=True, enough=enough)
        self._linf = threat.norm == "linf"

    def unit(self, theta: Tensor) -> Tensor:
        """Returns directions ``(n, k, *shape)`` of length 1 in l2; in linf as they are."""
        if self._linf:
            return theta
        length = torch.linalg.vector_norm(theta.flatten(2), dim=2).clamp_(min=torch.finfo(theta.dtype).tiny)
        return theta / _wide(length, theta)

    def free(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Returns the directions without what bounds and mask forbid at the sample itself, of length 1 in l2."""
        return self.unit(theta * self.box.room(theta, rows))

    def at(self, theta: Tensor, radius: Tensor, rows: Tensor) -> Tensor:
        """Returns the points at these distances ``(n, k, *shape)``; in l2 the directions have length 1."""
        wide, x = _wide(radius, theta), self.box.x[rows, None]
        return x + theta.maximum(-wide).minimum(wide) if self._linf else torch.addcmul(x, theta, wide)

    def reached(self, theta: Tensor, radius: Tensor, rows: Tensor, on: Tensor | None = None) -> Tensor:
        """Asks whether the points at these distances reach the goal ``(n, k)``; False where not asked."""
        return self.box.ask(self.at(theta, radius, rows), rows, on) > 0

    def to(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the directions to points ``(n, *shape)``, and their distances ``(n,)``."""
        change = points - self.box.x[rows]
        length = lp.norm(change, self.box.threat.norm)
        return self.unit(change[:, None])[:, 0], length

    def answer(self) -> Tensor:
        """Returns the shortest points that reached the goal ``(N, *shape)``, a hair beyond; the samples where none."""
        x, best = self.box.x, self.box.best
        return self.box.place((best + BEYOND * (best - x))[:, None], torch.arange(len(x), device=x.device))[:, 0]

    def bisect(self, theta: Tensor, low: Tensor, high: Tensor, rows: Tensor, tolerance: Tensor) -> Tensor:
        """Returns distances at which the goal is reached, each at most the tolerance above one where it is not.

        Where the queries end first they are what has been found by then.

        Args:
            theta: directions ``(n, k, *shape)``.
            low: distances at which the goal is not reached ``(n, k)``.
            high: distances at which it is; rays of an infinite one are left alone.
            rows: their samples ``(n,)``.
            tolerance: ``(n, k)``.
        """
        low, high = low.clone(), high.clone()
        wide = (high < torch.inf) & (high - low > tolerance)
        live = wide.any(1).nonzero()[:, 0]
        while len(live):
            on = wide[live] & self.box.open(rows[live])[:, None]
            on &= on.cumsum(1) <= self.box.left(rows[live])[:, None]
            paid = on.any(1)
            live, on = live[paid], on[paid]
            if not len(live):
                break
            middle = (low[live] + high[live]) / 2
            hit = self.reached(theta[live], middle, rows[live], on)
            high[live] = torch.where(on & hit, middle, high[live])
            low[live] = torch.where(on & ~hit, middle, low[live])
            wide[live] = (high[live] < torch.inf) & (high[live] - low[live] > tolerance[live])
            live = live[wide[live].any(1)]
        return high

    def shorter(self, theta: Tensor, than: Tensor, rows: Tensor, tolerance: Tensor) -> Tensor:
        """Returns the distances of rays that are shorter than given ones ``(n, k)``; infinity where they are not.

        One query tells which; then a gallop and bisection find how much.

        Args:
            theta: directions ``(n, k, *shape)``.
            than: distances ``(n, k)``.
            rows: their samples ``(n,)``.
            tolerance: ``(n, k)``.
        """
        high = torch.full_like(than, torch.inf)
        low = than.clone()
        falling, try_at = torch.ones_like(than, dtype=torch.bool), than
        for part in GALLOP:
            on = falling & self.box.open(rows)[:, None]
            on &= on.cumsum(1) <= self.box.left(rows)[:, None]
            if not bool(on.any()):
                break
            hit = self.reached(theta, try_at, rows, on)
            high, low = torch.where(hit, try_at, high), torch.where(on & ~hit, try_at, low)
            falling = hit
            try_at = than * (1 - part)
            low = torch.where(hit, try_at, low)  # taken as too short until it is asked
        low = torch.where(falling, 0, low)
        return self.bisect(theta, low.minimum(high), high, rows, tolerance)

    def nearby(self, theta: Tensor, around: Tensor, rows: Tensor, on: Tensor, difference: float) -> Tensor:
        """Returns the lengths of rays beside known ones ``(n, k)``; the known one's where the queries do not suffice.

        Both sides are searched outwards by steps that double, then by bisection.

        Args:
            theta: directions ``(n, k, *shape)``.
            around: the known lengths.
            rows: their samples ``(n,)``.
            on: which rays are wanted ``(n, k)``.
            difference: how far the directions are from the known one's.
        """
        box, step = self.box, difference / theta[0, 0].numel() ** 0.5
        low, high = torch.zeros_like(around), torch.full_like(around, torch.inf)
        inner = torch.zeros_like(on)
        at, live = around, on.clone()
        for double in range(OUTWARDS):
            live &= box.open(rows)[:, None]
            live &= live.cumsum(1) <= box.left(rows)[:, None]
            if not bool(live.any()):
                break
            hit = self.reached(theta, at, rows, live)
            high, low = torch.where(live & hit, at, high), torch.where(live & ~hit, at, low)
            if double == 0:
                inner = hit
            live = live & (hit == inner)
            at = around * (1 + torch.where(inner, -1.0, 1.0) * step * (2.0 ** (double + 1)))
        known = (low > 0) & (high < torch.inf)
        fine = FINE * difference * around
        high = self.bisect(theta, low, torch.where(known, high, torch.inf), rows, fine)
        return torch.where(known, high, torch.where(inner & (high < torch.inf), high, around))

    def first(self, draws: Draws, tries: int, starts: Tensor | None, *, all_of_them: bool) -> tuple[Tensor, Tensor]:
        """Returns directions of rays that meet the goal ``(N, *shape)``, and about how soon ``(N,)``.

        The ends are given points, or random pictures: noise of single values, and of squares of 2, 4, … values.

        Args:
            draws: the samples' streams.
            tries: random pictures a sample.
            starts: points ``(N, *shape)`` that are tried first.
            all_of_them: compare all, and take the shortest ray; else the first that reaches the goal.

        Returns:
            Distances are infinite where none reaches the goal.
        """
        x = self.box.x
        theta, radius = torch.zeros_like(x), x.new_full((len(x),), torch.inf)
        sizes, count = _tiles(x.shape[1:]), 0
        if starts is not None:
            self._race(theta, radius, torch.arange(len(x), device=x.device), starts.to(x)[:, None])
        width = tries if all_of_them else 1
        while count < tries:
            rows = torch.arange(len(x), device=x.device)
            rows = rows[self.box.open(rows) & (all_of_them | (radius == torch.inf))]
            if not len(rows):
                break
            for some in torch.split(rows, max(BLOCK // (width * x[0].numel()), 1)):
                ends = [_noise(draws, x, some, sizes[i % len(sizes)]) for i in range(count, count + width)]
                low, high = self.box.model.bounds.low, self.box.model.bounds.high
                self._race(theta, radius, some, torch.stack(ends, 1) * (high - low) + low)
            count += width
        return theta, radius

    def _race(self, theta: Tensor, radius: Tensor, rows: Tensor, ends: Tensor) -> None:
        """Keeps the shortest of the rays to these ends ``(n, k, *shape)``, where it is shorter than what is kept."""
        ends = self.box.place(ends, rows)
        change = ends - self.box.x[rows, None]
        length = lp.norm(change.flatten(0, 1), self.box.threat.norm).reshape(ends.shape[:2])
        way = self.unit(change)
        on = torch.arange(ends.shape[1], device=ends.device) < self.box.left(rows)[:, None]
        live = self.reached(way, length, rows, on)
        high = torch.where(live, length, torch.inf).amin(1)
        low = torch.zeros_like(high)
        wide = high < torch.inf
        best = torch.where(live, length, torch.inf).argmin(1)
        while bool(wide.any()):
            middle = (low + high) / 2
            on = live & (wide & self.box.open(rows))[:, None]
            on &= on.cumsum(1) <= self.box.left(rows)[:, None]
            wide &= on.any(1)
            part = wide.nonzero()[:, 0]
            if not len(part):
                break
            at = middle[part, None].minimum(length[part])
            hit = self.reached(way[part], at, rows[part], on[part])
            some = hit.any(1)
            lucky = part[some]
            live[lucky], high[lucky] = hit[some], middle[lucky]
            best[lucky] = hit[some].int().argmax(1)
            low[part[~some]] = middle[part[~some]]
            wide &= high - low > COARSE * high
        better = high < radius[rows]
        theta[rows[better]] = way[better, best[better]]
        radius[rows[better]] = high[better]


class Stage(NamedTuple):
    """How finely a ray is turned: sides of the squares of values that move alike, and the difference ``β``."""

    tile: int
    difference: float


def stages(tile: int, difference: float) -> list[Stage]:
    """Returns the stages of a search: squares of half the side each time, then differences of a tenth."""
    tiles = [tile >> i for i in range(tile.bit_length())]
    finer = [difference / 10**i for i in range(1, 4) if difference / 10**i > LEAST]
    return [Stage(side, difference) for side in tiles] + [Stage(1, small) for small in finer]


Turn = Callable[[Stage, Tensor, Tensor], Tensor]
"""``turn(stage, rows (n,), theta (n, *shape)) -> (n, *shape)``: the direction in which distances grow."""


def descend(
    rays: Rays, theta: Tensor, radius: Tensor, turn: Turn, plan: Sequence[Stage], *, least: int, step_size: float
) -> Tensor:
    r"""Turns rays so that they meet the goal sooner, until the queries are spent.

    .. math:: \theta \leftarrow \frac{\theta - \alpha \hat g}{\|\theta - \alpha \hat g\|}

    The step is doubled while the distance falls, and quartered where it did not. A sample whose steps no longer pay
    goes on to the next stage.

    Args:
        rays: of the samples.
        theta: directions ``(N, *shape)``, turned in place.
        radius: their distances ``(N,)``, kept in place; samples of an infinite one are left as they are.
        turn: the estimate.
        plan: the stages.
        least: queries of the cheapest estimate.
        step_size: the first ``α`` of a stage, in lengths of ``θ``.

    Returns:
        The shortest points that reach the goal ``(N, *shape)``; the samples where there is none.
    """
    box, last = rays.box, len(plan) - 1
    alpha, level = torch.full_like(radius, step_size), torch.zeros_like(radius, dtype=torch.long)
    rows = (radius < torch.inf).nonzero()[:, 0]
    rows = rows[box.open(rows)]
    fine = FINE * plan[0].difference * radius[rows, None]
    radius[rows] = radius[rows].minimum(rays.shorter(theta[rows, None], radius[rows, None], rows, fine)[:, 0])
    while len(rows := rows[box.open(rows, least + 1)]):
        for index in sorted(set(level[rows].tolist())):
            part = rows[level[rows] == index]
            before = radius[part]
            away = rays.unit(turn(plan[index], part, theta[part])[:, None])[:, 0]
            _walk(rays, theta, radius, alpha, plan[index].difference, part, away)
            gain = PAYS if index < last else 0.0
            worn = part[(alpha[part] < SMALL) | (radius[part] > (1 - gain) * before)]
            alpha[worn] = step_size
            level[worn] = (level[worn] + 1).clamp(max=last)
    return rays.answer()


def _walk(rays: Rays, theta: Tensor, radius: Tensor, alpha: Tensor, beta: float, rows: Tensor, away: Tensor) -> None:
    """Goes as far against ``away`` as pays."""
    start, here, first = theta[rows], radius[rows], radius[rows]
    live = torch.arange(len(rows), device=rows.device)
    grow, step = True, alpha[rows]
    for _ in range(2 * TURNS):
        live = live[rays.box.open(rows[live])]
        if not len(live):
            break
        part = rows[live]
        tried = rays.free((start[live] - lp.column(step[live], start) * away[live])[:, None], part)
        than = here[live, None]
        found = rays.shorter(tried, than, part, FINE * beta * than)[:, 0]
        better = found < here[live]
        hit = live[better]
        here[hit], theta[rows[hit]] = found[better], tried[better, 0]
        if grow:
            step[hit] *= 2
            live = hit
            if not len(live):
                grow = False
                step = torch.where(here < first, step / 2, step / 4)
                live = ((here >= first) & (step >= SMALL)).nonzero()[:, 0]
        else:
            miss = live[~better]
            step[miss] /= 4
            live = miss[step[miss] >= SMALL]
    radius[rows], alpha[rows] = here, step


def scaled(ask: Ask, centre: Tensor, factor: Tensor) -> Ask:
    """Returns the function at points moved to ``factor (N,)`` times their way from ``centre (N, *shape)``."""

    def nearer(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        return ask(torch.lerp(centre[rows, None], points, _wide(factor[rows, None], points)), rows, count)

    return nearer


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(*values.shape, *(1,) * (like.ndim - 2))


def _tiles(shape: tuple[int, ...]) -> list[int]:
    """The sides of the squares of noise."""
    side = min(shape[-2:]) if len(shape) > 1 else 1
    return [1 << i for i in range(max(side.bit_length() - 2, 1))]


def _noise(draws: Draws, x: Tensor, rows: Tensor, tile: int) -> Tensor:
    """Uniform noise of squares of values ``(n, *shape)``."""
    shape = tuple(x.shape[1:])
    plane = tuple(-(-side // tile) for side in shape[-2:])
    small = (*shape[: len(shape) - len(plane)], *plane)
    noise = draws.uniform(small, rows, x.dtype)
    return enlarged(noise, (len(rows), *shape), tile) if tile > 1 else noise


def check_starts(starts: Tensor | None, x: Tensor) -> None:
    """Refuses starting points of another shape than the samples.

    Raises:
        InputError: if they are.
    """
    if starts is not None and starts.shape != x.shape:
        raise InputError(f"starts are {tuple(starts.shape)} for samples {tuple(x.shape)}", "give a point a sample")
