"""Exact verification by mixed-integer programming."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.results import Proof
from ironglass.core.values import Threat
from ironglass.ops.program.targets import Effort, search


@certify(
    title="Exact verification (MILP)",
    paper="tjeng2019",
    access="training",
    norms=("linf", "l1"),
    cost="classes",
    lecture="exact verification",
)
def milp(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seconds: float = 60.0,
    nodes: int | None = None,
    minimum: bool = False,
    tighten: bool = True,
    target: int | None = None,
) -> Proof:
    r"""Find the least margin over the ball exactly, by branching on which pieces are active.

    Each ReLU that may switch on its limits :math:`l < 0 < u` gets a binary variable t,

    .. math:: a \ge z,\quad a \ge 0,\quad a \le u t,\quad a \le z - l (1 - t),

    leaky ReLU, clamp, the absolute value and maxima over windows likewise; then :math:`\min z_y - z_j` is a
    mixed-integer linear program for each class j, which HiGHS solves. Limits are tightened progressively: by intervals,
    by linear bounds, then by linear programs, and only while a piece is not settled.

    The margin is the solver's *dual* bound, lowered by its tolerances, or what the multipliers of the linear relaxation
    prove when recomputed (`ops.program.solve`); never the objective. It holds for the network as it runs in floating
    point, so for a float32 network it lies below the exact minimum by what rounding may do; convert the network to
    float64 to see the minimum itself. A sample whose time or nodes are spent keeps the bound reached by then.

    Points that the programs find are tried on the network: those that change the label are counterexamples. A network
    of more than 50,000 inputs or nonlinear values is refused; a hundred pieces that may switch take seconds, several
    hundreds may take hours.

    Args:
        seconds: time for one sample, all classes together.
        nodes: most nodes of each program's search tree; None for no limit.
        minimum: find the least margin over every class exactly, though a cheaper bound settles it; else a class is left
            as soon as it is proven, and a sample as soon as it is broken.
        tighten: tighten limits by linear programs before the search.
        target: the margin over this class only; samples of this class prove nothing.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``, and counterexamples.

    Raises:
        InputError: if the network has an operator that is not piecewise linear, or is too large.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double().eval()
        >>> values = [[1.0], [-1.0]], [-0.5, 0.5], [[1.0, 1.0], [0.0, 0.0]], [0.1, 0.0]
        >>> for part, value in zip(net.parameters(), values):
        ...     _ = part.data.copy_(torch.tensor(value))
        >>> x, y = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([0])
        >>> round(float(ig.certify.milp(net, x, y, ig.Linf(0.3), minimum=True).margin), 3)  # 0.1 + min |x - 0.5|
        0.1
    """
    return search(model, x, y, threat, Effort(True, tighten, minimum, seconds, nodes, target))
