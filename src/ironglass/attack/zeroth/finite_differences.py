"""Gradient steps by finite differences."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.estimators import Groups
from ironglass.ops.zeroth import BlackBox, climb, steepest


@attack(
    title="Finite differences",
    paper="bhagoji2018",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, finite differences",
)
def finite_differences(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    steps: int = 1,
    step_size: float | None = None,
    radius: float = 0.01,
    seed: int = 0,
) -> Tensor:
    r"""Measure every partial derivative of the margin by a central difference, and step as FGSM or BIM would.

    .. math:: \hat g_i = \frac{m(x + h e_i) - m(x - h e_i)}{2h}, \qquad
        x_{t+1} = \Pi(x_t + \arg\max_{\|u\| \le \alpha} \langle \hat g, u\rangle)

    A step costs two queries a value that may change. Where so many are not left, a random part of the values is
    measured, and they alone move.

    Args:
        max_queries: queries a sample, beside the runner's first.
        steps: 1 for a single step, more for an iterative attack.
        step_size: in the threat's norm, input units; if None, eps for one step and 2.5 eps / steps for more.
        radius: ``h``, in spans of the bounds.
        seed: of the values that are measured where not all can be.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if steps < 1 or not radius > 0:
        raise InputError(f"steps={steps}, radius={radius}", "give steps ≥ 1 and radius > 0, e.g. 1 and 0.01")
    size = (threat.eps if steps == 1 else 2.5 * threat.eps / steps) if step_size is None else step_size
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    climb(box, model.draws(seed), Groups(1, radius * model.bounds.span), steepest(box, size), steps=steps)
    return box.best
