from __future__ import annotations

import json

import pytest

from ironglass.attack.gradient import pgd as file
from ironglass.cli import doctor
from ironglass.core.errors import MissingExtra

from .conftest import Call


def test_the_doctor_finds_a_healthy_installation(call: Call) -> None:
    result = call("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert [row["name"] for row in facts["self_test"]] == ["pgd", "saliency"]
    assert all(row["ok"] for row in facts["self_test"])
    assert facts["libraries"]["torch"]
    assert facts["threads"] >= 1
    text = call("doctor").stdout
    assert "ok in" in text
    assert "failed" not in text


def test_a_broken_method_is_found(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(file, "pgd", file)
    monkeypatch.setattr(method, "raw", lambda model, x, goal, threat, **options: x)
    result = call("doctor")
    assert result.exit_code == 3
    assert "pgd          failed" in result.stdout
    assert "saliency     ok" in result.stdout

    def raises(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(method, "raw", raises)
    assert "no luck" in call("doctor").stdout


def test_extras_say_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", "nosuchlibrary>=1; extra == 'odd'", 'click>=8; extra == "odd"', "pytest; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert doctor.extras() == {"odd": {"missing": ["nosuchlibrary"], "install": "pip install 'ironglass[odd]'"}}
    assert issubclass(MissingExtra, ImportError)
