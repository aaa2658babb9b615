"""The Python of the how-to pages runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["explanations"])
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), flags=re.DOTALL))
    assert code
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        exec(compile(code, f"{page}.md", "exec"), {})
