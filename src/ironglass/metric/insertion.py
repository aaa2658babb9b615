"""Insertion: how fast the decision comes back with what counts most."""

from __future__ import annotations

from ironglass.core.access import Model
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.ops.removal import removed


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
    return removed(model, attribution, steps, baseline, orders, seed, insert=True)
