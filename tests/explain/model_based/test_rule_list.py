from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.model_based.columns import Condition
from tables import holding, mixed


def test_the_first_rule_that_holds_takes_the_row() -> None:
    x, y = mixed()
    names, categories = ("number", "category", "noise"), {1: ("red", "green", "blue")}
    rules = ig.explain.rule_list(x, y, names=names, categorical=categories, rules=6)
    fires = rules.fires(x)
    assert fires.tolist() == [found[0] for found in holding(rules.rules, x)]
    for rule in range(rules.parts):
        taken = torch.bincount(y[fires == rule], minlength=2).double()
        assert torch.equal(rules.counts[rule], taken)
    assert bool((rules.counts[:-1].sum(1) >= 10).all())
    assert rules.text()[0].startswith("if ")
    assert rules.text()[-1].startswith("else: class ")
    assert any(f"category {sign} green" in " ".join(rules.text()) for sign in "=≠")


def test_the_first_rule_gains_most_of_all_single_conditions() -> None:
    x, y = mixed(120)
    rules = ig.explain.rule_list(x, y, rules=1, conditions=1, least=5)

    def gain(holds: Tensor) -> float:
        def entropy(part: Tensor) -> float:
            share = (torch.bincount(part, minlength=2).double() + 1) / (len(part) + 2)
            return float(-(share * share.log()).sum())

        return int(holds.sum()) * (entropy(y) - entropy(y[holds])) if int(holds.sum()) >= 5 else 0.0

    cuts = torch.arange(1, 17, dtype=torch.double) / 17
    best = max(
        gain(Condition(column, sign, float(cut)).holds(x))
        for column in range(3)
        for cut in x[:, column].quantile(cuts)
        for sign in ("≤", ">")
    )
    assert gain(rules.rules[0][0].holds(x)) == pytest.approx(best)


def test_a_list_ends_where_no_rule_tells_more() -> None:
    x, y = mixed(100)
    assert ig.explain.rule_list(x, (x[:, 0] > 0).long(), rules=9).parts < 10
    with pytest.raises(InputError, match="rules=0"):
        ig.explain.rule_list(x, y, rules=0)
