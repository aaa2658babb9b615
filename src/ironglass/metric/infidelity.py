"""Infidelity: does the map foretell what a change of the input does to the output?"""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.ops.again import onto_input
from ironglass.ops.targets import logit


@metric(
    title="Infidelity",
    paper="yeh2019",
    access="scores",
    cost="samples + 1",
    lecture="does an explanation hold: faithfulness",
)
def infidelity(
    model: Model,
    attribution: Attribution,
    *,
    samples: int = 100,
    noise: float = 0.2,
    scaled: bool = True,
    seed: int = 0,
) -> Score:
    r"""Compare what the map foretells of random changes with what they do to the target's logit.

    .. math:: \mathbb{E}_I \bigl(I^\top \beta\Phi(x) - (f_t(x) - f_t(x - I))\bigr)^2,
        \qquad I \sim \mathcal N(0, \sigma^2)

    The changes are Gaussian and may leave the bounds, as in the paper. A map of zeros gets the mean squared change of
    the logit itself: a map that does no better foretells nothing.

    Args:
        samples: changes tried a sample.
        noise: :math:`\sigma`, as a share of the range of the input.
        scaled: whether the map may first be scaled by the factor :math:`\beta` that fits best; without it
            :math:`\beta = 1`, which is fair only to maps in units of the logit per input unit, such as gradients.
        seed: of the changes.

    Returns:
        The infidelity of the map, and that of a map of zeros ``(N, 2)``; passed where the first is less than 0.99 of
        the second.

    Raises:
        InputError: if an option is out of range.
    """
    if samples < 2 or not noise > 0:
        raise InputError(f"samples={samples}, noise={noise}: at least 2, and above 0", "e.g. samples=100, noise=0.2")
    x, of = attribution.x, logit(attribution.target)
    flat = onto_input(attribution.values, x).flatten(1).double()
    draws, rows = model.draws(seed), torch.arange(len(x), device=x.device)
    start = of(model.scores(x, rows), rows).double()
    told, done = [], []
    for _ in range(samples):
        change = draws.normal(tuple(x.shape[1:]), dtype=x.dtype) * (noise * model.bounds.span)
        done.append(start - of(model.scores(x - change, rows), rows).double())
        told.append((change.flatten(1).double() * flat).sum(1))
    foretold, seen = torch.stack(told, 1), torch.stack(done, 1)
    factor = _best_factor(foretold, seen) if scaled else torch.ones_like(start)
    missed = (factor[:, None] * foretold - seen).square().mean(1)
    nothing = seen.square().mean(1)
    return Score(
        x=x,
        method="infidelity",
        values=torch.stack([missed, nothing], 1).to(attribution.values.dtype),
        passed=missed < 0.99 * nothing,
        steps=("of the map", "of a map of zeros"),
        of=attribution.method,
    )


def _best_factor(foretold: Tensor, seen: Tensor) -> Tensor:
    size = foretold.square().sum(1)
    return (foretold * seen).sum(1) / size.where(size > 0, 1)
