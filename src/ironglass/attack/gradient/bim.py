"""The basic iterative method, and its least-likely-class variant."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Reach, Threat
from ironglass.ops.ascent import ascend


@attack(
    title="Basic iterative method",
    paper="kurakin2017",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="2 * steps + 2",
    lecture="white-box evasion: iterative",
)
def bim(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 20,
    step_size: float | None = None,
    loss: LossName = "ce",
    target: Literal["goal", "least_likely"] = "goal",
) -> Tensor:
    r"""Take the fast gradient step again and again from the sample itself, a short one each time.

    .. math:: x_0 = x, \qquad x_{t+1} = \Pi(x_t + \arg\max_{\|u\| \le \alpha} \langle \nabla L(x_t), u \rangle)

    The least-likely-class method climbs towards the class :math:`\arg\min_k z_k(x)` instead: a sample leaves once it is
    there, and of one that does not get there the point nearest to that class comes back. Success is judged, as always,
    by the goal.

    Args:
        steps: at most so many.
        step_size: in the threat's norm, input units; 2.5 eps / steps if None.
        loss: ``ce`` for cross-entropy, ``margin`` for the logit margin, ``dlr`` for the difference of logits ratio.
        target: ``goal`` for the goal's own loss, ``least_likely`` for the class least likely for the clean sample.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or the goal names a target and ``target`` another.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: at least 1 is needed", "e.g. steps=20")
    if target == "least_likely":
        if goal.targeted:
            raise InputError("the goal names its target already, and target='least_likely' another", "target='goal'")
        goal = Reach(model.scores(x).argmin(1))
    size = 2.5 * threat.eps / steps if step_size is None else step_size
    return ascend(model, x, goal, threat, sizes=[size] * steps, loss=goal.loss(loss)).point
