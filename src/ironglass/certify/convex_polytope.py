"""The convex outer adversarial polytope: the linear relaxation of the network, solved."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.results import Proof
from ironglass.core.values import Threat
from ironglass.ops.program.targets import Effort, search


@certify(
    title="Convex outer polytope (LP)",
    paper="wong2018provable",
    access="training",
    norms=("linf", "l1"),
    cost="classes",
    lecture="convex relaxation",
)
def convex_polytope(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    tighten: bool = False,
    every: bool = False,
    seconds: float = 60.0,
    target: int | None = None,
) -> Proof:
    r"""Find the least margin over the smallest convex set, a ReLU each, that holds all outputs of the ball.

    On its limits :math:`l < 0 < u` each ReLU is replaced by its convex hull, a triangle:

    .. math:: a \ge 0,\quad a \ge z,\quad a \le \frac{u}{u - l} (z - l)

    Then :math:`\min z_y - z_j` is a linear program for each class j, solved here by HiGHS. This is the *primal* program
    of Wong and Kolter (2018), the best bound that relaxing each ReLU by itself can give for these limits; any feasible
    point of its dual, their fast one with one backward pass and the slopes :math:`u / (u - l)` included, is at most as
    tight. The margin is not the solver's objective: it is recomputed from the multipliers by weak duality, rounding
    included (`ops.program.solve`), and holds for the network as it runs in floating point.

    Points where the program is least are tried on the network: those that change the label are counterexamples.

    Args:
        tighten: improve the limits of each layer by linear programs too: tighter, two programs a piece that may switch.
        every: solve for every class, also where intervals settle it, and where a counterexample was found.
        seconds: time for one sample, all classes together.
        target: the margin over this class only; samples of this class prove nothing.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``, and counterexamples.

    Raises:
        InputError: if the network has an operator that is not piecewise linear, or is too large.
    """
    return search(model, x, y, threat, Effort(False, tighten, every, seconds, None, target))
