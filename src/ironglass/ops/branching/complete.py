"""Complete proofs: a search by signs, then, where it does not end soon, pieces with intervals of their own."""

from __future__ import annotations

from dataclasses import replace

import torch

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Graph
from ironglass.ops.linear import lower
from ironglass.ops.linear.sharpening import sharpened

from .lined import ByStep, Lined, lined
from .narrow import narrowed
from .problem import Budget, Problem, Settled
from .rebound import applies, by_pieces
from .signs import Effort, Search
from .witness import Witness


def by_signs(
    problem: Problem,
    graph: Graph,
    values: dict[int, Interval],
    witness: Witness | None,
    budget: Budget,
    effort: Effort | None = None,
) -> Settled:
    r"""Splits on the sign of one ReLU's input at a time until every part of every case is settled.

    In a part the inputs of some ReLUs are known to be of one sign. There the ReLU is exact, and the constraint
    :math:`s_j z_j \ge 0` enters the bound with a multiplier :math:`\beta_j \ge 0`; slopes and multipliers are raised
    together. Where nothing is left to split the network is affine and a linear program settles the part: its
    multipliers go through the same bound, so that nothing rests on the solver.

    Args:
        problem: the network and its cases.
        graph: of the network.
        values: intervals by step on the box.
        witness: the judge of counterexamples; None if none is looked for.
        budget: to keep to.
        effort: how hard each part is tried.
    """
    effort = effort or Effort()
    with torch.no_grad():
        graph, values = narrowed(graph, values)
        net = _sharpened(problem, lined(graph, problem.start, values), effort)
        search = Search(problem, net, witness, budget, effort)
        if not applies(search):
            return search.run()
        settled = search.run(most=effort.early)
        if search.left is None or budget.spent or search.root is None:
            return settled
        again = by_pieces(search)
        return replace(again, bound=max(again.bound, settled.bound)) if again.point is None else again


def _sharpened(problem: Problem, net: Lined, effort: Effort) -> Lined:
    """The same with tighter intervals, where some case is still open."""
    rows = problem.rows.flatten(0, 1)[None]
    tape: ByStep = {}
    bound = lower(net.start, rows, net.relaxed, tape=tape).reshape(problem.limits.shape)
    still = ~(problem.over(bound) > 0).any(1)
    if not effort.inner or not net.relus or not bool(still.any()):
        return net
    picked = {index: row[:, still.repeat_interleave(problem.limits.shape[1])] for index, row in tape.items()}
    values = sharpened(net.start, net.relaxed, picked, steps=effort.inner, share=1.0)
    graph, values = narrowed(net.relaxed.graph, values)
    return lined(graph, net.start, values)
