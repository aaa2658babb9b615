"""What an explanation explains: the logit of one class a sample."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Loss, Rows


def logit(target: Tensor) -> Loss:
    """Returns the loss whose value is each sample's target logit, before any softmax.

    Args:
        target: class a sample, long ``(N,)``.
    """

    def of(scores: Tensor, rows: Rows) -> Tensor:
        return scores.gather(1, target[rows, None])[:, 0]

    return of
