"""Results on a whole set: a diagnosis, whose checks raise alarms, and a study, a table of figures with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from .errors import InputError, suggest
from .findings import Bars, Chart, Table
from .results import Attribution, Result
from .statistics import wilson
from .values import Threat

Verdict = Literal["alarm", "clear", "not run"]


@dataclass(frozen=True, slots=True)
class Check:
    """One question of a diagnosis, and what its alarm means.

    Args:
        name: short, stable over versions.
        alarm: what is so where the alarm is raised.
        remedy: what to do then.
        most: the largest share of samples that may show it without alarm.
        least: the fewest samples that make an alarm.
        cause: whether it says why robustness would not be real, and not only that an attack failed.
    """

    name: str
    alarm: str
    remedy: str
    most: float = 0.0
    least: int = 1
    cause: bool = False


class Examined(NamedTuple):
    """What a diagnosis function returns.

    ``evidence (N, checks)``, int8, is 1 where a sample shows it, 0 where not, -1 where it was not asked;
    ``adversarial`` are the worst inputs met on the way ``(N, *shape)``.
    """

    checks: Sequence[Check]
    evidence: Tensor
    adversarial: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Diagnosis(Result):
    """What checks say of a model, derived from evidence a sample: shards join before anything is judged.

    ``evidence`` is as in `Examined`. An alarm is raised where the 95 % interval of the share of samples that show it
    lies above what its check allows. ``broken`` says whether ``adversarial`` fools the model, as the runner judges.
    """

    y: Tensor
    threat: Threat
    checks: Sequence[Check]
    evidence: Tensor
    adversarial: Tensor
    broken: Tensor
    seed: int | None = None

    def check(self, name: str) -> Check:
        """Returns the check of that name.

        Raises:
            InputError: if there is none.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise InputError(f"{self.method} has no check '{name}'", suggest(name, [each.name for each in self.checks]))

    def of(self, name: str) -> Tensor:
        """Returns a check's evidence ``(N,)``."""
        return self.evidence[:, list(self.checks).index(self.check(name))]

    def counts(self, name: str) -> tuple[int, int]:
        """Returns how many samples show it, and how many were asked."""
        column = self.of(name)
        return int((column > 0).sum()), int((column >= 0).sum())

    def value(self, name: str) -> float | None:
        """Returns the share of samples that show it; None where none was asked."""
        shown, asked = self.counts(name)
        return shown / asked if asked else None

    def verdict(self, name: str) -> Verdict:
        """Returns whether a check raises its alarm."""
        check, (shown, asked) = self.check(name), self.counts(name)
        if not asked:
            return "not run"
        return "alarm" if shown >= max(check.least, 1) and wilson(shown, asked)[0] > check.most else "clear"

    @property
    def alarms(self) -> tuple[str, ...]:
        """The names of the checks that raise an alarm, in their order."""
        return tuple(check.name for check in self.checks if self.verdict(check.name) == "alarm")

    @property
    def causes(self) -> tuple[str, ...]:
        """Those alarms that say why robustness would not be real."""
        return tuple(name for name in self.alarms if self.check(name).cause)

    def table(self) -> Table:
        """Returns a row a check: verdict, figures, meaning and remedy."""
        rows = []
        for check in self.checks:
            (shown, asked), verdict = self.counts(check.name), self.verdict(check.name)
            low, high = wilson(shown, asked)
            figures = (f"{shown} of {asked}", f"{low:.0%} to {high:.0%}") if asked else ("—", "—")
            said = (check.alarm, check.remedy) if verdict == "alarm" else (f"No sign that {_lower(check.alarm)}", "")
            said = ("Not asked of any sample", check.remedy) if verdict == "not run" else said
            rows.append((check.name.replace("_", " "), verdict, *figures, f"{check.most:.0%}", *said))
        return Table(
            id=self.method,
            caption=f"What {self.method} finds under {self.threat}, on {len(self)} samples",
            columns=("check", "verdict", "samples", "95 % interval", "allowed", "meaning", "remedy"),
            rows=tuple(rows),
        )


def figure(value: float, low: float, high: float, count: int, unit: str = "share") -> str:
    """Returns a value with its interval, in a column's unit; a dash where it is a mean of nothing."""
    if not count or math.isnan(value):
        return "—"
    if unit == "share" and low == value == high:
        return f"{value:.1%}"
    if unit == "share":
        digits = int(0 < abs(value) < 0.02)
        return f"{value:.{digits}%} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
    shown = f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.3g}"
    known = math.isfinite(low) and math.isfinite(high) and (low, high) != (value, value)
    return shown + (f" [{low:.3g}, {high:.3g}]" if known else "") + (f" {unit}" if unit else "")


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study(Result):
    """A table of figures over all samples at once: ``values``, each in its 95 % interval, all ``(rows, columns)``.

    ``counts`` are how many things a figure is a mean of; one over none says nothing. ``units`` are the columns', shares
    where there are none. ``notes`` say in words what the figures mean, and ``extras`` are tensors by name, what else
    the study found out.
    """

    y: Tensor
    row_names: Sequence[str]
    column_names: Sequence[str]
    values: Tensor
    low: Tensor
    high: Tensor
    counts: Tensor
    caption: str
    row_head: str
    threat: Threat | None = None
    seed: int | None = None
    units: Sequence[str] = ()
    notes: Sequence[str] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def table(self) -> Table:
        """Returns the figures with their intervals, in the columns' units."""
        units = self.units or ("share",) * len(self.column_names)
        figures = zip(*(part.tolist() for part in (self.values, self.low, self.high, self.counts)), strict=True)
        rows = [
            (name, *(figure(*cells) for cells in zip(*parts, units, strict=True)))
            for name, parts in zip(self.row_names, figures, strict=True)
        ]
        return Table(
            id=self.method, caption=self.caption, columns=(self.row_head, *self.column_names), rows=tuple(rows)
        )

    def charts(self) -> tuple[Chart, ...]:
        """Returns the study's figures; the first is what `plot` draws. A kind of study says which they are."""
        return ()

    def tables(self) -> tuple[Table, ...]:
        """Returns every table of the study, the main one first."""
        return (self.table(),)

    def maps(self) -> tuple[Attribution, ...]:
        """Returns maps of the samples to show side by side, where the study has some."""
        return ()

    def bars(self, column: str) -> Bars:
        """Returns one column as bars, without the rows that have no figure there."""
        index = list(self.column_names).index(column)
        kept = [i for i, count in enumerate(self.counts[:, index].tolist()) if count]
        return Bars(
            id=f"{self.method}-{column}",
            caption=f"{self.caption}: {column}",
            labels=tuple(self.row_names[i] for i in kept),
            parts=(column,),
            values=tuple((float(self.values[i, index]),) for i in kept),
        )
