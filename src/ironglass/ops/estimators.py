r"""Gradient estimators: what differences of a function's values say of its gradient, query by query.

An estimator is a value; called on a `Probe` it returns the estimates of all rows. It asks the function for many points
a row at once, never more of a row than that row has left, and what it asks is chunked for memory. A function with
several values a point gives as many gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.draws import Draws
from ironglass.core.errors import InputError

from . import lp

Kind = Literal["signs", "sphere", "gaussian"]
Ask = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``ask(points (n, k, *shape), rows (n,), count (n,)) -> values (n, k)`` or ``(n, k, m)``.

Of row i the first ``count[i]`` points are asked and charged; the values of the others mean nothing."""
Place = Callable[[Tensor, Tensor], Tensor]
"""``place(points (n, k, *shape), rows (n,))``: where points that lie outside the function's domain are taken to."""
BLOCK = 1 << 20
"""Numbers in a block of points that is made and asked at once."""


class Probe(NamedTuple):
    """Where a gradient is wanted, and what it may cost.

    ``point (n, *shape)`` are the places, ``rows (n,)`` their samples, and ``left (n,)`` the queries each may still
    make. ``base`` are the values at the points, where they are known; ``mask`` says which coordinates count
    ``(n or 1, *shape)``.
    """

    ask: Ask
    place: Place
    point: Tensor
    rows: Tensor
    left: Tensor
    draws: Draws
    base: Tensor | None = None
    mask: Tensor | None = None

    def dims(self) -> Tensor:
        """Returns how many coordinates count, a row each ``(n or 1,)``."""
        if self.mask is None:
            return torch.tensor([self.point[0].numel()], device=self.point.device)
        return (self.mask != 0).expand(len(self.mask), *self.point.shape[1:]).flatten(1).sum(1)

    def chunks(self, points: int) -> Iterator[Probe]:
        """Yields the rows in chunks of which a block holds that many points each."""
        size = max(BLOCK // (points * max(self.point[0].numel(), 1)), 1)
        if size >= len(self.rows):
            yield self
            return
        for start in range(0, len(self.rows), size):
            yield self.take(slice(start, start + size))

    def take(self, part: Tensor | slice) -> Probe:
        """Returns the probe of some of the rows."""
        return self._replace(
            point=self.point[part],
            rows=self.rows[part],
            left=self.left[part],
            base=None if self.base is None else self.base[part],
            mask=self.mask if self.mask is None or len(self.mask) == 1 else self.mask[part],
        )


class Control(NamedTuple):
    """A control variate: another point ``(n, *shape)`` of each row, its value, and its gradient, known better."""

    point: Tensor
    base: Tensor
    grad: Tensor


@dataclass(frozen=True, slots=True)
class RandomDirections:
    r"""Differences along random directions.

    .. math:: \hat g = \frac{\phi}{q\mu} \sum_j \bigl(F(x + \mu u_j) - F(x)\bigr)\,u_j, \qquad
        \hat g_{\mathrm{anti}} = \frac{\phi}{2q\mu} \sum_j \bigl(F(x + \mu u_j) - F(x - \mu u_j)\bigr)\,u_j

    With ``d`` coordinates, :math:`\phi = d` for directions of length 1 (uniform on the ``sphere``, or corners of the
    cube scaled to it, ``signs``, at a small part of the cost), and 1 for ``gaussian`` ones. All are unbiased for a
    linear function; :math:`E\|\hat g\|^2` of one direction is :math:`d\|g\|^2`, and :math:`(d + 2)\|g\|^2` of a
    Gaussian one.

    Args:
        count: directions ``q``.
        radius: ``μ``, input units.
        kind: of direction.
        tile: side of the squares of values that move alike, see `tile_of`: then the gradient is that of the squares.
        antithetic: both ends of each direction, in place of one end and the middle.
        vote: sum the signs of each direction's estimate, in place of the estimates.
        center: take the values' own mean for the one at the point, which need not be known.
    """

    count: int = 10
    radius: float = 1e-3
    kind: Kind = "sphere"
    tile: int = 1
    antithetic: bool = False
    vote: bool = False
    center: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or not self.radius > 0:
            raise InputError(
                f"samples={self.count}, radius={self.radius:g}", "give at least 1 direction, and radius > 0, e.g. 0.1"
            )

    @property
    def needs_base(self) -> bool:
        """Whether the value at the point itself is used."""
        return not (self.antithetic or self.center)

    @property
    def least(self) -> int:
        """The fewest queries that give an estimate."""
        return 2 if self.antithetic or self.center else 1

    def __call__(self, at: Probe, control: Control | None = None) -> Tensor:
        r"""Returns the estimates ``(n, *shape)``, or ``(n, m, *shape)`` of a function with ``m`` values.

        With a control variate the same directions are asked at both points, and what is returned is

        .. math:: \hat g(x; u) - \hat g(\tilde x; u) + \nabla F(\tilde x).
        """
        per = 2 if self.antithetic or control is not None else 1
        width = max(min(self.count, BLOCK // max(per * at.point[0].numel(), 1)), 1)
        start, parts = 0, []
        for chunk in at.chunks(per * width):
            stop = start + len(chunk.rows)
            part = None if control is None else Control(*(value[start:stop] for value in control))
            parts.append(self._estimate(chunk, part, per, width))
            start = stop
        return torch.cat(parts)

    def _estimate(self, at: Probe, control: Control | None, per: int, width: int) -> Tensor:
        point, dims = at.point, at.dims()
        squares = dims / _area(point.shape[1:], self.tile)
        count = (at.left.clamp(min=0) // per).clamp(max=self.count)
        whole = bool((count == self.count).all())
        total: Tensor | None = None
        level, drift = point.new_zeros(len(point)), torch.zeros_like(point.flatten(1)) if self.center else point
        for start in range(0, self.count, width):
            size = min(width, self.count - start)
            drawn = (size, *point.shape[1:])
            move = directions(at.draws, self.kind, drawn, at.rows, point.dtype, at.mask, dims, self.tile, self.radius)
            here = (count - start).clamp(0, size)
            pair = point.new_empty((len(point), size, per, *point.shape[1:]))
            torch.add(point[:, None], move, out=pair[:, :, 0])
            if per == 2:
                other, sign = (point, -1) if control is None else (control.point, 1)
                torch.add(other[:, None], move, alpha=sign, out=pair[:, :, 1])
            values = at.ask(pair.flatten(1, 2), at.rows, here * per)
            values = values.reshape(len(point), size, per, *values.shape[2:])
            change = values[:, :, 0] - values[:, :, 1] if per == 2 else values[:, :, 0]
            if control is not None:
                assert at.base is not None
                change = change - (at.base - control.base)[:, None]
            elif self.needs_base:
                assert at.base is not None
                change = change - at.base[:, None]
            change = change.to(move.dtype)
            if not whole:
                asked = torch.arange(size, device=move.device) < here[:, None]
                change = torch.where(asked.reshape(*asked.shape, *(1,) * (change.ndim - 2)), change, 0)
            if self.vote:
                change, move = change.sign(), move.sign()
            if self.center:
                level += change.sum(1)
                part = torch.ones_like(change) if whole else asked.to(move.dtype)
                drift += torch.einsum("nk,nkd->nd", part, move.flatten(2))
            summed: Tensor = torch.einsum("nk...,nkd->n...d", change, move.flatten(2))
            total = summed if total is None else total + summed
        assert total is not None
        if self.center:
            total = total - (level / count.clamp(min=1))[:, None] * drift
        if not self.vote:
            factor = 1.0 if self.kind == "gaussian" else squares.to(total.dtype)
            length = self.radius**2 * (2 if self.antithetic else 1)  # moves are as long as differences are wide
            scale = factor / (length * count.clamp(min=1).to(total.dtype))
            total = total * lp.column(scale, total)
        grad = total.reshape(*total.shape[:-1], *point.shape[1:])
        return grad if control is None else grad + control.grad


def directions(
    draws: Draws,
    kind: Kind,
    shape: tuple[int, ...],
    rows: Tensor,
    dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    dims: Tensor | None = None,
    tile: int = 1,
    radius: float = 1.0,
) -> Tensor:
    """Returns random directions ``(n, *shape)``, with ``shape = (count, *of a sample)``; 0 outside the mask.

    Args:
        draws: the samples' streams.
        kind: ``gaussian``, or of length 1: ``sphere`` or ``signs``.
        shape: count and shape of a sample.
        rows: which samples draw ``(n,)``.
        dtype: of the directions.
        mask: which coordinates count ``(n or 1, *of a sample)``; None for all.
        dims: how many they are ``(n or 1,)``; counted if None.
        tile: side of the squares of values that are alike.
        radius: their length, in place of 1.
    """
    small = tuple(-(-side // tile) for side in shape[-2:]) if len(shape) > 2 else (-(-shape[-1] // tile),)
    drawn = (*shape[: len(shape) - len(small)], *small)
    even = shape[-1] % tile == 0  # then a line's values can be repeated where they are looked up
    if kind == "signs":
        length = 1.0 if mask is not None else radius / math.prod(shape[1:]) ** 0.5
        u = packed_signs(draws, drawn, rows, dtype, length, tile if even else 1)
    else:
        u = draws.normal(drawn, rows, dtype)
    if tile > 1:
        u = enlarged(u, shape, tile)
        if kind == "gaussian":
            u = u / _area(shape[1:], tile) ** 0.5
    if mask is not None:
        u = u * mask[:, None]
        dims = mask.expand(len(mask), *shape[1:]).flatten(1).sum(1) if dims is None else dims
        if kind == "signs":
            u.mul_((radius * dims.clamp(min=1).to(dtype) ** -0.5).reshape(-1, *(1,) * len(shape)))
    if kind == "signs":
        return u
    if kind == "sphere":
        length = torch.linalg.vector_norm(u.flatten(2), dim=2).clamp(min=torch.finfo(dtype).tiny)
        return u.mul_((radius / length).reshape(*length.shape, *(1,) * (len(shape) - 1)))
    return u.mul_(radius) if radius != 1 else u


def enlarged(small: Tensor, shape: tuple[int, ...], tile: int) -> Tensor:
    """Returns squares of ``tile`` values in place of each value, cut to ``shape`` at the end of the last two axes.

    Lines that are as long as they are to be are taken as they are.
    """
    lines = small
    if small.shape[-1] != shape[-1]:
        lines = small[..., None].expand(*small.shape, tile).flatten(-2)[..., : shape[-1]]
    if len(shape) == 2:
        return lines
    *lead, tall, wide = lines.shape
    planes = lines[..., None, :].expand(*lead, tall, tile, wide).reshape(*lead, tall * tile, wide)
    return planes[..., : shape[-2], :]


def _area(shape: tuple[int, ...], tile: int) -> int:
    return math.prod(min(tile, side) for side in shape[-2:])


def tile_of(shape: tuple[int, ...], tile: int | None) -> int:
    """Returns the side of the squares: where None is given a fourteenth of a picture's shorter side, and 1 else.

    Fewer numbers are sought then, with as many fewer queries: neighbouring values of a picture mostly want the same.

    Args:
        shape: of a sample; a picture has at least two axes, the last two its plane.
        tile: what was asked for.

    Raises:
        InputError: if it is below 1.
    """
    if tile is None:
        return max(min(shape[-2:]) // 14, 1) if len(shape) > 1 else 1
    if tile < 1:
        raise InputError(f"tile={tile} is no side of a square", "give 1 for single values, or e.g. 4")
    return tile


BITS = 48
"""Signs that one draw is cut into."""


def packed_signs(
    draws: Draws, shape: tuple[int, ...], rows: Tensor, dtype: torch.dtype, length: float = 1.0, repeat: int = 1
) -> Tensor:
    """Returns minus or plus ``length`` with equal chance ``(n, *shape)``: many signs a draw, so cheap.

    Along the last axis each stands ``repeat`` times.
    """
    size = math.prod(shape)
    bits = draws.words(BITS, (-(-size // BITS),), rows)
    octets = bits.view(torch.uint8).reshape(len(bits), -1, 8)[..., : BITS // 8]
    octet = torch.arange(256, device=bits.device)
    table = ((octet[:, None] >> torch.arange(8, device=bits.device)) & 1).to(dtype) * (2 * length) - length
    table = table.repeat_interleave(repeat, 1)
    signs = F.embedding(octets.to(torch.int32), table).flatten(1)[:, : size * repeat]
    return signs.reshape(-1, *shape[:-1], shape[-1] * repeat)


@dataclass(frozen=True, slots=True)
class Groups:
    r"""Central differences over random groups of coordinates, all of whose members get the group's value.

    .. math:: \hat g_i = \frac{F(x + h 1_S) - F(x - h 1_S)}{2h|S|}, \qquad i \in S

    Groups of one are the coordinates: exact on quadratics. Where the domain ends, a difference is divided by the way
    that was really gone. Where the queries do not suffice, the groups that were asked, a random part, get their values,
    and the rest 0.

    Args:
        size: of a group.
        step: ``h``, input units.
    """

    size: int = 1
    step: float = 1e-4
    needs_base: bool = False
    least: int = 2

    def __call__(self, at: Probe) -> Tensor:
        """Returns the estimates ``(n, *shape)``."""
        groups = -(-at.point[0].numel() // self.size)
        width = max(min(groups, BLOCK // max(2 * at.point[0].numel(), 1), 128), 1)
        return torch.cat([self._estimate(part, groups, width) for part in at.chunks(2 * width)])

    def _estimate(self, at: Probe, groups: int, width: int) -> Tensor:
        point, shape = at.point, at.point.shape[1:]
        chance = at.draws.uniform(shape, at.rows, torch.float64)
        if at.mask is not None:
            chance = torch.where(at.mask != 0, chance, 2.0)
        order = chance.flatten(1).argsort(dim=1, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        free = at.dims().expand(len(point))
        group = torch.where(rank < free[:, None], rank // self.size, -1).reshape_as(point)
        count = (at.left.clamp(min=0) // 2).minimum(-(-free // self.size))
        grad = torch.zeros_like(point)
        for start in range(0, min(groups, int(count.max())), width):
            index = torch.arange(start, min(start + width, groups), device=point.device)
            member = (group[:, None] == index.reshape(-1, *(1,) * len(shape))).to(point.dtype)
            here = (count - start).clamp(0, len(index))
            pair = point.new_empty((len(point), len(index), 2, *shape))
            for end, side in enumerate((self.step, -self.step)):
                torch.add(point[:, None], member, alpha=side, out=pair[:, :, end])
            ends = at.place(pair.flatten(1, 2), at.rows)
            values = at.ask(ends, at.rows, here * 2).reshape(len(point), -1, 2)
            ends, member = ends.reshape(len(point), len(index), 2, -1), member.flatten(2)
            way = torch.einsum("nkd,nkd->nk", ends[:, :, 0] - ends[:, :, 1], member)
            asked = (torch.arange(len(index), device=point.device) < here[:, None]) & (way > 0)
            slope = torch.where(asked, (values[:, :, 0] - values[:, :, 1]).to(way.dtype) / way, 0)
            grad += torch.einsum("nk,nkd->nd", slope, member).reshape_as(point)
        return grad


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    r"""Central differences along given orthonormal directions: the gradient's projection on their span.

    .. math:: \hat g = \sum_j \frac{F(x + h b_j) - F(x - h b_j)}{2h}\, b_j

    Args:
        vectors: ``(k, *shape)``, orthonormal, the most important first.
        step: ``h``, input units.
    """

    vectors: Tensor
    step: float = 1e-2
    needs_base: bool = False
    least: int = 2

    def __call__(self, at: Probe) -> Tensor:
        """Returns the estimates ``(n, *shape)``."""
        width = max(min(len(self.vectors), BLOCK // max(2 * at.point[0].numel(), 1)), 1)
        return torch.cat([self._estimate(part, width) for part in at.chunks(2 * width)])

    def _estimate(self, at: Probe, width: int) -> Tensor:
        count = (at.left.clamp(min=0) // 2).clamp(max=len(self.vectors))
        grad = torch.zeros_like(at.point)
        for start in range(0, int(count.max()), width):
            u = self.vectors[start : start + width].to(at.point)[None]
            u = u if at.mask is None else u * at.mask[:, None]
            here = (count - start).clamp(0, u.shape[1])
            ends = torch.stack([at.point[:, None] + self.step * u, at.point[:, None] - self.step * u], 2)
            values = at.ask(ends.flatten(1, 2), at.rows, here * 2).reshape(len(here), -1, 2)
            asked = torch.arange(u.shape[1], device=u.device) < here[:, None]
            slope = torch.where(asked, (values[:, :, 0] - values[:, :, 1]) / (2 * self.step), 0).to(u.dtype)
            grad += torch.einsum("nk,nkd->nd", slope, u.flatten(2).expand(len(slope), -1, -1)).reshape_as(grad)
        return grad


def principal(data: Tensor, count: int) -> Tensor:
    """Returns the data's first principal directions ``(min(count, rank), *shape)``, orthonormal.

    Args:
        data: samples ``(M, *shape)``.
        count: how many directions.
    """
    flat = data.flatten(1)
    _, size, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    rank = int((size > size[0] * 1e-6).sum())
    largest: Tensor = vectors[: min(count, rank)]
    return largest.reshape(-1, *data.shape[1:])


Decoder = Callable[[Tensor], Tensor]
"""A map from a space of fewer dimensions to changes of the input: ``(n, *small) -> (n, *shape)``."""


def bilinear(shape: tuple[int, ...], size: int) -> tuple[tuple[int, ...], Decoder]:
    """Returns the shape of a smaller picture, and the bilinear map from such pictures to those of ``shape``.

    Args:
        shape: of a sample ``(…, H, W)``; of ``(d,)`` it is one line.
        size: the larger side of the smaller picture, at most that of the picture.
    """
    plane = shape[-2:] if len(shape) > 1 else (1, shape[-1])
    ratio = min(size / max(plane), 1.0)
    small = tuple(max(round(side * ratio), 1) for side in plane)
    lead = shape[:-2]

    def decode(z: Tensor) -> Tensor:
        planes = z.reshape(-1, 1, *small)
        if small != plane:
            planes = F.interpolate(planes, plane, mode="bilinear", align_corners=False)
        return planes.reshape(len(z), *shape)

    return ((*lead, *small) if len(shape) > 1 else small[1:]), decode
