from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ironglass.core.errors import InputError
from ironglass.core.findings import Bars, Finding, Gallery, Picture, Report, Series, Table, read
from ironglass.report import FORMATS, render, write


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_deterministic_utf8_and_without_hidden_characters(report: Report, format: str) -> None:
    text = render(report, format)
    assert text == render(report, format)
    text.encode("utf-8")
    if format != "json":  # JSON keeps strings as they came
        assert not set(text) & {chr(c) for c in (0, 7, 0x202E, 0x2066, 0x2028)}


def test_an_unknown_format_is_refused_with_a_suggestion(report: Report, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean sarif"):
        render(report, "sarf")
    with pytest.raises(InputError, match="no report format 'pdf'"):
        write(report, tmp_path / "out", ["json", "pdf"])
    assert not (tmp_path / "out").exists()


def test_write_makes_the_folder_and_names_the_files(report: Report, tmp_path: Path) -> None:
    paths = write(report, tmp_path / "a" / "b", FORMATS)
    names = ["audit.html", "audit.json", "audit.md", "audit.sarif", "audit.junit.xml", "model-card.md"]
    assert [path.name for path in paths] == names
    for path, format in zip(paths, FORMATS, strict=True):
        assert path.read_bytes().decode("utf-8") == render(report, format)


def test_a_folder_that_is_a_file_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="cannot write the report"):
        write(report, tmp_path / "out", ["json"])


def test_json_round_trip(report: Report, tmp_path: Path) -> None:
    (path,) = write(report, tmp_path, ["json"])
    again = read(path)
    assert read(write(again, tmp_path, ["json"])[0]) == again
    clean = Report(**{**{name: getattr(report, name) for name in report.__slots__}, "sections": report.sections[:5],
                      "findings": report.findings[:-1], "limits": report.limits[:-1]})  # fmt: skip
    (path,) = write(clean, tmp_path, ["json"])
    assert read(path) == clean
    assert render(read(path), "html") == render(clean, "html")


def test_a_name_that_utf8_cannot_hold_is_escaped_in_json(tmp_path: Path) -> None:
    report = Report(title="t", model="file\udcff", data="d", created="now", metrics={"\ud800": 1.0})
    (path,) = write(report, tmp_path, ["json"])
    assert read(path).model == "file\\udcff"


def test_numbers_that_json_cannot_hold_and_ragged_points_are_refused() -> None:
    base = {"rule": "r", "severity": "low", "verdict": "v", "fix": "f", "section": "s"}
    with pytest.raises(ValueError, match="finding r: inf is not finite"):
        Finding(**base, value=float("inf"))
    with pytest.raises(ValueError, match="lies outside"):
        Finding(**base, value=0.5, low=0.6, high=0.7)
    with pytest.raises(ValueError, match="nan is not finite"):
        Series(label="a", x=(0.0,), y=(float("nan"),))
    with pytest.raises(ValueError, match="lengths"):
        Series(label="a", x=(0.0, 1.0), y=(0.0,))
    with pytest.raises(ValueError, match="lengths"):
        Series(label="a", x=(0.0,), y=(0.0,), low=(0.0, 1.0))
    with pytest.raises(ValueError, match="one value for each of 2 parts"):
        Bars(id="b", caption="", labels=("a",), parts=("p", "q"), values=((0.1,),))
    picture = Picture(data="", alt="")
    with pytest.raises(ValueError, match="1 row heads for 0 rows"):
        Gallery(id="g", caption="", columns=(), rows=(), row_heads=("a",))
    with pytest.raises(ValueError, match="every row needs 2 pictures"):
        Gallery(id="g", caption="", columns=("a", "b"), rows=((picture,),))
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        Table(id="t", caption="", columns=("a", "b"), rows=(("x",),))
    with pytest.raises(ValueError, match="not finite"):
        Report(title="", model="", data="", created="", metrics={"a": float("nan")})


def test_only_the_page_needs_matplotlib_and_nothing_needs_torch() -> None:
    script = (
        "import sys; from ironglass.core.findings import Report; from ironglass.report import FORMATS, render\n"
        "report = Report(title='t', model='m', data='d', created='now')\n"
        "[render(report, name) for name in FORMATS if name != 'html']\n"
        "assert not {'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules), 'early'\n"
        "render(report, 'html'); assert 'torch' not in sys.modules, 'late'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})
