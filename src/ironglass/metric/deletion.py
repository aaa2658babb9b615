"""Deletion: how fast the decision falls as what counts most is taken away."""

from __future__ import annotations

from ironglass.core.access import Model
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.ops.removal import removed


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
    return removed(model, attribution, steps, baseline, orders, seed, insert=False)
