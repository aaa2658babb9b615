"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side, a process a core


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets and trained networks; a test that needs it skips where it is absent."""
    root = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "MANIFEST.md").exists():
        pytest.skip(f"needs the shared data sets (set IRONGLASS_DATA; looked in {root})")
    return root
