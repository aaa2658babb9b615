"""VNN-LIB files: properties of networks, as the verification competition writes them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.properties import Case, Property

_TOKEN = re.compile(r'\(|\)|"[^"]*"|[^\s()]+')
_VARIABLE = re.compile(r"([XY])_(\d+)")
_SILENT = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
_MOST = 1 << 17


class Atom(NamedTuple):
    """The inequality ``sum of factor * variable <= limit``; a variable is its letter and its number."""

    factors: dict[tuple[str, int], float]
    limit: float


def read_vnnlib(path: str | Path) -> Property:
    """Reads a property; the file may be packed with gzip.

    The file describes counterexamples: and, or and linear inequalities, of single inputs (a box) or of outputs.

    Args:
        path: ``.vnnlib`` or ``.vnnlib.gz``.

    Raises:
        InputError: if the file cannot be read, or says what is not such a property.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"cannot read {file}: {error}", "give a .vnnlib or .vnnlib.gz file") from error
    return parse_vnnlib(text, file.name.removesuffix(".gz").removesuffix(".vnnlib"))


def parse_vnnlib(text: str, name: str = "") -> Property:
    """Returns the property that a file's text describes.

    Raises:
        InputError: if it says what is not such a property.
    """
    declared: dict[str, set[int]] = {"X": set(), "Y": set()}
    common: list[Atom] = []
    choices: list[list[list[Atom]]] = []
    for tree in _trees(text):
        match tree:
            case ["declare-const", str(variable), "Real"] | ["declare-fun", str(variable), [], "Real"]:
                letter, number = _variable(variable)
                declared[letter].add(number)
            case ["assert", formula]:
                options = _normal(formula, declared)
                if len(options) == 1:
                    common += options[0]
                else:
                    choices.append(options)
            case [str(word), *_] if word in _SILENT:
                continue
            case _:
                raise _wrong(f"{_shown(tree)} is not known")
    sizes = {letter: len(numbers) for letter, numbers in declared.items()}
    for letter, numbers in declared.items():
        if not numbers or numbers != set(range(len(numbers))):
            raise _wrong(f"the {letter}_i that are declared are not X_0, X_1, … in a row")
    whole: list[list[Atom]] = [[]]
    for options in choices:
        if len(whole) * len(options) > _MOST:
            raise _wrong(f"more than {_MOST} cases")
        whole = [[*some, *more] for some in whole for more in options]
    shared = _sorted(common)
    cases = [case for atoms in whole if (case := _case(shared, _sorted(atoms), sizes["X"], sizes["Y"])) is not None]
    return Property(tuple(cases), sizes["X"], sizes["Y"], name)


class _Parts(NamedTuple):
    """A conjunction, taken apart: the ends of inputs, rows of outputs, and whether constants contradict it."""

    low: dict[int, float]
    high: dict[int, float]
    rows: list[Atom]
    empty: bool


def _sorted(atoms: list[Atom]) -> _Parts:
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    rows: list[Atom] = []
    empty = False
    for atom in atoms:
        letters = {letter for letter, _ in atom.factors}
        if not letters:
            empty = empty or atom.limit < 0
        elif letters == {"Y"}:
            rows.append(atom)
        elif len(atom.factors) == 1:
            ((_, i), factor) = next(iter(atom.factors.items()))
            end = atom.limit / factor
            if factor > 0:
                high[i] = min(high.get(i, end), end)
            else:
                low[i] = max(low.get(i, end), end)
        else:
            raise _wrong("an inequality ties several inputs, or inputs to outputs; boxes of inputs are known")
    return _Parts(low, high, rows, empty)


def _case(shared: _Parts, own: _Parts, inputs: int, outputs: int) -> Case | None:
    """The box and the rows of two conjunctions together; None where nothing can meet them."""
    low, high = (
        [kept.get(i, end) for i in range(inputs)] for kept, end in ((shared.low, -torch.inf), (shared.high, torch.inf))
    )
    for i, end in own.low.items():
        low[i] = max(low[i], end)
    for i, end in own.high.items():
        high[i] = min(high[i], end)
    lower, upper = _double(low), _double(high)
    free = (lower.isinf() | upper.isinf()).nonzero()[:, 0].tolist()
    if free:
        raise _wrong(f"X_{free[0]} has no bounds on both sides")
    if shared.empty or own.empty or bool((lower > upper).any()):
        return None
    rows = [*shared.rows, *own.rows]
    weights = torch.zeros(len(rows), outputs, dtype=torch.float64)
    for number, row in enumerate(rows):
        for (_, i), factor in row.factors.items():
            weights[number, i] = factor
    return Case(lower, upper, weights, _double([row.limit for row in rows]))


def _double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _trees(text: str) -> Iterator[object]:
    """The bracketed expressions at the top, as lists of texts and lists."""
    stack: list[list[object]] = []
    for token in _TOKEN.findall(re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            if not stack:
                raise _wrong("a bracket is closed that was not opened")
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        elif stack:
            stack[-1].append(token)
        else:
            raise _wrong(f"'{token}' stands outside brackets")
    if stack:
        raise _wrong("a bracket is not closed")


def _normal(formula: object, declared: dict[str, set[int]]) -> list[list[Atom]]:
    """The formula as a choice of conjunctions."""
    match formula:
        case ["or", *parts] if parts:
            return [option for part in parts for option in _normal(part, declared)]
        case ["and", *parts]:
            whole: list[list[Atom]] = [[]]
            for part in parts:
                options = _normal(part, declared)
                if len(whole) * len(options) > _MOST:
                    raise _wrong(f"more than {_MOST} cases")
                whole = [[*some, *more] for some in whole for more in options]
            return whole
        case ["<=" | ">=" as sign, left, right]:
            less, more = (left, right) if sign == "<=" else (right, left)
            factors, limit = _linear(["-", less, more], declared)
            return [[Atom({key: value for key, value in factors.items() if value}, -limit)]]
    raise _wrong(f"{_shown(formula)} is not known; and, or, <= and >= are")


def _linear(term: object, declared: dict[str, set[int]]) -> tuple[dict[tuple[str, int], float], float]:
    """The factors and the constant of a linear term."""
    match term:
        case str(word) if word[:1] in "XY":
            letter, number = _variable(word)
            if number not in declared[letter]:
                raise _wrong(f"{word} is not declared")
            return {(letter, number): 1.0}, 0.0
        case str(word):
            try:
                return {}, float(word)
            except ValueError:
                raise _wrong(f"'{word}' is neither a variable nor a number") from None
        case ["-", only]:
            return _scaled(_linear(only, declared), -1.0)
        case ["+" | "-" as sign, first, *rest]:
            factors, constant = _linear(first, declared)
            for other in rest:
                more, shift = _scaled(_linear(other, declared), 1.0 if sign == "+" else -1.0)
                factors = {key: factors.get(key, 0.0) + more.get(key, 0.0) for key in factors | more}
                constant += shift
            return factors, constant
        case ["*", left, right]:
            first, second = _linear(left, declared), _linear(right, declared)
            if not first[0]:
                return _scaled(second, first[1])
            if not second[0]:
                return _scaled(first, second[1])
    raise _wrong(f"{_shown(term)} is not linear")


def _scaled(term: tuple[dict[tuple[str, int], float], float], by: float) -> tuple[dict[tuple[str, int], float], float]:
    return {key: value * by for key, value in term[0].items()}, term[1] * by


def _variable(word: str) -> tuple[str, int]:
    match = _VARIABLE.fullmatch(word)
    if match is None:
        raise _wrong(f"a variable is called '{word}'; inputs are X_0, X_1, … and outputs Y_0, Y_1, …")
    return match[1], int(match[2])


def _shown(tree: object) -> str:
    text = f"({' '.join(_shown(part) for part in tree)})" if isinstance(tree, list) else str(tree)
    return text if len(text) < 60 else text[:57] + "…"


def _wrong(what: str) -> InputError:
    return InputError(f"not a property that is understood: {what}", "write the property in VNN-LIB 1.0")
