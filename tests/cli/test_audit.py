from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from ironglass.cli.audit import code_of
from ironglass.core.findings import Finding, Report, Severity, read

from .conftest import Call, Case

AUDIT = ("audit", "net.py:Own", "--data", "data.npz", "--eps", "1/20", "--only", "fgsm,interval", "--seed", "3")


def report(status: Any = "complete", severity: Severity = "medium", value: float = 0.5) -> Report:
    finding = Finding(
        rule="robust_accuracy",
        severity=severity,
        verdict="It breaks",
        fix="Mend it.",
        section="break",
        value=value,
        low=value - 0.05,
        high=value + 0.05,
        unit="share",
        better="higher",
    )
    return Report(title="T", model="m", data="d", created="2026-01-01", status=status, findings=(finding,))


def test_an_audit_writes_its_report_and_prints_the_worst_first(call: Call, case: Case) -> None:
    result = call(*AUDIT, "--format", "md,sarif", "-o", "out", "-q")
    assert result.exit_code == 0, result.stderr
    written = read(Path("out/audit.json"))
    assert {path.name for path in Path("out").iterdir() if path.is_file()} == {
        "audit.html",
        "audit.json",
        "audit.md",
        "audit.sarif",
    }
    assert written.status == "complete"
    broken = next(finding for finding in written.findings if finding.rule == "robust_accuracy")
    assert broken.value == pytest.approx(1 - int(case.falls.sum()) / len(case.y))
    lines = result.stdout.splitlines()
    verdicts = [finding.verdict for finding in written.findings]
    assert [line for line in lines if line.partition(" ")[2].split()[1:] and any(v in line for v in verdicts)]
    order = [next(i for i, line in enumerate(lines) if verdict in line) for verdict in verdicts]
    assert order == sorted(order)
    assert "95% interval" in result.stdout
    assert lines[-4:] == ["out/audit.html", "out/audit.json", "out/audit.md", "out/audit.sarif"]


def test_the_report_says_how_to_make_it_again(call: Call, case: Case) -> None:
    assert call(*AUDIT, "-q").exit_code == 0
    steps = dict(read(Path("ironglass-out/audit.json")).reproduce)
    assert steps["Command"] == "ironglass " + " ".join((*AUDIT, "-q"))
    assert steps["Model file"].startswith("net.py, SHA-256 ")
    assert steps["Data file"].startswith("data.npz, SHA-256 ")
    assert "Pickle" not in steps


def test_json_is_the_report_and_nothing_else(call: Call, case: Case) -> None:
    result = call(*AUDIT, "--json", "-o", "out")
    assert json.loads(result.stdout) == json.loads(Path("out/audit.json").read_text())


@pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("critical", 0), ("low", 1)])
def test_fail_on_decides_the_exit_code(call: Call, case: Case, fail_on: str, code: int) -> None:
    assert call(*AUDIT, "--fail-on", fail_on, "-q").exit_code == code


def test_codes_of_a_report() -> None:
    assert code_of(report(), "never") == 0
    assert code_of(report(), "medium") == 1
    assert code_of(report(), "high") == 0
    assert code_of(report("partial"), "high") == 4
    assert code_of(report("failed"), "high") == 3
    assert code_of(report("failed"), "low") == 1  # what was found stands, whatever else failed


def test_a_spent_time_is_4_and_the_report_is_partial(call: Call, case: Case) -> None:
    result = call(*AUDIT, "--time", "0.000001s", "-o", "out")
    assert result.exit_code == 4
    assert read(Path("out/audit.json")).status == "partial"
    assert "This report is partial" in result.stdout


def test_a_method_that_fails_is_3_and_the_rest_stands(call: Call, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from ironglass.attack.gradient import fgsm as file

    method = getattr(file, "fgsm", file)

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(method, "raw", fails)
    result = call(*AUDIT, "-o", "out", "-q")
    assert result.exit_code == 3
    assert "ZeroDivisionError" in result.stdout
    written = read(Path("out/audit.json"))
    assert written.status == "failed"
    assert any(finding.rule == "proven" for finding in written.findings)


def test_a_dry_run_prints_the_plan_and_what_is_left_out(call: Call, case: Case) -> None:
    plan = json.loads(call(*AUDIT, "--dry-run", "--json").stdout)
    assert [step["method"] for step in plan["steps"]] == ["fgsm", "interval"]
    assert plan["threat"] == {"norm": "linf", "eps": 0.05}
    assert any(limit["why"] == "left out on request" for limit in plan["limits"])
    times = 1 + len(plan["curve"]["radii"])  # the curve and what is proven, at every radius
    drawn = {plan["curve"]["method"]: times, "interval": times}
    cost = [step["passes_per_sample"] * step["samples"] * drawn.get(step["method"], 1) for step in plan["steps"]]
    assert plan["passes"] == sum(cost)
    text = call(*AUDIT, "--dry-run").stdout
    assert "passes in all" in text
    assert not Path("ironglass-out").exists()


SLOW = """
from pathlib import Path
from time import sleep

from net import Own


def slow(x):
    Path("started").touch()
    sleep(0.05)
    return Own()(x)
"""


def _heed_interrupts() -> None:
    """Undoes what a shell does to commands in the background: their children would never hear of an interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupt_is_130_and_the_partial_report_is_written(case: Case) -> None:
    Path("slow.py").write_text(SLOW)
    words = [
        "audit",
        "slow.py:slow",
        "--data",
        "data.npz",
        "--eps",
        "0.01",
        "--only",
        "square,random_noise",
        "-o",
        "out",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "ironglass", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    end = monotonic() + 60
    begun: list[str] = []
    assert process.stderr is not None
    while "Square" not in "".join(begun) and monotonic() < end:
        begun.append(process.stderr.readline())
    sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert read(Path("out/audit.json")).status == "partial"
    assert "out/audit.html" in out


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text(report(value=0.8).to_json())
    Path("new.json").write_text(report(value=0.3, severity="high").to_json())


def test_a_report_is_drawn_again(call: Call, two: None) -> None:
    result = call("report", "old.json", "--format", "html,md,sarif,junit,card", "-o", "again")
    assert result.exit_code == 0, result.stderr
    assert [Path(line).exists() for line in result.stdout.splitlines()] == [True] * 5
    assert json.loads(call("report", "old.json", "--json").stdout) == {"files": ["audit.html"]}
    assert json.loads(Path("again/audit.sarif").read_text())["runs"]


def test_hostile_reports_cannot_steer_the_terminal(call: Call, two: None) -> None:
    nasty = Report(title="T", model="m\x1b[31m\u202e", data="d", created="now", findings=report().findings)
    Path("nasty.json").write_text(nasty.to_json())
    text = call("diff", "old.json", "nasty.json").stdout
    assert "the model differs" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_difference_is_told_and_can_fail(call: Call, two: None) -> None:
    result = call("diff", "old.json", "new.json")
    assert result.exit_code == 0
    assert result.stdout.startswith("worse")
    assert call("diff", "old.json", "new.json", "--fail-on", "worse").exit_code == 1
    assert call("diff", "new.json", "old.json", "--fail-on", "worse").exit_code == 0
    changes = json.loads(call("diff", "old.json", "new.json", "--json").stdout)["changes"]
    assert [change["direction"] for change in changes] == ["worse"]
