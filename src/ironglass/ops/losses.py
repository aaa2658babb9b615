"""Losses to ascend that know two classes a sample: the one to leave, and the one to go to."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Loss, Rows
from ironglass.core.values import Goal, LossName, Reach, spread


def difference(labels: Tensor, targets: Tensor) -> Loss:
    """Returns the target's logit less the label's: 0 on the boundary between the two.

    Args:
        labels: the class to leave, long ``(N,)``.
        targets: the class to go to, long ``(N,)``.
    """

    def loss(scores: Tensor, rows: Rows) -> Tensor:
        own, wanted = (scores.gather(1, label[rows][:, None])[:, 0] for label in (labels, targets))
        return wanted - own

    return loss


def away(goal: Goal, name: LossName, targets: Tensor | None = None) -> Loss:
    r"""Returns the goal's loss or, where the targets are given, the loss that leaves its labels towards them.

    The targeted difference of logits ratio is

    .. math:: \frac{z_t - z_y}{z_{\pi_1} - \frac12 (z_{\pi_3} + z_{\pi_4})}

    with :math:`\pi` the order of falling logits: neither shift nor scale of the logits changes it. With fewer than four
    classes it is the plain difference :math:`z_t - z_y`.

    Args:
        goal: to leave the labels.
        name: ``ce`` for minus the cross-entropy to the target, ``margin`` for the difference, ``dlr`` for the ratio.
        targets: long ``(N,)``.
    """
    if targets is None:
        return goal.loss(name)
    if name == "ce":
        return Reach(targets).loss("ce")
    apart = difference(goal.labels, targets)
    return apart if name == "margin" else lambda scores, rows: apart(scores, rows) / spread(scores, True)


def likely(goal: Goal, scores: Tensor, count: int) -> Tensor:
    """Returns the classes most likely beside the goal's labels, the most likely first ``(n, min(count, classes - 1))``.

    Args:
        goal: of the samples.
        scores: their logits ``(n, classes)``.
        count: how many classes a sample.
    """
    others = scores.scatter(1, goal.labels[:, None], -torch.inf)
    return others.topk(min(count, scores.shape[1] - 1), 1).indices
