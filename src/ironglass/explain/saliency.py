"""Saliency maps."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops.targets import logit


@explain(
    title="Saliency map",
    paper="simonyan2014",
    access="gradient",
    cost="2",
    kind="specific",
    lecture="gradient explanations: saliency",
)
def saliency(model: Model, x: Tensor, target: Tensor, *, absolute: bool = True) -> Tensor:
    r"""Show how fast the target's logit changes with each input value.

    .. math:: R_i = \left|\frac{\partial f_t}{\partial x_i}(x)\right|

    The logit is taken before the softmax, whose gradient vanishes where the network is sure. The paper draws the
    greatest value over the channels; here each channel keeps its own.

    Args:
        absolute: drop the sign, as the paper does.

    Returns:
        Values ``(N, *shape)``, in logits a unit of input.
    """
    gradient = model.value_and_grad(x, logit(target)).grad
    return gradient.abs() if absolute else gradient
