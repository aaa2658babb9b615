from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ironglass.core.catalogue import DECORATORS, FAMILIES, LADDER, TAXONOMY, Card, catalogue, find
from ironglass.core.errors import InputError
from ironglass.core.method import get


def test_importing_the_package_and_its_catalogue_does_not_import_torch() -> None:
    code = (
        "import sys, ironglass as ig; assert len(ig.catalogue()) >= 10; "
        "print([m for m in sys.modules if m in ('torch', 'numpy')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("card", catalogue().values(), ids=lambda card: card.name)
def test_a_card_read_from_source_is_the_card_of_the_function(card: Card) -> None:
    assert get(card.name).card == card


@pytest.mark.parametrize("card", catalogue().values(), ids=lambda card: card.name)
def test_every_card_is_complete(card: Card) -> None:
    assert card.family in FAMILIES
    assert card.decorator in DECORATORS
    assert card.access in LADDER
    assert card.title
    assert card.paper
    assert card.lecture
    assert card.summary.endswith((".", ":")), card.summary
    assert card.passes(10, {}) >= 0
    assert all(option.help for option in card.options), [o.name for o in card.options if not o.help]
    assert card.name == card.module.rpartition(".")[2], "a method lives in the file of its name"
    for axis, values in TAXONOMY.items():
        assert getattr(card, axis) in (values if card.family == "explain" else ("", *values)), axis


def test_the_taxonomy_agrees_with_what_a_method_asks_of_the_model() -> None:
    for card in catalogue().values():
        if card.decorator == "explain":
            assert (card.kind == "specific") == (LADDER.index(card.access) >= LADDER.index("gradient")), card.name
        if card.explains:
            assert (card.scope == "local") == (card.explains == "prediction"), card.name
    assert find("unit_semantics").explains == "model"


def test_every_paper_is_in_the_bibliography() -> None:
    text = (Path(__file__).parents[2] / "docs" / "refs.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{(\w+),", text, flags=re.MULTILINE))
    assert {card.paper for card in catalogue().values()} <= keys


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean pgd"):
        find("pdg")
    with pytest.raises(InputError, match="No certify method called 'pgd'"):
        find("pgd", "certify")


def _tree(root: Path, body: str) -> Path:
    (root / "attack").mkdir(parents=True)
    (root / "attack" / "mine.py").write_text(body)
    return root


def test_cost_is_arithmetic_in_the_options_and_nothing_else(tmp_path: Path) -> None:
    head = '@attack(title="t", paper="p", access="labels", norms=("l2",), cost="{}")\n'
    body = "def mine(model, x, goal, threat, *, steps: int = 4, k: int | None = None):\n    'Do. '\n"
    root = _tree(tmp_path / "a", head.format("2 * steps + max(k, classes) / 2") + body)
    card = catalogue(root)["mine"]
    assert card.passes(10, {}) == 13
    assert card.passes(10, {"steps": 1, "k": 20}) == 12
    bad = catalogue(_tree(tmp_path / "b", head.format("__import__('os').getpid()") + body))["mine"]
    with pytest.raises(InputError, match="not arithmetic"):
        bad.passes(10, {})


def test_a_card_that_is_not_literal_is_refused_where_it_stands(tmp_path: Path) -> None:
    root = _tree(tmp_path / "c", "@attack(title=TITLE)\ndef mine(model): ...\n")
    with pytest.raises(InputError, match=r"mine\.py:2: the card of mine is not made of literals"):
        catalogue(root)
