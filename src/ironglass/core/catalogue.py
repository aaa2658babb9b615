"""The catalogue: every method's card, read from its source with ``ast``, without importing it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError, suggest

PACKAGE = Path(__file__).resolve().parents[1]
FAMILIES = ("explain", "visualize", "attack", "poison", "leak", "defend", "certify", "metric", "bench")
HOMES = {
    "attack": "attack",
    "explain": "explain",
    "certify": "certify",
    "estimate": "certify",
    "smoothed": "certify",
    "metric": "metric",
    "diagnose": "metric",
    "study": "metric",
    "uncertainty": "explain",
    "train": "defend",
    "defence": "defend",
    "network_defence": "defend",
    "detector": "defend",
    "experiment": "bench",
}
"""The family of each kind of method, where its file does not say another."""
DECORATORS = tuple(HOMES)
MADE = ("defence", "network_defence", "detector")
"""Kinds of method that make something of a model: they have no result of their own."""
LADDER = ("labels", "scores", "gradient", "internals", "training")
TAXONOMY = {
    "scope": ("local", "global"),
    "kind": ("specific", "agnostic"),
    "phase": ("model-based", "post hoc"),
    "explains": ("data", "model", "prediction"),
}
"""How explanations are told apart."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method: its name, type as written, default and help."""

    name: str
    type: str
    default: Any
    help: str


FINISH = (
    Option("polish", "int", 0, "rounds of the closed-form polish after the attack: a shorter change for a few passes"),
    Option(
        "quantize",
        "Literal['uint8'] | None",
        None,
        "uint8 to round to the levels of a saved picture, and to repair what rounding undoes",
    ),
)
"""What every attack can be asked besides its own options; the judge does it."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a method without importing it.

    ``access`` is the least the model must give (``labels < scores < gradient < internals < training``), ``scope`` is
    ``local`` or ``global``, ``kind`` is ``specific`` or ``agnostic`` to the model, ``phase`` is ``model-based`` or
    ``post hoc``, ``explains`` is ``data``, ``model`` or ``prediction`` for an explanation and empty for other methods.
    ``cost`` is an expression in the options that gives the expected passes a sample (a forward and its backward count
    as two). With ``finite`` an attack takes no infinite eps; ``needs`` names options whose default None will not do.
    ``less`` are values of options that make do with less access: ``(option, value, access)``.
    A defence says whether it is ``differentiable`` and ``stochastic``: attacks go through it as that demands.
    """

    name: str
    family: str
    decorator: str
    module: str
    title: str
    paper: str
    access: str
    summary: str
    doc: str
    scope: str = "local"
    kind: str = "agnostic"
    phase: str = "post hoc"
    explains: str = ""
    norms: tuple[str, ...] = ()
    finite: bool = False
    differentiable: bool = True
    stochastic: bool = False
    needs: tuple[str, ...] = ()
    less: tuple[tuple[str, str, str], ...] = ()
    targeted: bool = False
    random: bool = False
    inputs: tuple[str, ...] = ()
    lecture: str = ""
    tags: tuple[str, ...] = ()
    cost: str = "1"
    options: tuple[Option, ...] = field(default=())

    def passes(self, classes: int, given: Mapping[str, Any]) -> float:
        """Returns the expected passes a sample for these options: forward passes plus backward passes."""
        values = {option.name: option.default for option in self.options} | dict(given) | {"classes": classes}
        return float(_arithmetic(ast.parse(self.cost, mode="eval").body, values))

    def access_with(self, given: Mapping[str, Any]) -> str:
        """Returns the least the model must give for these options."""
        return next((access for option, value, access in self.less if given.get(option) == value), self.access)

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all options: the defaults, and what was given in their place.

        Raises:
            InputError: if the method has no option of a given name.
        """
        known = {option.name: option.default for option in self.options}
        for name in given:
            if name not in known:
                raise InputError(f"{self.name} has no option '{name}'", suggest(name, known))
        return known | dict(given)


def _arithmetic(node: ast.expr, values: Mapping[str, Any]) -> float:
    """Evaluates ``+ - * / min max len``, numbers and option names; a name that stands for None counts as 0."""
    operations: dict[type[ast.operator], Callable[[float, float], float]] = {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b,
    }
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return float(values[name] or 0)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in operations:
            return operations[type(op)](_arithmetic(left, values), _arithmetic(right, values))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
            return (min if name == "min" else max)(_arithmetic(arg, values) for arg in args)
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)]):
            return float(len(values[name]))
    raise InputError(f"'{ast.unparse(node)}' is not arithmetic in a method's options", "use + - * / min max len")


@cache
def catalogue(root: Path = PACKAGE) -> dict[str, Card]:
    """Returns every method's card by name, in the order of families and files. Reads source; imports nothing."""
    cards: dict[str, Card] = {}
    for family in FAMILIES:
        for path in sorted((root / family).rglob("*.py")):
            for card in _cards_in(path, family, root):
                if card.name in cards:
                    raise InputError(
                        f"{card.name} is defined in {cards[card.name].module} and in {card.module}", "rename one"
                    )
                cards[card.name] = card
    return cards


@cache
def functions(family: str, root: Path = PACKAGE) -> dict[str, str]:
    """Returns a family's plain functions by name, with their modules: each in a file of its name, without a card.

    These work on results of methods, such as the pick of a few explanations among many.
    """
    found = {}
    for path in sorted((root / family).rglob("*.py")):
        if path.stem not in catalogue(root) and f"\ndef {path.stem}(" in path.read_text(encoding="utf-8"):
            found[path.stem] = ".".join((root.name, *path.relative_to(root).with_suffix("").parts))
    return found


def find(name: str, family: str | None = None) -> Card:
    """Returns the card of a method, or an error that names the nearest one."""
    known = {card.name: card for card in catalogue().values() if family in (None, card.family)}
    if name not in known:
        where = f"{family} method" if family else "method"
        raise InputError(f"No {where} called '{name}'.", f"{suggest(name, known)} `ironglass list` shows all of them.")
    return known[name]


def _cards_in(path: Path, family: str, root: Path) -> Iterator[Card]:
    source = path.read_text(encoding="utf-8")
    if not any(f"@{name}(" in source for name in DECORATORS):
        return
    module = ".".join((root.name, *path.relative_to(root).with_suffix("").parts))
    for node in ast.parse(source, filename=str(path)).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id in DECORATORS:
                try:
                    literals = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in mark.keywords}
                    options = [
                        (arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", ast.literal_eval(default))
                        for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                        if default is not None
                    ]
                except ValueError as error:
                    raise InputError(
                        f"{path}:{node.lineno}: the card of {node.name} is not made of literals ({error})",
                        "write numbers, strings and tuples in the decorator and as option defaults",
                    ) from error
                yield make_card(
                    node.name, family, mark.func.id, module, ast.get_docstring(node) or "", literals, options
                )


def card_of(function: Callable[..., Any], decorator: str, literals: Mapping[str, Any]) -> Card:
    """Returns the card of a function in hand: for methods that users define outside the package."""
    options = [
        (parameter.name, str(parameter.annotation), parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    parts = function.__module__.split(".")
    family = parts[1] if len(parts) > 1 and parts[1] in FAMILIES else HOMES[decorator]
    return make_card(
        function.__name__, family, decorator, function.__module__, inspect.getdoc(function) or "", literals, options
    )


def make_card(
    name: str,
    family: str,
    decorator: str,
    module: str,
    doc: str,
    literals: Mapping[str, Any],
    options: list[tuple[str, str, Any]],
) -> Card:
    """Builds a card; both front ends (source and function in hand) end here."""
    helps = _argument_help(doc)
    rows = tuple(Option(option, type_, default, helps.get(option, "")) for option, type_, default in options)
    if decorator == "attack":
        rows += FINISH
    return Card(
        name=name,
        family=family,
        decorator=decorator,
        module=module,
        summary=doc.split("\n\n")[0].replace("\n", " ").strip(),
        doc=doc,
        random=any(row.name == "seed" for row in rows),
        options=rows,
        **{"targeted": decorator in ("attack", "explain"), "explains": "prediction" if family == "explain" else ""}
        | dict(literals),
    )


def _argument_help(doc: str) -> dict[str, str]:
    """Reads the ``Args:`` lines of a Google docstring."""
    helps: dict[str, str] = {}
    last, inside = "", False
    for line in inspect.cleandoc(doc).splitlines():
        if line and not line.startswith(" "):
            inside = line.strip() == "Args:"
            continue
        if not inside or not line.strip():
            continue
        name, colon, text = line.strip().partition(":")
        if len(line) - len(line.lstrip()) == 4 and colon and name.isidentifier():
            last, helps[name] = name, text.strip()
        elif last:
            helps[last] += " " + line.strip()
    return helps
