"""Projected gradient descent."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Threat
from ironglass.ops.restarts import falling, restarted


@attack(
    title="Projected gradient descent",
    paper="madry2018",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="restarts * (2 * steps + 1)",
    lecture="white-box evasion: iterative",
)
def pgd(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    seed: int = 0,
) -> Tensor:
    r"""Ascend the loss by steepest steps, and project on the ball and the box after each.

    .. math:: x_{t+1} = \Pi(x_t + \arg\max_{\|u\| \le \alpha} \langle \nabla L(x_t), u \rangle)

    Both the step and the projection are exact within the box, in every norm. A sample leaves as soon as it is fooled;
    of one that is not, the point of greatest margin comes back.

    Args:
        steps: steps a start.
        step_size: in the threat's norm, input units; if None, falling evenly from 10 eps / steps to nothing.
        restarts: starts, each on the samples that are left.
        random_start: start uniformly in the ball instead of at x.
        loss: ``ce`` for cross-entropy or ``margin`` for the logit margin.
        seed: of the random starts.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite.
    """
    if steps < 1 or restarts < 1:
        raise InputError(f"steps={steps}, restarts={restarts}: both must be at least 1", "e.g. steps=40, restarts=1")
    sizes = falling(threat.eps, steps) if step_size is None else [step_size] * steps
    draws = model.draws(seed) if random_start else None
    return restarted(model, x, goal, threat, sizes=sizes, loss=loss, restarts=restarts, draws=draws).point
