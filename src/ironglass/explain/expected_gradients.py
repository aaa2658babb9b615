"""Expected gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import lp
from ironglass.ops.baselines import incompleteness
from ironglass.ops.targets import logit

ROWS = 32
"""Points that are worked on at a time, where the samples are fewer."""


@explain(
    title="Expected gradients",
    paper="erion2021",
    access="gradient",
    cost="3 * samples + 1",
    kind="specific",
    lecture="reference-based explanations: expected gradients",
)
def expected_gradients(
    model: Model, x: Tensor, target: Tensor, *, baselines: Tensor | None = None, samples: int = 64, seed: int = 0
) -> Map:
    r"""Average integrated gradients over baselines drawn from data.

    .. math:: R_i = \mathbb E_{x' \sim D,\,\tau \sim U(0, 1)}
              \Big[(x_i - x'_i)\,\frac{\partial f_t}{\partial x_i}\big(x' + \tau (x - x')\big)\Big],\qquad
              \sum_i R_i = f_t(x) - \mathbb E_{x'} f_t(x')

    Each draw takes a baseline and a place on the line to it; the places are one in each of equal parts of the line, in
    order, at random within their part, and the baselines are drawn independently of them.

    Args:
        baselines: samples to draw from ``(M, *shape)`` in input units, such as training data; None draws each value
            evenly from the bounds.
        samples: draws a sample.
        seed: of the draws.

    Returns:
        Values ``(N, *shape)`` in logits; and the share of the change from the drawn baselines' mean logit that the map
        misses: how far the average has come.

    Raises:
        InputError: if the baselines are no samples of this kind, or there are no draws.
    """
    if samples < 1:
        raise InputError(f"samples={samples}: at least one draw is needed", "e.g. samples=64")
    if baselines is not None and (baselines.shape[1:] != x.shape[1:] or not len(baselines)):
        raise InputError(
            f"baselines of shape {tuple(baselines.shape)} for samples of shape {tuple(x.shape[1:])}",
            "give (M, *shape), M ≥ 1, such as some training data",
        )
    draws, of = model.draws(seed), logit(target)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    total, start = torch.zeros_like(x), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    width = max(ROWS // len(x), 1)
    for first in range(0, samples, width):
        count, points, changes, references = min(width, samples - first), [], [], []
        for k in range(first, first + count):
            tau = (k + draws.uniform((), dtype=kind).to(x.dtype)) / samples
            if baselines is None:
                reference = model.bounds.low + model.bounds.span * draws.uniform(x.shape[1:], dtype=kind).to(x.dtype)
            else:
                reference = baselines.to(x)[draws.below(len(baselines))]
            changes.append(x - reference)
            points.append(reference + lp.column(tau, x) * changes[-1])
            references.append(reference)
        rows = torch.arange(len(x), device=x.device).repeat(count)
        parts = model.value_and_grad(torch.cat(points), of, rows).grad * torch.cat(changes)
        total += parts.reshape(count, *x.shape).sum(0)
        start += of(model.scores(torch.cat(references), rows), rows).reshape(count, -1).sum(0).to(start)
    values, start = total / samples, start / samples
    end = of(model.scores(x), slice(None)).to(start)
    return Map(values, incompleteness(values.flatten(1).sum(1), start, end))
