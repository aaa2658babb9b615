"""The fast gradient (sign) method."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Threat
from ironglass.ops import lp


@attack(
    title="Fast gradient (sign) method",
    paper="goodfellow2015",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="2",
    lecture="white-box evasion: one step",
)
def fgsm(model: Model, x: Tensor, goal: Goal, threat: Threat, *, loss: LossName = "ce") -> Tensor:
    r"""Take the one step that a linear model would fear most.

    .. math:: x' = x + \arg\max_{\|\delta\|_p \le \varepsilon,\, x + \delta \in \mathrm{box}}
        \langle \nabla L(x), \delta\rangle

    In linf this is :math:`x + \varepsilon\,\mathrm{sign}\,\nabla L`, clipped; in l2 and l1 the budget that a saturated
    value cannot use goes to the others, so the step is optimal for a linear model also at the bounds.

    Args:
        loss: ``ce`` for cross-entropy or ``margin`` for the logit margin.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite.
    """
    gradient = model.value_and_grad(x, goal.loss(loss)).grad
    return lp.move(x, lp.maximize(gradient, x, threat, model.bounds), threat, model.bounds)
