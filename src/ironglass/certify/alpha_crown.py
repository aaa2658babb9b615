"""alpha-CROWN: linear bounds whose lower slopes are chosen row by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import certify
from ironglass.core.values import Threat
from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Graph
from ironglass.ops.linear import bounded, climbed, differences, lower, margins, relax, sharpened
from ironglass.ops.proofs import opened, weakest

_HELD = 1 << 23
"""How many values of margins' rows are climbed for at a time."""


@certify(
    title="alpha-CROWN",
    paper="xu2021alphacrown",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500 * (1 + inner)",
    lecture="verification-based evaluation",
)
def alpha_crown(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 10,
    inner: int = 4,
    share: float = 0.5,
    rate: float = 0.6,
    settle: bool = True,
    double: bool = False,
) -> Tensor:
    r"""Climb the bounds of `crown` by the slopes below each bent activation, which any row may choose for itself.

    .. math:: \max_{\alpha \in [0, 1]} \min_{x} A(\alpha)\, x + b(\alpha), \qquad
              \frac{\partial}{\partial \alpha_j} = [A_j]_+\, \hat z_j(x^*)

    with the exact gradient of the envelope theorem, so a step costs one pass back and one forward of a few vectors.
    In order: the bounds of `crown`; the slopes of the margins' own rows; then, with ``inner`` steps, those of the
    intermediate values that cost the margins most, and the margins' again. What is proven leaves at each stage. Bounds
    that were found never get worse, so each margin is at least that of `crown`.

    Slopes are free at ReLU, leaky ReLU and absolute value; lines of other activations stay as they are. The margin is
    proven for the network as it runs in floating point, in any order of summation: see `ops.linear`.

    Args:
        steps: of projected Adam for the margins' slopes.
        inner: steps for those of intermediate values; 0 leaves their bounds as `crown` has them.
        share: of the bent intermediate values, the most costly ones, that get slopes of their own.
        rate: of a climb's first step, in units of the slopes' range.
        settle: leave a margin once it is positive; else climb for all, and to the end.
        double: compute the bounds in float64 though the network is float32: tighter by the rounding, several times
            slower. Always so outside the CPU.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; minus infinity where nothing finite is
        proven.

    Raises:
        InputError: if an option is out of range, or the network has an operator that cannot be bounded.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).eval()
        >>> for layer in (net[0], net[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> result = ig.certify.alpha_crown(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    if steps < 0 or inner < 0 or not 0 < share <= 1 or not rate > 0:
        raise InputError(
            f"steps={steps}, inner={inner}, share={share}, rate={rate}",
            "give counts of at least 0, a share in (0, 1] and a positive rate",
        )
    graph, start = opened(model, x, threat, double)
    y = y.to(start.lower.device)
    relaxed = bounded(graph, start)
    found = margins(graph, start, y, relaxed)
    enough = 0.0 if settle else torch.inf
    held = sum(math.prod(step.shape) for step in graph.steps) * graph.steps[-1].shape[0]
    for stage in ("margins", "intermediate") if inner else ("margins",):
        for rows in torch.split(_open(found, y, enough), max(1, _HELD // held)):
            if not len(rows):
                continue
            part = _Part(graph, start.take(rows), y[rows], {i: v.take(rows) for i, v in relaxed.values.items()})
            if stage == "intermediate":
                part = part.sharpened(found[rows], inner, share, rate)
            found = found.index_copy(0, rows, part.climbed(found[rows], steps, rate, enough))
    return weakest(found, y, x)


def _open(found: Tensor, y: Tensor, enough: float) -> Tensor:
    """The samples with a margin that is finite and still to be climbed for."""
    others = found.scatter(1, y[:, None], torch.inf)
    return ((others <= enough) & others.isfinite()).any(1).nonzero()[:, 0]


class _Part:
    """Some samples, and the intervals of their steps."""

    def __init__(self, graph: Graph, start: Interval, y: Tensor, values: dict[int, Interval]) -> None:
        self.graph, self.start, self.y, self.values = graph, start, y, values
        self.relaxed = relax(graph, values)

    def climbed(self, found: Tensor, steps: int, rate: float, enough: float) -> Tensor:
        """Returns the margins, climbed for where they are not enough; never less than what was found."""
        others = found.scatter(1, self.y[:, None], torch.inf)
        many = int((others <= enough).sum(1).max())
        targets = others.topk(many, 1, largest=False).indices
        rows = self._rows(targets)
        best, _ = climbed(self.start, rows, self.relaxed, steps=steps, rate=rate, enough=enough)
        own = found.gather(1, targets)
        return found.scatter(1, targets, torch.where(best > own, best, own))

    def sharpened(self, found: Tensor, steps: int, share: float, rate: float) -> _Part:
        """Returns the same samples with tighter intervals, by what the weakest margin's row goes through."""
        worst = found.scatter(1, self.y[:, None], torch.inf).argmin(1, keepdim=True)
        tape: dict[int, Tensor] = {}
        lower(self.start, self._rows(worst), self.relaxed, tape=tape)
        values = sharpened(self.start, self.relaxed, tape, steps=steps, share=share, rate=rate)
        return _Part(self.graph, self.start, self.y, values)

    def _rows(self, targets: Tensor) -> Tensor:
        rows = differences(self.y, self.graph.steps[-1].shape[0], self.start.lower.dtype)
        return rows.gather(1, targets[..., None].expand(-1, -1, rows.shape[2]))
