r"""The end point of a distribution, from maxima of samples: a reverse Weibull fit.

A maximum of n draws of a bounded variable is, for large n, distributed as

.. math:: P(B \le b) = \exp\!\left(-\left(\tfrac{a - b}{s}\right)^c\right), \quad b \le a

whose end point a is the bound that the maxima approach. For a given a the likelihood has a single maximum over c, with
s in closed form; what is left is a search over the one number :math:`\log(a - \max b)`, from many starts at once.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import kstwo
from torch import Tensor

_PENALTY = 0.01
"""Times c squared, on the negative log-likelihood: without it the end point runs away where maxima look Gumbel."""
_STARTS, _NARROWED = 24, 30
_REJECT = 1e-3


def limit_of_maxima(maxima: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the estimated end point of each row of maxima and the p-value of its fit.

    Where the fit is rejected (p below 0.001), the end point is the largest value seen and the p-value is kept. Where
    the maxima do not vary (within 1e-6) it is that value, with 1; where one is not finite it is NaN, with 0.

    Args:
        maxima: at least 0, ``(..., n)``.

    Returns:
        End points and p-values ``(...)``, float64.
    """
    flat = maxima.detach().to("cpu", torch.float64).reshape(-1, maxima.shape[-1])
    top = flat.amax(1)
    span = top - flat.amin(1)
    limit, quality = top.clone(), torch.ones_like(top)
    broken = ~flat.isfinite().all(1)
    limit[broken], quality[broken] = torch.nan, 0.0
    varied = (~broken & (span > 1e-6 * top)).nonzero()[:, 0]
    if len(varied):
        below = (top[varied, None] - flat[varied]) / span[varied, None]
        gap, shape, scale = fit(below)
        fitted = agreement(below, gap, shape, scale)
        quality[varied] = fitted
        limit[varied] += torch.where(fitted >= _REJECT, gap * span[varied], 0.0)
    outer = maxima.shape[:-1]
    return limit.reshape(outer).to(maxima.device), quality.reshape(outer).to(maxima.device)


def fit(below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the penalized maximum-likelihood ``a - max b``, ``c >= 1`` and ``s`` of each row.

    With c below 1 the likelihood has no maximum: it grows without bound as a nears the largest value.

    Args:
        below: how far each maximum lies below the largest, which is 0, in units of the range ``(m, n)``.
    """
    grid = torch.linspace(math.log(1e-4), math.log(1e3), _STARTS, dtype=below.dtype)
    costs = torch.stack([_cost(below, start.expand(len(below)))[0] for start in grid], 1)
    best = costs.argmin(1)
    low, high = grid[(best - 1).clamp(min=0)], grid[(best + 1).clamp(max=_STARTS - 1)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(_NARROWED):
        left, right = high - golden * (high - low), low + golden * (high - low)
        lower = _cost(below, left)[0] <= _cost(below, right)[0]
        low, high = torch.where(lower, low, left), torch.where(lower, right, high)
    gap = (low + high) / 2
    _, shape, scale = _cost(below, gap)
    return gap.exp(), shape, scale


def _cost(below: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The penalized negative log-likelihood at these ``log(a - max b)``, with the best shape and its scale."""
    log = torch.log(below + gap.exp()[:, None])
    count, total = log.shape[1], log.sum(1)
    shape = (1.28 / log.std(1)).clamp(1.0, 1e6)
    for _ in range(20):  # Newton on a rising function of the shape, each step within a factor of 4
        weights = torch.softmax(shape[:, None] * log, 1)
        mean = (weights * log).sum(1)
        spread = (weights * (log - mean[:, None]).square()).sum(1)
        slope = count * (mean - 1 / shape) - total + 2 * _PENALTY * shape
        step = slope / (count * (spread + shape**-2) + 2 * _PENALTY)
        before = shape
        shape = torch.minimum(torch.maximum(shape - step, shape / 4), shape * 4).clamp(min=1.0)
        if bool(((shape - before).abs() <= 1e-9 * shape).all()):
            break
    power = torch.logsumexp(shape[:, None] * log, 1) - math.log(count)
    cost = count * (power - torch.log(shape) + 1) - (shape - 1) * total + _PENALTY * shape.square()
    return cost, shape, (power / shape).exp()


def agreement(below: Tensor, gap: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Returns the p-value of the test of Kolmogorov and Smirnov for each row, as if nothing had been fitted."""
    ordered = (below + gap[:, None]).sort(1, descending=True).values
    expected = torch.exp(-((ordered / scale[:, None]) ** shape[:, None]))
    count = ordered.shape[1]
    steps = torch.arange(count + 1, dtype=expected.dtype) / count
    largest = torch.maximum(steps[1:] - expected, expected - steps[:-1]).amax(1)
    return torch.from_numpy(kstwo.sf(largest.numpy(), count))
