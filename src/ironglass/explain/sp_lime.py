"""Submodular pick: the few explanations that together show what a model goes by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.results import Attribution


class Picks(NamedTuple):
    """The picked samples in order ``(k,)``, and the coverage after each ``(k,)`` as a share of all there is."""

    rows: Tensor
    coverage: Tensor


def sp_lime(explained: Attribution, budget: int = 5, features: int = 10) -> Picks:
    r"""Pick the samples whose explanations together cover the features that matter most in all of them.

    .. math:: c(V) = \sum_j \mathbb 1[\exists i \in V : W_{ij} \ne 0]\, I_j,
        \qquad I_j = \sqrt{\textstyle\sum_i |W_{ij}|}

    The coverage has diminishing returns, so that greedy picks reach at least :math:`1 - 1/e` of what any as many can
    cover. They end early where nothing is left to cover.

    Args:
        explained: explanations whose parts mean the same in every sample: columns of a table, cells of a grid.
        budget: samples to pick, at most.
        features: parts that count in each explanation: the largest.

    Raises:
        InputError: if the parts differ from sample to sample, or an option is out of range.
    """
    if budget < 1 or features < 1:
        raise InputError(f"budget={budget}, features={features}: at least 1", "e.g. budget=5, features=10")
    weights = _by_part(explained)
    kept = weights.abs().argsort(dim=1, descending=True, stable=True)[:, :features]
    weights = torch.zeros_like(weights).scatter(1, kept, weights.gather(1, kept))
    importance, shows = weights.abs().sum(0).sqrt(), weights != 0
    whole = (importance * shows.any(0)).sum()
    covered = torch.zeros_like(shows[0])
    rows: list[int] = []
    coverage: list[float] = []
    while len(rows) < min(budget, len(weights)):
        gain = (shows & ~covered).to(importance.dtype) @ importance
        best = int(gain.argmax())
        if not float(gain[best]) > 0:
            break
        covered = covered | shows[best]
        rows.append(best)
        coverage.append(float((importance * covered).sum() / whole))
    return Picks(torch.tensor(rows, dtype=torch.long), torch.tensor(coverage, dtype=torch.float64))


def _by_part(explained: Attribution) -> Tensor:
    """Returns the weight of each part ``(N, parts)``."""
    values = explained.values.double().flatten(1)
    parts = explained.extras.get("parts")
    if parts is None:
        return values
    labels = parts.flatten(1)
    if not bool((labels == labels[0]).all()):
        raise InputError(
            "the parts differ from sample to sample", "explain with view='grid', or with a table's columns"
        )
    count = int(labels.max()) + 1
    first = torch.stack([(labels[0] == part).int().argmax() for part in range(count)])
    filled = torch.stack([(labels[0] == part).any() for part in range(count)])
    return values[:, first].where(filled, 0)
