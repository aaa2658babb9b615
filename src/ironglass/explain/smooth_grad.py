"""SmoothGrad and its kin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import explain
from ironglass.ops import lp
from ironglass.ops.targets import logit

VARIANTS = ("mean", "squared", "variance")
OF = ("gradient", "gradient_x_input")
ROWS = 32
"""Noisy samples that are worked on at a time, where the samples are fewer."""


@explain(
    title="SmoothGrad",
    paper="smilkov2017",
    access="gradient",
    cost="2 * samples",
    kind="specific",
    lecture="gradient explanations: SmoothGrad",
)
def smooth_grad(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 25,
    noise: float = 0.15,
    variant: Literal["mean", "squared", "variance"] = "mean",
    of: Literal["gradient", "gradient_x_input"] = "gradient",
    seed: int = 0,
) -> Tensor:
    r"""Average the gradient over noisy copies of the sample.

    .. math:: R = \frac1n \sum_{k=1}^n E(x + \sigma \xi_k),\qquad \xi_k \sim \mathcal N(0, 1),\quad
              \sigma = \mathrm{noise}\,(\max x - \min x)

    Copies are not clipped to the bounds, as in the paper.

    Args:
        samples: noisy copies of each sample.
        noise: their standard deviation, as a share of the range of the sample's values.
        variant: ``mean``; ``squared`` for the mean of the squares; ``variance`` for the unbiased variance (VarGrad).
        of: what is averaged: the signed ``gradient``, or ``gradient_x_input``.
        seed: of the noise.

    Returns:
        Values ``(N, *shape)``.

    Raises:
        InputError: if an option is unknown or out of range.
    """
    for given, known in ((variant, VARIANTS), (of, OF)):
        if given not in known:
            raise InputError(f"'{given}' is unknown to smooth_grad", suggest(given, known))
    if samples < (2 if variant == "variance" else 1) or not noise >= 0:
        raise InputError(f"samples={samples}, noise={noise}: out of range", "e.g. samples=25, noise=0.15")
    flat, draws = x.flatten(1), model.draws(seed)
    spread = lp.column(noise * (flat.amax(1) - flat.amin(1)), x)
    mean, squares, loss = torch.zeros_like(x), torch.zeros_like(x), logit(target)
    width = max(ROWS // len(x), 1)
    for first in range(0, samples, width):
        count = min(width, samples - first)
        rows = torch.arange(len(x), device=x.device).repeat(count)
        noisy = torch.cat([x + spread * draws.normal(x.shape[1:], dtype=_drawn(x)).to(x.dtype) for _ in range(count)])
        grads = model.value_and_grad(noisy, loss, rows).grad
        for k, part in enumerate((grads if of == "gradient" else grads * noisy).chunk(count), first + 1):
            change = part - mean
            mean = mean + change / k
            squares = squares + (part.square() if variant == "squared" else change * (part - mean))
    if variant == "mean":
        return mean
    return squares / (samples if variant == "squared" else samples - 1)


def _drawn(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
