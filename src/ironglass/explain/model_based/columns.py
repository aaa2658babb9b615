"""A table's columns as models and people read them: numbers, categories, and conditions on either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError


class Table(NamedTuple):
    """A checked table: ``x (N, d)`` in float64, ``y (N,)`` from 0 to ``classes`` - 1, and the names of its columns.

    ``values`` are those that each categorical column takes, in order; ``labels`` are the names of the categories 0, 1,
    …, where there are some.
    """

    x: Tensor
    y: Tensor
    classes: int
    names: tuple[str, ...]
    values: Mapping[int, tuple[float, ...]]
    labels: Mapping[int, tuple[str, ...]]

    @property
    def hits(self) -> Tensor:
        """The classes as rows with a single one ``(N, classes)``."""
        return F.one_hot(self.y, self.classes).to(self.x.dtype)


Categories = Sequence[int] | Mapping[int, Sequence[str]]
"""The columns that hold categories; or the names of each such column's categories 0, 1, …"""


def table(x: Tensor, y: Tensor, names: Sequence[str] = (), categorical: Categories = ()) -> Table:
    """Returns the table of what a person gives.

    Args:
        x: ``(N, d)`` numbers; a category is a number that stands for it.
        y: classes ``(N,)``, counted from 0.
        names: of the columns; numbered where there are none.
        categorical: the columns that hold categories, or the names of their categories by column.

    Raises:
        InputError: if these are no table with classes.
    """
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x) or not bool(x.isfinite().all()):
        raise InputError(
            f"x of shape {tuple(x.shape)} with y of shape {tuple(y.shape)} is no table of finite numbers",
            "give x (N, d), such as pictures.flatten(1), and y (N,)",
        )
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) < 1:
        raise InputError("y holds no two classes counted from 0", "give whole numbers 0, 1, …")
    if names and len(names) != x.shape[1]:
        raise InputError(f"{len(names)} names for {x.shape[1]} columns", "give a name a column")
    unknown = [column for column in categorical if not 0 <= column < x.shape[1]]
    if unknown:
        raise InputError(f"categorical={unknown} for {x.shape[1]} columns", "name columns by their place, from 0")
    exact = x.detach().cpu().double()
    found = {column: tuple(sorted(set(exact[:, column].tolist()))) for column in sorted(set(categorical))}
    labels = {column: tuple(categorical[column]) for column in found} if isinstance(categorical, Mapping) else {}
    for column, said in labels.items():
        if not set(found[column]) <= set(range(len(said))):
            raise InputError(
                f"column {column} holds {found[column][-1]:g}, and {len(said)} names", "give a name for 0, 1, … each"
            )
    named = tuple(names) or tuple(f"column {column}" for column in range(x.shape[1]))
    return Table(exact, y.detach().cpu().long(), int(y.max()) + 1, named, found, labels)


class Condition(NamedTuple):
    """What holds of a row or not: a column at most, above, equal or unequal to a value."""

    column: int
    sign: Literal["≤", ">", "=", "≠"]
    value: float

    def holds(self, x: Tensor) -> Tensor:
        """Returns which rows it holds of ``(N,)``."""
        cell = x[:, self.column]
        tests = {"≤": cell <= self.value, ">": cell > self.value, "=": cell == self.value, "≠": cell != self.value}
        return tests[self.sign]

    def text(self, names: Sequence[str], labels: Mapping[int, Sequence[str]]) -> str:
        """Returns it in words."""
        value = labels[self.column][int(self.value)] if self.column in labels else f"{self.value:.4g}"
        return f"{names[self.column]} {self.sign} {value}"


def expand(x: Tensor, values: Mapping[int, Sequence[float]]) -> Tensor:
    """Returns the columns ``(N, e)`` with a 0 or 1 a category in place of each categorical one, in order."""
    parts = []
    for column in range(x.shape[1]):
        cell = x[:, column : column + 1]
        parts.append((cell == cell.new_tensor(values[column])).to(x.dtype) if column in values else cell)
    return torch.cat(parts, 1)


def sources(width: int, values: Mapping[int, Sequence[float]]) -> list[tuple[int, float | None]]:
    """Returns where each of the columns of `expand` comes from: the column, and the category it stands for."""
    rows: list[tuple[int, float | None]] = []
    for column in range(width):
        rows += [(column, value) for value in values[column]] if column in values else [(column, None)]
    return rows


def entered(x: Tensor, width: int) -> Tensor:
    """Returns rows for a fitted model: detached, in float64.

    Raises:
        InputError: if they have another number of columns.
    """
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"rows of shape {tuple(x.shape)} for a model of {width} columns", f"give (N, {width})")
    return x.detach().cpu().double()


def odds(counts: Tensor) -> Tensor:
    """Returns the logs of the classes' shares, each class counted once more, as scores."""
    return ((counts + 1) / (counts + 1).sum(-1, keepdim=True)).log()
