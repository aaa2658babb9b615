"""A decision tree of few leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.core.errors import InputError, extra

from .columns import Categories, Condition, entered, expand, odds, sources, table


@dataclass(frozen=True, slots=True, eq=False)
class DecisionTree:
    """Leaves, each behind its own path of conditions; called on rows ``(N, d)`` it gives logits ``(N, classes)``.

    Args:
        paths: what leads to each leaf, from the root; every row is led to one.
        counts: the training rows of each class in each leaf ``(leaves, classes)``.
        names: of the columns.
        labels: of the categories, by column.
    """

    paths: tuple[tuple[Condition, ...], ...]
    counts: Tensor
    names: tuple[str, ...]
    labels: Mapping[int, tuple[str, ...]]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logs of the classes' shares in the leaf, each class counted once more."""
        return odds(self.counts)[self.leaf(x)].to(x)

    def leaf(self, x: Tensor) -> Tensor:
        """Returns the leaf of each row ``(N,)``: its decision's whole explanation is ``paths[leaf]``."""
        rows = entered(x, len(self.names))
        reached = torch.ones(len(rows), len(self.paths), dtype=torch.bool)
        for place, path in enumerate(self.paths):
            for condition in path:
                reached[:, place] &= condition.holds(rows)
        return reached.int().argmax(1)

    def text(self) -> tuple[str, ...]:
        """Returns a line a leaf."""
        said = [" and ".join(each.text(self.names, self.labels) for each in path) or "always" for path in self.paths]
        return tuple(
            f"{line}: class {int(count.argmax())} ({int(count.max())} of {int(count.sum())})"
            for line, count in zip(said, self.counts, strict=True)
        )

    @property
    def parts(self) -> int:
        """How many leaves a person must read."""
        return len(self.paths)


def decision_tree(
    x: Tensor, y: Tensor, *, names: Sequence[str] = (), categorical: Categories = (), leaves: int = 8, seed: int = 0
) -> DecisionTree:
    """Grow a tree best first, splitting where the Gini impurity falls most, until it has so many leaves.

    Args:
        x: ``(N, d)`` numbers.
        y: classes ``(N,)`` from 0.
        names: of the columns.
        categorical: the columns that hold categories, or their names by column; a split takes one category apart.
        leaves: at most.
        seed: decides between splits that are equally good.

    Raises:
        InputError: if this is no table with classes, or there are fewer than 2 leaves.
        MissingExtra: if scikit-learn is not installed.
    """
    data = table(x, y, names, categorical)
    if leaves < 2:
        raise InputError(f"leaves={leaves}: a tree has at least 2", "e.g. leaves=8")
    try:
        from sklearn.tree import DecisionTreeClassifier
    except ImportError:
        raise extra("sklearn", "scikit-learn") from None
    columns = expand(data.x, data.values).float().double()  # the precision that the trainer splits in
    grown = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed).fit(columns.numpy(), data.y.numpy())
    origin, nodes = sources(len(data.names), data.values), grown.tree_

    def below(node: int, path: tuple[Condition, ...]) -> list[tuple[Condition, ...]]:
        if nodes.children_left[node] < 0:
            return [path]
        (column, category), limit = origin[nodes.feature[node]], float(nodes.threshold[node])
        no, yes = (
            (Condition(column, "≤", limit), Condition(column, ">", limit))
            if category is None
            else (Condition(column, "≠", category), Condition(column, "=", category))
        )
        return below(nodes.children_left[node], (*path, no)) + below(nodes.children_right[node], (*path, yes))

    paths = tuple(below(0, ()))
    empty = DecisionTree(paths, torch.zeros(len(paths), data.classes, dtype=torch.double), data.names, data.labels)
    return DecisionTree(paths, empty.counts.index_add(0, empty.leaf(data.x), data.hits), data.names, data.labels)
