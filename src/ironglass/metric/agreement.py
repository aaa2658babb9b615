"""Agreement: do other explanations say the same?"""

from __future__ import annotations

import torch

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import get, metric
from ironglass.core.results import Attribution, Score
from ironglass.ops.again import onto_input, values
from ironglass.ops.similarity import spearman


@metric(
    title="Agreement between explanations",
    paper="krishna2024",
    access="internals",
    cost="130",
    lecture="does an explanation hold: do others say the same",
)
def agreement(
    model: Model,
    attribution: Attribution,
    *,
    methods: tuple[str, ...] = ("saliency", "integrated_gradients", "grad_cam"),
    unsigned: bool = True,
    threshold: float = 0.3,
) -> Score:
    """Explain by other methods, and correlate the ranks of their maps with this one.

    That methods agree proves none of them right; where they do not, at most one of them tells what the user asks.

    Args:
        methods: the others, at their own defaults.
        unsigned: whether sizes are compared, channels summed; else signed values, which only methods with a sign have.
        threshold: the mean correlation from which on a map passes.

    Returns:
        Spearman's rank correlation with each ``(N, methods)``; passed where their mean is at least ``threshold``.

    Raises:
        InputError: if there is no other method.
    """
    others = [name for name in methods if name != attribution.method]
    if not others:
        raise InputError("there is no other method to agree with", "methods=('saliency', 'integrated_gradients')")
    x = attribution.x
    found = []
    for name in others:
        again = values(name, model, x, attribution.target, get(name).card.filled({}))
        pair = [onto_input(side.to(x.dtype), x) for side in (attribution.values, again)]
        pair = [side.abs() if unsigned else side for side in pair]
        found.append(spearman(*(side.sum(1) if side.ndim == 4 else side for side in pair)))
    table = torch.stack(found, 1)
    return Score(
        x=x,
        method="agreement",
        values=table,
        passed=table.mean(1) >= threshold,
        steps=others,
        of=attribution.method,
    )
