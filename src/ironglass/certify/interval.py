"""Interval bound propagation."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.margins import margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="Interval bound propagation",
    paper="gowal2018",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="2",
    lecture="verification-based evaluation",
)
def interval(model: Model, x: Tensor, y: Tensor, threat: Threat, *, double: bool = False) -> Tensor:
    r"""Carry a box around the input through the network, one interval a value.

    .. math:: W m + b \pm |W| r \;\text{ through affine layers},\qquad [s(l), s(u)] \;\text{ through monotone ones}

    The last affine layers act on the differences :math:`z_y - z_j` at once, so what the scores share cancels. In l2
    and l1 the first layer is bounded by the dual norm of its rows as well as by the box around the ball. The fastest
    of all certificates, and the loosest: networks that were not trained for it are rarely certified.

    The margin is proven for the network as it runs in floating point, in any order of summation: see `ops.bounds`.

    Args:
        double: compute the bounds in float64 though the network is float32: tighter where eps is near the rounding of
            the network, several times slower. Always so outside the CPU.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; minus infinity where nothing finite is
        proven.

    Raises:
        InputError: if the network has an operator that cannot be bounded.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Linear(2, 2).eval()
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), net.bias.data.zero_()
        >>> result = ig.certify.interval(ig.wrap(net), torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    graph, start = opened(model, x, threat, double)
    return weakest(margins(graph, start, y.to(start.lower.device)), y, x)
