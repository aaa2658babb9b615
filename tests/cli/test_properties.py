from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from enumeration import small_mlp
from ironglass.core.properties import Verdict
from ironglass.core.results import load
from onnx_files import save_mlp, save_property

from .conftest import Call

pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_mlp(Path("net.onnx"), small_mlp(7, dtype=torch.float32))
    low, high = torch.full((3,), 0.25), torch.full((3,), 0.75)
    for name, limit in (("true", -1e4), ("false", 1e4)):
        save_property(Path(f"{name}.vnnlib"), low, high, 3, [f"(<= Y_0 {limit})"])


def test_a_proof_exits_with_0(call: Call) -> None:
    result = call("certify", "vnnlib", "net.onnx", "true.vnnlib")
    assert result.exit_code == 0, result.stderr
    assert "net.onnx: true is proven (1 boxes)" in result.stdout
    assert "proven bound" in result.stdout


def test_a_counterexample_exits_with_1_is_shown_and_saved(call: Call) -> None:
    result = call("certify", "vnnlib", "net.onnx", "false.vnnlib", "--save", "x.safetensors")
    assert result.exit_code == 1, result.stderr
    assert "false does not hold: a counterexample was found and checked" in result.stdout
    assert "X_0 = " in result.stdout
    assert "Y_2 = " in result.stdout
    saved = load("x.safetensors")
    assert isinstance(saved, Verdict)
    assert saved.x.shape == (1, 3)


def test_json_has_the_whole_counterexample(call: Call) -> None:
    figures = json.loads(call("certify", "vnnlib", "net.onnx", "false.vnnlib", "--json").stdout)
    assert figures["verdict"] == "falsified"
    assert len(figures["counterexample"]) == 3
    assert len(figures["outputs"]) == 3


def test_time_that_runs_out_exits_with_4(call: Call) -> None:
    save_mlp(Path("large.onnx"), small_mlp(10, sizes=(3, 60, 60, 60, 3), scale=4.0, dtype=torch.float32))
    low, high = torch.full((3,), 0.0), torch.full((3,), 1.0)
    net = small_mlp(10, sizes=(3, 60, 60, 60, 3), scale=4.0, dtype=torch.float32)
    worst = float(net(torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)))[:, 0].min())
    save_property(Path("hard.vnnlib"), low, high, 3, [f"(<= Y_0 {worst - 1.0})"])
    result = call("certify", "vnnlib", "large.onnx", "hard.vnnlib", "--time", "0.001")
    assert result.exit_code == 4, result.stdout
    assert "neither proven nor refuted within the time" in result.stdout


def test_wrong_requests_exit_with_2(call: Call) -> None:
    for words in (("none.onnx", "true.vnnlib"), ("net.onnx", "none.vnnlib"), ("net.onnx",)):
        result = call("certify", "vnnlib", *words)
        assert result.exit_code == 2
        assert "ironglass:" in result.stderr


def test_the_verb_lists_it_beside_the_methods(call: Call) -> None:
    text = call("certify", "--help").stdout
    assert "vnnlib" in text
    assert "beta_crown" in text
    assert "PROPERTY" in call("certify", "vnnlib", "--help").stdout
