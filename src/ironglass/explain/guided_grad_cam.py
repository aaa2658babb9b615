"""Guided Grad-CAM."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain

from .grad_cam import grad_cam
from .guided_backprop import guided_backprop


@explain(
    title="Guided Grad-CAM",
    paper="selvaraju2017",
    access="internals",
    cost="4",
    kind="specific",
    lecture="activation maps: guided Grad-CAM",
)
def guided_grad_cam(model: Model, x: Tensor, target: Tensor, *, layer: str | None = None) -> Tensor:
    r"""Keep of guided backpropagation's fine detail what lies where Grad-CAM finds the class.

    .. math:: R = G^{\mathrm{guided}} \odot R^{\mathrm{Grad-CAM}}

    It inherits guided backpropagation's weakness: the detail is the image's more than the network's.

    Args:
        layer: whose output Grad-CAM weighs; None takes the last one on a grid that the target depends on.

    Returns:
        Values ``(N, *shape)``, signed.

    Raises:
        InputError: if no layer has a grid over the input, or the network calls no rectifier.
    """
    return guided_backprop.raw(model, x, target) * grad_cam.raw(model, x, target, layer=layer)[:, None]  # type: ignore[no-any-return]
