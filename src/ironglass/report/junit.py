"""A report as JUnit XML, for CI systems that show tests: one test case a finding, one a limit."""

from __future__ import annotations

from xml.etree import ElementTree

from ironglass.core.findings import SEVERITIES, Finding, Report, Severity

from .text import measured, one_line, visible, worst_first


def junit(report: Report, fail_on: Severity = "high") -> str:
    """Returns the report as JUnit XML.

    Args:
        report: what to write.
        fail_on: findings of this severity and above are failures. Limits are skipped tests, or errors if they failed.
    """
    failing = [finding for finding in report.findings if _at_least(finding, fail_on)]
    broken = [limit for limit in report.limits if limit.failed]
    totals = {
        "tests": len(report.findings) + len(report.limits),
        "failures": len(failing),
        "errors": len(broken),
        "skipped": len(report.limits) - len(broken),
    }
    counted = {name: str(total) for name, total in totals.items()}
    root = ElementTree.Element("testsuites", {"name": "ironglass", **counted})
    suite = ElementTree.SubElement(root, "testsuite", {"name": one_line(report.model), **counted})
    for finding in worst_first(report):
        case = _case(suite, f"ironglass.{finding.section}", finding.rule)
        verdict = f"{finding.severity}: {finding.verdict}"
        body = visible("\n".join(part for part in (verdict, measured(finding), finding.fix) if part))
        if _at_least(finding, fail_on):
            failure = {"type": finding.severity, "message": one_line(verdict)}
            ElementTree.SubElement(case, "failure", failure).text = body
        else:
            ElementTree.SubElement(case, "system-out").text = body
    for limit in report.limits:
        case = _case(suite, "ironglass.limits", limit.what)
        tag, kind = ("error", {"type": "failed"}) if limit.failed else ("skipped", {})
        ElementTree.SubElement(case, tag, {**kind, "message": one_line(limit.why)})
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _at_least(finding: Finding, severity: Severity) -> bool:
    return SEVERITIES.index(finding.severity) >= SEVERITIES.index(severity)


def _case(suite: ElementTree.Element, classname: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": one_line(classname), "name": one_line(name)})
