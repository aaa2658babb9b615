from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ironglass.core.diagnosis import Diagnosis
from ironglass.core.results import AttackResult, Attribution, Certificate, load
from ironglass.core.statistics import wilson

from .conftest import EPS, Call, Case

PGD = ("attack", "pgd", "net.py:Own", "--data", "data.npz", "--eps", "1/20", "--steps", "10")


def value(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_an_attack_agrees_with_the_closed_form(call: Call, case: Case) -> None:
    figures = value(call(*PGD, "--json"))
    falls, total = int(case.falls.sum()), len(case.y)
    assert (figures["succeeded"], figures["tried"], figures["at_goal_before"]) == (falls, total, 0)
    assert figures["success"] == falls / total
    assert (figures["success_low"], figures["success_high"]) == wilson(falls, total)
    assert figures["threat"] == {"norm": "linf", "eps": EPS}
    assert figures["options"]["steps"] == 10
    assert 0 < figures["median_distance"] <= EPS * (1 + 1e-6)
    assert figures["forward_per_sample"] > 1
    assert figures["backward_per_sample"] >= 1


def test_the_summary_has_the_same_figures(call: Call, case: Case) -> None:
    text = call(*PGD).stdout
    assert f"{int(case.falls.sum())} of {len(case.y)} samples" in text
    for word in ("95% interval", "median distance", "median queries", "passes a sample", "seconds", "linf ≤ 0.05"):
        assert word in text


def test_save_writes_what_load_reads(call: Call, case: Case) -> None:
    figures = value(call(*PGD, "--json", "--save", "adv.safetensors"))
    result = load(figures["saved"])
    assert isinstance(result, AttackResult)
    assert torch.equal(result.success, case.falls)


def test_a_target_is_reached_by_the_samples_that_are_not_there(call: Call, case: Case) -> None:
    figures = value(call(*PGD, "--json", "--target", "1"))
    there = case.y == 1
    assert figures["goal"] == "targeted"
    assert figures["at_goal_before"] == int(there.sum())
    assert figures["succeeded"] == int((case.falls & ~there).sum())


def test_without_a_radius_the_method_says_what_it_needs(call: Call, case: Case) -> None:
    result = call("attack", "pgd", "net.py:Own", "--data", "data.npz")
    assert result.exit_code == 2
    assert "finite eps" in result.stderr
    result = call("certify", "interval", "net.py:Own", "--data", "data.npz")
    assert result.exit_code == 2
    assert "--eps 8/255" in result.stderr


def test_the_file_sets_options_and_flags_win(call: Call, case: Case) -> None:
    Path("iron.toml").write_text('[audit]\neps = 0.01\nnorm = "l2"\n[audit.options.pgd]\nsteps = 3\nloss = "margin"\n')
    words = ("attack", "pgd", "net.py:Own", "--data", "data.npz", "--json", "--config", "iron.toml")
    figures = value(call(*words))
    assert (figures["options"]["steps"], figures["options"]["loss"]) == (3, "margin")
    assert figures["threat"] == {"norm": "l2", "eps": 0.01}
    figures = value(call(*words, "--steps", "4", "--norm", "linf", "--eps", "0.02"))
    assert (figures["options"]["steps"], figures["options"]["loss"]) == (4, "margin")
    assert figures["threat"] == {"norm": "linf", "eps": 0.02}
    Path("iron.toml").write_text("[audit.options.pgd]\nstepz = 3\n")
    result = call(*words, "--eps", "0.1")
    assert result.exit_code == 2
    assert "did you mean steps?" in result.stderr
    Path("iron.toml").write_text("[audit.options.pgd]\nsteps = 3.5\n")
    result = call(*words, "--eps", "0.1")
    assert result.exit_code == 2
    assert "iron.toml: options.pgd.steps: '3.5' is not a valid integer" in result.stderr
    Path("iron.toml").write_text('[audit.options.pgd]\nstep_size = "1/100"\nrandom_start = false\n')
    options = value(call(*words, "--eps", "0.1"))["options"]
    assert (options["step_size"], options["random_start"]) == (0.01, False)
    assert value(call(*words, "--eps", "0.1", "--step-size", "inf"))["options"]["step_size"] is None


def test_max_queries_is_the_option_of_a_method_that_has_one(call: Call, case: Case) -> None:
    words = ("attack", "square", "net.py:Own", "--data", "data.npz", "--eps", "0.01", "--max-queries", "7", "--json")
    figures = value(call(*words))
    assert figures["options"]["max_queries"] == 7
    assert figures["forward_per_sample"] <= 7 + 2  # one before, one to judge


def test_the_seed_is_kept_and_repeats(call: Call, case: Case) -> None:
    words = ("attack", "random_noise", "net.py:Own", "--data", "data.npz", "--eps", "0.2", "--json", "--save")
    first, again, other = (
        value(call(*words, f"{name}.safetensors", "--seed", seed))
        for name, seed in (("a", "5"), ("b", "5"), ("c", "6"))
    )
    assert first["seed"] == first["options"]["seed"] == 5
    points = [load(run["saved"]) for run in (first, again, other)]
    assert all(isinstance(point, AttackResult) for point in points)
    a, b, c = (point.adversarial for point in points)  # type: ignore[attr-defined]
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_samples_are_at_most_so_many(call: Call, case: Case) -> None:
    assert value(call(*PGD, "--json", "--samples", "7"))["samples"] == 7


def test_a_dry_run_says_what_it_would_cost(call: Call, case: Case) -> None:
    figures = value(call(*PGD, "--dry-run", "--json"))
    assert figures["passes_per_sample"] == 2 * 10 + 1
    assert figures["passes"] == 21 * len(case.y)
    text = call(*PGD, "--dry-run").stdout
    assert "steps = 10" in text
    assert "21 passes a sample" in text


def test_a_model_of_labels_alone_is_attacked_by_labels_alone(call: Call, case: Case) -> None:
    words = ("net.py:labels", "--data", "data.npz", "--eps", "0.3", "--classes", "2")
    assert value(call("attack", "random_noise", *words, "--tries", "5", "--json"))["tried"] == len(case.y)
    result = call("attack", "pgd", *words)
    assert result.exit_code == 2
    assert "pgd needs gradient" in result.stderr
    assert "--access labels" in result.stderr


def test_normalization_a_feature_and_for_all(call: Call, case: Case) -> None:
    plain = ("explain", "saliency", "net.py:Own", "--data", "data.npz", "--index", "0", "--json")
    half = value(call(*plain, "--std", "2"))["maps"][0]
    each = value(call(*plain, "--std", "2,2,2,2,2,2", "--mean", "0,0,0,0,0,0"))["maps"][0]
    assert half == each
    weight = case.weight[half["target"]]
    assert half["sum"] == pytest.approx(float(weight.abs().sum()) / 2, rel=1e-5)


def test_an_explanation_agrees_with_the_closed_form(call: Call, case: Case) -> None:
    words = ("explain", "saliency", "net.py:Own", "--data", "data.npz", "--index", "2,0:2", "--json")
    maps = value(call(*words))["maps"]
    assert [row["sample"] for row in maps] == ["data[2]", "data[0]", "data[1]"]
    assert [row["target"] for row in maps] == case.y[[2, 0, 1]].tolist()
    for row in maps:
        weight = case.weight[row["target"]].abs()
        assert row["strongest"][0]["at"] == [int(weight.argmax())]
        assert row["strongest"][0]["value"] == pytest.approx(float(weight.max()), rel=1e-5)
    assert all(row["target"] == 1 for row in value(call(*words, "--target", "1"))["maps"])


def test_a_layer_and_a_unit_are_explained_by_flags(call: Call, case: Case) -> None:
    Path("deep.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).eval()\n"
    )
    words = ("explain", "saliency", "deep.py:make", "--data", "data.npz", "--index", "0:2")
    (row, _) = value(call(*words, "--at", "1", "--unit", "2[1]", "--json"))["maps"]
    assert row["class"] == "unit 2[1]"
    assert all(each["at"] < [4] for each in row["strongest"])
    assert "strongest in 1 [" in call(*words, "--at", "1").stdout
    assert call(*words, "--at", "1", "-o", "layer.html").exit_code == 0, "a table, where the layer is no picture"
    assert call(*words, "--at", "9").exit_code == 2
    assert call(*words, "--target", "1", "--unit", "2[1]").exit_code == 2


def test_maps_are_drawn_or_saved(call: Call, case: Case) -> None:
    words = ("explain", "saliency", "net.py:Own", "--data", "data.npz", "--index", "0:3")
    result = call(*words, "-o", "maps.html")
    assert result.exit_code == 0, result.stderr
    page = Path("maps.html").read_text()
    assert "<!doctype html>" in page.lower()
    assert all(f"data[{i}]" in page for i in range(3))
    assert "://" not in page
    assert call(*words, "-o", "maps.safetensors").exit_code == 0
    saved = load("maps.safetensors")
    assert isinstance(saved, Attribution)
    assert saved.values.shape == (3, 6)


def test_pictures_are_drawn_beside_their_maps(call: Call, case: Case) -> None:
    Path("pictures.py").write_text(
        "import torch\n"
        "def make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
        "def data():\n    return torch.rand(2, 1, 8, 8), torch.tensor([0, 1])\n"
    )
    result = call("explain", "saliency", "pictures.py:make", "--data", "pictures.py:data", "-o", "maps.html")
    assert result.exit_code == 0, result.stderr
    assert Path("maps.html").read_text().count("data:image/png;base64,") == 4


def test_a_proof_agrees_with_the_closed_form(call: Call, case: Case) -> None:
    words = ("certify", "interval", "net.py:Own", "--data", "data.npz", "--eps", "0.05")
    figures = value(call(*words, "--json", "--save", "proof.safetensors"))
    stands = int((~case.falls).sum())
    assert (figures["kind"], figures["verified"]) == ("proof", stands)
    assert (figures["share_verified_low"], figures["share_verified_high"]) == wilson(stands, len(case.y))
    saved = load("proof.safetensors")
    assert isinstance(saved, Certificate)
    assert torch.equal(saved.verified, ~case.falls)
    text = call(*words).stdout
    assert "may be safe or not" in text
    assert "unsafe" not in text


def test_an_estimate_is_called_one(call: Call, case: Case) -> None:
    words = ("certify", "clever", "net.py:Own", "--data", "data.npz", "--eps", "0.05", "--samples", "3")
    few = ("--batches", "4", "--clever-samples", "4")
    text = call(*words, *few).stdout
    assert "an estimate, without guarantee: nothing is proven" in text
    assert "verified" not in text
    figures = value(call(*words, *few, "--json"))
    assert figures["kind"] == "estimate"
    assert figures["samples"] == 3
    assert figures["options"]["samples"] == 4
    assert "verified" not in json.dumps(figures)


def test_class_names_are_read_from_a_file(call: Call, case: Case) -> None:
    Path("names.txt").write_text("no\n\nyes\n")
    words = ("explain", "saliency", "net.py:Own", "--data", "data.npz", "--labels", "names.txt", "--json")
    assert {row["class"] for row in value(call(*words))["maps"]} <= {"no", "yes"}
    Path("names.txt").write_text("no\nyes\nmaybe\n")
    result = call(*words)
    assert result.exit_code == 2
    assert "3 labels for 2 classes" in result.stderr
    Path("names.txt").write_text("")
    assert call(*words).exit_code == 2


def test_workers_give_the_same_answer(call: Call, case: Case) -> None:
    Path("linear.py").write_text(
        "import torch\nfrom net import Own\ndef make():\n    return torch.nn.Sequential(Own().layer)\n"
    )
    words = ("attack", "pgd", "linear.py:make", "--data", "data.npz", "--eps", "0.05", "--steps", "3", "--json")
    one, two = value(call(*words)), value(call(*words, "--workers", "2"))
    assert (one["succeeded"], one["median_distance"]) == (two["succeeded"], two["median_distance"])


MASKING = ("metric", "masking_alarms", "--data", "data.npz", "--eps", "1/20", "--steps", "5", "--queries", "30")


def test_a_diagnosis_agrees_with_the_closed_form_and_is_saved(call: Call, case: Case) -> None:
    figures = value(call(*MASKING, "net.py:Own", "--json", "--save", "found.safetensors"))
    assert figures["fooled"] == int(case.falls.sum())
    assert figures["alarms"] == figures["causes"] == []
    rows = {row["check"]: row for row in figures["checks"]}
    assert (rows["random"]["shown"], rows["random"]["asked"]) == (0, len(case.y))
    assert rows["transfer"]["verdict"] == "not run"
    result = load(figures["saved"])
    assert isinstance(result, Diagnosis)
    assert torch.equal(result.broken, case.falls)


def test_a_diagnosis_prints_its_checks_and_what_an_alarm_means(call: Call, case: Case) -> None:
    code = "\n\nclass Soft(Own):\n    def forward(self, x):\n        return self.layer(x).softmax(1)\n"
    (case.folder / "soft.py").write_text((case.folder / "net.py").read_text() + code)
    text = call(*MASKING, "soft.py:Soft").stdout
    assert re.search(rf"probabilities +alarm +{len(case.y)} of {len(case.y)}\n", text)
    assert "probabilities: The outputs are probabilities" in text
    assert "Remedy: attack the logits" in text
    assert re.search(r"transfer +not run\n", text)
    assert "0 alarms: nothing speaks against the robustness measured" in call(*MASKING, "net.py:Own").stdout


def test_a_metric_that_needs_more_than_a_model_is_run_from_python(call: Call, case: Case) -> None:
    for name in ("completeness", "transfer_matrix"):
        result = call("metric", name, "net.py:Own", "--data", "data.npz")
        assert result.exit_code == 2
        assert f"{name} is run from Python" in result.stderr
        assert f"ironglass show {name}" in result.stderr
    assert "masking_alarms" in call("metric", "--help").stdout
    assert "completeness" not in call("metric", "--help").stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("masking_alarms", "ig.metric.masking_alarms(model, x, y, ig.Linf(8/255), steps=40"),
        ("transfer_matrix", "ig.metric.transfer_matrix(models, x, y, ig.Linf(8/255), attack='pgd'"),
        ("unit_semantics", "ig.metric.unit_semantics(models, x, y, layer=None"),
    ],
)
def test_show_has_the_line_to_copy(call: Call, name: str, line: str) -> None:
    assert line in call("show", name).stdout
