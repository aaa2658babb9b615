"""Intervals for small samples: a figure is never printed without one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Returns Wilson's score interval for a proportion.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        successes: how many of the trials, ``0 <= successes <= trials``. Of a mean of values in [0, 1], their sum: it
            varies no more than a count with the same mean, so the interval is on the safe side.
        trials: sample size; 0 gives the whole interval ``(0, 1)``.
        confidence: coverage aimed at.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, n = successes / trials, trials
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def bootstrap(
    values: Sequence[float], confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the mean.

    Args:
        values: one figure a sample; empty gives ``(nan, nan)``.
        confidence: coverage aimed at.
        draws: how many resamples.
        seed: of the resampling; the global generators are not touched.
    """
    if not values:
        return math.nan, math.nan
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(draws))
    tail = (1 - confidence) / 2
    return means[int(tail * draws)], means[min(draws - 1, math.ceil((1 - tail) * draws) - 1)]
