"""Saliency maps."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops import inside
from ironglass.ops.targets import logit


@explain(
    title="Saliency map",
    paper="simonyan2014",
    access="gradient",
    cost="2",
    kind="specific",
    lecture="gradient explanations: saliency",
)
def saliency(
    model: Model, x: Tensor, target: Tensor, *, absolute: bool = True, at: str | None = None, unit: str | None = None
) -> Tensor:
    r"""Show how fast the target's logit changes with each input value.

    .. math:: R_i = \left|\frac{\partial f_t}{\partial x_i}(x)\right|

    The logit is taken before the softmax, whose gradient vanishes where the network is sure. The paper draws the
    greatest value over the channels; here each channel keeps its own.

    Args:
        absolute: drop the sign, as the paper does.
        at: a layer; its values are explained in place of the input's.
        unit: explain a unit in place of a class: ``layer[channel]``, ``layer[channel, row, column]``.

    Returns:
        Values ``(N, *shape)``, in logits a unit of input; of the layer's shape where there is one.

    Raises:
        InputError: if there is no such layer or unit.
    """
    model, x, target = inside.enter(model, x, target, at, unit)
    gradient = model.value_and_grad(x, logit(target)).grad
    return gradient.abs() if absolute else gradient
