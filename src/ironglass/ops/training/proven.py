"""Losses on proven margins, mixed with the clean loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from ironglass.core.training import Batch, Student

Margins = Callable[[Student, Batch], Tensor]
"""Lower bounds of ``z_y - z_j`` over the batch's threat ``(N, classes)``, 0 for y itself."""


def mixed(kappa: float, margins: Margins) -> Callable[[Student, Batch], Tensor]:
    r"""Returns the loss :math:`w\,\mathrm{CE}(z, y) + (1 - w)\,\mathrm{CE}(-m, y)` of scores z and proven margins m.

    The weight w falls from 1 to ``kappa`` as the threat grows; what has no weight is not computed.

    Args:
        kappa: the clean loss's weight at the end, in [0, 1].
        margins: the bounds that are trained on.
    """

    def loss(student: Student, batch: Batch) -> Tensor:
        weight = 1 + (kappa - 1) * batch.grown
        value = F.cross_entropy(student(batch.x), batch.y) if weight else batch.x.new_zeros(())
        if not batch.grown or weight == 1:
            return value
        return weight * value + (1 - weight) * F.cross_entropy(-margins(student, batch), batch.y)

    return loss
