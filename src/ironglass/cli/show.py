"""``list`` and ``show``: what there is, read from the catalogue."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from ironglass.cli.flags import Flag, Verb
from ironglass.cli.kinds import kind_of
from ironglass.cli.screen import Screen
from ironglass.core.catalogue import FAMILIES, LADDER, TAXONOMY, Card, Option, catalogue, find
from ironglass.core.errors import InputError, suggest

NORMS = ("linf", "l2", "l1", "l0", "wasserstein")
RADII = {"linf": "8/255", "l2": "0.5", "l1": "10", "l0": "20", "wasserstein": "0.1"}
CALLS = {
    "attack": "model, x, y, ig.{norm}({eps})",
    "explain": "model, x, target=None",
    "certify": "model, x, y, ig.{norm}({eps})",
    "estimate": "model, x, y, ig.{norm}({eps})",
    "smoothed": "model, x, y, ig.{norm}({eps})",
    "metric": "model, attribution",
    "diagnose": "model, x, y, ig.{norm}({eps})",
    "study": "models, x, y{threat}",
    "experiment": "",
    "defence": "model",
    "network_defence": "model, x, y, ig.{norm}({eps})",
    "detector": "model, x",
    "uncertainty": "model, x",
    "train": "model, (x, y){threat}",
}
LINES = {
    "attack": "--norm {low} --eps {eps}",
    "explain": "--index 0:8 -o maps.html",
    "certify": "--norm {low} --eps {eps}",
    "estimate": "--norm {low} --eps {eps}",
    "smoothed": "--norm {low} --eps {eps}",
    "diagnose": "--norm {low} --eps {eps}",
    "train": "{threat}--save strong.safetensors -o report.html",
    "experiment": "-o {name}.html",
}
CLASSES = 10


def _plain(card: Card) -> dict[str, Any]:
    return asdict(card) | {"passes": card.passes(CLASSES, {})}


@click.pass_obj
def _list(
    screen: Screen,
    family: str | None,
    access: str | None,
    tag: str | None,
    lecture: str | None,
    norm: str | None,
) -> None:
    known = catalogue().values()
    if family is not None and family not in FAMILIES:
        raise InputError(f"no family called '{family}'", suggest(family, FAMILIES))
    tags = sorted({each for card in known for each in card.tags})
    if tag is not None and tag not in tags:
        raise InputError(f"no method has the tag '{tag}'", suggest(tag, tags))
    cards = [
        card
        for card in known
        if family in (None, card.family)
        and (access is None or LADDER.index(card.access) <= LADDER.index(access))
        and (tag is None or tag in card.tags)
        and (lecture is None or lecture.lower() in card.lecture.lower())
        and (norm is None or norm in card.norms)
    ]
    screen.show([_plain(card) for card in cards], _table(cards, screen))


def _table(cards: list[Card], screen: Screen) -> Iterator[str]:
    """Yields a line a method; a terminal's width cuts the titles, a pipe gets all."""
    wide = max((len(card.name) for card in cards), default=0)
    about = {card.name: _told(card) if all(each.explains for each in cards) else " ".join(card.norms) for card in cards}
    space = max((len(text) for text in about.values()), default=0)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for card in cards:
        line = f"{card.name:{wide}}  {card.family:9} {card.access:9} {about[card.name]:{space}}  {card.title}".rstrip()
        line = line if not width or len(line) <= width else line[: width - 1] + "…"
        yield screen.style(line[:wide], bold=True) + line[wide:]
    if not cards:
        yield "No method fits."


def _told(card: Card) -> str:
    """Returns where an explanation stands among explanations."""
    return ", ".join(getattr(card, axis) for axis in TAXONOMY)


@click.pass_obj
def _show(screen: Screen, method: str) -> None:
    card = find(method)
    screen.show(_plain(card) | {"example": example(card), "python": python(card)}, _page(card, screen))


def example(card: Card) -> str:
    """Returns a command line to copy; empty where the family has no verb."""
    if card.family == "bench" and card.decorator == "study":
        threat = f"--norm {card.norms[0]} --eps {RADII[card.norms[0]]} " if card.norms else ""
        return f"ironglass bench {card.name} net.py:one net.py:other --data test.npz {threat}-o {card.name}.html"
    if card.decorator == "defence":
        return f"ironglass audit net.py:make --data test.npz --defence {card.name}"
    if card.decorator not in LINES:
        return ""
    low, eps = _threat(card)
    models = "" if card.decorator == "experiment" else "net.py:make --data test.npz "
    line = f"ironglass {card.family} {card.name} {models}"
    threat = f"--norm {low} --eps {eps} " if card.norms else ""
    return line + LINES[card.decorator].format(low=low, eps=eps, name=card.name, threat=threat)


def python(card: Card) -> str:
    """Returns the call in Python, with every option at its default."""
    low, eps = _threat(card)
    norm = low.capitalize()
    threat = f", ig.{norm}({eps})" if card.norms else ""
    call = CALLS.get(card.decorator, "model, …").format(norm=norm, eps=eps, threat=threat)
    parts = [call, *(f"{option.name}={option.default!r}" for option in card.options)]
    return f"ig.{card.family}.{card.name}({', '.join(part for part in parts if part)})"


def _threat(card: Card) -> tuple[str, str]:
    low = card.norms[0] if card.norms else "linf"
    return low, RADII[low]


def _page(card: Card, screen: Screen) -> Iterator[str]:
    def head(text: str) -> str:
        return screen.style(text, bold=True)

    yield head(f"{card.title}  ({card.name})")
    yield readable(card.doc.split("\nArgs:")[0].split("\nReturns:")[0])
    yield ""
    facts = {
        "family": card.family + (f", {card.lecture}" if card.lecture else ""),
        "paper": card.paper,
        "needs": f"{card.access}, of {' < '.join(LADDER)}"
        + "".join(f"; {access} with {option}={value}" for option, value, access in card.less),
        "scope": card.scope,
        "kind": {"specific": "specific to kinds of model", "agnostic": "agnostic: any model"}.get(card.kind, card.kind)
        + f"; {card.phase}",
        "explains": {"data": "the data", "model": "the model", "prediction": "a prediction"}.get(card.explains, ""),
        "norms": ", ".join(card.norms),
        "goal": ("untargeted or targeted" if card.targeted else "untargeted") if card.decorator == "attack" else "",
        "inputs": ", ".join(card.inputs),
        "is": _nature(card) if card.decorator == "defence" else "",
        "tags": ", ".join(card.tags),
        "cost": f"{card.passes(CLASSES, {}):,.6g} passes a sample at the defaults, {CLASSES} classes: {card.cost}",
    }
    for name, value in facts.items():
        if value:
            yield f"{head(f'{name:8}')} {value}"
    if card.options:
        yield ""
        yield head("options")
        yield from _options(card)
    yield ""
    if example(card):
        yield head("example")
        yield f"  {example(card)}"
    yield head("python")
    yield "  import ironglass as ig"
    yield f"  {python(card)}"


def _nature(card: Card) -> str:
    """Returns what a defence declares of itself: attacks go through it as that demands."""
    words = (("differentiable", card.differentiable), ("random", card.stochastic))
    return ", ".join(word if is_so else f"not {word}" for word, is_so in words)


def _options(card: Card) -> Iterator[str]:
    rows = [(option.name, _type(option, card), repr(option.default)) for option in card.options]
    names, types, defaults = (max(map(len, column)) for column in zip(*rows, strict=True))
    for (name, kind, default), option in zip(rows, card.options, strict=True):
        where = "" if kind_of(option.type, card.module) else " (from Python only)"
        line = f"  {name:{names}}  {kind:{types}}  {default:>{defaults}}  {readable(option.help)}{where}"
        yield line.rstrip()


def _type(option: Option, card: Card) -> str:
    """Returns an option's type as written, or its choices."""
    kind = kind_of(option.type, card.module)
    return "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else option.type


def readable(text: str) -> str:
    """Returns a docstring without its markup: roles and directives go, the maths stays as it is written."""
    text = re.sub(r":[a-z]+:`([^`]*)`", r"\1", text)
    text = re.sub(r"^( *)\.\. math::[ \n]*", r"\1    ", text, flags=re.MULTILINE)
    return re.sub(r"``?([^`]*)``?", r"\1", text).strip()


VERBS = {
    "list": Verb(
        "list",
        callback=_list,
        help="List the methods: of one FAMILY, or all.",
        params=(
            click.Argument(["family"], required=False),
            Flag("--access", group="Filters", type=click.Choice(LADDER), help="Those a model with this access serves."),
            Flag("--tag", group="Filters", metavar="TAG", help="Those with this tag."),
            Flag("--lecture", group="Filters", metavar="TEXT", help="Those whose lecture has this text."),
            Flag("--norm", group="Filters", type=click.Choice(NORMS), help="Those that work in this norm."),
        ),
    ),
    "show": Verb(
        "show",
        callback=_show,
        help="Show a METHOD: formula, options, cost, paper, lines to copy.",
        params=(click.Argument(["method"]),),
    ),
}
