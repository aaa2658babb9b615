"""The nouns of a question: bounds, threats and goals, frozen values that methods take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError

if TYPE_CHECKING:
    from .access import Loss, Rows

Norm = Literal["linf", "l2", "l1", "l0", "wasserstein"]
PerSample = Tensor
"""The annotation of an option that has a row a sample: it is cut and sharded as the samples are."""
LossName = Literal["ce", "margin", "dlr"]


def finite(values: Tensor) -> bool:
    """Returns whether no value is NaN or infinite: by the least and the largest, in one pass."""
    if not values.is_floating_point() or not values.numel():
        return True
    return all(math.isfinite(float(end)) for end in values.aminmax())


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of every input value, in the user's units: pixels usually lie in [0, 1]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"bounds ({self.low:g}, {self.high:g}) are empty", "give (low, high) with low < high, e.g. (0, 1)"
            )

    @property
    def span(self) -> float:
        """``high - low``."""
        return self.high - self.low


@dataclass(frozen=True, slots=True, eq=False)
class Threat:
    r"""What an adversary may do to an input: :math:`\|\delta\|_p \le \varepsilon`, within the bounds and the mask.

    Args:
        norm: ``linf``, ``l2``, ``l1``, ``l0`` or ``wasserstein``.
        eps: radius in input units (for ``l0`` a number of values, for ``wasserstein`` of pixels); ``inf`` for
            minimum-norm attacks.
        mask: true where a value may change: of a sample's shape, or ``(N, *shape)`` for one a sample; None lets all
            change.
    """

    norm: Norm
    eps: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise InputError(f"eps is {self.eps}", "give a radius of at least 0, in input units, e.g. 8/255")

    def take(self, rows: Rows) -> Threat:
        """Returns the threat to those samples; methods see masks ``(1 or N, *shape)``."""
        if self.mask is None or len(self.mask) == 1:
            return self
        return replace(self, mask=self.mask[rows])

    def __str__(self) -> str:
        return f"{self.norm} ≤ {self.eps:.4g}" + (" in a mask" if self.mask is not None else "")


def Linf(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that no value moves by more than ``eps``, in input units."""
    return Threat("linf", float(eps), mask)


def L2(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat of a Euclidean ball of radius ``eps``, in input units."""
    return Threat("l2", float(eps), mask)


def L1(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that all moves together sum to at most ``eps``, in input units."""
    return Threat("l1", float(eps), mask)


def L0(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that at most ``eps`` values move, by any amount."""
    return Threat("l0", float(eps), mask)


def Wasserstein(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that a picture's mass travels at most ``eps`` pixels on the mean, within its channel.

    The mass is what the values have above the low bound. None is made or lost; see `ops.transport`.
    """
    return Threat("wasserstein", float(eps), mask)


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What an attack wants; made as `Avoid` or `Reach`.

    Args:
        labels: the class to leave or to reach, long ``(N,)``.
    """

    labels: Tensor
    targeted: ClassVar[bool]

    def take(self, rows: Rows) -> Self:
        """Returns the goal of those samples."""
        return replace(self, labels=self.labels[rows])

    def reached(self, scores: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns whether the scores' decision meets the goal ``(n,)``; scores that are not finite never do."""
        return self.reached_by(scores.argmax(1), rows) & scores.isfinite().all(1)

    def hits(self, scores: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns where `reached` holds, as numbers of rows ``(k,)``: quick where it seldom does."""
        hits = self.reached_by(scores.argmax(1), rows).nonzero()[:, 0]
        return hits[scores[hits].isfinite().all(1)] if len(hits) else hits

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns whether these predicted labels meet the goal ``(n,)``."""
        raise NotImplementedError

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns the loss to *ascend*.

        ``ce`` is cross-entropy and ``margin`` the logit margin, positive where the goal is reached. ``dlr`` is the
        margin in units of the spread of the largest logits, so that neither shift nor scale of the logits changes it;
        where there are too few classes for a spread that can differ from the margin (2; 3 with a target), it *is* the
        margin.
        """
        raise NotImplementedError


TAIL = -15.0
"""Where cross-entropy's tail begins: below this margin it would soon have no gradient in float32."""


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy :math:`\mathrm{softplus}(u)`, with ``u`` the log-sum-exp of the other logits less that of the own.

    Far below 0 both it and its gradient are :math:`e^u`, which float32 knows only to -103. There the tail
    :math:`e^{-15} / (1 - 15 - u)` takes over: of the same value and, to 1e-6, slope where it begins, rising all the
    way, and so with a gradient of the same direction.
    """
    own, others = _own_and_others(scores, labels)
    own, others = (own if labels.ndim == 1 else own.logsumexp(1, keepdim=True)), others.logsumexp(1, keepdim=True)
    over = (others - own)[:, 0]
    start = math.log1p(math.exp(TAIL))
    return torch.where(over < TAIL, start / (1 + (TAIL - over).clamp(min=0)), F.softplus(over.clamp(min=TAIL)))


def _margin(scores: Tensor, labels: Tensor) -> Tensor:
    """The best other logit less the labels' best, without a batch-wide stop and safe for negative logits."""
    own, others = _own_and_others(scores, labels)
    return (others.amax(1, keepdim=True) - own.amax(1, keepdim=True))[:, 0]


def _own_and_others(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the logits of the labels, one ``(n,)`` or several ``(n, k)`` a row, and all logits less those."""
    place = labels[:, None] if labels.ndim == 1 else labels
    return scores.gather(1, place), scores.scatter(1, place, -torch.inf)


def spread(scores: Tensor, targeted: bool) -> Tensor:
    r"""Returns the unit of the difference of logits ratio ``(n,)``, from the sorted logits :math:`z_{\pi_i}`.

    It is :math:`z_{\pi_1} - z_{\pi_3}`, with a target :math:`z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2`; and 1 where
    there are no such classes.
    """
    low = 4 if targeted else 3
    if scores.shape[1] < low:
        return torch.ones_like(scores[:, 0])
    top = scores.topk(low, 1).values
    return top[:, 0] - top[:, 2:].mean(1) + 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Avoid(Goal):
    """The goal of any label but this one: an untargeted attack."""

    targeted: ClassVar[bool] = False

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns ``labels != y``."""
        return labels != self.labels[rows]

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns cross-entropy to the label, or the best other logit less the label's, for ``dlr`` in their spread."""
        if name == "ce":
            return lambda scores, rows: _cross_entropy(scores, self.labels[rows])
        if name == "margin":
            return lambda scores, rows: _margin(scores, self.labels[rows])
        return lambda scores, rows: _margin(scores, self.labels[rows]) / spread(scores, self.targeted)


@dataclass(frozen=True, slots=True, eq=False)
class Evade(Avoid):
    """The goal of any label but this one and but being ``detected``, which is a class too: see `Detector.guarded`."""

    detected: int

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns ``labels != y`` where the sample is not flagged."""
        return (labels != self.labels[rows]) & (labels != self.detected)

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns what `Avoid` does, with both classes to leave taken together."""

        def both(rows: Rows) -> Tensor:
            own = self.labels[rows]
            return torch.stack([own, torch.full_like(own, self.detected)], 1)

        if name == "ce":
            return lambda scores, rows: _cross_entropy(scores, both(rows))
        if name == "margin":
            return lambda scores, rows: _margin(scores, both(rows))
        return lambda scores, rows: _margin(scores, both(rows)) / spread(scores, self.targeted)


@dataclass(frozen=True, slots=True, eq=False)
class Reach(Goal):
    """The goal of exactly this label: a targeted attack."""

    targeted: ClassVar[bool] = True

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns ``labels == t``."""
        return labels == self.labels[rows]

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns minus the cross-entropy to the target, or its logit's lead, for ``dlr`` in units of the spread."""
        if name == "ce":
            return lambda scores, rows: -_cross_entropy(scores, self.labels[rows])
        if name == "margin":
            return lambda scores, rows: -_margin(scores, self.labels[rows])
        return lambda scores, rows: -_margin(scores, self.labels[rows]) / spread(scores, self.targeted)
