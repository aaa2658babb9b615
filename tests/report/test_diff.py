from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ironglass.core.findings import Finding, Report
from ironglass.report import compare

BASE = Finding(
    rule="r", severity="medium", verdict="v.", fix="f", section="s", value=0.5, low=0.45, high=0.55, unit="share"
)


def around(value: float, half: float = 0.05, **more: Any) -> Finding:
    return replace(BASE, value=value, low=value - half, high=value + half, **more)


def of(*findings: Finding, **more: Any) -> Report:
    return Report(title="t", model="m", data="d", created="now", findings=findings, **more)


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        (around(0.5, better="lower"), around(0.7, better="lower"), "worse"),
        (around(0.5, better="lower"), around(0.3, better="lower"), "better"),
        (around(0.5, better="higher"), around(0.7, better="higher"), "better"),
        (around(0.5, better="higher"), around(0.3, better="higher"), "worse"),
        (around(0.5, better="lower"), around(0.59, better="lower"), "same"),
        (around(0.5, better="lower"), around(0.59, better="lower", severity="critical"), "same"),
        (around(0.5), around(0.7), "changed"),
        (around(0.5), around(0.7, severity="high"), "worse"),
        (around(0.5), around(0.7, severity="ok"), "better"),
        (replace(BASE, low=None, high=None), around(0.9, severity="high"), "worse"),
        (replace(BASE, low=None, high=None), around(0.9), "same"),
        (around(0.5, better="lower"), around(0.9, better="lower", unit="px", severity="low"), "better"),
        (None, BASE, "new"),
        (BASE, None, "gone"),
    ],
)
def test_directions(old: Finding | None, new: Finding | None, direction: str) -> None:
    difference = compare(of(*[old] if old else []), of(*[new] if new else []))
    (change,) = difference.changes
    assert change.direction == direction
    assert (change.old, change.new) == (old, new)


def test_touching_intervals_overlap() -> None:
    old, new = replace(BASE, low=0.25, high=0.5), replace(BASE, low=0.5, high=0.75, better="lower")
    assert compare(of(old), of(new)).changes[0].direction == "same"


def test_a_report_is_the_same_as_itself(report: Report) -> None:
    difference = compare(report, report)
    assert {change.direction for change in difference.changes} == {"same"}
    assert len(difference.changes) == len(report.findings)


def test_worse_comes_first_and_repeats_of_a_rule_are_kept_apart() -> None:
    old = of(around(0.5, rule="a", better="lower"), around(0.5, rule="b", better="lower"), around(0.2), around(0.4))
    new = of(around(0.2, rule="a", better="lower"), around(0.9, rule="b", better="lower"), around(0.2), around(0.4))
    difference = compare(old, new)
    assert [(change.rule, change.direction) for change in difference.changes] == [
        ("b", "worse"),
        ("a", "better"),
        ("r", "same"),
        ("r", "same"),
    ]


def test_the_text_says_both_numbers_and_what_makes_the_reports_unlike(report: Report) -> None:
    old = of(around(0.5, better="lower"), around(0.1, rule="still"))
    new = replace(
        of(around(0.7, better="lower", severity="high"), around(0.1, rule="still")), data="e", status="partial"
    )
    assert compare(old, new).text() == (
        "note: the data differs: d before, e now\n"
        "note: the new report is partial\n"
        "worse    r: medium 50.0% (95% interval 45.0 to 55.0%) → high 70.0% (95% interval 65.0 to 75.0%). v.\n"
        "same     1 finding, by the 95% intervals where there are any\n"
    )
    hostile = compare(of(), replace(report, model="m", data="d")).text()
    assert len(hostile.splitlines()) == len(report.findings) + 2
    assert "\u202e" not in hostile
