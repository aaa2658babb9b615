"""A report as a page of Markdown, short enough for a pull request; and how any text becomes harmless in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ironglass.core.findings import Limit, Report

from .text import counts, measured, one_line, worst_first

_MARKUP = re.compile(r"[\\`*\[\]#|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def escape(text: str) -> str:
    """Returns text as one line that Markdown shows as it is: no markup, HTML, link, mention, or end of a table cell."""
    line = _MARKUP.sub(r"\\\g<0>", one_line(text))
    line = re.sub("[&<>@]", lambda match: _ENTITIES[match[0]], line)
    line = re.sub(r"(?<=\w)://", "&#58;//", line)
    line = re.sub(r"\bwww\.", "www&#46;", line, flags=re.IGNORECASE)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of escaped cells."""
    lines = [heads, ["---"] * len(heads), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def findings(report: Report) -> str:
    """Returns the table of findings, worst first."""
    return table(
        ("Level", "Finding", "Measured", "What to do"),
        (
            (finding.severity.upper(), finding.verdict, measured(finding), finding.fix)
            for finding in worst_first(report)
        ),
    )


def limits(items: Iterable[Limit]) -> str:
    """Returns a list of limits; what failed says so."""
    return "\n".join(
        f"- {'**failed:** ' if limit.failed else ''}{escape(limit.what)}: {escape(limit.why)}" for limit in items
    )


def summary(report: Report) -> str:
    """Returns the verdict, the findings, the limits, and how to reproduce them."""
    tally = ", ".join(f"{count} {level}" for level, count in counts(report)) or "no findings"
    parts = [
        f"# {escape(report.title)}",
        f"{escape(report.model)} on {escape(report.data)}, {escape(report.created)}: {tally}."
        + ("" if report.status == "complete" else f" This audit is **{report.status}**."),
        findings(report) if report.findings else "",
        "## Limits\n\n" + limits(report.limits) if report.limits else "",
        "## Reproduce\n\n" + table(("What", "Value"), report.reproduce) if report.reproduce else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
