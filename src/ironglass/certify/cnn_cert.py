"""CNN-Cert: linear bounds of convolutional networks."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.linear import Slopes, bounded, margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="CNN-Cert",
    paper="boopathy2019cnncert",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500",
    lecture="verification-based evaluation",
)
def cnn_cert(
    model: Model, x: Tensor, y: Tensor, threat: Threat, *, adaptive: bool = True, double: bool = False
) -> Tensor:
    r"""Bound each margin by a line in the input, carried through convolutions as a convolution of its own.

    The line of one value of a map is 0 outside a window, :math:`A` of size ``(C, h, w)``; through a convolution of
    kernel k and stride s it is again one, of size :math:`(h - 1) s + k`, and no matrix of the whole layer is built:

    .. math:: A' = (A^+ a_l + A^- a_u) * W, \qquad b' = b + A^+ b_l + A^- b_u

    Batch norm scales a window; where branches join, their windows add up. Above a maximum lies the plane

    .. math:: g + \sum_n a_n (z_n - l_n), \qquad a_n = \frac{\max(0, u_n - g)}{u_n - l_n}, \qquad \sum_n a_n = 1

    with g kept between the largest lower and the least upper bound; below it, the value with the largest lower bound.
    ReLU lies between parallel lines, or with ``adaptive`` above the slope 0 or 1, as in `crown`. So on networks without
    pooling by a maximum it proves what these prove.

    The margin is proven for the network as it runs in floating point, in any order of summation: see `ops.linear`.

    Args:
        adaptive: the lower line of a bent activation with the least area; else one parallel to the upper.
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
        >>> result = ig.certify.cnn_cert(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    graph, start = opened(model, x, threat, double)
    y = y.to(start.lower.device)
    slopes: Slopes = "shared" if adaptive else "same shared"
    relaxed = bounded(graph, start, slopes=slopes)
    return weakest(margins(graph, start, y, relaxed), y, x)
