"""Gradient-weighted class activation maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops.layers import last_grid, named_grid
from ironglass.ops.targets import logit


@explain(
    title="Grad-CAM",
    paper="selvaraju2017",
    access="internals",
    cost="2",
    kind="specific",
    lecture="activation maps: Grad-CAM",
)
def grad_cam(model: Model, x: Tensor, target: Tensor, *, layer: str | None = None) -> Tensor:
    r"""Weigh a late layer's channels by how much the target's logit gains from them, and show where they fire.

    .. math:: R = \mathrm{ReLU}\Big(\sum_k \alpha_k A_k\Big),\quad
              \alpha_k = \tfrac1Z \sum_{ij} \frac{\partial f_t}{\partial A_{kij}}

    :math:`A_k` are the layer's Z-cell channels. The map is rectified, then brought to the image's size bilinearly; it
    is not scaled, so that maps of different samples compare and a map of zeros stays one. The graph is cut below the
    layer: the backward pass goes through the network's head alone.

    Args:
        layer: whose output is weighed, on a grid over the image; None takes the last one that the target depends on.

    Returns:
        Values ``(N, H, W)``, at least 0.

    Raises:
        InputError: if the layer, or every layer, has no grid over the input.
    """
    of = logit(target)
    grid = last_grid(model, x, of) if layer is None else named_grid(model, x, layer)
    at = model.at(grid.layer, x, of)
    weights = grid.images(at.grad).mean((2, 3), keepdim=True)
    coarse = (weights * grid.images(at.activation)).sum(1, keepdim=True).relu()
    return F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
