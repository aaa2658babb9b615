"""A report as SARIF 2.1.0, for code-scanning hosts: one result a finding, one rule a check."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from ironglass._version import __version__
from ironglass.core.findings import Finding, Limit, Report, Severity

from .text import measured, visible, worst_first

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: dict[Severity, str] = {
    "critical": "error",
    "high": "error",
    "medium": "warning",
    "low": "note",
    "info": "note",
    "ok": "none",
}


def sarif(report: Report, file: str = "ironglass.toml") -> str:
    """Returns the report as a SARIF log.

    Args:
        report: what to write.
        file: where hosts show the findings: a path in the repository, since a model has no lines.
    """
    findings = worst_first(report)
    rules = {finding.rule: finding for finding in reversed(findings)}  # the worst finding of a rule describes it
    order = sorted(rules)
    seen: dict[str, int] = {}
    results = []
    for finding in findings:
        seen[finding.rule] = seen.get(finding.rule, 0) + 1
        results.append(_result(report, finding, order.index(finding.rule), seen[finding.rule], file))
    run = {
        "tool": {
            "driver": {
                "name": "Ironglass",
                "semanticVersion": __version__,
                "rules": [_rule(rules[name]) for name in order],
            }
        },
        "automationDetails": {"id": f"ironglass/{quote(visible(report.model), safe='')}/"},
        "invocations": [
            {
                "executionSuccessful": report.status != "failed",
                "toolExecutionNotifications": [_notification(limit) for limit in report.limits],
            }
        ],
        "results": results,
        "properties": {
            "title": visible(report.title),
            "model": visible(report.model),
            "data": visible(report.data),
            "created": visible(report.created),
            "status": report.status,
            "metrics": {visible(name): value for name, value in sorted(report.metrics.items())},
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _result(report: Report, finding: Finding, index: int, occurrence: int, file: str) -> dict[str, Any]:
    key = "\n".join((report.model, finding.rule, *([str(occurrence)] if occurrence > 1 else [])))
    parts = (finding.verdict, measured(finding) and f"Measured: {measured(finding)}.", finding.fix)
    return {
        "ruleId": visible(finding.rule),
        "ruleIndex": index,
        "kind": "pass" if finding.severity == "ok" else "fail",
        "level": LEVELS[finding.severity],
        "message": {"text": _plain(" ".join(part for part in parts if part))},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(file.replace("\\", "/"), errors="backslashreplace")},
                    "region": {"startLine": 1},
                }
            }
        ],
        "partialFingerprints": {"modelAndRule/v1": hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()},
        "properties": {
            "severity": finding.severity,
            "value": finding.value,
            "low": finding.low,
            "high": finding.high,
            "unit": visible(finding.unit),
            "threshold": visible(finding.threshold),
            "method": visible(finding.method),
            "samples": finding.samples,
        },
    }


def _rule(finding: Finding) -> dict[str, Any]:
    level = LEVELS[finding.severity]
    rule: dict[str, Any] = {
        "id": visible(finding.rule),
        "shortDescription": {"text": _plain(finding.rule)},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["security", "machine-learning"]},
    }
    return {**rule, "help": {"text": _plain(finding.fix)}} if finding.fix else rule


def _notification(limit: Limit) -> dict[str, Any]:
    return {"level": "error" if limit.failed else "note", "message": {"text": _plain(f"{limit.what}: {limit.why}")}}


def _plain(text: str) -> str:
    """Returns a plain-text message: without embedded links, and with the braces of placeholders doubled."""
    return visible(text).replace("](", "\\](").replace("{", "{{").replace("}", "}}")
