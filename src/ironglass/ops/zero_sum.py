"""Zero-sum games in matrix form: their value, the mixes that play it, and the strategies that none needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from ironglass.core.errors import InputError, MethodFailed

Array = NDArray[np.float64]
GAP = 1e-7
"""The most by which the two players' guarantees may differ, as a part of the range of the payoffs."""
SLIGHT = 1e-9
"""Differences below this part of the range are none."""


class Solution(NamedTuple):
    """The value of a game, an optimal mix of each player, and how far the mixes' guarantees lie apart."""

    value: float
    rows: Array
    columns: Array
    gap: float


class Dominance(NamedTuple):
    """A strategy that another, or a mix of others, is never worse than; ``strict`` where the mix is always better."""

    strategy: int
    by: Array
    strict: bool

    @property
    def pure(self) -> bool:
        """Whether one strategy alone dominates it."""
        return bool(self.by.max() > 1 - 1e-9)


def solve(payoff: Array) -> Solution:
    r"""Returns the value and optimal mixes of a game whose rows' player pays the columns' player.

    .. math:: v = \max_q \min_i (Rq)_i = \min_p \max_j (p^\top R)_j

    Each player's mix comes from a linear program of its own, so the gap between their guarantees is a proof: whatever
    the solver did, the value lies between :math:`\min_i (Rq)_i` and :math:`\max_j (p^\top R)_j`. Of several optimal
    mixes the one is taken that does best on the mean against all that the other may play, which no dominated strategy
    is part of.

    Args:
        payoff: finite ``(rows, columns)``; the rows' player wants it small.

    Raises:
        InputError: if it is no such matrix.
        MethodFailed: if the mixes do not prove the value to within the rounding of the solver.
    """
    table = _table(payoff)
    columns = _guarantee(table)
    rows = _guarantee(-table.T)
    low, high = float((table @ columns).min()), float((rows @ table).max())
    gap = max(high - low, 0.0)
    if gap > GAP * max(float(np.ptp(table)), 1e-12):
        raise MethodFailed(f"the mixes of the game guarantee {low:g} and {high:g}, which should be equal")
    return Solution((low + high) / 2, rows, columns, gap)


def solve_sampled(payoffs: Array) -> tuple[float, Array]:
    r"""Returns what a mix of columns guarantees when the rows' player answers each sample anew, and that mix.

    .. math:: \max_q \frac1N \sum_n \min_i (R^{(n)} q)_i

    The rows' player knows the mix but not the draw. It is at most the value of the mean game, in which one mix of rows
    must do for all samples.

    Args:
        payoffs: finite ``(rows, columns, N)``, N at least 1.
    """
    if payoffs.ndim != 3 or not payoffs.size or not np.isfinite(payoffs).all():
        raise InputError(f"payoffs of shape {payoffs.shape}", "give finite (rows, columns, N), none of them 0")
    many, columns = payoffs.shape[:2]
    kinds, counts = np.unique(payoffs.reshape(many * columns, -1).T, axis=0, return_counts=True)
    kinds, share = kinds.reshape(-1, many, columns), counts / counts.sum()
    size = len(kinds)
    cost = np.concatenate([np.zeros(columns), -share])
    left = np.concatenate([-kinds.reshape(-1, columns), np.repeat(np.eye(size), many, axis=0)], 1)
    sums = np.concatenate([np.ones(columns), np.zeros(size)])[None]
    bounds = [(0, None)] * columns + [(None, None)] * size
    mix = _mix(_linprog(cost, left, np.zeros(len(left)), sums, bounds)[:columns])
    return float((kinds @ mix).min(1) @ share), mix


def dominated(payoff: Array, player: str) -> list[Dominance]:
    r"""Returns a player's strategies that a mix of its others dominates.

    For row ``i`` the program :math:`\max \sum_j s_j` under :math:`s = R_i - p^\top R_{-i} \ge 0` finds a mix that is
    never worse and somewhere better, if there is one; :math:`\max t` under :math:`R_i - p^\top R_{-i} \ge t` finds one
    that is better everywhere. Two equal strategies do not dominate each other.

    Args:
        payoff: finite ``(rows, columns)``; the rows' player wants it small, the columns' player large.
        player: ``rows`` or ``columns``.
    """
    table = _table(payoff)
    losses = table if player == "rows" else -table.T
    slight = SLIGHT * max(float(np.ptp(table)), 1e-12)
    found = []
    for i, own in enumerate(losses):
        others = np.delete(losses, i, axis=0)
        for strict in (True, False) if len(others) else ():
            by = _single(own - others, strict, slight)
            by = _mixed(others, own, strict, slight) if by is None else by
            if by is not None:
                found.append(Dominance(i, np.insert(by, i, 0.0), strict))
                break
    return found


def _single(gains: Array, strict: bool, slight: float) -> Array | None:
    """Returns the other row that gains most on this one, among those that are never worse; None if there is none."""
    fits = (gains > slight).all(1) if strict else (gains >= -slight).all(1) & (gains > slight).any(1)
    if not fits.any():
        return None
    chosen = np.zeros(len(gains))
    chosen[np.where(fits, gains.sum(1), -np.inf).argmax()] = 1
    return chosen


def _mixed(others: Array, own: Array, strict: bool, slight: float) -> Array | None:
    """Returns the mix of other rows that gains most on this one, everywhere or in sum; None if there is none."""
    many, width = others.shape
    extra = 1 if strict else width
    cost = np.concatenate([np.zeros(many), -np.ones(extra)])
    slack = np.ones((width, 1)) if strict else np.eye(width)
    sums = np.concatenate([np.ones(many), np.zeros(extra)])[None]
    bounds = [(0, None)] * many + [(None, None) if strict else (0, None)] * extra
    solved = linprog(cost, np.concatenate([others.T, slack], 1), own, sums, [1.0], bounds, method="highs")
    return _mix(solved.x[:many]) if solved.success and -solved.fun > slight * width else None


def _guarantee(table: Array) -> Array:
    """Returns the mix of columns with the largest least row, and of several the one with the largest mean."""
    many, columns = table.shape
    cost = np.append(np.zeros(columns), -1.0)
    left = np.concatenate([-table, np.ones((many, 1))], 1)
    sums = np.append(np.ones(columns), 0.0)[None]
    mix = _mix(_linprog(cost, left, np.zeros(many), sums, [(0, None)] * columns + [(None, None)])[:columns])
    least = float((table @ mix).min()) - SLIGHT * float(np.ptp(table))
    return _mix(_linprog(-table.mean(0), -table, np.full(many, -least), sums[:, :columns], [(0, None)] * columns))


def _linprog(cost: Array, left: Array, right: Array, sums: Array, bounds: list[Any]) -> Array:
    solved = linprog(cost, left, right, sums, [1.0], bounds, method="highs")
    if not solved.success:
        raise MethodFailed(f"the linear program of the game was not solved: {solved.message}")
    return np.asarray(solved.x, dtype=np.float64)


def _mix(weights: Array) -> Array:
    """Returns weights as shares: what the solver left below 0 is 0, and all sum to 1."""
    kept = np.clip(np.asarray(weights, dtype=np.float64), 0, None)
    kept[kept < 1e-12] = 0
    shares: Array = kept / kept.sum()
    return shares


def _table(payoff: Array) -> Array:
    table = np.asarray(payoff, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise InputError(f"a payoff of shape {table.shape}", "give a finite matrix (rows, columns), neither of them 0")
    return table
