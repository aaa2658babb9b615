"""A fitted detector of adversarial inputs, and the model that it guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import Method
from ironglass.core.values import Evade

from .adapter import Adapter, check, wrap
from .joint import Combine, Views, joined

ROWS = 256
WEIGHT = 10.0
"""Logits that a detector's score of 1 above its threshold is worth to an attack on both."""


@dataclass(frozen=True, eq=False)
class Watch:
    """What a detector looks at, and what it makes of it.

    Args:
        views: of a sample; the first is the model's own answer.
        statistic: of the views ``(V, n, K)``: how suspicious each sample is ``(n,)``, differentiable.
        fpr: share of legitimate samples that may be flagged.
    """

    views: Views
    statistic: Callable[[Tensor], Tensor]
    fpr: float


@dataclass(frozen=True)
class _Guard:
    r"""The model's logits and one more: :math:`\max_k z_k + w\,(s - \tau)`, the largest where the sample is flagged."""

    statistic: Callable[[Tensor], Tensor]
    threshold: float

    def __call__(self, views: Tensor) -> Tensor:
        own, score = views[0], self.statistic(views)
        top = own.amax(1)
        flagged = top + WEIGHT * (score - self.threshold)
        above = top + 1e-6 * (1 + top.abs())  # so that rounding never hides a score that is just above
        flagged = torch.where(score > self.threshold, flagged.maximum(above), flagged)
        return torch.cat([own, flagged[:, None]], 1)


class FittedDetector:
    """A detector whose threshold was set on legitimate samples alone.

    Args:
        model: that it guards.
        watch: what it looks at.
        threshold: a sample is flagged where its score is larger.
        method: that made it, with ``options``.
    """

    def __init__(
        self,
        model: Adapter,
        watch: Watch,
        threshold: float,
        method: Method[Any],
        options: Mapping[str, Any],
    ) -> None:
        self.model, self.watch, self.threshold = model, watch, threshold
        self.method, self.options = method, dict(options)

    def __repr__(self) -> str:
        return f"<{self.method.card.name} of {self.model.name or 'a model'}: score > {self.threshold:.4g}>"

    def score(self, x: Tensor) -> Tensor:
        """Returns how suspicious inputs are ``(n,)``."""
        check(self.model, x)
        return scores_of(self.watch, x)

    def detect(self, x: Tensor) -> Tensor:
        """Returns which inputs are flagged, bool ``(n,)``."""
        return self.score(x) > self.threshold

    @property
    def guarded(self) -> Adapter:
        """The model with one more class, the last: *detected*. An attack on it goes through model and detector.

        Its logit exceeds the largest of the model's by as much as the score exceeds the threshold, times 10; so the
        gradient of every loss leads away from detection too, through what is not differentiable as the identity. With
        `goal`, what an attack of the catalogue calls a success is a wrong label that is not flagged.
        """
        combine: Combine = _Guard(self.watch.statistic, self.threshold)
        name = f"{self.model.name or 'model'} with {self.method.card.name}"
        return joined(self.model, self.watch.views, combine, self.model.classes + 1, name)

    def goal(self, y: Tensor) -> Evade:
        """Returns the goal of an attack on `guarded`: neither the label nor detected."""
        return Evade(y, self.model.classes)


def scores_of(watch: Watch, x: Tensor) -> Tensor:
    """Returns the statistic of inputs ``(n,)``."""
    watch.views.prepare(x)
    with torch.no_grad():
        return torch.cat([watch.statistic(watch.views(part)) for part in torch.split(x, ROWS)])


def threshold_at(scores: Tensor, fpr: float) -> float:
    r"""Returns the :math:`\lceil n (1 - \mathrm{fpr}) \rceil`-th smallest score: no more than ``fpr`` lie above it."""
    place = min(len(scores), max(1, math.ceil(round(len(scores) * (1 - fpr), 9))))
    return float(scores.double().sort().values[place - 1])


def fit(method: Method[Any], model: object, x: Tensor, options: Mapping[str, Any]) -> FittedDetector:
    """Fits a detector: what calling the method does.

    Raises:
        InputError: if the request is wrong.
    """
    bare = wrap(model)  # type: ignore[arg-type]
    chosen = method.card.filled(method.fixed | dict(options))
    check(bare, x)
    if bare.access == "labels":
        raise InputError("a detector compares scores, this model gives labels", "give a model that gives scores")
    watch: Watch = method.raw(bare, **chosen)
    if not 0 < watch.fpr < 1:
        raise InputError(f"fpr={watch.fpr}", "give the share of legitimate samples that may be flagged, e.g. 0.05")
    return FittedDetector(bare, watch, threshold_at(scores_of(watch, x), watch.fpr), method, chosen)
