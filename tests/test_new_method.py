"""A new method is one new file: it is in the list, the help, the contracts and the audit's plan with no other edit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ironglass.core.catalogue import PACKAGE

METHOD = '''"""Throw the brightest values to black."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp


@attack(title="Blackout", paper="nobody2026", access="labels", norms=("linf", "l2", "l1"), cost="1", lecture="a test")
def blackout(model: Model, x: Tensor, goal: Goal, threat: Threat, *, share: float = 0.5) -> Tensor:
    """Darken what is bright, as far as the threat allows.

    Args:
        share: of the values that are darkened.
    """
    bright = x >= x.flatten(1).quantile(1 - share, dim=1).reshape(-1, *(1,) * (x.ndim - 1))
    return lp.project(x.where(~bright, model.bounds.low), x, threat, model.bounds)
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(PACKAGE, root / "ironglass", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    (root / "ironglass" / "attack" / "blackbox" / "blackout.py").write_text(METHOD)
    generator = np.random.default_rng(0)
    np.savez(root / "data.npz", x=generator.random((12, 1, 8, 8), dtype=np.float32), y=np.arange(12) % 5)
    (root / "net.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).eval()\n"
    )
    return root


def run(tree: Path, *words: str) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(Path(__file__).parent)])}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=tree, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_and_shown(tree: Path) -> None:
    names = [card["name"] for card in json.loads(run(tree, "-m", "ironglass", "list", "attack", "--json"))]
    assert "blackout" in names
    assert "Blackout" in run(tree, "-m", "ironglass", "show", "blackout")


def test_it_is_a_verb_with_its_own_flags(tree: Path) -> None:
    assert "--share" in run(tree, "-m", "ironglass", "attack", "blackout", "--help")
    words = ["attack", "blackout", "net.py:make", "--data", "data.npz", "--eps", "0.2", "--share", "0.25", "--json"]
    assert json.loads(run(tree, "-m", "ironglass", *words))["method"] == "blackout"


def test_it_is_in_the_plan_of_the_audit(tree: Path) -> None:
    assert "Blackout" in run(tree, "-m", "ironglass", "audit", "net.py:make", "--data", "data.npz", "--dry-run")


def test_it_meets_the_contracts_by_existing(tree: Path) -> None:
    contracts = Path(__file__).with_name("test_contracts.py")
    out = run(
        tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tree), str(contracts), "-k", "blackout"
    )
    assert " passed" in out
    assert int(out.split(" passed")[0].split()[-1]) >= 20
