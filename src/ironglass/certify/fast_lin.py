"""Fast-Lin: linear bounds with parallel lines around each ReLU."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.graph import Bend, Monotone, Product, Ramp, Valley
from ironglass.ops.linear import bounded, margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="Fast-Lin",
    paper="weng2018fastlin",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500",
    lecture="verification-based evaluation",
)
def fast_lin(model: Model, x: Tensor, y: Tensor, threat: Threat, *, double: bool = False) -> Tensor:
    r"""Bound each margin by a line in the input, pulled back through two parallel lines around every ReLU.

    .. math:: d z \le \mathrm{relu}(z) \le d\,(z - l), \qquad d = \frac{u}{u - l}

    for a value with :math:`l < 0 < u`; elsewhere ReLU is a line itself. Both lines being as steep, one row bounds from
    both sides, which makes it cheaper than `crown` and as a rule looser. Leaky ReLU, the absolute value and clamps are
    bounded alike, between parallel lines; smooth activations and pooling by a maximum have none, and are refused.

    The margin is proven for the network as it runs in floating point, in any order of summation: see `ops.linear`.

    Args:
        double: compute the bounds in float64 though the network is float32: tighter by the rounding, several times
            slower. Always so outside the CPU.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; minus infinity where nothing finite is
        proven.

    Raises:
        InputError: if the network has an operator that cannot be bounded, or not between parallel lines.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).eval()
        >>> for layer in (net[0], net[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> result = ig.certify.fast_lin(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    graph, start = opened(model, x, threat, double)
    y = y.to(start.lower.device)
    for step in graph.steps:
        if isinstance(step.op, Valley | Product) or (
            isinstance(step.op, Monotone) and not isinstance(step.op.shape, Bend | Ramp)
        ):
            raise InputError(
                f"Fast-Lin has no parallel lines for the operator {step.name}", "use crown, which bounds it"
            )
    relaxed = bounded(graph, start, slopes="same")
    return weakest(margins(graph, start, y, relaxed), y, x)
