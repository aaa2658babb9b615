"""Numbers as words, and hostile text made harmless: shared by every format."""

from __future__ import annotations

import math
import re

from ironglass.core.findings import SEVERITIES, Finding, Report, Severity

SHARE = "share"
"""The unit of values in [0, 1] that are shown as percentages."""

NONE = "–"

# Control characters, bidirectional overrides and isolates, line separators, byte-order marks, lone surrogates:
# they are unprintable, illegal in XML, or make a text read otherwise than it is written.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")


def visible(text: str) -> str:
    """Returns the text with every unprintable or reordering character written out as ``\\uXXXX``."""
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str, width: int = 0) -> str:
    """Returns the visible text on one line, cut to ``width`` characters with an ellipsis (0 keeps all)."""
    line = " ".join(visible(text).split())
    return line if not width or len(line) <= width else line[: width - 1].rstrip() + "…"


def number(value: float | None, unit: str = "") -> str:
    """Returns a value with its unit; a share becomes a percentage that is 0 % or 100 % only when it is exactly so."""
    if value is None or math.isnan(value):
        return NONE
    if unit == SHARE:
        return f"{_percent(value)}%"
    return f"{_plain(value)} {unit}".rstrip()


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """Returns ``low to high unit``."""
    if low is None or high is None:
        return NONE
    if unit == SHARE:
        return f"{_percent(low)} to {_percent(high)}%"
    return f"{_plain(low)} to {_plain(high)} {unit}".rstrip()


def measured(finding: Finding) -> str:
    """Returns a finding's value with its interval, or nothing where it has no value."""
    if finding.value is None:
        return ""
    value = number(finding.value, finding.unit)
    if finding.low is None or finding.high is None:
        return value
    return f"{value} (95% interval {interval(finding.low, finding.high, finding.unit)})"


def worst_first(report: Report) -> tuple[Finding, ...]:
    """Returns the findings by falling severity, otherwise in the order given."""
    return tuple(sorted(report.findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def counts(report: Report) -> tuple[tuple[Severity, int], ...]:
    """Returns how many findings there are of each severity that occurs, worst first."""
    levels = [finding.severity for finding in report.findings]
    return tuple((level, levels.count(level)) for level in reversed(SEVERITIES) if level in levels)


def _percent(share: float) -> str:
    percent = 100 * share
    for digits in (1, 2, 3):
        shown = f"{percent:.{digits}f}"
        if float(shown) not in (0.0, 100.0) or float(shown) == percent:
            return shown
    return "<0.001" if percent < 50 else ">99.999"


def _plain(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
