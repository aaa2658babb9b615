from __future__ import annotations

import json
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import Result

from ironglass.cli.kinds import kind_of
from ironglass.cli.main import VERBS, root
from ironglass.cli.methods import VERBS as METHODS
from ironglass.cli.methods import option_flags
from ironglass.core.catalogue import LADDER, Card, catalogue, make_card

from .conftest import Call

CARDS = list(catalogue().values())
RUN = [card for card in CARDS if card.family in METHODS and METHODS[card.family].runs(card)]
"""Those that a verb runs; the others are run from Python."""


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [card["name"] for card in json.loads(result.stdout)]


def test_list_has_every_method(call: Call) -> None:
    assert names(call("list", "--json")) == [card.name for card in CARDS]
    text = call("list").stdout
    assert all(card.name in text and card.title in text for card in CARDS)
    assert len(text.splitlines()) == len(CARDS)


def test_filters(call: Call) -> None:
    assert names(call("list", "attack", "--json")) == [card.name for card in CARDS if card.family == "attack"]
    blind = names(call("list", "--access", "labels", "--json"))
    assert blind == [card.name for card in CARDS if card.access == "labels"]
    up_to = [card.name for card in CARDS if LADDER.index(card.access) <= LADDER.index("gradient")]
    assert names(call("list", "--access", "gradient", "--json")) == up_to
    assert names(call("list", "--norm", "l2", "--json")) == [card.name for card in CARDS if "l2" in card.norms]
    assert names(call("list", "--lecture", "BLACK-BOX", "--json")) == [
        card.name for card in CARDS if "black-box" in card.lecture.lower()
    ]
    assert names(call("list", "--tag", "control", "--json")) == [card.name for card in CARDS if "control" in card.tags]
    assert "No method fits." in call("list", "--lecture", "no such lecture").stdout


def test_explanations_are_listed_with_their_place_in_the_taxonomy(call: Call) -> None:
    lines = {line.split()[0]: line for line in call("list", "explain").stdout.splitlines()}
    assert "local, agnostic, post hoc, prediction" in lines["lime"]
    assert "local, specific, post hoc, prediction" in lines["lrp"]
    assert "explains the model" in " ".join(call("show", "unit_semantics").stdout.split())
    assert "explains" not in call("show", "pgd").stdout
    assert "linf l2 l1" in call("list", "attack").stdout, "other methods keep their norms"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_show_says_what_the_card_says(call: Call, card: Card) -> None:
    text = call("show", card.name).stdout
    assert card.title in text
    assert card.paper in text
    assert card.access in text
    assert all(option.name in text for option in card.options)
    assert ":math:" not in text
    assert f"ig.{card.family}.{card.name}(" in text
    assert json.loads(call("show", card.name, "--json").stdout)["passes"] == card.passes(10, {})


@pytest.mark.parametrize("card", RUN, ids=lambda card: card.name)
def test_the_example_that_show_prints_is_a_line_that_parses(call: Call, card: Card) -> None:
    line = json.loads(call("show", card.name, "--json").stdout)["example"]
    words = shlex.split(line)[1:]
    with root.make_context("ironglass", words[:1] + words[1:], resilient_parsing=False) as context:
        group = root.get_command(context, words[0])
        assert isinstance(group, click.Group)
        command = group.get_command(context, words[1])
        assert command is not None
        command.make_context(words[1], words[2:], parent=context)


@pytest.mark.parametrize("card", RUN, ids=lambda card: card.name)
def test_every_option_of_a_card_is_a_flag_with_its_help_and_default(card: Card) -> None:
    command = METHODS[card.family].get_command(click.Context(root), card.name)
    assert command is not None
    flags = {str(param.name): param for param in command.params}
    assert len(flags) == len(command.params), "two flags share a name"
    for option in card.options:
        if option.name in ("seed", "max_queries"):
            assert option.name in flags
            continue
        if kind_of(option.type, card.module) is None:  # only Python can give such a value
            assert f"option_{option.name}" not in flags
            continue
        flag = flags[f"option_{option.name}"]
        assert isinstance(flag, click.Option)
        assert flag.default == option.default
        assert flag.help


def test_a_name_that_is_taken_is_written_after_the_method() -> None:
    options = [("samples", "int", 3), ("steps", "int", 1), ("mask", "Tensor | None", None), ("on", "bool", True)]
    literals = {"title": "T", "paper": "p", "access": "labels"}
    card = make_card("spin", "attack", "attack", "ironglass.core.values", "Do it.", literals, options)
    found = option_flags(card, taken={"samples"})
    assert [flag.opts for flag in found] == [["--spin-samples"], ["--steps"], ["--on"], ["--polish"], ["--quantize"]]
    assert found[2].secondary_opts == ["--no-on"]


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(call: Call, verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: ironglass {verb}" in result.stdout


def test_help_comes_in_groups(call: Call) -> None:
    lines = call("attack", "pgd", "--help").stdout.splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Options of pgd:", "Threat:", "Model and data:", "Run:", "Output:"]
    assert "[default: 40]" in "\n".join(lines)


def test_unknown_families_and_tags_are_named(call: Call) -> None:
    for words, near in ((("list", "atack"), "did you mean attack?"), (("list", "--tag", "contrl"), "control")):
        result = call(*words)
        assert result.exit_code == 2
        assert near in result.stderr
        assert not result.stdout


LAZY = """
import sys
from ironglass.cli.main import root
LINES = ["--help", "--version", "list", "list attack --json", "show pgd", "attack --help", "attack pgd --help",
         "audit --help", "attack pdg net.py:make", "attack pgd --stepz 3", "audit --only pdg", "report nowhere.json",
         "explain saliency net.py:make", "certify interval --data d.npz"]
for line in LINES:
    try:
        root.main(line.split(), prog_name="ironglass")
    except SystemExit as exit:
        print(line, "=>", exit.code, file=sys.stderr)
    heavy = {"torch", "numpy", "matplotlib", "jinja2", "scipy"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""


def test_what_only_reads_the_catalogue_never_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = [line.rpartition("=> ")[2] for line in done.stderr.splitlines() if "=> " in line]
    assert codes == ["0"] * 8 + ["2"] * 6


def test_list_imports_neither_torch_nor_numpy() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "ironglass", "list"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "numpy", "rich", "msgspec"}
