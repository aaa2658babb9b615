"""Attacks against defences: the matrix of what holds, and the zero-sum game that it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import Method, study
from ironglass.core.values import Threat
from ironglass.ops.breaking import attacks_of, broken_by

from .payoff import TRANSFERRED, UNAWARE, Game, settled


@study(
    title="The game of attacks and defences",
    paper="neumann1928",
    access="gradient",
    norms=("linf", "l2", "l1", "l0"),
    cost="45 * len(attacks)",
    scope="global",
    lecture="game-based evaluation: attacks against defences",
)
def game(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    attacks: tuple[str | Method[...], ...] = ("fgsm", "pgd"),
    steps: int | None = None,
    transfer: bool = True,
    seed: int = 0,
) -> Game:
    r"""Play every attack against every model, and solve the zero-sum game in which the payoff is robust accuracy.

    .. math:: v = \max_q \min_p\, p^\top R\, q, \qquad R_{ij} = \Pr\bigl[f_j(x^{(i)}) = y\bigr]

    The attacker draws an attack from p, the defender a model from q. Each attack goes *through* each model (white box).
    It is tried in two weaker ways too, which are further strategies of the attacker: *transferred*, all that it made on
    the other models; and, where a model has an ``undefended`` one, *unaware*, what it made on that. A defence that
    looks better through its own gradients than from outside hides them. No mix can be worse than the row of the best
    attack on each sample, and the value of the game is never below the best single defence's worst row.

    Args:
        attacks: by name, or with options fixed: ``pgd.with_(restarts=3)``.
        steps: of every attack that has steps which are not fixed; its own default if None.
        transfer: whether the attacks made on the other models are tried on each.
        seed: of the attacks' draws.

    Returns:
        The matrix and the value of the game, with Wilson's intervals, the mixes, and whose strategies are dominated.

    Raises:
        InputError: if an attack is given twice, or is none in the threat's norm.
    """
    assert threat is not None  # the card has norms
    chosen = attacks_of(attacks, threat, steps, seed)
    right = {name: model.right(x, y) for name, model in models.items()}
    replays = transfer and len(models) > 1
    bare = any(model.undefended is not None for model in models.values())
    names, alive, white = [], [], []
    for title, method in chosen.items():
        made = _Made(method, x, y, threat)
        own = {name: made.on(model) for name, model in models.items()}
        straight = {name: model.right(own[name], y) & right[name] for name, model in models.items()}
        names.append(title)
        alive.append(torch.stack(list(straight.values())))
        white.append([True] * len(models))
        if bare:
            parts = [
                straight[name] if model.undefended is None else model.right(made.on(model.undefended), y)
                for name, model in models.items()
            ]
            names.append(f"{title} ({UNAWARE})")
            alive.append(torch.stack(parts) & torch.stack(list(right.values())))
            white.append([model.undefended is None for model in models.values()])
        if replays:
            kept = []
            for name, model in models.items():
                held = right[name].clone()
                for other, found in own.items():
                    if other != name:
                        held &= model.right(found, y)
                kept.append(held)
            names.append(f"{title} ({TRANSFERRED})")
            alive.append(torch.stack(kept))
            white.append([False] * len(models))
    return settled(
        x, y, threat, names, tuple(models), torch.stack(alive), torch.stack(list(right.values())), torch.tensor(white),
        seed,
    )  # fmt: skip


class _Made:
    """What one attack finds on each model: made once, however often it is replayed."""

    def __init__(self, method: Method[...], x: Tensor, y: Tensor, threat: Threat) -> None:
        self._method, self._x, self._y, self._threat = method, x, y, threat
        self._known: dict[int, Tensor] = {}

    def on(self, model: Model) -> Tensor:
        """Returns the samples after the attack; those that the model labels wrong anyway are as they were."""
        if id(model) not in self._known:
            rows = model.right(self._x, self._y).nonzero()[:, 0]
            found = self._x.clone()
            found[rows] = broken_by(self._method, model, self._x, self._y, self._threat, rows)
            self._known[id(model)] = found
        return self._known[id(model)]
