"""Attacking one of several models: what studies of models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.catalogue import FINISH
from ironglass.core.errors import InputError
from ironglass.core.method import Method, get
from ironglass.core.values import Avoid, Threat

from . import lp


def attack_of(
    attack: str | Method[...], threat: Threat, steps: int | None = None, seed: int | None = None
) -> Method[...]:
    """Returns an attack by name, or as it is given, with ``steps`` and ``seed`` fixed if it has some that are not.

    Raises:
        InputError: if it is no attack in the threat's norm, or needs a finite eps and the threat has none.
    """
    method = get(attack, "attack") if isinstance(attack, str) else attack
    card = method.card
    if card.decorator != "attack" or threat.norm not in card.norms:
        raise InputError(f"{card.name} is no attack in {threat.norm}", f"ironglass list attack --norm {threat.norm}")
    if card.finite and threat.eps == float("inf"):
        raise InputError(f"{card.name} needs a finite eps", "give the threat's radius, or take fmn")
    free = {option.name for option in card.options} - set(method.fixed)
    given = {"steps": steps, "seed": seed}
    return method.with_(**{name: value for name, value in given.items() if name in free and value is not None})


def attacks_of(
    attacks: Sequence[str | Method[...]], threat: Threat, steps: int | None = None, seed: int | None = None
) -> dict[str, Method[...]]:
    """Returns attacks by the names to show: a method's own, and what is fixed where two have the same.

    Raises:
        InputError: if there are none, or as `attack_of`.
    """
    found: dict[str, Method[...]] = {}
    for attack in attacks:
        method = attack_of(attack, threat, steps, seed)
        name = method.card.name
        if name in found:
            fixed = {} if isinstance(attack, str) else attack.fixed
            name += "".join(f" {option}={value}" for option, value in fixed.items())
        if name in found:
            raise InputError(f"the attack {name} is given twice", "give each once, or fix different options")
        found[name] = method
    if not found:
        raise InputError("there are no attacks", "attacks=('fgsm', 'pgd')")
    return found


def broken_by(method: Method[...], model: Model, x: Tensor, y: Tensor, threat: Threat, rows: Tensor) -> Tensor:
    """Returns what an attack finds for the samples ``rows`` ``(n, *shape)``, drawn into ball and bounds."""
    if not len(rows):
        return x[rows]
    clean, part = x[rows], threat.take(rows)
    own = {name: value for name, value in method.fixed.items() if name not in {option.name for option in FINISH}}
    options: dict[str, Any] = method.card.filled(own)
    for option in FINISH:
        options.pop(option.name)
    found = method.raw(model.take(rows), clean, Avoid(y[rows]), part, **options)
    return lp.project(found.detach(), clean, part, model.bounds)


def crossed(
    method: Method[...], models: Mapping[str, Model], x: Tensor, y: Tensor, threat: Threat
) -> tuple[Tensor, Tensor]:
    """Attacks every model, and tries each one's adversarial examples on all of them.

    Returns:
        How many fool the column's model, and of how many ``(models, models)``: those that source and target both label
        right and that the attack breaks on the source.
    """
    right = {name: model.right(x, y) for name, model in models.items()}
    counts = torch.zeros(len(models), len(models), dtype=torch.long)
    fooled = torch.zeros_like(counts)
    for s, (source, model) in enumerate(models.items()):
        rows = right[source].nonzero()[:, 0]
        if not len(rows):
            continue
        found = broken_by(method, model, x, y, threat, rows)
        wrong = {name: ~other.right(found, y[rows], rows) for name, other in models.items()}
        for t, target in enumerate(models):
            both = wrong[source] & right[target][rows]
            counts[s, t], fooled[s, t] = both.sum(), (both & wrong[target]).sum()
    return fooled, counts
