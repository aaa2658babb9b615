"""What a flag's text may be, and how an option's annotation says so."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ironglass.core.catalogue import PACKAGE

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic only in late releases

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def number(text: str) -> float:
    """Returns a number that may be written as a fraction, ``8/255``, or ``inf``.

    Raises:
        ValueError: if it is none.
    """
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'{text}' is not a number or a fraction such as 8/255") from None
    if math.isnan(value):
        raise ValueError(f"'{text}' is not a number")
    return value


def duration(text: str) -> float:
    """Returns seconds: ``90s``, ``10m``, ``1h``, ``1h30m`` or a plain number of seconds.

    Raises:
        ValueError: if it is none, or not above 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise ValueError(f"'{text}' is not a time such as 90s, 10m or 1h30m")
    seconds = sum(float(amount) * UNITS[unit] for amount, unit in parts)
    if not seconds > 0:
        raise ValueError(f"'{text}' is no time at all, e.g. 10m")
    return seconds


def rows(text: str) -> tuple[slice, ...]:
    """Returns the slices that ``0:8``, ``5`` or ``0:3,7`` stand for.

    Raises:
        ValueError: if a part is none.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)|(\d*):(\d*)", part.strip())
        if match is None:
            raise ValueError(f"'{text}' names no samples; write 5, 0:8 or 0:3,7")
        one, start, stop = match.groups()
        found.append(
            slice(int(one), int(one) + 1) if one else slice(int(start) if start else None, int(stop) if stop else None)
        )
    return tuple(found)


class Kind(ParamType):
    """A parameter type made of a function that raises ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the value; defaults are values already."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value.strip())
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class Many(ParamType):
    """Values of one type with commas between them, as a tuple."""

    def __init__(self, item: ParamType, count: int | None = None, name: str = "") -> None:
        self.item, self.count = item, count
        self.name = name or f"{item.name},…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the tuple."""
        if not isinstance(value, str):
            return value
        items = tuple(self.item.convert(part.strip(), param, ctx) for part in value.split(",") if part.strip())
        if not items or (self.count is not None and len(items) != self.count):
            wanted = "at least one value" if self.count is None else f"{self.count} values with a comma between"
            self.fail(f"'{value}': {wanted} expected.", param, ctx)
        return items


class Either(ParamType):
    """The first of several types that takes the text; ``none`` is None where that is allowed."""

    def __init__(self, kinds: Sequence[ParamType], optional: bool) -> None:
        self.kinds, self.optional = kinds, optional
        self.name = "|".join(kind.name for kind in kinds)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """Returns a choice's values, or nothing special."""
        for kind in self.kinds:
            if isinstance(kind, click.Choice):
                return f"[{'|'.join(map(str, kind.choices))}]"
        return None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the value; the last type's complaint is the one that is heard."""
        if self.optional and isinstance(value, str) and value.lower() == "none":
            return None
        for kind in self.kinds[:-1]:
            try:
                return kind.convert(value, param, ctx)
            except click.UsageError:
                continue
        return self.kinds[-1].convert(value, param, ctx)


NUMBER = Kind("number", number)
DURATION = Kind("time", duration)
ROWS = Kind("rows", rows)
_PLAIN: dict[str, ParamType] = {"int": click.INT, "float": NUMBER, "str": click.STRING, "bool": click.BOOL}


def kind_of(annotation: str, module: str) -> ParamType | None:
    """Returns the type that an annotation stands for; None if only Python can give such a value.

    Args:
        annotation: as written, e.g. ``int``, ``float | None``, ``Literal["ce", "margin"]``, ``tuple[int, ...]``.
        module: where it is written; a name such as ``LossName`` is looked up there and where that imports it from,
            without importing either.
    """
    return _kind(ast.parse(annotation, mode="eval").body, module) if annotation else None


def _kind(node: ast.expr, module: str) -> ParamType | None:
    match node:
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Name(id=name):
            found = _alias(name, module)
            return _kind(*found) if found else None
        case ast.BinOp(op=ast.BitOr()):
            return _either(_parts(node), module)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _either([inner, ast.Constant(None)], module)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return click.Choice([ast.literal_eval(item) for item in _items(inner)])
        case ast.Subscript(value=ast.Name(id="tuple" | "list" | "Sequence"), slice=inner):
            items = _items(inner)
            kinds = {ast.unparse(item) for item in items} - {"..."}
            kind = _kind(items[0], module) if len(kinds) == 1 else None
            ends = ast.unparse(items[-1]) == "..."
            fixed = isinstance(inner, ast.Tuple) and not ends
            return Many(kind, len(items) if fixed else None) if kind else None
    return None


def _either(parts: list[ast.expr], module: str) -> ParamType | None:
    """Returns the type of a union, without the parts that only Python can give."""
    values = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
    kinds = [kind for kind in (_kind(part, module) for part in values) if kind is not None]
    order = sorted(kinds, key=lambda kind: kind is click.STRING)  # a text takes anything, so it is asked last
    return Either(order, optional=len(values) < len(parts)) if order else None


def _parts(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _parts(left) + _parts(right)
    return [node]


def _items(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _alias(name: str, module: str) -> tuple[ast.expr, str] | None:
    """Finds ``name = Literal[...]`` in a module's source, or in the source of our own module it comes from."""
    for node in _statements(module):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                return value, module
            case ast.ImportFrom(module=str(home), names=names, level=0) if home.partition(".")[0] == "ironglass":
                for item in names:
                    if name == (item.asname or item.name):
                        return _alias(item.name, home)
    return None


@cache
def _statements(module: str) -> list[ast.stmt]:
    """Returns a module's statements, those under a top-level ``if`` among them."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return body + [inner for node in body if isinstance(node, ast.If) for inner in node.body]
