"""Guided backpropagation, and the deconvnet."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import explain
from ironglass.ops.rules import Rectified
from ironglass.ops.targets import logit

RULES = ("guided", "deconvnet")


@explain(
    title="Guided backpropagation",
    paper="springenberg2015",
    access="internals",
    cost="2",
    kind="specific",
    lecture="gradient explanations: guided backpropagation",
)
def guided_backprop(
    model: Model, x: Tensor, target: Tensor, *, rule: Literal["guided", "deconvnet"] = "guided"
) -> Tensor:
    r"""Let only positive gradients through the rectifiers.

    .. math:: G_z = \mathbb 1[z > 0]\,\max(G_y, 0)\ \text{(guided)},\qquad G_z = \max(G_y, 0)\ \text{(deconvnet)}

    The maps are sharp, and say little of the network: they hardly change when its upper layers are drawn anew
    (`parameter_randomization`). Rectifiers are seen whether they are modules, functions or in place. Of activations
    without a kink at 0, such as GELU, the own derivative stands in for :math:`\mathbb 1[z > 0]`.

    Args:
        rule: ``guided``, or the ``deconvnet``, which does not ask which units were active.

    Returns:
        Values ``(N, *shape)``, signed.

    Raises:
        InputError: if there is no such rule, or the network calls no rectifier: the map would be the plain gradient.
    """
    if rule not in RULES:
        raise InputError(f"no rule is called '{rule}'", suggest(rule, RULES))
    guided = rule == "guided"
    return model.propagate(x, logit(target), lambda run, leaf, _: Rectified(guided=guided)(run, leaf)).grad
