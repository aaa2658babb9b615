from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ironglass.core.statistics import wilson
from ironglass.models import weights

from .conftest import Call, Case

LINE = (
    "defend", "adversarial_training", "net.py:Own", "--data", "data.npz", "--eps", "1/20", "--attack", "n_fgsm",
    "--epochs", "4", "--batch", "8", "--lr", "1/20",
)  # fmt: skip


WEAK = """
import torch
from net import Own


def make():
    net = Own()
    with torch.no_grad():
        net.layer.weight.mul_(-1)
    return net
"""


def test_a_stronger_network_is_saved_and_its_page_says_so(call: Call, case: Case) -> None:
    Path("weak.py").write_text(WEAK)
    x = 0.3 + 0.4 * torch.rand(400, 6, generator=torch.Generator().manual_seed(2))
    y = (x @ case.weight.T - case.weight.sum(1) / 2).argmax(1)
    np.savez("more.npz", x=x.numpy(), y=y.numpy())
    changes = {"net.py:Own": "weak.py:make", "data.npz": "more.npz", "1/20": "1/50", "4": "12", "8": "32"}
    line = tuple(changes.get(word, word) for word in LINE)
    words = ("--lr", "1", "--save", "net.safetensors", "-o", "report.html", "--check", "data.npz", "--json")
    result = call(*line, *words)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["after"]["attacked"][0] > figures["before"]["attacked"][0]
    assert figures["threat"] == {"norm": "linf", "eps": 0.02}
    assert [epoch["number"] for epoch in figures["history"]] == list(range(13))
    assert not Path("net.checkpoint.safetensors").exists(), "what is done needs no checkpoint"

    net = torch.nn.Module()
    net.layer = torch.nn.Linear(6, 2)
    weights.load(net, Path("net.safetensors"))
    weighed = ("net.py:Own", "--weights", "net.safetensors", "--data", "data.npz", "--eps", "1/50")
    again = call("attack", "auto_pgd", *weighed, "--steps", "40", "--json")
    right = figures["after"]["attacked"][0]
    attacked = json.loads(again.stdout)
    assert len(case.y) - attacked["succeeded"] - attacked["at_goal_before"] == right

    page = Path("report.html").read_text()
    low, high = wilson(right, len(case.y))
    for text in (
        "Is it stronger now?",
        "under Auto-PGD, linf ≤ 0.02",
        f"{100 * low:.1f}, {100 * high:.1f}",
        "weak.py:make",
    ):
        assert text in page
    assert "<script" not in page


def test_the_summary_names_the_figures(call: Call, case: Case) -> None:
    result = call(*LINE, "--save", "net.safetensors")
    assert result.exit_code == 0, result.stderr
    for word in ("clean accuracy", "under Auto-PGD", "before", "after", "best epoch", "passes forward", "saved"):
        assert word in result.stdout
    assert "[4/4]" in result.stderr


def test_time_that_is_spent_leaves_a_checkpoint_that_the_same_command_takes_up(call: Call, case: Case) -> None:
    words = (*LINE, "--save", "net.safetensors", "--json")
    whole = json.loads(call(*words).stdout)
    stopped = call(*words, "--time", "0.001")
    assert stopped.exit_code == 4
    assert "the same command takes it up again" in stopped.stderr
    assert json.loads(stopped.stdout)["partial"] is True
    resumed = json.loads(call(*words).stdout)
    assert [epoch["counts"] for epoch in resumed["history"]] == [epoch["counts"] for epoch in whole["history"]]
    assert [epoch["loss"] for epoch in resumed["history"]] == [epoch["loss"] for epoch in whole["history"]]


def test_another_request_does_not_take_up_a_checkpoint(call: Call, case: Case) -> None:
    words = (*LINE, "--checkpoint", "here.safetensors")
    assert call(*words).exit_code == 0
    assert Path("here.safetensors").exists(), "one that was named stays"
    other = call(*words, "--steps", "9")
    assert other.exit_code == 2
    assert "is of another training" in other.stderr
    np.savez("here.safetensors.npz", x=1)
    damaged = call(*LINE, "--checkpoint", "here.safetensors.npz")
    assert damaged.exit_code == 2
    assert "cannot read here.safetensors.npz" in damaged.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "n_fgms"), "did you mean n_fgsm"),
        (("--norm", "l0"), "l0"),
        (("-o", "nowhere/report.html"), "nowhere"),
        (("--save", "net.pt"), "end it in .safetensors"),
    ],
)
def test_wrong_requests_are_refused(call: Call, case: Case, words: tuple[str, ...], said: str) -> None:
    result = call(*LINE, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    no_radius = call("defend", "trades", "net.py:Own", "--data", "data.npz")
    assert no_radius.exit_code == 2
    assert "needs a radius" in no_radius.stderr
    unlike = call("defend", "right_reasons", "net.py:Own", "--data", "data.npz")
    assert unlike.exit_code == 2
