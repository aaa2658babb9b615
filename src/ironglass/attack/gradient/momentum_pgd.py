"""The momentum iterative method, MI-FGSM."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Threat
from ironglass.ops.ascent import ascend


@attack(
    title="Momentum iterative method (MI-FGSM)",
    paper="dong2018",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="2 * steps + 1",
    lecture="white-box evasion: iterative",
)
def momentum_pgd(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: LossName = "ce",
) -> Tensor:
    r"""Step along the gradients of all steps so far, which keeps the direction out of poor local maxima.

    .. math:: g_{t+1} = \mu\, g_t + \frac{\nabla L(x_t)}{\overline{|\nabla L(x_t)|}}, \qquad
        x_{t+1} = \Pi(x_t + \arg\max_{\|u\| \le \alpha} \langle g_{t+1}, u \rangle)

    What is found so transfers better to other models than what plain steps find.

    Args:
        steps: at most so many.
        step_size: in the threat's norm, input units; eps / steps if None.
        decay: the weight of the gradients before; 0 leaves plain steps.
        loss: ``ce`` for cross-entropy, ``margin`` for the logit margin, ``dlr`` for the difference of logits ratio.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if steps < 1 or decay < 0:
        raise InputError(f"steps={steps}, decay={decay}", "give steps ≥ 1 and decay ≥ 0, e.g. 10 and 1.0")
    size = threat.eps / steps if step_size is None else step_size
    return ascend(model, x, goal, threat, sizes=[size] * steps, loss=goal.loss(loss), decay=decay).point
