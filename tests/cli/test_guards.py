"""``--defence``: the command line attacks the same defended model as Python does, and refuses what is no defence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ironglass as ig
from ironglass.cli.guards import behind, guard
from ironglass.core.results import AttackResult, load

from .conftest import Call, Case

PGD = ("attack", "pgd", "net.py:Own", "--data", "data.npz", "--eps", "0.2", "--steps", "5")


def net(case: Case) -> torch.nn.Module:
    """The network that ``net.py:Own`` makes."""
    layer = torch.nn.Linear(6, 2)
    with torch.no_grad():
        layer.weight.copy_(case.weight)
        layer.bias.copy_(-case.weight.sum(1) / 2)
    return layer.eval()


def test_the_attack_goes_through_the_defence(call: Call, case: Case, tmp_path: Path) -> None:
    kept = tmp_path / "found.safetensors"
    done = call(*PGD, "--defence", "feature_squeezing:bits=1", "--save", str(kept))
    assert done.exit_code == 0, done.stderr
    assert "behind feature_squeezing" in done.stdout
    found = load(kept)
    assert isinstance(found, AttackResult)
    guarded = ig.defend.feature_squeezing(net(case), bits=1)
    expected = ig.attack.pgd(guarded, case.x, case.y, ig.Linf(0.2), steps=5)
    assert torch.equal(found.success, expected.success)
    assert torch.equal(found.adversarial, expected.adversarial)


def test_inputs_go_through_the_first_defence_first(case: Case) -> None:
    both = behind(ig.wrap(net(case)), [guard("feature_squeezing:bits=2"), guard("feature_squeezing:bits=1")])
    x = torch.full((1, 6), 0.4)  # two bits make 1/3 of it, and one bit then 0; one bit first would leave 0 as well
    x[0, 0] = 0.55  # two bits make 2/3 of it, one bit 1
    seen = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    assert torch.allclose(both.scores(x), ig.wrap(net(case)).scores(seen))
    assert both.method.card.name == "feature_squeezing"  # type: ignore[attr-defined]
    assert both.options["bits"] == 2  # type: ignore[attr-defined]  # the outermost is what inputs meet first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feature_squeezing:bitz=1", "did you mean bits"),
        ("feature_squeezing:bits=many", "many"),
        ("feature_squeezing:non_local=11,3,4", "in Python only"),
        ("feature_squeezer", "did you mean feature_squeezing"),
        ("deepcloak", "ironglass show deepcloak"),
    ],
)
def test_what_is_no_defence_is_refused_before_any_work(call: Call, case: Case, text: str, said: str) -> None:
    done = call(*PGD, "--defence", text)
    assert done.exit_code == 2
    assert said in done.stderr
