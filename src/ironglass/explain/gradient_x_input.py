"""Gradient times input."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops import inside
from ironglass.ops.targets import logit


@explain(
    title="Gradient × input",
    paper="shrikumar2017",
    access="gradient",
    cost="2",
    kind="specific",
    lecture="gradient explanations: gradient times input",
)
def gradient_x_input(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    baseline: str | float = 0.0,
    at: str | None = None,
    unit: str | None = None,
) -> Tensor:
    r"""Weigh each input value by the slope of the target's logit: the first-order effect of taking it away.

    .. math:: R_i = (x_i - x'_i)\,\frac{\partial f_t}{\partial x_i}(x)

    Of a network of ReLUs without biases it is LRP-0. It adds up to the logit there alone.

    Args:
        baseline: what a value is when it is taken away: a number in input units, or ``black``, ``mid``, ``white``,
            ``mean``, ``blur``. At a layer a number is an activation, a name what the layer gives for such an input.
        at: a layer; its values are explained in place of the input's.
        unit: explain a unit in place of a class: ``layer[channel]``, ``layer[channel, row, column]``.

    Returns:
        Values ``(N, *shape)`` in logits; of the layer's shape where there is one.

    Raises:
        InputError: if there is no such baseline, layer or unit.
    """
    model, x, target = inside.enter(model, x, target, at, unit)
    return (x - inside.baseline(model, x, baseline)) * model.value_and_grad(x, logit(target)).grad
