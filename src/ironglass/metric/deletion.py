"""Deletion: how fast the decision falls as what counts most is taken away."""

from __future__ import annotations

import torch

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import metric
from ironglass.core.values import Attribution, Score
from ironglass.ops import baselines, removal
from ironglass.ops.again import onto_input


@metric(
    title="Deletion",
    paper="petsiuk2018",
    access="scores",
    cost="(steps + 1) * (1 + orders)",
    lecture="does an explanation hold: faithfulness",
)
def deletion(
    model: Model,
    attribution: Attribution,
    *,
    steps: int = 50,
    baseline: str | float = "black",
    orders: int = 3,
    seed: int = 0,
) -> Score:
    r"""Take the places away, those first that the map rates highest, and watch the target's probability fall.

    .. math:: \mathrm{AUC} = \int_0^1 p_t\bigl(x \text{ without the first } s \text{ of the places}\bigr)\, ds

    A small area says that the map found what the decision stands on. What is left is no natural picture any more, and a
    network may fall for that alone: so the area of orders by chance stands beside it.

    Args:
        steps: equal steps from the whole sample to the baseline.
        baseline: what is left of a place: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number, input units.
        orders: by chance, whose mean area the map's is held against.
        seed: of the orders by chance.

    Returns:
        The area by the map and the mean area by chance ``(N, 2)``; passed where the map's is smaller.

    Raises:
        InputError: if an option is out of range.
    """
    return _removed(model, attribution, steps, baseline, orders, seed, insert=False)


@metric(
    title="Insertion",
    paper="petsiuk2018",
    access="scores",
    cost="(steps + 1) * (1 + orders)",
    lecture="does an explanation hold: faithfulness",
)
def insertion(
    model: Model,
    attribution: Attribution,
    *,
    steps: int = 50,
    baseline: str | float = "mid",
    orders: int = 3,
    seed: int = 0,
) -> Score:
    r"""Bring the places back, those first that the map rates highest, and watch the target's probability rise.

    .. math:: \mathrm{AUC} = \int_0^1 p_t\bigl(x' \text{ with the first } s \text{ of the places of } x\bigr)\, ds

    A large area says that the map found what suffices for the decision. The paper begins with the blurred image:
    ``baseline="blur"``.

    Args:
        steps: equal steps from the baseline to the whole sample.
        baseline: what stands in a place at first: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number.
        orders: by chance, whose mean area the map's is held against.
        seed: of the orders by chance.

    Returns:
        The area by the map and the mean area by chance ``(N, 2)``; passed where the map's is larger.

    Raises:
        InputError: if an option is out of range.
    """
    return _removed(model, attribution, steps, baseline, orders, seed, insert=True)


def _removed(
    model: Model,
    attribution: Attribution,
    steps: int,
    baseline: str | float,
    orders: int,
    seed: int,
    insert: bool,
) -> Score:
    if steps < 2 or orders < 1:
        raise InputError(f"steps={steps}, orders={orders}: at least 2 and 1 are needed", "e.g. steps=50, orders=3")
    x, target = attribution.x, attribution.target
    bare = baselines.baseline(x, model.bounds, baseline)
    ends = (bare, x) if insert else (x, bare)
    worth = removal.places(onto_input(attribution.values, x), x)
    steps = min(steps, worth.shape[1])
    by_map = removal.area(removal.curve(model, *ends, worth, target, steps))
    draws = model.draws(seed)
    by_chance = torch.stack(
        [
            removal.area(removal.curve(model, *ends, draws.uniform((worth.shape[1],)), target, steps))
            for _ in range(orders)
        ]
    ).mean(0)
    return Score(
        x=x,
        method="insertion" if insert else "deletion",
        values=torch.stack([by_map, by_chance], 1).to(attribution.values.dtype),
        passed=by_map > by_chance if insert else by_map < by_chance,
        steps=("by the map", "by chance"),
        of=attribution.method,
    )
