"""The page on defences runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import ironglass as ig

TEXT = (Path(__file__).parents[1] / "docs" / "defences.md").read_text(encoding="utf-8")


def test_its_python_runs() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    names: dict[str, object] = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "defences.md", "exec"), names)
    assert isinstance(names["report"], ig.Study)
    assert names["report"].row_names == ("legitimate", "pgd, naive", "pgd, adaptive")
