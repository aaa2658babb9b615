"""Designs: which parts to keep in which mask, so that few masks tell much. Every sample draws its own."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.draws import Draws


def balanced(draws: Draws, count: int, parts: int, rows: Tensor) -> Tensor:
    """Returns masks in opposite pairs, any two parts independent of each other, bool ``(n, count, parts)``.

    A mask is a row of a Hadamard matrix whose columns are drawn, and swapped by chance: a uniform draw by itself. In a
    whole matrix every part stays in exactly half of the masks, and with every other part in exactly a quarter. The
    opposite of each mask follows it, so that what two parts do together does not show as what one does.

    Args:
        draws: the samples' streams.
        count: masks.
        parts: parts a mask.
        rows: which samples ``(n,)``.
    """
    size = 1 << parts.bit_length()
    pairs = (count + 1) // 2
    whole = -(-pairs // size)
    order = draws.uniform((whole, size), rows).argsort(-1)
    columns = 1 + draws.uniform((whole, size - 1), rows).argsort(-1)[..., :parts]
    swapped = draws.uniform((whole, parts), rows) < 0.5
    found = []
    for each in range(whole):
        some = order[:, each, : min(size, pairs - each * size)]
        bits = _parity(some[..., None] & columns[:, each, None])
        found.append(bits ^ swapped[:, each, None])
    first = torch.cat(found, 1)
    return torch.stack([first, ~first], 2).flatten(1, 2)[:, :count]


def _parity(bits: Tensor) -> Tensor:
    """Returns whether a number has an odd count of ones."""
    for shift in (16, 8, 4, 2, 1):
        bits = bits ^ (bits >> shift)
    return (bits & 1).bool()


class Group(NamedTuple):
    """Coalitions of one size together with their opposites: how many such pairs, and whether that is all of them."""

    size: int
    pairs: int
    whole: bool


@cache
def plan(parts: int, count: int) -> tuple[Group, ...]:
    """Returns which coalitions to look at, of at most ``count``, besides the empty and the full one.

    A size whose coalitions are fewer than its share is taken whole; all others get an even share of the rest. Even
    shares are what the coalitions' leverage on Shapley values asks for (Musco and Witter 2025).

    Args:
        parts: players.
        count: coalitions.
    """
    most = {size: math.comb(parts, size) // (2 if 2 * size == parts else 1) for size in range(1, parts // 2 + 1)}
    left, groups = count // 2, []
    for place, size in enumerate(sorted(most, key=lambda size: most[size])):
        pairs = min(most[size], left // (len(most) - place))
        left -= pairs
        if pairs:
            groups.append(Group(size, pairs, pairs == most[size]))
    return tuple(groups)


def coalitions(draws: Draws, count: int, parts: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns coalitions and the weight of each in Shapley's kernel: bool ``(n, m, parts)`` and float64 ``(m,)``.

    All coalitions of size s together weigh :math:`(P - 1) / (s (P - s))`; of those drawn, each weighs the same.

    Args:
        draws: the samples' streams.
        count: coalitions at most, besides the empty and the full one; all of them where they are no more.
        parts: players.
        rows: which samples ``(n,)``.
    """
    masks, weights = [], []
    for size, pairs, whole in plan(parts, count):
        if whole:
            first = _all(parts, size, pairs).to(rows.device).expand(len(rows), -1, -1)
        else:
            first = draws.uniform((pairs, parts), rows).argsort(-1).argsort(-1) < size
        masks.append(torch.stack([first, ~first], 2).flatten(1, 2))
        mass = (parts - 1) / (size * (parts - size)) / (2 * pairs if 2 * size == parts else pairs)
        weights.append(torch.full((2 * pairs,), mass, dtype=torch.float64, device=rows.device))
    if not masks:
        return torch.zeros(len(rows), 0, parts, dtype=torch.bool, device=rows.device), torch.zeros(0)
    return torch.cat(masks, 1), torch.cat(weights)


@cache
def _all(parts: int, size: int, pairs: int) -> Tensor:
    """Returns the first coalitions of that size in lexical order: of a half, those that have the first player."""
    masks = torch.zeros(pairs, parts, dtype=torch.bool)
    for row, members in enumerate(itertools.islice(itertools.combinations(range(parts), size), pairs)):
        masks[row, list(members)] = True
    return masks
