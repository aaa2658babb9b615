r"""Solving a program, and what its solution proves.

A solver's objective is no proof: it is a floating-point number within tolerances. What is proven is recomputed.

**Linear programs.** For :math:`\min c v` subject to :math:`A v \le b` and :math:`l \le v \le u`, *any* multipliers
:math:`\lambda \ge 0` give the lower bound

.. math:: -\lambda b + \sum_j \min(r_j l_j,\; r_j u_j), \qquad r = c + A^T \lambda

by weak duality (Neumaier and Shcherbina 2004). It is computed here from the solver's multipliers, less the rounding of
the computation itself: however wrong the solver may be, the bound holds.

**Mixed-integer programs.** The proof is a tree of linear programs that the solver keeps to itself. Its *dual bound* is
taken, never its objective: every row is first relaxed outward by ten times the tolerance to which the solver checks
rows, and the bound is lowered by what reduced costs within the solver's tolerance can hide,
:math:`10^{-7} \sum_j (u_j - l_j)`. What is left to trust is the solver's own branching in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, sparse

from ironglass.ops.bounds import gamma

from .matrices import Matrix, Vector

TOLERANCE = 1e-7
"""HiGHS's own, on reduced costs and on rows."""
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class System:
    r""":math:`A v \le b`, :math:`l \le v \le u`, and which of the v are whole numbers.

    Args:
        a: sparse ``(rows, variables)``.
        b: ``(rows,)``.
        lower: ``(variables,)``, finite.
        upper: ``(variables,)``, finite.
        whole: true where a variable is an integer ``(variables,)``.
    """

    a: Matrix
    b: Vector
    lower: Vector
    upper: Vector
    whole: Vector


class Solution(NamedTuple):
    """A proven lower bound, minus infinity where none was found, and a point, None where there is none.

    ``done`` says whether the solver came to an end within its limits.
    """

    bound: float
    point: Vector | None
    done: bool


def linear(system: System, costs: Vector, seconds: float | None = None) -> Solution:
    """Returns the least of ``costs v`` without regard to integers: a bound that weak duality proves."""
    given = {} if seconds is None else {"time_limit": max(seconds, 0.01)}
    limits = np.stack([system.lower, system.upper], 1)
    free = box(costs, 0.0, system.lower, system.upper)
    if not system.a.shape[0]:
        return Solution(free, np.where(costs > 0, system.lower, system.upper), True)
    found = optimize.linprog(costs, system.a, system.b, bounds=limits, method="highs", options=given)
    marginals = getattr(getattr(found, "ineqlin", None), "marginals", None)
    if marginals is None or found.x is None:
        return Solution(free, None, False)
    return Solution(max(dual_bound(system, costs, -marginals), free), found.x, found.status == 0)


def dual_bound(system: System, costs: Vector, multipliers: Vector) -> float:
    """Returns what these multipliers prove, rounding included; minus infinity where they are not finite."""
    multipliers = np.clip(multipliers, 0.0, None)
    rest = costs + system.a.T @ multipliers
    most = np.maximum(np.abs(system.lower), np.abs(system.upper))
    size = np.abs(costs) + abs(system.a).T @ multipliers
    terms = max(system.a.shape) + 10
    lost = gamma(terms, EPS) * 4 * (float(size @ most) + float(np.abs(system.b) @ multipliers))
    value = float(np.minimum(rest * system.lower, rest * system.upper).sum()) - float(multipliers @ system.b) - lost
    return value if np.isfinite(value) else -np.inf


def box(costs: Vector, offset: float, lower: Vector, upper: Vector) -> float:
    """Returns the least of ``costs v + offset`` over the variables' own limits, rounded down."""
    most = np.maximum(np.abs(lower), np.abs(upper))
    lost = gamma(len(costs) + 10, EPS) * 2 * (float(np.abs(costs) @ most) + abs(offset))
    value = float(np.minimum(costs * lower, costs * upper).sum()) + offset - lost
    return value if np.isfinite(value) else -np.inf


def integer(system: System, costs: Vector, seconds: float, nodes: int | None = None, gap: float = 1e-6) -> Solution:
    """Returns the least of ``costs v`` over whole values of the binary variables: the solver's lowered dual bound.

    Args:
        system: its rows are relaxed before they are solved.
        costs: of the variables.
        seconds: time limit; what is proven by then counts.
        nodes: limit on the nodes of the tree.
        gap: relative gap at which the search may stop.
    """
    if not system.whole.any():
        return linear(system, costs, seconds)
    given: dict[str, Any] = {"time_limit": max(seconds, 0.01), "mip_rel_gap": gap}
    if nodes is not None:
        given["node_limit"] = nodes
    scale = np.maximum(abs(system.a).max(axis=1).toarray().ravel(), 1.0)
    rows = optimize.LinearConstraint(system.a, -np.inf, system.b + 10 * TOLERANCE * scale)
    limits = optimize.Bounds(system.lower, system.upper)
    found = optimize.milp(costs, integrality=system.whole, bounds=limits, constraints=rows, options=given)
    bound = found.mip_dual_bound
    if bound is None or not np.isfinite(bound):
        return Solution(-np.inf, found.x, False)
    hidden = TOLERANCE * (1 + float((system.upper - system.lower).sum()))
    return Solution(float(bound) - hidden, found.x, found.status == 0)


def stacked(parts: list[Matrix], columns: int) -> Matrix:
    """Returns the rows of all parts over so many columns."""
    wide = []
    for part in parts:
        grown = part.copy()
        grown.resize((part.shape[0], columns))
        wide.append(grown)
    return sparse.csr_array(sparse.vstack(wide)) if wide else sparse.csr_array((0, columns))
