"""Gradient steps by finite differences along fewer directions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.estimators import Basis, Groups, principal
from ironglass.ops.zeroth import BlackBox, climb, steepest

By = Literal["groups", "pca"]


@attack(
    title="Query-reduced finite differences",
    paper="bhagoji2018",
    access="scores",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, finite differences, grouping and PCA",
)
def query_reduced(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    by: By = "groups",
    group: int = 8,
    components: int = 100,
    data: Tensor | None = None,
    steps: int = 5,
    step_size: float | None = None,
    radius: float = 0.1,
    seed: int = 0,
) -> Tensor:
    r"""Measure the gradient along random groups of values, or along the data's principal components.

    .. math:: \hat g = \sum_j \frac{m(x + h b_j) - m(x - h b_j)}{2h}\, b_j

    The members of a group all get its value. A step costs ``2 d / group`` queries for ``d`` values that may change, or
    ``2 * components``; in all it is FGSM with one step, and BIM with more.

    Args:
        max_queries: queries a sample, beside the runner's first.
        by: ``groups``, drawn anew each step, or ``pca``, which needs ``data``.
        group: values in a group.
        components: principal components, the largest ones.
        data: samples ``(M, *shape)`` that look like the attacked ones, for ``pca``.
        steps: 1 for a single step, more for an iterative attack.
        step_size: in the threat's norm, input units; if None, eps for one step and 2.5 eps / steps for more.
        radius: ``h``, in spans of the bounds: how far each value of a group moves, or the length along a component.
        seed: of the groups.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, an option is out of range, or ``pca`` has no data.
    """
    if min(steps, group, components) < 1 or not radius > 0:
        raise InputError(
            f"steps={steps}, group={group}, components={components}, radius={radius}", "give at least 1, and radius > 0"
        )
    size = (threat.eps if steps == 1 else 2.5 * threat.eps / steps) if step_size is None else step_size
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    length = radius * model.bounds.span
    estimate: Groups | Basis = Groups(group, length)
    if by == "pca":
        if data is None or data.shape[1:] != x.shape[1:] or len(data) < 2:
            given = "no data" if data is None else f"data of shape {tuple(data.shape)}"
            raise InputError(
                f"by='pca' got {given} for samples of shape {tuple(x.shape[1:])}",
                "give data=, at least 2 samples of that shape, or by='groups'",
            )
        estimate = Basis(principal(data.to(x), components), length)
    climb(box, model.draws(seed), estimate, steepest(box, size), steps=steps)
    return box.best
