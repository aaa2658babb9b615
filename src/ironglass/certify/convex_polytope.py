"""The convex outer adversarial polytope: the linear relaxation of the network, solved."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import certify
from ironglass.core.results import Proof
from ironglass.core.values import Threat
from ironglass.ops.linear import intervals, margins
from ironglass.ops.program.pieces import check_pieces
from ironglass.ops.program.targets import Effort, search
from ironglass.ops.proofs import opened, weakest


@certify(
    title="Convex outer polytope (LP)",
    paper="wong2018provable",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="classes",
    lecture="convex relaxation",
)
def convex_polytope(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    fast: bool = False,
    tighten: bool = False,
    every: bool = False,
    seconds: float = 60.0,
    target: int | None = None,
) -> Tensor | Proof:
    r"""Find the least margin over the smallest convex set, a ReLU each, that holds all outputs of the ball.

    On its limits :math:`l < 0 < u` each ReLU is replaced by its convex hull, a triangle:

    .. math:: a \ge 0,\quad a \ge z,\quad a \le \frac{u}{u - l} (z - l)

    Then :math:`\min z_y - z_j` is a linear program for each class j. By default HiGHS solves this *primal* program of
    Wong and Kolter (2018): the best bound that relaxing each ReLU by itself can give for these limits, which come from
    `crown`. The margin is not the solver's objective: it is recomputed from the multipliers by weak duality, rounding
    included (`ops.program.solve`), and holds for the network as it runs in floating point.

    With ``fast`` it is their *dual* network instead: the feasible point of the dual that one backward pass gives, with
    :math:`\alpha = u / (u - l)` in every layer, limits included. It is at most as tight as the program on the same
    limits, equals `fast_lin`, takes all samples at once, and is the one that works in l2.

    Points where the program is least are tried on the network: those that change the label are counterexamples.

    Args:
        fast: the dual network in place of the program; the other options do nothing then.
        tighten: improve the limits of each layer by linear programs too: tighter, two programs a piece that may switch.
        every: solve for every class, also where intervals settle it, and where a counterexample was found.
        seconds: time for one sample, all classes together.
        target: the margin over this class only; samples of this class prove nothing.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``, and counterexamples.

    Raises:
        InputError: if the network has an operator that is not piecewise linear, or is too large; in l2 without fast,
            for that ball is not a polytope.
    """
    if fast:
        graph, start = opened(model, x, threat)
        check_pieces(graph)
        y = y.to(start.lower.device)
        return weakest(margins(graph, start, y, intervals(graph, start, slopes="same"), slopes="same"), y, x)
    if threat.norm == "l2":
        raise InputError("a ball in l2 is no polytope", "use linf or l1, or fast=True")
    return search(model, x, y, threat, Effort(False, tighten, every, seconds, None, target))
