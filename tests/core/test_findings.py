from __future__ import annotations

from pathlib import Path

import pytest

from ironglass.core.errors import InputError
from ironglass.core.findings import Curve, Finding, Report, Section, Series, read


def _report() -> Report:
    series = Series(label="pgd", x=(0.0, 0.1), y=(1.0, 0.5), low=(0.9, 0.4), high=(1.0, 0.6))
    curve = Curve(id="c", caption="c", x_label="eps", y_label="accuracy", series=(series,))
    findings = tuple(
        Finding(rule=f"r{i}", severity=severity, verdict="v", fix="f", section="s")
        for i, severity in enumerate(("ok", "high", "low"))
    )
    return Report(
        title="t", model="m", data="d", created="now", findings=findings, metrics={"a": 0.5},
        sections=(Section(id="s", title="S", sentence="…", curves=(curve,)),),
    )  # fmt: skip


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = _report()
    (tmp_path / "r.json").write_text(report.to_json())
    assert read(tmp_path / "r.json") == report
    assert report.worst == "high"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"title": 3}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(InputError, match="is not an Ironglass report"):
        read(tmp_path / "r.json")


def test_a_missing_file_and_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "missing.json")
    (tmp_path / "r.json").write_text(_report().to_json().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="format 99"):
        read(tmp_path / "r.json")
