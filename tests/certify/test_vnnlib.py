from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ironglass as ig
from enumeration import least, small_mlp
from ironglass.core.errors import InputError
from ironglass.core.properties import Case, Property, margin_property
from ironglass.ops.branching import boxes, verify
from ironglass.ops.branching import problem as problems
from ironglass.ops.branching.problem import Budget, make_problem
from ironglass.ops.branching.witness import Witness
from onnx_files import save_mlp, save_property

pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

SEEDS = (2, 5, 7, 10, 14)
LOW, HIGH = torch.full((3,), 0.25), torch.full((3,), 0.875)


def margin_text(label: int, other: int, limit: float) -> str:
    """What a counterexample does: the label's lead over the other class is at most the limit."""
    return f"(<= (- Y_{label} Y_{other}) {limit!r})"


@pytest.mark.parametrize("few", [16, 0], ids=["boxes", "signs"])
@pytest.mark.parametrize("seed", SEEDS)
def test_limits_on_either_side_of_the_exact_minimum_are_told_apart(
    seed: int, few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FEW", few)
    net = small_mlp(seed, scale=2.5, dtype=torch.float32)
    file = save_mlp(tmp_path / "net.onnx", net)
    row = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    exact = least(net, LOW, HIGH, row)
    for limit, outcome in ((exact - 0.02, "verified"), (exact + 0.02, "falsified")):
        prop = save_property(tmp_path / "p.vnnlib", LOW, HIGH, 3, [margin_text(0, 1, limit)])
        verdict = ig.certify.vnnlib(file, prop, time=None)
        assert verdict.outcome == outcome
        assert (verdict.bound > 0) == (outcome == "verified")
        if outcome == "falsified":
            x = verdict.x[0]
            assert bool(((x >= LOW) & (x <= HIGH)).all())
            assert float(net(verdict.x)[0].double() @ row) <= limit
            torch.testing.assert_close(verdict.outputs, net(verdict.x))


def test_cases_with_several_rows_and_several_boxes(tmp_path: Path) -> None:
    """A counterexample has to meet all rows of one case: with one row that nothing meets there is none."""
    net = small_mlp(7, scale=2.5, dtype=torch.float32)
    file = save_mlp(tmp_path / "net.onnx", net)
    row = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    exact = least(net, LOW, HIGH, row)
    easy, hard = margin_text(0, 1, exact + 5), margin_text(0, 1, exact - 0.05)
    both = save_property(tmp_path / "both.vnnlib", LOW, HIGH, 3, [easy, hard])
    one = save_property(tmp_path / "one.vnnlib", LOW, HIGH, 3, [f"(or (and {easy} {hard}) (and {hard}) (and {easy}))"])
    assert ig.certify.vnnlib(file, both).outcome == "verified"
    assert ig.certify.vnnlib(file, one).outcome == "falsified"


def test_a_property_of_no_point_is_verified_and_one_of_every_point_falsified(tmp_path: Path) -> None:
    net = small_mlp(7, dtype=torch.float32)
    file = save_mlp(tmp_path / "net.onnx", net)
    nothing = save_property(tmp_path / "n.vnnlib", LOW, HIGH, 3, ["(<= X_0 0.1)", "(<= Y_0 0)"])
    everything = save_property(tmp_path / "e.vnnlib", LOW, HIGH, 3, [])
    assert ig.certify.vnnlib(file, nothing).outcome == "verified"
    assert ig.certify.vnnlib(file, everything).outcome == "falsified"


def test_outputs_are_the_files_own_also_after_a_softmax(tmp_path: Path) -> None:
    """Probabilities are never above 1, logits are: a softmax that was dropped would give a counterexample."""
    net = small_mlp(7, scale=6.0, dtype=torch.float32)
    file = save_mlp(tmp_path / "net.onnx", net, softmax=True)
    prop = save_property(tmp_path / "p.vnnlib", LOW, HIGH, 3, ["(or (>= Y_0 1.5) (>= Y_1 1.5) (>= Y_2 1.5))"])
    assert bool((net(torch.rand(50, 3)) > 1.5).any())
    assert ig.certify.vnnlib(file, prop, time=5).outcome != "falsified"


def test_time_that_runs_out_is_a_timeout_and_an_operator_without_bounds_unknown(tmp_path: Path) -> None:
    net = small_mlp(10, sizes=(3, 40, 40, 3), scale=2.5, dtype=torch.float32)
    file = save_mlp(tmp_path / "net.onnx", net)
    points = LOW + (HIGH - LOW) * torch.rand(20000, 3)
    worst = float((net(points)[:, 0] - net(points)[:, 1]).min())
    prop = save_property(tmp_path / "p.vnnlib", LOW, HIGH, 3, [margin_text(0, 1, worst - 0.1)])
    ticks = iter(range(10**9))
    verdict = ig.certify.vnnlib(file, prop, time=20, clock=lambda: float(next(ticks)))
    assert (verdict.outcome, len(verdict.x)) == ("timeout", 0)
    assert "within the time" in verdict.sentence


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    file = save_mlp(tmp_path / "net.onnx", small_mlp(0, dtype=torch.float32))
    prop = save_property(tmp_path / "p.vnnlib", torch.zeros(4), torch.ones(4), 3, ["(<= Y_0 0)"])
    with pytest.raises(InputError, match=r"net\.onnx takes 3 numbers and gives 3, the property speaks of 4 and 3"):
        ig.certify.vnnlib(file, prop)
    with pytest.raises(InputError, match=r"there is no file .*none\.onnx"):
        ig.certify.vnnlib(tmp_path / "none.onnx", prop)


def test_networks_that_are_not_finite_prove_nothing(tmp_path: Path) -> None:
    net = small_mlp(7, dtype=torch.float32)
    net[2].weight[:, 0] = torch.nan
    witness = Witness(net)
    for few in (16, 0):
        prop = margin_property(0, 3, LOW, HIGH)
        made = make_problem(net, prop.cases, (3,))
        settled = verify._proven(made, witness, Budget(5.0)) if few else _signs(made, witness)
        assert not settled.bound > 0
        assert settled.point is None


def _signs(made: Any, witness: Witness) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "FEW", 0)
        return verify._proven(made, witness, Budget(5.0, 50))


def test_a_counterexample_needs_every_judge() -> None:
    net = small_mlp(7, dtype=torch.float32)
    case = Case(LOW.double(), HIGH.double(), torch.tensor([[1.0, 0, 0]], dtype=torch.float64), torch.tensor([1e9]))
    inside, outside = LOW[None] + 0.1, LOW[None] - 1e-6
    assert Witness(net).first(case, torch.cat([outside, inside])) == 1
    assert Witness(net, [lambda x: net(x) + 1e10]).first(case, inside) is None
    assert Witness(net, [lambda x: net(x) * torch.nan]).first(case, inside) is None


def test_a_counterexample_of_rounding_alone_is_none() -> None:
    """In float32 the sum is 0, in float64 it is not: no rounding makes a counterexample."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 1)).requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1e8, 1.0, -1e8]]))
    net[0].bias.zero_()
    x = torch.tensor([[1.0, 0.5, 1.0]])
    row = torch.ones(1, 1, dtype=torch.float64)
    case = Case(x[0].double() - 0.1, x[0].double() + 0.1, row, torch.tensor([0.25], dtype=torch.float64))
    assert float(net(x)) <= 0.25
    assert Witness(net).first(case, x) is None


def test_rows_that_single_precision_cannot_hold_are_bounded_in_double() -> None:
    net = small_mlp(7, dtype=torch.float32)
    cases = [
        Case(LOW.double(), HIGH.double(), torch.tensor([[value, 0, 0]], dtype=torch.float64), torch.zeros(1).double())
        for value in (0.5, 0.1)
    ]
    assert make_problem(net, cases[:1], (3,)).rows.dtype == torch.float32
    assert make_problem(net, cases, (3,)).rows.dtype == torch.float64


def test_the_box_of_bounds_is_no_smaller_than_the_exact_one() -> None:
    values = torch.tensor([0.1, 1 / 3, -0.7, 2.0**-140, 0.5], dtype=torch.float64)
    down, up = problems.outward(values, torch.float32), -problems.outward(-values, torch.float32)
    assert bool((down.double() <= values).all() and (up.double() >= values).all())
    assert bool((up.double() - down.double() <= values.abs() * 2.0**-22 + 2.0**-140).all())


def _unsound(tmp_path: Path) -> bool:
    """Whether some property that points break is verified."""
    for seed in SEEDS:
        net = small_mlp(seed, scale=2.5, dtype=torch.float32)
        exact = least(net, LOW, HIGH, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
        row = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
        case = Case(LOW.double(), HIGH.double(), row, torch.tensor([exact + 0.05], dtype=torch.float64))
        blind = Witness(net, [lambda x: x * torch.nan])  # no counterexample is ever seen: the proof stands alone
        made = make_problem(net, Property((case,), 3, 3).cases, (3,))
        if boxes.by_boxes(made, made.graph(), blind, Budget(None, 300)).bound > 0:
            return True
    return False


def test_canary_a_box_that_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halved = boxes._halved

    def dropped(part: Any) -> Any:
        halves, stuck = halved(part)
        return halves.take(torch.arange(len(part.low))), stuck

    assert not _unsound(tmp_path)
    monkeypatch.setattr(boxes, "_halved", dropped)
    assert _unsound(tmp_path)


def test_canary_a_box_cut_beside_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The halves leave a gap between them."""
    halved = boxes._halved

    def gap(part: Any) -> Any:
        halves, stuck = halved(part)
        halves.high = halves.high.lerp(halves.low, 0.3)
        return halves, stuck

    monkeypatch.setattr(boxes, "_halved", gap)
    assert _unsound(tmp_path)


QUICK = (
    "acasxu:acasxu_2_1:prop_2.vnnlib", "acasxu:acasxu_3_1:prop_3.vnnlib", "acasxu:acasxu_2_7:prop_4.vnnlib",
    "mnistfc:mnistfc_256x2:prop_12_0.03.vnnlib", "mnistfc:mnistfc_256x2:prop_7_0.03.vnnlib",
    "mnistfc:mnistfc_256x4:prop_12_0.03.vnnlib",
)  # fmt: skip


def _matches(shared_data: Path, name: str, time: float | None) -> None:
    manifest = json.loads((shared_data / "cert" / "manifest.json").read_text())
    spec = manifest["specs"][name]
    model = shared_data / "cert" / manifest["models"][spec["model"]]["file"]
    verdict = ig.certify.vnnlib(model, shared_data / "cert" / spec["file"], time=time)
    said = {"verified": "unsat", "falsified": "sat"}.get(verdict.outcome)
    assert {said, spec["verdict"]} != {"sat", "unsat"}, f"{name}: {verdict.sentence}, known: {spec['verdict']}"
    if name in QUICK:
        assert said == spec["verdict"]


@pytest.mark.parametrize("name", QUICK)
def test_published_properties_get_their_known_verdicts(name: str, shared_data: Path) -> None:
    _matches(shared_data, name, None)


@pytest.mark.slow
def test_no_verdict_contradicts_a_known_one(shared_data: Path) -> None:
    manifest = json.loads((shared_data / "cert" / "manifest.json").read_text())
    for name in list(manifest["specs"])[::5]:
        _matches(shared_data, name, 10.0)
