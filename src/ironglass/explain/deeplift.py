"""DeepLIFT."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model, Rows, Run
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import baselines
from ironglass.ops.rules import Rescale
from ironglass.ops.targets import logit


@explain(
    title="DeepLIFT",
    paper="shrikumar2017",
    access="internals",
    cost="3",
    kind="specific",
    lecture="reference-based explanations: DeepLIFT",
)
def deeplift(model: Model, x: Tensor, target: Tensor, *, baseline: str | float = "black") -> Map:
    r"""Share out the change of the target's logit from a reference, by the rescale rule.

    .. math:: R_i = m_i\,(x_i - x'_i),\qquad \sum_i R_i = f_t(x) - f_t(x')

    The multipliers :math:`m` follow the chain rule: a function of one value has :math:`\Delta y / \Delta x`, where the
    gradient would be 0 once it saturates. Products, softmax, attention, layer norm and max pooling are shared so that
    they add up too, so the map is complete for every network whose functions are known; another function is refused by
    name. Rules act on functions: what is in place, shared or written without modules is seen.

    Args:
        baseline: the reference: ``black``, ``mid`` or ``white`` for the low end, middle or high end of the bounds;
            ``mean`` for the image's mean colour; ``blur`` for the blurred image; or a number in input units.

    Returns:
        Values ``(N, *shape)`` in logits, and the share of the change that rounding has lost.

    Raises:
        InputError: if there is no such baseline, or the network calls a function that no rule is known for.
    """
    reference, of = baselines.baseline(x, model.bounds, baseline), logit(target)
    start = torch.empty(len(x), dtype=x.dtype, device=x.device)

    def through(run: Run, leaf: Tensor, rows: Rows) -> Tensor:
        scores, old = Rescale()(run, leaf, reference[rows].to(leaf))
        start[rows] = of(old, rows).to(start)
        return scores

    end, multipliers, _ = model.propagate(x, of, through)
    values = (x - reference) * multipliers
    return Map(values, baselines.incompleteness(values.flatten(1).sum(1), start, end.to(start)))
