"""A short list of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.core.errors import InputError

from .columns import Categories, Condition, Table, entered, odds, table

CUTS = 16
"""Places that a column of numbers is cut at: its quantiles."""


@dataclass(frozen=True, slots=True, eq=False)
class RuleList:
    """If, else if, else; called on rows ``(N, d)`` it gives logits ``(N, classes)``.

    Args:
        rules: the conditions of each rule, which hold together; the last has none: it takes what is left.
        counts: the training rows of each class that each rule takes ``(rules, classes)``.
        names: of the columns.
        labels: of the categories, by column.
    """

    rules: tuple[tuple[Condition, ...], ...]
    counts: Tensor
    names: tuple[str, ...]
    labels: Mapping[int, tuple[str, ...]]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logs of the classes' shares under the rule, each class counted once more."""
        return odds(self.counts)[self.fires(x)].to(x)

    def fires(self, x: Tensor) -> Tensor:
        """Returns the rule that takes each row ``(N,)``: the first whose conditions hold."""
        rows = entered(x, len(self.names))
        taken = torch.ones(len(rows), len(self.rules), dtype=torch.bool)
        for place, rule in enumerate(self.rules):
            for condition in rule:
                taken[:, place] &= condition.holds(rows)
        return taken.int().argmax(1)

    def text(self) -> tuple[str, ...]:
        """Returns a line a rule."""
        lines = []
        for place, (rule, count) in enumerate(zip(self.rules, self.counts, strict=True)):
            said = " and ".join(each.text(self.names, self.labels) for each in rule)
            head = f"{'else ' * (place > 0)}if {said}" if rule else "else"
            lines.append(f"{head}: class {int(count.argmax())} ({int(count.max())} of {int(count.sum())})")
        return tuple(lines)

    @property
    def parts(self) -> int:
        """How many rules a person must read, the last one included."""
        return len(self.rules)


def rule_list(
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] = (),
    categorical: Categories = (),
    rules: int = 6,
    conditions: int = 2,
    least: int = 10,
) -> RuleList:
    r"""Cover the rows rule by rule (rivest1987): each is the one that tells most of the class of the rows it takes.

    .. math:: \max_r\; n_r \big(H(\text{rows left}) - H(\text{rows of them that } r \text{ takes})\big)

    :math:`H` is the entropy of the classes, each counted once more. A rule grows by the condition that gains most,
    while one gains. The list ends early where no rule does.

    Args:
        x: ``(N, d)`` numbers.
        y: classes ``(N,)`` from 0.
        names: of the columns.
        categorical: the columns that hold categories, or the names of their categories by column.
        rules: at most, beside the last one that takes what is left.
        conditions: of a rule, at most.
        least: rows that a rule must take.

    Raises:
        InputError: if this is no table with classes, or an option is below 1.
    """
    data = table(x, y, names, categorical)
    if min(rules, conditions, least) < 1:
        raise InputError(f"rules={rules}, conditions={conditions}, least={least}: at least 1", "e.g. rules=6")
    choices = _conditions(data)
    holds = torch.stack([choice.holds(data.x) for choice in choices], 1).double()
    left, hits = torch.ones(len(data.x), dtype=torch.bool), data.hits
    found: list[tuple[Condition, ...]] = []
    counts: list[Tensor] = []
    while len(found) < rules and bool(left.any()):
        taken, rule, best = left, [], 0.0
        whole = _entropy(hits[left].sum(0))
        for _ in range(conditions):
            per_class = holds[taken].T @ hits[taken]
            size = per_class.sum(1)
            gain = (size * (whole - _entropy(per_class))).where(size >= least, 0)
            place = int(gain.argmax())
            if float(gain[place]) <= best * (1 + 1e-9):
                break
            best = float(gain[place])
            rule.append(choices[place])
            taken = taken & choices[place].holds(data.x)
        if not rule:
            break
        found.append(tuple(rule))
        counts.append(hits[taken].sum(0))
        left = left & ~taken
    return RuleList((*found, ()), torch.stack([*counts, hits[left].sum(0)]), data.names, data.labels)


def _conditions(data: Table) -> list[Condition]:
    """Returns all single conditions: both sides of each cut of a column of numbers, each category and its others."""
    choices: list[Condition] = []
    for column in range(len(data.names)):
        if column in data.values:
            for value in data.values[column]:
                choices += [Condition(column, "=", value), Condition(column, "≠", value)]
        else:
            cuts = data.x[:, column].quantile(torch.arange(1, CUTS + 1, dtype=torch.double) / (CUTS + 1))
            for value in sorted(set(cuts.tolist())):
                choices += [Condition(column, "≤", value), Condition(column, ">", value)]
    return choices


def _entropy(counts: Tensor) -> Tensor:
    """Returns the entropy of the classes in nats, each class counted once more."""
    log = odds(counts)
    return -(log.exp() * log).sum(-1)
