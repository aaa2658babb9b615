"""Two reports of one model compared: what got better or worse by more than the intervals allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ironglass.core.findings import SEVERITIES, Finding, Report

from .text import measured, one_line

Direction = Literal["worse", "better", "changed", "new", "gone", "same"]
DIRECTIONS: tuple[Direction, ...] = ("worse", "better", "changed", "new", "gone", "same")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One check in two reports.

    Where both 95 % intervals are known and do not overlap, it is ``worse`` or ``better`` by what the finding calls
    better, else by the severity, else just ``changed``; where they overlap it is the ``same``, even if the severity
    moved. Where one of the two has no interval, the severity alone decides.
    """

    rule: str
    direction: Direction
    old: Finding | None
    new: Finding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All checks of two reports, worst first, and what makes the two hard to compare."""

    changes: tuple[Change, ...]
    caveats: tuple[str, ...] = ()

    def of(self, direction: Direction) -> tuple[Change, ...]:
        """Returns the changes of one direction."""
        return tuple(change for change in self.changes if change.direction == direction)

    def text(self) -> str:
        """Returns the difference as lines of text: everything but what stayed the same, which is counted."""
        lines = [f"note: {caveat}" for caveat in self.caveats]
        lines += [_line(change) for change in self.changes if change.direction != "same"]
        same = len(self.of("same"))
        lines.append(f"same     {same} finding{'' if same == 1 else 's'}, by the 95% intervals where there are any")
        return "\n".join(lines) + "\n"


def compare(old: Report, new: Report) -> Difference:
    """Returns what changed from the old report to the new one, matched by the findings' rules."""
    before, after = _by_rule(old.findings), _by_rule(new.findings)
    pairs = [(key[0], before.get(key), after.get(key)) for key in {**before, **after}]
    changes = [Change(rule=rule, direction=_direction(a, b), old=a, new=b) for rule, a, b in pairs]
    changes.sort(key=lambda change: (DIRECTIONS.index(change.direction), -_severity(change)))
    caveats = [
        f"the {what} differs: {one_line(a)} before, {one_line(b)} now"
        for what, a, b in (("model", old.model, new.model), ("data", old.data, new.data))
        if a != b
    ]
    caveats += [
        f"the {name} report is {report.status}"
        for name, report in (("old", old), ("new", new))
        if report.status != "complete"
    ]
    return Difference(changes=tuple(changes), caveats=tuple(caveats))


def _by_rule(findings: Iterable[Finding]) -> dict[tuple[str, int], Finding]:
    """Returns the findings under their rule and, where a rule occurs again, which occurrence it is."""
    keyed: dict[tuple[str, int], Finding] = {}
    for finding in findings:
        occurrence = 0
        while (finding.rule, occurrence) in keyed:
            occurrence += 1
        keyed[finding.rule, occurrence] = finding
    return keyed


def _direction(old: Finding | None, new: Finding | None) -> Direction:
    if old is None or new is None:
        return "gone" if new is None else "new"
    moved = SEVERITIES.index(new.severity) - SEVERITIES.index(old.severity)
    by_severity: Direction = "worse" if moved > 0 else "better" if moved < 0 else "same"
    before, after = _interval(old), _interval(new)
    if before is None or after is None or old.unit != new.unit:
        return by_severity
    if after[0] <= before[1] and before[0] <= after[1]:
        return "same"
    if not new.better:
        return by_severity if moved else "changed"
    return "better" if (after[0] > before[1]) == (new.better == "higher") else "worse"


def _interval(finding: Finding) -> tuple[float, float] | None:
    return None if finding.low is None or finding.high is None else (finding.low, finding.high)


def _severity(change: Change) -> int:
    return max(SEVERITIES.index(finding.severity) for finding in (change.old, change.new) if finding)


def _line(change: Change) -> str:
    before, after = (
        f"{finding.severity} {measured(finding)}".strip() if finding else "not there"
        for finding in (change.old, change.new)
    )
    shown = change.new or change.old
    verdict = one_line(shown.verdict) if shown else ""
    return f"{change.direction:<8} {one_line(change.rule)}: {before} → {after}. {verdict}".rstrip()
