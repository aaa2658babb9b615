"""Random search by windows, from scores alone: the engine of the Square attack, and of whoever has no gradient."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.values import Bounds, Goal, Threat

from . import lp

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The parts of the queries after which a window's area is halved."""
AHEAD = 64
"""Queries whose windows are drawn together, if they are of one size: that is faster."""


def window_search(
    model: Model, x: Tensor, goal: Goal, threat: Threat, *, max_queries: int, p: float = 0.8, seed: int = 0
) -> Tensor:
    r"""Changes one window at random, and keeps what brings the goal nearer.

    .. math:: \hat x = \Pi(x_t + \delta_W), \qquad x_{t+1} = \hat x \text{ if } L(\hat x) > L(x_t) \text{ else } x_t

    The loss is the logit margin, or minus the cross-entropy where a target is given. In linf the window ``W`` goes to
    :math:`x \pm \varepsilon`, a sign a channel, from stripes at the start. In l2 and l1 the norm that two windows hold,
    and what is unused, goes into one of them: to what it holds and a pair of bumps of opposite signs, from a grid of
    bumps at the start. Inputs ``(d,)`` are one row; of ``(…, H, W)`` all leading axes are channels.

    Args:
        model: asked for scores alone.
        x: clean samples ``(N, *shape)``, input units.
        goal: of each sample.
        threat: linf, l2 or l1 with a finite radius.
        max_queries: queries a sample; one whose own budget is smaller stops there.
        p: part of the area that the mask allows which the first windows take; it is halved nine times on the way.
        seed: of the windows.

    Returns:
        The best samples found ``(N, *shape)``, within ball and bounds.
    """
    origin = x.reshape(len(x), -1, *(x.shape[-2:] if x.ndim > 2 else (1, x.shape[-1])))
    mask = None if threat.mask is None else threat.mask.expand_as(x).reshape(origin.shape)
    threat = Threat(threat.norm, threat.eps, mask)
    _, channels, _, width = origin.shape
    linf = threat.norm == "linf"
    sides = torch.stack([_sides(origin, mask, p / 2**level, 1 if linf else 3) for level in range(len(HALVINGS) + 1)])
    halvings = [part * max_queries for part in HALVINGS]
    loss = goal.loss("ce" if goal.targeted else "margin")
    draws = model.draws(seed)
    best, queries = origin.clone(), model.left().clamp(max=max_queries)
    rows, stops = (queries > 0).nonzero()[:, 0], set(queries.tolist())
    at = Search.of(origin[rows], best[rows], threat.take(rows), model.bounds)
    value = x.new_full((len(rows),), -torch.inf)
    query = drawn = 0
    while len(rows):
        if query == drawn:
            level = bisect_right(halvings, query)
            drawn = min([query + AHEAD, *map(ceil, halvings[level : level + 1])])
            chances = draws.uniform((drawn - query, 7 + channels), rows)
            parts = chances[..., :3].unsqueeze(0) if linf else torch.stack([chances[..., :3], chances[..., 3:6]])
            windows = [_Window.at(at, part, *sides[level][:, rows, None]) for part in parts]
            signs = at.signs(chances[..., 6:])
        if query == 0:
            start = draws.uniform((channels, 1, width) if linf else (channels, 5, 5), rows)
            tried = _stripes(at, start) if linf else _tiles(at, start)
        else:
            change, step = _paint if linf else _carry, query - drawn  # from the end
            tried = change(at, signs[:, step], *(window.step(step) for window in windows))
        scores = model.scores(tried.reshape(-1, *x.shape[1:]), rows)
        query += 1
        now = loss(scores, rows).to(x.dtype)
        hits = (goal.reached(scores, rows) if goal.targeted else now >= 0).nonzero()[:, 0]
        if len(hits):  # a margin below 0 does not reach the goal for certain
            hits = hits[goal.reached(scores[hits], rows[hits])]
            now[hits] = torch.inf
        better = (now > value).nonzero()[:, 0]
        value = value.fmax(now)
        at.best.index_copy_(0, better, tried[better])
        if query in stops or len(hits):
            reached = torch.zeros_like(rows, dtype=torch.bool).index_fill_(0, hits, True)
            best[rows] = at.best
            on = ~reached & (queries[rows] > query)
            rows, value, signs, windows = rows[on], value[on], signs[on], [window.of(on) for window in windows]
            at = Search.of(origin[rows], best[rows], threat.take(rows), model.bounds)
    return lp.project(best, origin, threat, model.bounds).reshape(x.shape)


class Search(NamedTuple):
    """Where the samples that are still sought stand: clean and best planes ``(n, channels, H, W)``.

    ``ends`` are, in linf, the planes moved by minus and by plus eps.
    """

    origin: Tensor
    best: Tensor
    threat: Threat
    bounds: Bounds
    ends: tuple[Tensor, ...]

    @classmethod
    def of(cls, origin: Tensor, best: Tensor, threat: Threat, bounds: Bounds) -> Search:
        """Returns a search from these planes."""
        moves = (-threat.eps, threat.eps) if threat.norm == "linf" else ()
        ends = (lp.move(origin, torch.full_like(origin, by), threat, bounds) for by in moves)
        return cls(origin, best, threat, bounds, tuple(ends))

    def signs(self, chance: Tensor) -> Tensor:
        """Returns -1 or 1."""
        return torch.where(chance < 0.5, -1.0, 1.0).to(self.origin.dtype)


def _stripes(at: Search, chance: Tensor) -> Tensor:
    """Returns columns of minus or plus eps."""
    minus, plus = at.ends
    return torch.where(chance < 0.5, minus, plus)


def _paint(at: Search, signs: Tensor, window: _Window) -> Tensor:
    """Sets a window to minus or plus eps, a sign a channel; where nothing would change, to the opposite."""
    best, minus, plus = (plane.flatten(2) for plane in (at.best, *at.ends))
    corner = window.top * at.best.shape[3] + window.left
    pixels = (corner + window.pixels)[:, None].expand(-1, best.shape[1], -1)
    here, down, up = (plane.gather(2, pixels) for plane in (best, minus, plus))
    lower = (signs[:, 1:] < 0)[:, :, None]
    idle = (torch.where(lower, down, up) == here).flatten(1).all(1)
    return best.scatter(2, pixels, torch.where(lower ^ idle[:, None, None], down, up)).view_as(at.best)


def _tiles(at: Search, chance: Tensor) -> Tensor:
    """Returns a grid of 5 × 5 bumps of random signs in the middle of the plane, of norm eps."""
    plane = at.origin.shape[2:]
    size = [max(side // 5, 1) for side in plane]
    place = [
        torch.arange(side, device=at.origin.device) - max(side - 5 * tile, 0) // 2
        for side, tile in zip(plane, size, strict=True)
    ]
    row, column = (i // tile for i, tile in zip(place, size, strict=True))
    down, across = ((i % tile - tile // 2).abs() for i, tile in zip(place, size, strict=True))
    grid = ((row >= 0) & (row < 5))[:, None] & (column >= 0) & (column < 5)
    signs = at.signs(chance)[:, :, row.clamp(0, 4)[:, None], column.clamp(0, 4)]
    return _stretched(at, _bump(down[:, None].maximum(across)[None, None]) * signs * grid)


def _carry(at: Search, signs: Tensor, first: _Window, second: _Window) -> Tensor:
    """Carries the norm of two windows, and a channel's part of what is unused, into the first of them."""
    here, there = first.inside(at), second.inside(at)
    delta = at.best - at.origin
    power, planes = 2 if at.threat.norm == "l2" else 1, (2, 3)
    unused = (at.threat.eps**power - _norm(delta, at.threat, (1, 2, 3)) ** power).clamp(min=0) / delta.shape[1]
    budget = (_norm(delta * (here | there), at.threat, planes) ** power + unused) ** (1 / power)
    bumps = _allowed(at, first.bumps(at, signs[:, 0]) * signs[:, 1:, None, None] * here)
    mixed = _unit(bumps, at.threat, planes) + _unit(delta * here, at.threat, planes)
    return _stretched(at, torch.where(here, _unit(mixed, at.threat, planes) * budget, delta * ~there))


def _stretched(at: Search, delta: Tensor) -> Tensor:
    """Moves by ``delta`` at norm eps; in l1 what the box takes away is used elsewhere, in l2 that does not pay.

    A millionth is left for rounding, so that what was asked is what the projection returns.
    """
    for _ in range(2 if at.threat.norm == "l1" else 1):
        delta = _unit(_allowed(at, delta), at.threat, (1, 2, 3)) * (at.threat.eps * (1 - 1e-6))
        moved = lp.inside(at.origin + delta, at.origin, at.threat, at.bounds)
        delta = moved - at.origin
    return moved


def _norm(delta: Tensor, threat: Threat, axes: tuple[int, ...]) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta, 2 if threat.norm == "l2" else 1, axes, keepdim=True)
    return size


def _unit(delta: Tensor, threat: Threat, axes: tuple[int, ...]) -> Tensor:
    return delta / _norm(delta, threat, axes).clamp(min=torch.finfo(delta.dtype).tiny)


def _allowed(at: Search, delta: Tensor) -> Tensor:
    return delta if at.threat.mask is None else delta * at.threat.mask


def _bump(distance: Tensor) -> Tensor:
    r"""Returns :math:`\sum_{j=d}^{R} 1/(j+1)^2` at distance ``d``, with ``R`` the greatest distance of a sample."""
    tail = torch.arange(1, int(distance.max()) + 3, device=distance.device).float().pow(-2)
    tail = tail.flip(0).cumsum(0).flip(0)
    return tail[distance] - tail[distance.flatten(1).amax(1) + 1].reshape(-1, 1, 1, 1)


def _sides(origin: Tensor, mask: Tensor | None, share: float, smallest: int) -> Tensor:
    """Returns heights and widths ``(2, N)`` of windows of that share of the area: squares, if the plane is wide enough.

    Those for bumps, of at least 3 pixels, are odd: a bump has a middle.
    """
    count, _, tall, wide = origin.shape
    area = share * (origin.new_full((count,), tall * wide) if mask is None else mask.any(1).flatten(1).sum(1))
    side, narrow = area.sqrt(), min(tall, wide)
    short = side.round().clamp(smallest, max(narrow, smallest))
    long = torch.where(side > narrow, (area / narrow).round(), short)
    sizes = torch.stack([short, long] if tall <= wide else [long, short])
    if smallest > 1:
        sizes += sizes % 2 == 0
    return sizes.minimum(sizes.new_tensor([[tall], [wide]])).long()


class _Window(NamedTuple):
    """Windows: ``(n, k)`` for the next ``k`` queries, or ``(n, 1)`` for one.

    ``pixels`` say how far after its corner the pixels of a window are in a plane, for linf: the last ones repeated
    where it is smaller than others, and once for all windows where they are alike.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    pixels: Tensor

    @classmethod
    def at(cls, at: Search, chance: Tensor, height: Tensor, width: Tensor) -> _Window:
        """Returns windows of a size ``(n, 1)``, anywhere in the plane; with a mask, about a pixel that it allows."""
        tall, wide = at.origin.shape[2:]
        down, across, pixel = chance.unbind(2)
        if at.threat.mask is None:
            top, left = (down * (tall - height + 1)).long(), (across * (wide - width + 1)).long()
        else:
            rank = at.threat.mask.any(1).flatten(1).cumsum(1)
            anchor = torch.searchsorted(rank, (pixel * rank[:, -1:]).long() + 1)
            top = (anchor // wide - (down * height).long()).clamp(min=0).minimum(tall - height)
            left = (anchor % wide - (across * width).long()).clamp(min=0).minimum(wide - width)
        pixels = top[:, :0]
        if at.ends:
            sizes = torch.stack([height, width]) if at.threat.mask is not None else torch.stack([height, width])[:, :1]
            rows, columns = (torch.arange(int(side.max()), device=side.device).minimum(side - 1) for side in sizes)
            pixels = (rows[:, :, None] * wide + columns[:, None, :]).flatten(1)
        return cls(top, left, height, width, pixels)

    def of(self, rows: Tensor) -> _Window:
        """Returns the windows of those samples."""
        pixels = self.pixels if len(self.pixels) == 1 else self.pixels[rows]
        return _Window(self.top[rows], self.left[rows], self.height[rows], self.width[rows], pixels)

    def step(self, query: int) -> _Window:
        """Returns the windows of one query."""
        return self._replace(top=self.top[:, query, None], left=self.left[:, query, None])

    def places(self, at: Search) -> tuple[Tensor, Tensor]:
        """Returns each row's place from the top ``(n, H, 1)``, and each column's from the left ``(n, 1, W)``."""
        rows, columns = (torch.arange(side, device=self.top.device) for side in at.origin.shape[2:])
        return (rows - self.top)[:, :, None], (columns - self.left)[:, None, :]

    def inside(self, at: Search) -> Tensor:
        """Returns whether a pixel lies in the window ``(n, 1, H, W)``."""
        rows, columns = (
            (place >= 0) & (place < side[:, :, None])
            for place, side in zip(self.places(at), (self.height, self.width), strict=True)
        )
        return (rows & columns)[:, None]

    def bumps(self, at: Search, tie: Tensor) -> Tensor:
        """Returns a bump and its negative, side by side along the longer side, or in a square as ``tie`` says."""
        (down, across), height, width = self.places(at), self.height[:, :, None], self.width[:, :, None]
        upright = (height > width) | ((height == width) & (tie[:, None, None] > 0))
        vertical = torch.where(upright, _halved(down, height), (down - height // 2).abs())
        horizontal = torch.where(upright, (across - width // 2).abs(), _halved(across, width))
        second = torch.where(upright, down >= height // 2, across >= width // 2)
        distance = torch.where(self.inside(at), vertical.maximum(horizontal)[:, None], 0)
        return torch.where(second, -1.0, 1.0)[:, None] * _bump(distance)


def _halved(place: Tensor, side: Tensor) -> Tensor:
    """Returns the distance to the middle of the half of the side in which a place lies."""
    half = side // 2
    middle = torch.where(place >= half, half + (side - half) // 2, half // 2)
    return (place - middle).abs()
