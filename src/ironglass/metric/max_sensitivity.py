"""Maximum sensitivity: how much does the map change when the input hardly does?"""

from __future__ import annotations

import torch

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.core.values import Linf
from ironglass.ops.again import explain_again
from ironglass.ops.balls import sample_ball


@metric(
    title="Maximum sensitivity",
    paper="yeh2019",
    access="scores",
    cost="2 * samples",
    lecture="does an explanation hold: stability",
    tags=("explains again", "inside"),
)
def max_sensitivity(
    model: Model,
    attribution: Attribution,
    *,
    samples: int = 10,
    radius: float = 0.02,
    threshold: float = 1.0,
    seed: int = 0,
) -> Score:
    r"""Explain neighbours of the sample, and take the greatest change of the map.

    .. math:: \max_{\|y - x\|_\infty \le r} \frac{\|\Phi(y) - \Phi(x)\|_2}{\|\Phi(x)\|_2}

    The maximum is over random neighbours, so it is a lower bound of the true one.

    Args:
        samples: neighbours tried, uniform in the ball within the bounds.
        radius: of the ball, as a share of the range of the input.
        threshold: the greatest change, in lengths of the map itself, of a map that passes.
        seed: of the neighbours.

    Returns:
        The greatest relative change ``(N,)``, 0 for a map of zeros that stays one; passed where it is at most
        ``threshold`` and the map is not constant.

    Raises:
        InputError: if an option is out of range.
    """
    if samples < 1 or not radius > 0:
        raise InputError(f"samples={samples}, radius={radius}: at least 1, and above 0", "e.g. samples=10, radius=0.02")
    x, flat = attribution.x, attribution.values.flatten(1).double()
    draws, threat = model.draws(seed), Linf(radius * model.bounds.span)
    rows = torch.arange(len(x), device=x.device)
    size, most = flat.norm(dim=1), torch.zeros(len(x), dtype=torch.double, device=x.device)
    for _ in range(samples):
        near = sample_ball(draws, x, threat, model.bounds, rows)
        moved = (explain_again(model, attribution, near).flatten(1).double() - flat).norm(dim=1)
        most = most.maximum(moved / size.where(size > 0, 1))
    return Score(
        x=x,
        method="max_sensitivity",
        values=most.to(attribution.values.dtype),
        passed=(most <= threshold) & (flat.amax(1) > flat.amin(1)),
        of=attribution.method,
    )
