"""Taking parts of samples away in an order: what deletion and insertion measure."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.results import Attribution, Score

from . import baselines
from .again import onto_input
from .targets import probability


def places(values: Tensor, x: Tensor) -> Tensor:
    """Returns the worth of each place ``(N, places)``: of each pixel, its channels summed, or of each value."""
    image = x.ndim == 4
    worth = values.sum(1) if image and values.shape == x.shape else values
    return worth.flatten(1)


def curve(model: Model, start: Tensor, end: Tensor, worth: Tensor, target: Tensor, steps: int) -> Tensor:
    """Returns the target's probability as places go over from ``start`` to ``end``, those of most worth first.

    Args:
        model: that decides.
        start: what the samples are at first ``(N, *shape)``.
        end: what they are at last ``(N, *shape)``.
        worth: of each place ``(N, places)``; equal ones go in the order of their place.
        target: whose probability is watched ``(N,)``, or a pair of classes ``(N, 2)``.
        steps: equal steps, in each of which the same number of places goes over.

    Returns:
        Probabilities ``(N, steps + 1)``, from nothing gone over to everything.
    """
    order = worth.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    shape = (len(start), 1, *start.shape[2:]) if start.ndim == 4 else start.shape
    rows, shares = torch.arange(len(start), device=start.device), []
    for step in range(steps + 1):
        gone = (rank < round(step * order.shape[1] / steps)).reshape(shape)
        scores = model.scores(torch.where(gone, end, start), rows)
        shares.append(probability(scores, target))
    return torch.stack(shares, 1)


def area(curves: Tensor) -> Tensor:
    """Returns the area under each curve over [0, 1] by the trapezoid rule ``(N,)``."""
    inner = curves[:, 1:-1].sum(1) + (curves[:, 0] + curves[:, -1]) / 2
    return inner / (curves.shape[1] - 1)


def removed(
    model: Model,
    attribution: Attribution,
    steps: int,
    baseline: str | float,
    orders: int,
    seed: int,
    insert: bool,
) -> Score:
    """Scores an attribution by the area under its curve, beside the mean area of orders by chance.

    Args:
        model: that decides.
        attribution: whose order is tested.
        steps: equal steps, at most one a place.
        baseline: what is left of a place.
        orders: by chance.
        seed: of the orders.
        insert: bring places back instead of taking them away.

    Raises:
        InputError: if an option is out of range.
    """
    if steps < 2 or orders < 1:
        raise InputError(f"steps={steps}, orders={orders}: at least 2 and 1 are needed", "e.g. steps=50, orders=3")
    x, target = attribution.x, attribution.target
    bare = baselines.baseline(x, model.bounds, baseline)
    ends = (bare, x) if insert else (x, bare)
    worth = places(onto_input(attribution.values, x), x)
    steps = min(steps, worth.shape[1])
    by_map = area(curve(model, *ends, worth, target, steps))
    draws = model.draws(seed)
    by_chance = torch.stack(
        [area(curve(model, *ends, draws.uniform((worth.shape[1],)), target, steps)) for _ in range(orders)]
    ).mean(0)
    return Score(
        x=x,
        method="insertion" if insert else "deletion",
        values=torch.stack([by_map, by_chance], 1).to(attribution.values.dtype),
        passed=by_map > by_chance if insert else by_map < by_chance,
        steps=("by the map", "by chance"),
        of=attribution.method,
    )
