"""Do adversarial examples of one model fool another?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.method import Method, study
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.ops.breaking import attack_of, crossed


@study(
    title="Transferability",
    paper="szegedy2014",
    access="gradient",
    norms=("linf", "l2", "l1"),
    cost="2 * steps + 12",
    scope="global",
    lecture="intriguing properties: transfer between models and training sets",
)
def transfer_matrix(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    attack: str | Method[...] = "pgd",
    steps: int = 40,
) -> Study:
    r"""Attack every model, and try each one's adversarial examples on all of them.

    .. math:: T_{st} = \Pr\bigl[f_t(x^{(s)}) \ne y \;\big|\; f_s(x^{(s)}) \ne y,\ f_s(x) = f_t(x) = y\bigr]

    Only samples count that source and target both label right and that the attack breaks on the source; so the diagonal
    is 100 %, and what transfers is not what the target gets wrong anyway. Models may differ in architecture, in their
    first weights, or in the part of the data that they have seen.

    Args:
        attack: by name, or with options fixed: ``pgd.with_(restarts=3)``; it needs no more than gradients.
        steps: of the attack, if it has steps that are not fixed.

    Returns:
        The shares, a row a source and a column a target, with Wilson's intervals.

    Raises:
        InputError: if there is only one model, or the attack is not one in the threat's norm.
    """
    assert threat is not None  # the card has norms
    method = attack_of(attack, threat, steps)
    if len(models) < 2:
        raise InputError("there is one model, a transfer needs two", "give a list of models, or {'name': model}")
    fooled, counts = crossed(method, models, x, y, threat)
    bounds = [
        [wilson(k, n) for k, n in zip(*pair, strict=True)]
        for pair in zip(fooled.tolist(), counts.tolist(), strict=True)
    ]
    return Study(
        x=x,
        method="transfer_matrix",
        options={"attack": method.card.name, **method.fixed},
        y=y,
        row_names=tuple(models),
        column_names=tuple(models),
        values=fooled / counts.clamp(min=1),
        low=torch.tensor([[low for low, _ in row] for row in bounds]),
        high=torch.tensor([[high for _, high in row] for row in bounds]),
        counts=counts,
        caption=f"Examples of {method.card.title} under {threat} that fool another model",
        row_head="made on",
        threat=threat,
    )
