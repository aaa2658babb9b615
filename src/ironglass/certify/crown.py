"""CROWN: linear bounds with the best line at each activation."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.linear import bounded, margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="CROWN",
    paper="zhang2018crown",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500",
    lecture="verification-based evaluation",
)
def crown(model: Model, x: Tensor, y: Tensor, threat: Threat, *, double: bool = False) -> Tensor:
    r"""Bound each margin by a line in the input, pulled back through lines around every activation.

    .. math:: a_l z + b_l \le s(z) \le a_u z + b_u, \qquad
              A\, s(z) \ge (A^+ a_l + A^- a_u)\, z + A^+ b_l + A^- b_u

    and so down to the input, where the least value of :math:`A x + b` over the ball is known from the dual norm. The
    lines are those with the least area between them and the activation: for ReLU the secant above, and below the slope
    0 or 1. Each activation's own interval is found in the same way, layer by layer, for the values that it bends, and
    cut with what intervals alone prove. Where ball and box differ (l2, l1) the better of both is taken, row by row.

    The margin is proven for the network as it runs in floating point, in any order of summation: see `ops.linear`.

    Args:
        double: compute the bounds in float64 though the network is float32: tighter by the rounding, several times
            slower. Always so outside the CPU.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; minus infinity where nothing finite is
        proven.

    Raises:
        InputError: if the network has an operator that cannot be bounded.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).eval()
        >>> for layer in (net[0], net[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> result = ig.certify.crown(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    graph, start = opened(model, x, threat, double)
    y = y.to(start.lower.device)
    relaxed = bounded(graph, start)
    return weakest(margins(graph, start, y, relaxed), y, x)
