from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironglass.core.findings import Finding, Report
from ironglass.report.text import interval, measured, number, one_line, visible, worst_first


@given(st.text(st.characters(codec=None), max_size=60))
def test_visible_text_is_utf8_and_legal_xml_and_does_not_reorder(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]", shown)
    assert not {unicodedata.bidirectional(c) for c in shown} & {
        "LRO",
        "RLO",
        "LRE",
        "RLE",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    }


@pytest.mark.parametrize("text", ["", "plain", "naïve café", "שלום", "猫", "👩‍🔬", "a\tb\nc"])
def test_visible_leaves_ordinary_text_alone(text: str) -> None:
    assert visible(text) == text


def test_one_line_cuts_and_says_so() -> None:
    assert one_line(" a\n b\t\tc ") == "a b c"
    assert one_line("abcdefgh", 5) == "abcd…"
    assert one_line("abcde", 5) == "abcde"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.463, "share", "46.3%"),
        (0.0, "share", "0.0%"),
        (1.0, "share", "100.0%"),
        (0.0004, "share", "0.04%"),
        (0.9996, "share", "99.96%"),
        (1e-9, "share", "<0.001%"),
        (1 - 1e-9, "share", ">99.999%"),
        (310, "queries", "310 queries"),
        (52184.4, "", "52,184"),
        (8 / 255, "", "0.03137"),
        (-2.5, "dB", "-2.5 dB"),
        (None, "share", "–"),
    ],
)
def test_number(value: float | None, unit: str, shown: str) -> None:
    assert number(value, unit) == shown


@given(st.floats(0, 1))
def test_a_share_reads_0_or_100_percent_only_when_it_is(value: float) -> None:
    if 0 < value < 1:
        assert number(value, "share") not in ("0.0%", "100.0%", "0.00%", "100.00%", "0.000%", "100.000%")
    shown = float(number(value, "share").strip("<>%"))
    assert abs(shown - 100 * value) <= 0.05 + 1e-9


def test_interval_and_measured() -> None:
    assert interval(0.419, 0.507, "share") == "41.9 to 50.7%"
    assert interval(255, 402, "queries") == "255 to 402 queries"
    assert interval(None, 0.5) == "–"
    base = {"rule": "r", "severity": "low", "verdict": "v", "fix": "f", "section": "s"}
    assert measured(Finding(**base)) == ""
    assert measured(Finding(**base, value=0.5, unit="share")) == "50.0%"
    assert measured(Finding(**base, value=0.5, low=0.4, high=0.6)) == "0.5 (95% interval 0.4 to 0.6)"


def test_worst_first_is_stable(report: Report) -> None:
    order = [finding.severity for finding in worst_first(report)]
    ranks = ["critical", "high", "medium", "low", "info", "ok"]
    assert order == sorted(order, key=ranks.index)
    assert [f.rule for f in worst_first(report) if f.severity == "high"] == ["evasion.labels", "model.pickle"]
