"""The README names every method, and its Python runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from ironglass.core.catalogue import catalogue

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_method_is_named() -> None:
    assert {name for name in catalogue() if f"`{name}`" not in TEXT} == set()


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    assert "masking_alarms" in code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "audit.html").stat().st_size > 10_000
