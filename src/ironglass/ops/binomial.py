"""Exact limits of a share of which only a count is known."""

from __future__ import annotations

import torch
from scipy.special import betaincinv
from torch import Tensor


def lower_limit(successes: Tensor, trials: int, alpha: float) -> Tensor:
    r"""Returns the one-sided limit of Clopper and Pearson, float64.

    It is the p at which so many successes or more have probability :math:`\alpha`, the :math:`\alpha`-quantile of
    :math:`\mathrm{Beta}(k, n - k + 1)`: the true share lies below it with probability at most :math:`\alpha`, for every
    true share and every n. It is rounded down.

    Args:
        successes: counts, any shape.
        trials: how many there were.
        alpha: probability of being wrong.
    """
    k = successes.to("cpu", torch.float64)
    limit = torch.as_tensor(betaincinv(k.clamp(min=1).numpy(), (trials - k + 1).numpy(), alpha))
    return torch.where(k > 0, limit * (1 - 1e-9), 0.0).to(successes.device)
