"""``bench``: models by name, studies of them, experiments without; on linear models known in closed form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ironglass as ig
from ironglass.bench.payoff import Game
from ironglass.core.catalogue import catalogue
from ironglass.core.findings import read

from .conftest import Case

MODELS = ("net.py:Own", "net.py:talks")


def test_every_entry_has_a_page_of_help(call: Any) -> None:
    listed = call("bench", "--help").stdout
    for card in catalogue().values():
        if card.family == "bench":
            assert card.name in listed
            page = call("bench", card.name, "--help")
            assert page.exit_code == 0
            assert "--output" in page.stdout
            assert ("--norm" in page.stdout) == bool(card.norms)
            assert ("--data" in page.stdout) == (card.decorator == "study")
            shown = call("show", card.name)
            assert f"ironglass bench {card.name}" in shown.stdout


def test_a_game_is_printed_written_and_saved(call: Any, case: Case, tmp_path: Path) -> None:
    page, kept = tmp_path / "game.html", tmp_path / "game.safetensors"
    done = call(
        "bench", "game", *MODELS, "--data", "data.npz", "--eps", "0.05", "--attacks", "fgsm", "-o", str(page),
        "--save", str(kept),
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    share = 1 - float(case.falls.double().mean())
    assert f"{share:.0%}" in done.stdout
    assert "The game is worth" in done.stdout
    assert "<svg" in page.read_text(encoding="utf-8")
    found = ig.load(kept)
    assert isinstance(found, Game)
    assert found.values[0].tolist() == pytest.approx([share, share])
    assert tuple(found.row_names) == ("fgsm", "fgsm (transferred)")


def test_one_json_value_holds_the_numbers_and_the_tables(call: Any, case: Case) -> None:
    done = call(
        "bench", "security_curve", "net.py:Own", "--data", "data.npz", "--eps", "0.05", "--points", "2", "--json"
    )
    told = json.loads(done.stdout)
    assert told["method"] == "security_curve"
    assert told["values"][0][0] == 1
    assert told["values"][0][-1] == pytest.approx(1 - float(case.falls.double().mean()), abs=0.02)
    assert told["tables"][0]["rows"][0][0]
    assert told["threat"] == {"norm": "linf", "eps": 0.05}
    assert told["cost"]["backward"] > 0


def test_a_report_is_data_too(call: Any, case: Case, tmp_path: Path) -> None:
    path = tmp_path / "frontier.json"
    done = call("bench", "frontier", *MODELS, "--data", "data.npz", "--eps", "0.05", "--steps", "10", "-o", str(path))
    assert done.exit_code == 0, done.stderr
    report = read(path)
    (section,) = report.sections
    assert [chart.id for chart in section.scatters] == ["frontier-linf", "frontier-l2"]
    assert section.matrices[0].id == "frontier-transfer"
    assert any(what == "Command" and "bench frontier" in value for what, value in report.reproduce)


def test_an_experiment_takes_no_model(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "odds.html"
    done = call("bench", "robustness_at_odds", "--chance", "0.9", "-o", str(path))
    assert done.exit_code == 0, done.stderr
    assert "90.0%" in done.stdout
    assert path.exists()
    assert call("bench", "robustness_at_odds", "net.py:Own").exit_code == 2


def test_the_cost_is_told_before(call: Any, case: Case) -> None:
    done = call("bench", "game", *MODELS, "--data", "data.npz", "--eps", "0.05", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert told["passes"] == 45 * 2 * 2 * len(case.y)
    assert len(told["models"]) == 2


def test_attacks_take_their_options_from_the_configuration(call: Any, case: Case, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[audit.options.pgd]\nsteps = 3\nrandom_start = false\n")
    words = ("bench", "game", "net.py:Own", "--data", "data.npz", "--eps", "0.05", "--attacks", "pgd", "--json")
    plain, short = (json.loads(call(*words, *more).stdout) for more in ((), ("--config", str(config))))
    assert short["cost"]["backward"] < plain["cost"]["backward"]
    assert short["cost"]["backward"] <= 3 * len(case.y)


def test_wrong_requests_are_refused_with_a_fix(call: Any, case: Case) -> None:
    for words, said in (
        (("game", "net.py:Own", "--data", "data.npz"), "needs a radius"),
        (("game", "net.py:Own", "net.py:Own", "--data", "data.npz", "--eps", "0.1"), "given twice"),
        (("game", "net.py:Own", "--data", "data.npz", "--eps", "0.1", "-o", "game.txt"), "cannot tell what to write"),
        (("game", "net.py:Own", "--eps", "0.1"), "no data"),
        (("gaem",), "did you mean game"),
        (("pgd",), "belongs to attack"),
    ):
        done = call("bench", *words)
        assert done.exit_code == 2, words
        assert said in done.stderr, (words, done.stderr)
    weights = torch.zeros(1)
    torch.save(weights, "w.pt")
    done = call("bench", "game", *MODELS, "--weights", "w.pt", "--data", "data.npz", "--eps", "0.1")
    assert done.exit_code == 2


def test_defences_are_more_columns(call: Any, case: Case) -> None:
    done = call(
        "bench", "game", MODELS[0], "--defence", "feature_squeezing:bits=1", "--defence", "feature_squeezing:bits=8",
        "--data", "data.npz", "--eps", "0.05", "--attacks", "fgsm", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    net = told["models"][0]
    assert told["models"] == [net, f"{net} behind feature_squeezing:bits=1", f"{net} behind feature_squeezing:bits=8"]
    assert told["rows"][:2] == ["fgsm", "fgsm (unaware)"]
