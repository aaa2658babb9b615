"""Sensitivity analysis."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops import inside
from ironglass.ops.targets import logit


@explain(
    title="Sensitivity analysis",
    paper="simonyan2014",
    access="gradient",
    cost="2",
    kind="specific",
    lecture="gradient explanations: sensitivity analysis",
)
def sensitivity(model: Model, x: Tensor, target: Tensor, *, at: str | None = None, unit: str | None = None) -> Tensor:
    r"""Show where a small change matters most: the squared slope of the target's logit.

    .. math:: R_i = \Big(\frac{\partial f_t}{\partial x_i}(x)\Big)^2,\qquad \sum_i R_i = \|\nabla f_t(x)\|_2^2

    It explains how the logit varies around the sample, not the logit itself.

    Args:
        at: a layer; its values are explained in place of the input's.
        unit: explain a unit in place of a class: ``layer[channel]``, ``layer[channel, row, column]``.

    Returns:
        Values ``(N, *shape)``, at least 0; of the layer's shape where there is one.

    Raises:
        InputError: if there is no such layer or unit.
    """
    model, x, target = inside.enter(model, x, target, at, unit)
    return model.value_and_grad(x, logit(target)).grad.square()
