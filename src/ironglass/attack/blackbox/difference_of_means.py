"""Difference of means: no query at all."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp


@attack(
    title="Difference of means",
    paper="bhagoji2018",
    access="labels",
    norms=("linf", "l2", "l1"),
    finite=True,
    needs=("means",),
    cost="0",
    lecture="black-box evasion: zero queries",
    tags=("control",),
)
def difference_of_means(model: Model, x: Tensor, goal: Goal, threat: Threat, *, means: Tensor | None = None) -> Tensor:
    r"""Move from the mean of the sample's class towards that of another, as far as the ball allows.

    .. math:: x' = x + \arg\max_{\|\delta\| \le \varepsilon} \langle \mu_k - \mu_y, \delta\rangle

    ``k`` is the class whose mean is nearest to that of ``y`` in l2, or the target; then ``y`` is the class whose mean
    is nearest to the sample. The model is not asked.

    Args:
        means: of each class ``(classes, *shape)``, input units; `class_means` makes them of labelled samples.

    Returns:
        Moved samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or there are no such means.
    """
    assert means is not None, "the card says that they are needed"
    if means.shape[1:] != x.shape[1:] or len(means) != model.classes:
        raise InputError(
            f"difference_of_means got means of shape {tuple(means.shape)} for {model.classes} classes of shape "
            f"{tuple(x.shape[1:])}",
            "give means=class_means(x, y, classes) of samples with labels",
        )
    means = means.to(x)
    flat = means.flatten(1)
    apart = torch.cdist(flat, flat)
    if goal.targeted:
        target = goal.labels
        to_others = torch.cdist(x.flatten(1), flat).scatter(1, target[:, None], torch.inf)
        label = to_others.argmin(1)
    else:
        label = goal.labels
        target = apart.fill_diagonal_(torch.inf)[label].argmin(1)
    return x + lp.maximize(means[target] - means[label], x, threat, model.bounds)


def class_means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Returns the mean of each class ``(classes, *shape)``.

    Args:
        x: samples ``(M, *shape)``.
        y: their labels, long ``(M,)``.
        classes: how many there are; each needs a sample.

    Raises:
        InputError: if a class has no sample.
    """
    counts = torch.bincount(y, minlength=classes)
    if len(counts) != classes or bool((counts == 0).any()):
        raise InputError(
            f"samples a class: {counts.tolist()}", f"give at least one sample of each of {classes} classes"
        )
    sums = torch.zeros((classes, *x.shape[1:]), dtype=x.dtype, device=x.device).index_add_(0, y, x)
    return sums / lp.column(counts, x).to(x.dtype)
