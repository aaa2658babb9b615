"""The Square attack: random search by windows."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.windows import window_search


@attack(
    title="Square attack",
    paper="andriushchenko2020",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, random search",
)
def square(
    model: Model, x: Tensor, goal: Goal, threat: Threat, *, max_queries: int = 5000, p: float = 0.8, seed: int = 0
) -> Tensor:
    r"""Change one window at random, and keep what brings the goal nearer.

    .. math:: \hat x = \Pi(x_t + \delta_W), \qquad x_{t+1} = \hat x \text{ if } L(\hat x) > L(x_t) \text{ else } x_t

    The loss is the logit margin, or minus the cross-entropy where a target is given. In linf the window ``W`` goes to
    :math:`x \pm \varepsilon`, a sign a channel, from stripes at the start. In l2 and l1 the norm that two windows hold,
    and what is unused, goes into one of them: to what it holds and a pair of bumps of opposite signs, from a grid of
    bumps at the start. A window is ``p`` of the area that the mask allows, and is halved nine times on the way.
    Inputs ``(d,)`` are one row; of ``(…, H, W)`` all leading axes are channels.

    Args:
        max_queries: queries a sample, beside the runner's first.
        p: part of the area that the first windows take.
        seed: of the windows.

    Returns:
        The best samples found ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if max_queries < 1 or not 0 < p <= 1:
        raise InputError(f"max_queries={max_queries}, p={p}", "give max_queries ≥ 1 and 0 < p ≤ 1, e.g. 5000 and 0.8")
    return window_search(model, x, goal, threat, max_queries=max_queries, p=p, seed=seed)
