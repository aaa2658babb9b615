"""Gradient times input."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.ops import baselines
from ironglass.ops.targets import logit


@explain(
    title="Gradient × input",
    paper="shrikumar2017",
    access="gradient",
    cost="2",
    kind="specific",
    lecture="gradient explanations: gradient times input",
)
def gradient_x_input(model: Model, x: Tensor, target: Tensor, *, baseline: str | float = 0.0) -> Tensor:
    r"""Weigh each input value by the slope of the target's logit: the first-order effect of taking it away.

    .. math:: R_i = (x_i - x'_i)\,\frac{\partial f_t}{\partial x_i}(x)

    Of a network of ReLUs without biases it is LRP-0. It adds up to the logit there alone.

    Args:
        baseline: what a value is when it is taken away: a number in input units, or ``black``, ``mid``, ``white``,
            ``mean``, ``blur``.

    Returns:
        Values ``(N, *shape)`` in logits.

    Raises:
        InputError: if there is no such baseline.
    """
    return (x - baselines.baseline(x, model.bounds, baseline)) * model.value_and_grad(x, logit(target)).grad
