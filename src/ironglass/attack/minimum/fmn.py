"""Fast minimum-norm attack."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import radii
from ironglass.ops.radius import nearest


@attack(
    title="Fast minimum-norm attack",
    paper="pintor2021fmn",
    access="gradient",
    norms=("linf", "l2", "l1", "l0"),
    cost="2 * steps + 80",
    lecture="white-box evasion: minimum norm",
)
def fmn(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 50,
    step_size: float = 1.0,
    gamma: float | None = None,
) -> Tensor:
    r"""Ascend the logit margin in a ball that adapts its radius to the boundary.

    .. math:: \delta_{t+1} = \Pi_{\varepsilon_t}\Bigl(\delta_t + \alpha_t \frac{\nabla m}{\|\nabla m\|_2}\Bigr), \qquad
        \varepsilon_{t+1} = \begin{cases} \|\delta_t\|_p + |m| / \|\nabla m\|_q & \text{until the goal is first reached}
        \\ (1 \mp \gamma_t)\, \varepsilon_t & \text{then: smaller where it is reached, larger where not}\end{cases}

    Step and projection are exact within the box, and the estimate of the distance knows the box too. Step size and
    :math:`\gamma` fall on a cosine. The shortest point met is then moved along the boundary (`ops.polish`).

    Args:
        steps: gradients a sample.
        step_size: l2 length of the first step, as a part of the distance to the boundary that the first gradient tells.
        gamma: first change of the radius, as a part of it; None for 5 / steps, at most a half, so that few steps can
            still bring the radius down to a tenth.

    Returns:
        The shortest points that reach the goal ``(N, *shape)``; of a sample that never got there, the last one.

    Raises:
        InputError: if an option is out of range.
    """
    first = min(5 / max(steps, 1), 0.5) if gamma is None else gamma
    return nearest(
        model,
        x,
        goal,
        threat,
        steps=steps,
        loss=None,
        step_size=step_size,
        shrink=(first, first / 50),
        onto=radii.project,
        jump=True,
    )
