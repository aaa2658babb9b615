"""CROWN-IBP and convex training: their loss along the ramp, and what they make provable."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.training import Batch
from ironglass.ops.training import lines
from ironglass.ops.training.bounds import interval_margins
from learners import course, digit_net, digits, seeded


def dense() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)))


def test_crown_ibp_training_goes_from_lines_to_intervals_along_the_ramp() -> None:
    data = tuple(part[:6] for part in digits())
    ready = course(ig.defend.crown_ibp_training, digit_net(), data, ig.Linf(0.05), kappa=0.3)  # type: ignore[arg-type]
    x, y = data
    for grown in (0.0, 0.4):
        threat = ig.Linf(0.05 * grown)
        value = ready.recipe.loss(ready.student, Batch(x, y, threat, grown, 0))
        margins = (1 - grown) * lines.crown_ibp_margins(ready.student, x, y, threat)[0]
        margins = margins + grown * interval_margins(ready.student, x, y, threat)
        weight = 1 - 0.7 * grown
        wanted = weight * F.cross_entropy(ready.student(x), y) + (1 - weight) * F.cross_entropy(-margins, y)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "proof"), [("crown_ibp_training", "crown_ibp"), ("convex_training", "fast_lin")])
def test_digits_that_could_not_be_proven_are(name: str, proof: str) -> None:
    x, y = digits()
    eps = ig.Linf(0.04)
    options: dict[str, Any] = {"epochs": 5, "batch": 50, "lr": 5e-3}
    result = getattr(ig.defend, name)(dense(), (x[:900], y[:900]), eps, (x[1200:], y[1200:]), **options)
    before, after = result.accuracy("certified")
    assert before < 0.05
    assert after > 0.5
    held = ~ig.attack.pgd(result.model, x[1200:], y[1200:], eps).success
    proven = getattr(ig.certify, proof)(result.model, x[1200:], y[1200:], eps).verified
    assert float(proven.double().mean()) == pytest.approx(after)
    assert bool((held | ~proven).all()), "nothing proven is broken"


def test_numbers_out_of_range_are_refused() -> None:
    for name, wrong in (("crown_ibp_training", {"beta": 2.0}), ("convex_training", {"kappa": -1.0})):
        with pytest.raises(InputError, match=next(iter(wrong))):
            getattr(ig.defend, name).raw(ig.Linf(0.1), **wrong)
