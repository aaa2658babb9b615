"""Decoupled direction and norm."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import radii
from ironglass.ops.radius import nearest


@attack(
    title="Decoupled direction and norm",
    paper="rony2019ddn",
    access="gradient",
    norms=("l2",),
    cost="2 * steps + 40",
    lecture="white-box evasion: minimum norm",
)
def ddn(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 100,
    step_size: float = 1.0,
    gamma: float = 0.05,
) -> Tensor:
    r"""Turn the change by the gradient of the cross-entropy, and set its norm apart from that.

    .. math:: \varepsilon_{t+1} = (1 \mp \gamma)\, \varepsilon_t, \qquad
        \delta_{t+1} = \varepsilon_{t+1} \frac{\delta_t + \alpha_t g}{\|\delta_t + \alpha_t g\|_2}, \quad
        g = \frac{\nabla L}{\|\nabla L\|_2}

    The norm falls where the goal is reached and grows where it is not. What the box cuts off is made up for by other
    values, so that the norm is kept. The step size falls on a cosine. The shortest point met is then moved along the
    boundary (`ops.polish`).

    Args:
        steps: gradients a sample.
        step_size: l2 length of the first step, as a part of the distance to the boundary that the first gradient tells.
        gamma: change of the norm a step, as a part of it.

    Returns:
        The shortest points that reach the goal ``(N, *shape)``; of a sample that never got there, the last one.

    Raises:
        InputError: if an option is out of range.
    """
    return nearest(
        model,
        x,
        goal,
        threat,
        steps=steps,
        loss=goal.loss("ce"),
        step_size=step_size,
        shrink=(gamma, gamma),
        onto=radii.stretch,
        jump=False,
    )
