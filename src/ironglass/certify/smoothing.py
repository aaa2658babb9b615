"""Randomized smoothing: a radius for the classifier that votes under noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import smoothed
from ironglass.core.values import Threat
from ironglass.ops.binomial import lower_limit

_HELD = 1 << 22
"""How many values of noisy inputs are held at a time."""


@smoothed(
    title="Randomized smoothing",
    paper="cohen2019",
    access="labels",
    norms=("l2",),
    cost="selection + samples",
    lecture="probabilistic verification",
)
def smoothing(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    sigma: float = 0.25,
    samples: int = 10_000,
    selection: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
) -> tuple[Tensor, Tensor, float]:
    r"""Let the model vote on noisy copies of x, and bound how far the winner of that vote keeps winning.

    The *smoothed* classifier :math:`g(x) = \arg\max_c P(f(x + \sigma n) = c)` with standard normal n has

    .. math:: g(x + \delta) = g(x) \quad\text{for all}\quad \|\delta\|_2 < \sigma\, \Phi^{-1}(\underline{p})

    where :math:`\underline{p} > 1/2` is a lower limit of the winner's share. The winner is chosen from a few draws; the
    limit is exact (Clopper and Pearson), of other draws, and wrong with probability at most alpha, for each sample. If
    it is not above 1/2, the classifier abstains.

    **This says nothing of the bare model**, which may be fooled by the smallest change: it is a promise on g, it holds
    with probability :math:`1 - \alpha`, and only for who deploys g, noise and all. It scales to any network, and asks
    for labels alone. With a mask, noise falls where values may move. Noise leaves the bounds. The draws have 24 bits in
    float32 and 53 in float64: that they are not quite normal, and what rounding adds, is not accounted for.

    Args:
        sigma: standard deviation of the noise, input units; train with the same noise for useful radii.
        samples: draws for the limit; the paper takes 100,000. The radius is at most
            :math:`\sigma\,\Phi^{-1}(\alpha^{1/n})`.
        selection: draws that choose the winner.
        alpha: probability of being wrong, a sample.
        seed: of the noise.

    Returns:
        The smoothed classifier's decision ``(N,)``, -1 where it abstains; its l2 radius ``(N,)``, 0 where it abstains;
        and the confidence :math:`1 - \alpha`.

    Raises:
        InputError: if sigma or a count is not positive, or alpha is no probability.
    """
    if not 0 < sigma < float("inf") or min(samples, selection) < 1 or not 0 < alpha < 1:
        raise InputError(
            f"sigma={sigma}, samples={samples}, selection={selection}, alpha={alpha}",
            "give a positive sigma and positive counts, and alpha between 0 and 1",
        )
    draws, alive = model.draws(seed), torch.arange(len(x), device=x.device)
    free = None if threat.mask is None else (threat.mask != 0).to(x).expand(len(x), *x.shape[1:])
    votes = torch.zeros(len(x), model.classes, dtype=torch.long, device=x.device)
    for rows, labels in _noisy(model, draws, x, free, alive, sigma, selection):
        votes[rows] += torch.nn.functional.one_hot(labels, model.classes).sum(1)
    winner = votes.argmax(1)
    needed = _majority(samples, alpha)
    wins, step = torch.zeros_like(winner), _points(x, samples)
    for done in range(0, samples, step):
        count = min(step, samples - done)
        for rows, labels in _noisy(model, draws, x, free, alive, sigma, count):
            wins[rows] += (labels == winner[rows, None]).sum(1)
        alive = alive[wins[alive] + (samples - done - count) >= needed]
        if not len(alive):
            break
    decided = wins >= needed
    radius = sigma * torch.special.ndtri(lower_limit(wins, samples, alpha))
    return torch.where(decided, winner, -1), torch.where(decided, radius, 0.0).to(x.dtype), 1 - alpha


def _points(x: Tensor, most: int) -> int:
    """How many copies of one sample are made at a time: by its size alone, so that its draws hang on nothing else."""
    return max(1, min(most, _HELD // x[0].numel()))


def _noisy(
    model: Model, draws: Draws, x: Tensor, free: Tensor | None, rows: Tensor, sigma: float, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields rows and the labels ``(n, k)`` of k noisy copies of each, ``count`` copies in all."""
    step = _points(x, count)
    for first in range(0, count, step):
        copies = min(step, count - first)
        for part in torch.split(rows, max(1, _HELD // (x[0].numel() * copies))):
            noise = draws.normal((copies, *x.shape[1:]), part, x.dtype)
            noise = noise if free is None else noise * free[part, None]
            points = torch.addcmul(x[part, None], noise, noise.new_full((), sigma)).flatten(0, 1)
            yield part, model.labels(points, part.repeat_interleave(copies)).reshape(len(part), copies)


def _majority(samples: int, alpha: float) -> int:
    """The fewest wins whose limit lies above one half; more than there are draws, where none does."""
    low, high = 0, samples + 1
    while low < high:
        middle = (low + high) // 2
        enough = middle <= samples and float(lower_limit(torch.tensor(middle), samples, alpha)) > 0.5
        low, high = (low, middle) if enough or middle > samples else (middle + 1, high)
    return low
