"""CROWN-IBP: margins by linear bounds, all before by intervals."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.linear import bounded, margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="CROWN-IBP",
    paper="zhang2020crownibp",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="2 + 4 * classes",
    lecture="verification-based evaluation",
)
def crown_ibp(model: Model, x: Tensor, y: Tensor, threat: Threat, *, double: bool = False) -> Tensor:
    r"""Bound each margin by a line in the input, with intervals alone for what comes between.

    The intervals of all activations are carried forward as in `interval`, one pass; then only the margins are pulled
    back through lines, as in `crown`. About as fast as intervals, and much tighter on networks trained for either.

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
        >>> result = ig.certify.crown_ibp(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    graph, start = opened(model, x, threat, double)
    y = y.to(start.lower.device)
    relaxed = bounded(graph, start, "interval")
    return weakest(margins(graph, start, y, relaxed), y, x)
