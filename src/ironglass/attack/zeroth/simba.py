"""SimBA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.zeroth import BlackBox

Base = Literal["pixel", "dct"]
Vectors = Callable[[Tensor], Tensor]
"""The vectors ``(n, *shape)`` of these indices ``(n,)``."""
ROWS = 16
"""Samples whose vectors are put in order at once."""


@attack(
    title="SimBA",
    paper="guo2019simba",
    access="scores",
    norms=("l2", "linf"),
    cost="max_queries",
    lecture="black-box evasion: scores, random search",
    tags=("control",),
)
def simba(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    step_size: float | None = None,
    basis: Base = "pixel",
    frequencies: float = 0.25,
    seed: int = 0,
) -> Tensor:
    r"""Try a step along one vector of an orthonormal basis, then back, and keep what raises the margin.

    .. math:: x_{t+1} = x_t \pm \alpha q_t \quad\text{if}\quad m(x_t \pm \alpha q_t) > m(x_t)

    The vectors are taken in random order, each once until all have been tried. A step costs one query or two. With an
    infinite eps a sample stops at its first success, as the paper has it.

    Args:
        max_queries: queries a sample, beside the runner's first.
        step_size: of a step in l2, input units; if None 0.2 spans of the bounds, and in linf what moves a value by eps.
        basis: single values, or cosines ``dct`` of the last two axes.
        frequencies: part of the frequencies of each axis that ``dct`` uses, the lowest.
        seed: of the order.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if an option is out of range.
    """
    if not 0 < frequencies <= 1 or (step_size is not None and not step_size > 0):
        raise InputError(f"frequencies={frequencies}, step_size={step_size}", "give a part in (0, 1], a size above 0")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    shape = x.shape[1:]
    count, vectors, top = _cosines(x, frequencies) if basis == "dct" else _values(x)
    if step_size is None:
        step_size = 0.2 * model.bounds.span
        if threat.norm == "linf" and not box.minimum:
            step_size = threat.eps / top
    free = threat.mask if basis == "pixel" else None
    rows = torch.arange(len(x), device=x.device)
    order = _orders(model.draws(seed), count, max_queries, free, shape, rows)
    point, value = x.clone(), x.new_full((len(x),), -torch.inf)
    rows = rows[box.open(rows)]
    value[rows] = box.ask(point[rows, None], rows)[:, 0]
    turn, sign = torch.zeros_like(order[:, 0]), torch.ones_like(value)
    while len(rows := rows[box.open(rows) & ~box.found[rows]]):
        index = order[rows, turn[rows] % order.shape[1]]
        move = vectors(index) * lp.column(step_size * sign[rows], x)
        tried = box.place((point[rows] + move)[:, None], rows)
        now = box.ask(tried, rows)[:, 0]
        better = now > value[rows]
        point[rows[better]], value[rows[better]] = tried[better, 0], now[better]
        over = better | (sign[rows] < 0)
        turn[rows] += over
        sign[rows] = torch.where(over, 1.0, -1.0).to(sign.dtype)
    return box.best


def _orders(draws: Draws, count: int, most: int, mask: Tensor | None, shape: torch.Size, rows: Tensor) -> Tensor:
    """Each sample's order of the vectors ``(N, min(count, most))``; those that may not change come last."""
    parts = []
    for some in torch.split(rows, ROWS):
        chance = draws.uniform((count,), some, torch.float64)
        if mask is not None:
            part = mask if len(mask) == 1 else mask[some]
            chance = torch.where(part.expand(len(part), *shape).flatten(1) != 0, chance, chance + 1)
        parts.append(chance.argsort(dim=1, stable=True)[:, :most])
    return torch.cat(parts)


def _values(x: Tensor) -> tuple[int, Vectors, float]:
    """The unit vectors, how many they are, and their largest entry."""
    size = x[0].numel()

    def vectors(index: Tensor) -> Tensor:
        return x.new_zeros(len(index), size).scatter_(1, index[:, None], 1.0).reshape(-1, *x.shape[1:])

    return size, vectors, 1.0


def _cosines(x: Tensor, share: float) -> tuple[int, Vectors, float]:
    """The lowest cosines of the plane in each channel, how many they are, and about the largest entry of one."""
    plane = x.shape[-2:] if x.ndim > 2 else (1, x.shape[-1])
    tall, wide = (_cosine(side, x) for side in plane)
    low, lows = (math.ceil(share * side) for side in plane)
    channels = x[0].numel() // (plane[0] * plane[1])

    def vectors(index: Tensor) -> Tensor:
        channel, down, across = index // (low * lows), index // lows % low, index % lows
        waves = tall[down][:, :, None] * wide[across][:, None, :]
        planes = x.new_zeros(len(index), channels, *plane)
        planes[torch.arange(len(index)), channel] = waves
        return planes.reshape(-1, *x.shape[1:])

    return channels * low * lows, vectors, 2 / (plane[0] * plane[1]) ** 0.5


def _cosine(side: int, like: Tensor) -> Tensor:
    """The orthonormal cosines of a line, a row each ``(side, side)``."""
    place = torch.arange(side, device=like.device, dtype=torch.float64)
    waves: Tensor = torch.cos(math.pi / side * (place + 0.5) * place[:, None]) * (2 / side) ** 0.5
    waves[0] /= 2**0.5
    return waves.to(like.dtype)
