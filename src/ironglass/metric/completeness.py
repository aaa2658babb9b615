"""Completeness: does an explanation add up to what it explains?"""

from __future__ import annotations

from ironglass.core.access import Model
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.ops import baselines, inside
from ironglass.ops.targets import logit


@metric(
    title="Completeness",
    paper="sundararajan2017",
    access="scores",
    cost="2",
    lecture="axioms of attribution: completeness",
    tags=("inside",),
)
def completeness(
    model: Model, attribution: Attribution, *, baseline: str | float = "black", tol: float = 0.05
) -> Score:
    r"""Compare the sum of a map with the change of the target's logit from the baseline.

    .. math:: \frac{\left|\sum_i R_i - (f_t(x) - f_t(x'))\right|}{|f_t(x) - f_t(x')|}

    0 means that the map shares out the whole change, 1 is what a map of zeros gets. Integrated gradients, DeepLIFT,
    LRP and Shapley values claim 0. A saliency map or Grad-CAM does not: its sum is in other units, and the figure only
    says that its values are no parts of the logit.

    Args:
        baseline: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number in input units; an explanation that has
            a baseline of its own is held to that one, and one that brings its reference logit to that.
        tol: the greatest share of the change that may be unexplained.

    Returns:
        The share ``(N,)``; passed where it is at most ``tol``.

    Raises:
        InputError: if there is no such baseline.
    """
    own = attribution.options.get("baseline")
    which = own if isinstance(own, str | int | float) else baseline
    part, x, target = inside.enter(model, attribution.x, attribution.target, attribution.at, attribution.unit)
    of, reference = logit(target), attribution.extras.get("reference")
    if reference is None:
        reference = of(part.scores(inside.baseline(part, x, which)), slice(None))
    end = of(part.scores(x), slice(None))
    missed = baselines.incompleteness(attribution.values.flatten(1).sum(1), reference, end)
    return Score(x=attribution.x, method="completeness", values=missed, passed=missed <= tol, of=attribution.method)
