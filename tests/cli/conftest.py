"""A command line to call, and a small linear model whose answers are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner, Result

from ironglass.cli.main import root

Call = Callable[..., Result]
EPS = 0.05

NET = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
            self.layer.bias.copy_(-self.layer.weight.sum(1) / 2)

    def forward(self, x):
        return self.layer(x)


def talks():
    print("a word from the user's file")
    return Own()


def labels(x):
    return Own()(x).argmax(1)


def softmax(x):
    return Own()(x).softmax(1)


def breaks(x):
    if len(x) > 8:
        raise ValueError("I give up")
    return Own()(x)


def stopped(x):
    if len(x) > 8:
        raise KeyboardInterrupt
    return Own()(x)
"""


class Case(NamedTuple):
    """The folder of a model and its data, and what is true of them."""

    folder: Path
    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor
    falls: torch.Tensor


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Case:
    import numpy as np

    folder = tmp_path_factory.mktemp("case")
    (folder / "net.py").write_text(NET)
    weight = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    x = 0.3 + 0.4 * torch.rand(60, 6, generator=torch.Generator().manual_seed(1))
    scores = x @ weight.T - weight.sum(1) / 2
    y = scores.argmax(1)
    margin = (scores.gather(1, y[:, None]) - scores.gather(1, 1 - y[:, None]))[:, 0]
    reach = EPS * (weight[0] - weight[1]).abs().sum()
    clear = (margin - reach).abs() > 1e-3  # far from a tie, so that rounding decides nothing
    x, y, falls = x[clear], y[clear], (margin < reach)[clear]
    assert 5 < int(falls.sum()) < len(y) - 5
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    return Case(folder, x, y, weight, falls)


@pytest.fixture
def case(written: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Case:
    """The case, seen from a fresh folder in which it is ``net.py`` and ``data.npz``."""
    for name in ("net.py", "data.npz"):
        (tmp_path / name).symlink_to(written.folder / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return written._replace(folder=tmp_path)


@pytest.fixture
def call() -> Call:
    """Runs the command line in this process: ``call("list", "attack")``."""

    def run(*words: str, color: bool = False, **env: str) -> Result:
        return CliRunner().invoke(root, list(words), env=env, color=color)

    return run
