"""The payoff of attacks against defences: a matrix of samples that hold, its game, and what that means in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ironglass.core.diagnosis import Study
from ironglass.core.diagnosis import figure as said
from ironglass.core.findings import Cell, Chart, Matrix, Table
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.ops.zero_sum import Dominance, dominated, solve, solve_sampled

BEST, NONE = "best attack on each sample", "no attack"
UNAWARE, TRANSFERRED = "unaware", "transferred"
MISSED = 0.02
"""The share of samples that a white attack may miss and a weaker one find before the defence is suspected."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Game(Study):
    """Robust accuracy of every defence under every attack, and the zero-sum game with that payoff.

    ``alive (attacks, defences, N)`` says which samples are labelled right after the attack, ``clean (defences, N)``
    before. ``white (attacks, defences)`` is true where the attack went through that very defence; a cell that is not
    is grey: the attack was made without knowledge of it. ``worth`` is the value of the game with its 95 % interval,
    ``attack_mix`` and ``defence_mix`` play it. ``drawn`` and ``drawn_mix`` are the same for an attacker who picks an
    attack for each sample, knowing the mix of defences but not the draw.
    """

    alive: Tensor
    clean: Tensor
    white: Tensor
    worth: Tensor
    attack_mix: Tensor
    defence_mix: Tensor
    drawn: Tensor
    drawn_mix: Tensor

    @property
    def value(self) -> float:
        """The value of the game: the accuracy that a mix of defences keeps against every mix of attacks."""
        return float(self.worth[0])

    @property
    def worst(self) -> Tensor:
        """Which samples each defence labels right under all attacks together ``(defences, N)``."""
        return self.alive.all(0)

    @property
    def best(self) -> Mapping[str, str]:
        """The best defence by its worst case a sample, by the mean over attacks, and without attack."""
        scores = {
            "worst case": self.worst.double().mean(1),
            "mean": self.values.double().mean(0),
            "clean": self.clean.double().mean(1),
        }
        return {name: self.column_names[int(score.argmax())] for name, score in scores.items()}

    @property
    def dominated_attacks(self) -> Sequence[Dominance]:
        """The attacks that others together are never worse than, on the mean over these samples."""
        return dominated(_payoff(self.alive), "rows")

    @property
    def dominated_defences(self) -> Sequence[Dominance]:
        """The defences that others together are never worse than, on the mean over these samples."""
        return dominated(_payoff(self.alive), "columns")

    def table(self) -> Table:
        """Returns the matrix, with the best attack on each sample and no attack beneath; grey cells say so."""
        rows = [(row.name, *(_text(*cell, len(self)) for cell in row.cells)) for row in self._rows()]
        columns = ("attack", *self.column_names)
        return Table(id=self.method, caption=self.caption, columns=columns, rows=tuple(rows))

    def strategies(self) -> Table:
        """Returns how often each strategy is played, and which others make it useless."""
        rows: list[tuple[str, str, str, str]] = []
        sides = (
            ("attack", self.row_names, self.attack_mix, self.dominated_attacks),
            ("defence", self.column_names, self.defence_mix, self.dominated_defences),
        )
        for side, names, mix, losers in sides:
            useless = {each.strategy: _by(each, names) for each in losers}
            rows += [
                (name, side, f"{share:.0%}", useless.get(i, ""))
                for i, (name, share) in enumerate(zip(names, mix.tolist(), strict=True))
            ]
        return Table(
            id=f"{self.method}-strategies",
            caption="How often each strategy is played at the value, and what dominates it",
            columns=("strategy", "side", "played", "dominated by"),
            rows=tuple(rows),
        )

    def tables(self) -> tuple[Table, ...]:
        """Returns the matrix and the strategies."""
        return self.table(), self.strategies()

    def charts(self) -> tuple[Chart, ...]:
        """Returns the matrix as a heat map."""
        rows = self._rows()
        marks = {knows for row in rows for _, knows in row.cells}
        grey = " Grey: the attack was made without knowing that defence." if "" in marks else ""
        hatched = " Hatched: there is no defence to know." if "same" in marks else ""
        heat = Matrix(
            id=self.method,
            caption=f"{self.caption}. Brighter is better for the defence; below each share is its 95 % interval."
            + grey
            + hatched,
            row_label="attack",
            column_label="defence",
            rows=tuple(row.name for row in rows),
            columns=tuple(self.column_names),
            cells=tuple(tuple(_cell(*cell, len(self)) for cell in row.cells) for row in rows),
            apart=2,
        )
        return (heat,)

    def _rows(self) -> list[_Row]:
        rows = []
        for name, alive, white in zip(self.row_names, self.alive, self.white.tolist(), strict=True):
            bare = name.endswith(f" ({UNAWARE})")
            flags = ["" if not knows else "same" if bare else "white" for knows in white]
            rows.append(_Row(name, list(zip(alive.sum(1).tolist(), flags, strict=True))))
        for name, kept in ((BEST, self.worst), (NONE, self.clean)):
            rows.append(_Row(name, [(count, "white") for count in kept.sum(1).tolist()]))
        return rows


class _Row(NamedTuple):
    """A row of the matrix: how many samples hold in each cell, and what the attack knew of the defence.

    That is ``white``, all of it; nothing if empty; or ``same``: there is none, and the cell repeats the white one.
    """

    name: str
    cells: list[tuple[int, str]]


def _text(kept: int, knows: str, total: int) -> str:
    if knows == "same":
        return "—"
    return said(kept / total, *wilson(kept, total), total) + ("" if knows else " grey")


def _cell(kept: int, knows: str, total: int) -> Cell:
    if knows == "same":
        return Cell(value=None)
    low, high = wilson(kept, total)
    return Cell(value=kept / total, line=f"{100 * low:.0f}–{100 * high:.0f}" + ("" if knows else " grey"))


def settled(
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: Sequence[str],
    defences: Sequence[str],
    alive: Tensor,
    clean: Tensor,
    white: Tensor,
    seed: int = 0,
) -> Game:
    """Returns the game with a matrix that is known: values, intervals, mixes, and what they mean.

    Args:
        x: the samples.
        y: their labels.
        threat: of the attacks.
        attacks: names of the rows.
        defences: names of the columns.
        alive: which samples hold ``(attacks, defences, N)``.
        clean: which are right without attack ``(defences, N)``.
        white: which attacks knew the defence ``(attacks, defences)``.
        seed: of the attacks.
    """
    total = len(x)
    kept = alive.sum(2)
    bounds = torch.tensor([[wilson(count, total) for count in row] for row in kept.tolist()], dtype=torch.double)
    payoff = _payoff(alive)
    solution = solve(payoff)
    each, drawn_mix = solve_sampled(alive.double().cpu().numpy())
    found = Game(
        x=x,
        y=y,
        method="game",
        row_names=tuple(attacks),
        column_names=tuple(defences),
        values=kept.double() / total,
        low=bounds[..., 0],
        high=bounds[..., 1],
        counts=torch.full_like(kept, total),
        caption=f"Robust accuracy under {threat} on {total} samples",
        row_head="attack",
        threat=threat,
        seed=seed,
        alive=alive,
        clean=clean,
        white=white,
        worth=_around(solution.value, total),
        attack_mix=torch.tensor(solution.rows),
        defence_mix=torch.tensor(solution.columns),
        drawn=_around(each, total),
        drawn_mix=torch.tensor(drawn_mix),
    )
    return replace(found, notes=tuple(_notes(found)))


def _around(value: float, total: int) -> Tensor:
    """Returns the value of a game with its interval ``(3,)``, the mixes held fixed.

    What they pay on a sample lies in [0, 1] and is the value on the mean; to first order a change of the samples moves
    the value by no more than that, for at the optimum the mixes' own change costs nothing.
    """
    share = min(max(value, 0.0), 1.0)
    return torch.tensor([share, *wilson(share * total, total)], dtype=torch.double)


def _notes(found: Game) -> list[str]:
    """Returns what the game comes to, in words."""
    best, total = found.best, len(found)

    def share(numbers: Tensor) -> str:
        value, low, high = numbers.tolist()
        return said(value, low, high, total)

    pure = float(found.worst.double().mean(1).max())
    notes = [
        f"Best defence by the worst case a sample: {best['worst case']} ({pure:.0%}); by the mean over attacks: "
        f"{best['mean']}; without attack: {best['clean']}.",
        f"The game is worth {share(found.worth)}: "
        f"{_mix(found.column_names, found.defence_mix)} against {_mix(found.row_names, found.attack_mix)}.",
        f"Against an attacker who picks an attack for each sample, drawing the defence anew keeps {share(found.drawn)}"
        f" ({_mix(found.column_names, found.drawn_mix)}); the best single defence keeps {pure:.0%}.",
    ]
    sides = (
        ("attacks", found.row_names, found.dominated_attacks),
        ("defences", found.column_names, found.dominated_defences),
    )
    for side, names, losers in sides:
        if losers:
            said_so = ", ".join(names[each.strategy] for each in losers)
            notes.append(f"Dominated {side}, which nobody needs: {said_so}.")
    return notes + _masked(found)


def _masked(found: Game) -> list[str]:
    """Returns a warning for each defence that holds against an attack through it, and not when it is made elsewhere.

    The two are compared on the same attack; a defence is named once, with the attack that misses most.
    """
    notes = []
    for column, name in enumerate(found.column_names):
        worst = (0, "", "")
        for row, title in enumerate(found.row_names):
            attack, _, way = title.removesuffix(")").rpartition(" (")
            if way in (UNAWARE, TRANSFERRED) and not bool(found.white[row, column]):
                through = found.alive[list(found.row_names).index(attack), column]
                worst = max(worst, (int((through & ~found.alive[row, column]).sum()), attack, way))
        missed, attack, way = worst
        low, high = wilson(missed, len(found))
        if low > MISSED:
            notes.append(
                f"{name}: {attack} through it misses {missed} samples that fall to the same attack {way} "
                f"({said(missed / len(found), low, high, missed)}): its gradients mislead, and the white cells flatter "
                "it. The metric `masking_alarms` says why."
            )
    return notes


def _mix(names: Sequence[str], shares: Tensor) -> str:
    played = [(share, name) for name, share in zip(names, shares.tolist(), strict=True) if share > 5e-3]
    if len(played) == 1:
        return f"{played[0][1]} alone"
    return ", ".join(f"{name} {share:.0%}" for share, name in sorted(played, key=lambda pair: -pair[0]))


def _by(each: Dominance, names: Sequence[str]) -> str:
    mix = _mix(names, torch.tensor(each.by)).removesuffix(" alone")
    return mix + ("" if each.strict else " (never worse, sometimes better)")


def _payoff(alive: Tensor) -> NDArray[np.float64]:
    payoff: NDArray[np.float64] = alive.double().mean(2).cpu().numpy()
    return payoff
