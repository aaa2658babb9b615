"""What a defence is worth: against who does not know it, and against who goes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ironglass.core.catalogue import LADDER
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.method import Method, get
from ironglass.core.results import AttackResult, Cost
from ironglass.core.statistics import wilson
from ironglass.core.values import Avoid, Threat
from ironglass.models.adapter import Adapter

COLUMNS = ("undefended", "naive (grey box)", "adaptive (through the defence)")


def defence_report(
    models: Adapter | Mapping[str, Adapter],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    attacks: Sequence[str | Method[...]] = ("pgd", "auto_pgd", "square"),
) -> Study:
    r"""Accuracy without an attack and under attacks, made on the bare model and through the defence (athalye2018).

    The *naive* number is of examples that were made on the undefended model, by who does not know of the defence: it
    says little. The *adaptive* one is of an attack through it, with the identity backwards where the defence is not
    differentiable, and on the mean over draws where it is random. The worst case counts, a sample, what any of these
    attacks breaks, the naive ones too. Random defences are judged by the majority of fresh draws.

    Args:
        models: a defended model, or several by name.
        x: samples ``(N, *shape)``.
        y: labels ``(N,)``.
        threat: norm and radius.
        attacks: by name, or with options fixed. One that needs more than a model gives is left out there.

    Returns:
        Accuracies with Wilson's intervals, a row an attack. ``extras`` hold which samples are right, by row and column.

    Raises:
        InputError: if a model has no defence, or an attack is not one in the threat's norm.
    """
    named = dict(models) if isinstance(models, Mapping) else {models.method.card.name: models}  # type: ignore[attr-defined]
    methods = [_attack(each, threat) for each in attacks]
    rows: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]] = {}
    made: dict[tuple[int, int], AttackResult] = {}
    cost = Cost()
    for name, model in named.items():
        bare = model.undefended
        if bare is None:
            raise InputError(f"{name} has no defence", "give what a method of ironglass.defend returns")
        right = _right(model, x, x, y)
        rows[f"{name}: no attack"] = (_right(bare, x, x, y), right, right)
        worst = right.clone()
        for number, method in enumerate(methods):
            need = LADDER.index(method.access)
            grey = through = bare_right = None
            if need <= LADDER.index(bare.access):
                key = (id(bare), number)
                if key not in made:
                    made[key] = _run(method, bare, x, y, threat)
                    cost += made[key].cost
                bare_right, grey = ~made[key].success, _right(model, x, made[key].adversarial, y)
                worst &= grey
            if need <= LADDER.index(model.access):
                found = _run(method, model, x, y, threat)
                cost, through = cost + found.cost, ~found.success
                worst &= through
            rows[f"{name}: {method.card.name}"] = (bare_right, grey, through)
        rows[f"{name}: worst case"] = (None, None, worst)
    cells = [[_cell(each) for each in row] for row in rows.values()]
    table = torch.tensor([[cell[:3] for cell in row] for row in cells], dtype=torch.float64)
    return Study(
        x=x,
        method="defence_report",
        options={"attacks": [method.card.name for method in methods]},
        cost=cost,
        y=y,
        row_names=tuple(rows),
        column_names=COLUMNS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.tensor([[cell[3] for cell in row] for row in cells]),
        caption=f"Accuracy under {threat}, on {len(x)} samples",
        row_head="model and attack",
        threat=threat,
        notes=("the naive number is of an attacker who does not know of the defence; go by the adaptive one",),
        extras={
            f"{row}: {column}": right
            for row, line in rows.items()
            for column, right in zip(COLUMNS, line, strict=True)
            if right is not None
        },
    )


def _attack(each: str | Method[...], threat: Threat) -> Method[Any]:
    method = get(each, "attack") if isinstance(each, str) else each
    if method.card.decorator != "attack" or threat.norm not in method.card.norms:
        raise InputError(
            f"{method.card.name} is no attack in {threat.norm}", f"ironglass list attack --norm {threat.norm}"
        )
    return method


def _run(method: Method[Any], model: Adapter, x: Tensor, y: Tensor, threat: Threat) -> AttackResult:
    return cast(Any, method)(model, x, y, threat)  # type: ignore[no-any-return]


def _right(model: Adapter, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
    """Returns which points are labelled right, by most draws where the model is random ``(N,)``."""
    model.probe(x)
    return model.verdict(x, points, Avoid(y))[1] <= 0.5


def _cell(right: Tensor | None) -> tuple[float, float, float, int]:
    if right is None:
        return 0.0, 0.0, 1.0, 0
    return float(right.double().mean()), *wilson(int(right.sum()), len(right)), len(right)
