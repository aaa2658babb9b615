from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ironglass.core import stubs
from ironglass.core.catalogue import catalogue

SNIPPET = """
import torch
import ironglass as ig

def use(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> ig.AttackResult:
    ig.attack.pgd(net, x, y, ig.Linf(0.1), {option}=3)
    ig.explain.saliency(net, x)
    return ig.attack.pgd.with_(steps=3)(net, x, y, ig.Linf(0.1))
"""


def test_every_method_is_in_its_familys_stub() -> None:
    for card in catalogue().values():
        assert f"from {card.module} import {card.name} as {card.name}\n" in stubs.stub(card.family)


def test_a_type_checker_sees_the_options_and_catches_a_typo(tmp_path: Path) -> None:
    stubs.write()
    for option in ("steps", "stepz"):
        (tmp_path / f"{option}.py").write_text(SNIPPET.format(option=option))
    config = Path(__file__).parents[2] / "pyproject.toml"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(config),
        str(tmp_path / "steps.py"),
        str(tmp_path / "stepz.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.parent, check=False)
    assert 'Unexpected keyword argument "stepz"' in done.stdout, done.stdout + done.stderr
    assert "Found 1 error in 1 file" in done.stdout, done.stdout
