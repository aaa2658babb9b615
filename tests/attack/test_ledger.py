"""The ledger against a counter inside the attacked function, sample by sample and query by query."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.catalogue import Card, catalogue
from ironglass.core.errors import IronglassWarning
from ironglass.core.method import get
from ironglass.core.results import AttackResult
from ironglass.core.values import Threat
from ironglass.run import Runner
from nets import images, small_cnn

RADII = {"linf": 0.15, "l2": 0.8, "l1": 3.0, "l0": 5.0}
CARDS = [card for card in catalogue().values() if card.decorator == "attack" and card.access in ("labels", "scores")]
RUNS = [(card, norm) for card in CARDS for norm in card.norms]
NEEDED: dict[str, dict[str, Any]] = {
    "difference_of_means": {"means": images(5, seed=9)},
    "transfer": {"source": small_cnn(seed=7).eval(), "steps": 3},
}
runs = pytest.mark.parametrize(("card", "norm"), RUNS, ids=[f"{card.name}-{norm}" for card, norm in RUNS])
BUDGETS = (1, 2, 3, 4, 7, 20, 23, 61, 150)


class Counter:
    """Scores of samples that carry their number in their last value, which no attack may change; counts each."""

    def __init__(self, count: int) -> None:
        self.asked = torch.zeros(count, dtype=torch.long)
        self.weight = torch.linspace(0, 900, 63 * 5).sin().reshape(63, 5)
        self.lead = torch.tensor([2.5, 0.0, 0.0, 0.0, 0.0])

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        flat = x.flatten(1)
        ids = (flat[:, -1] * len(self.asked)).round().long()
        self.asked.index_add_(0, ids, torch.ones_like(ids))
        return flat[:, :-1] @ self.weight.to(x.dtype) + self.lead

    def subject(self) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, the labels they have, and the mask that keeps their numbers."""
        x = images(len(self.asked))
        x[:, 0, 7, 7] = torch.arange(len(x)) / len(x)
        mask = torch.ones(1, 8, 8, dtype=torch.bool)
        mask[0, 7, 7] = False
        with torch.no_grad():
            return x, self(x).argmax(1), mask


def attacked(card: Card, norm: str, budget: int, **options: Any) -> tuple[AttackResult, Tensor]:
    """Returns the result, and how often the function was asked for each sample until the attack returned."""
    counter = Counter(6)
    x, y, mask = counter.subject()
    model = ig.wrap(counter)
    given = NEEDED.get(card.name, {}) | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IronglassWarning)
        Runner(model, max_queries=1)(get("random_noise"), x, y, Threat("linf", 0.0))  # the model is probed but once
        counter.asked.zero_()
        result = Runner(model, max_queries=budget)(get(card.name), x, y, Threat(norm, RADII[norm], mask), **given)  # type: ignore[arg-type]
    assert isinstance(result, AttackResult)
    return result, counter.asked - 1  # the judge's own last look is not the attack's


@runs
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_ledger_is_what_the_function_saw_also_where_the_budget_cuts_a_step(
    card: Card, norm: str, budget: int
) -> None:
    result, asked = attacked(card, norm, budget)
    assert result.queries.tolist() == asked.tolist()
    assert int(asked.max()) <= budget
    assert result.cost.forward == int(asked.sum())
    assert bool((result.first_success <= result.queries).all())


@pytest.mark.parametrize(
    ("card", "norm"), [run for run in RUNS if any(o.name == "max_queries" for o in run[0].options)]
)
def test_the_methods_own_limit_counts_like_the_models(card: Card, norm: str) -> None:
    for limit in (1, 2, 5, 22, 75):
        result, asked = attacked(card, norm, 10**6, max_queries=limit)
        assert result.queries.tolist() == asked.tolist()
        assert int(asked.max()) <= limit + 1, "beside the runner's first"
