from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ironglass.core.findings import Report
from ironglass.report.junit import junit


@pytest.mark.parametrize(("fail_on", "failures"), [("critical", 1), ("high", 3), ("medium", 6), ("low", 8), ("ok", 12)])
def test_findings_at_the_threshold_fail(report: Report, fail_on: str, failures: int) -> None:
    suite = ElementTree.fromstring(junit(report, fail_on=fail_on))[0]  # type: ignore[arg-type]
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"]) == failures
    assert len(suite.findall("testcase")) == int(suite.attrib["tests"]) == len(report.findings) + len(report.limits)
    assert len(suite.findall("testcase/error")) == int(suite.attrib["errors"]) == 1
    assert len(suite.findall("testcase/skipped")) == int(suite.attrib["skipped"]) == 3


def test_a_failure_says_what_was_measured_and_what_to_do(report: Report) -> None:
    suite = ElementTree.fromstring(junit(report))[0]
    case = suite[0]
    assert case.attrib == {"classname": "ironglass.evasion", "name": "evasion.linf"}
    assert case[0].attrib["type"] == "critical"
    assert case[0].text is not None
    assert "46.3% (95% interval 41.9 to 50.7%)" in case[0].text
    assert report.findings[1].fix in case[0].text


def test_hostile_text_comes_back_as_it_went_in(report: Report) -> None:
    root = ElementTree.fromstring(junit(report))
    names = [case.attrib["name"] for case in root.iter("testcase")]
    assert "names|<b>" in names
    assert "<script>alert(1)</script>" in names
    text = " ".join(root.itertext()) + " ".join(str(element.attrib) for element in root.iter())
    assert "]]><!-- --> ]]>" in text
    assert {element.tag for element in root.iter()} == {
        "testsuites",
        "testsuite",
        "testcase",
        "failure",
        "system-out",
        "skipped",
        "error",
    }


def test_an_empty_report_is_a_suite() -> None:
    root = ElementTree.fromstring(junit(Report(title="", model="m", data="", created="")))
    assert root.attrib["tests"] == "0"
