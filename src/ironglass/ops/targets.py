"""What an explanation explains: the logit of one class a sample, or what it leads another class by."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Loss, Rows


def logit(target: Tensor) -> Loss:
    """Returns the loss whose value is each sample's target logit, before any softmax.

    Args:
        target: class a sample, long ``(N,)``; or ``(N, 2)``: why the first class and not the second. Then the value is
            the difference of their logits.
    """

    def of(scores: Tensor, rows: Rows) -> Tensor:
        return at(scores, target[rows])

    return of


def at(values: Tensor, target: Tensor) -> Tensor:
    """Returns each row's value at its target ``(n,)``; for a pair of classes the first value less the second.

    Args:
        values: ``(n, classes)``.
        target: ``(n,)`` or ``(n, 2)``.
    """
    if target.ndim == 1:
        return values.gather(1, target[:, None])[:, 0]
    pair = values.gather(1, target)
    return pair[:, 0] - pair[:, 1]


def probability(scores: Tensor, target: Tensor) -> Tensor:
    """Returns the probability of each row's target in float64 ``(n,)``; of a pair, that of the first among the two.

    Args:
        scores: logits ``(n, classes)``.
        target: ``(n,)`` or ``(n, 2)``.
    """
    exact = scores.double()
    return at(exact.softmax(1), target) if target.ndim == 1 else at(exact, target).sigmoid()
