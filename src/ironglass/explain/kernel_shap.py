"""Shapley values by weighted least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import views
from ironglass.ops.baselines import incompleteness
from ironglass.ops.designs import coalitions
from ironglass.ops.observe import Output, blocks, observe, outcome
from ironglass.ops.views import View


@explain(
    title="Kernel SHAP",
    paper="lundberg2017",
    access="scores",
    cost="(samples + 2) * draws",
    kind="agnostic",
    lecture="surrogates: Shapley values",
)
def kernel_shap(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 1000,
    view: View | str | None = None,
    baseline: str | float | None = None,
    draws: int = 1,
    output: Output = "logit",
    seed: int = 0,
) -> Map:
    r"""Share out the change of the target's logit among a sample's parts, by their Shapley values.

    .. math:: \min_\phi \sum_S \frac{P - 1}{\binom{P}{|S|} |S| (P - |S|)} \Big(v(S) - v(\emptyset) - \sum_{i \in S}
        \phi_i\Big)^2 \quad \text{with} \quad \sum_i \phi_i = v(\text{all}) - v(\emptyset)

    v(S) is the logit where only the parts S are left. Where P parts have no more than ``samples`` coalitions, all are
    looked at and the values are exact. Otherwise small and large coalitions are taken whole and the others drawn, in
    opposite pairs. The constraint holds exactly: the map adds up to the change.

    Args:
        samples: coalitions a sample, besides all parts and none.
        view: what the parts are: ``superpixels``, ``grid``, ``table``, ``text``, ``audio`` or a view of your own (rows
            of a background, for a table); None to tell by the sample's shape.
        baseline: what stands where parts are gone: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number; None
            for the view's own: a region's mean colour, other rows of a table, 0 in text and sound.
        draws: rows of a table's background that each coalition is averaged over, evenly taken from it.
        output: explain the target's ``logit`` or its ``probability``.
        seed: of the coalitions.

    Returns:
        Each part's value, in equal shares to its cells, so that the map adds up to the change; and its completeness
        error. Extras: ``parts``, the part of each cell, and ``reference (N,)``, the output without any part.

    Raises:
        InputError: if an option is out of range.
    """
    if samples < 2 or draws < 1:
        raise InputError(f"samples={samples}, draws={draws}: at least 2 and 1", "e.g. samples=1000, draws=100")
    parts, stream = views.cut(x, model.bounds, view, baseline), model.draws(seed)
    draws = min(draws, len(parts.removed)) if parts.drawn else 1
    draw = torch.arange(draws, device=x.device) * max(len(parts.removed) // draws, 1)
    everyone = torch.arange(len(x), device=x.device)

    def fit(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep, weight = coalitions(stream, samples, parts.count, rows)
        ends = torch.tensor([False, True], device=x.device)[:, None].expand(len(rows), 2, parts.count)
        keep = torch.cat([ends, keep], 1)

        def make(which: slice, part: slice) -> Tensor:
            number, some = torch.arange(part.start, part.stop, device=x.device), rows[which]
            return parts.masked(keep[which][:, number // draws], some, draw[number % draws].expand(len(some), -1))

        answers = outcome(observe(model, make, x, keep.shape[1] * draws, rows), target[rows], output)
        y = answers.reshape(len(rows), -1, draws).mean(2)
        return shapley(keep[:, 2:], y[:, 2:] - y[:, :1], weight, y[:, 1] - y[:, 0]), y[:, 0], y[:, 1]

    found = [fit(everyone[block]) for block in blocks(len(x), samples * draws * (model.classes + 4 * parts.count))]
    values, start, end = (torch.cat(part) for part in zip(*found, strict=True))
    sizes = parts.sizes()
    spread = parts.spread(_to_filled(values, sizes) / sizes.clamp_min(1))
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    error = incompleteness(spread.flatten(1).sum(1), start, end)
    return Map(spread, error, {"parts": labels, "reference": start})


def shapley(keep: Tensor, y: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    r"""Returns the weighted least squares values that add up to ``total`` exactly ``(n, P)``, in float64.

    .. math:: \phi = A^{-1} \Big(b - \mathbf 1 \frac{\mathbf 1^\top A^{-1} b - \Delta}{\mathbf 1^\top A^{-1} \mathbf 1}
        \Big), \qquad A = Z^\top \Omega Z, \; b = Z^\top \Omega y

    Args:
        keep: coalitions ``(n, m, P)``.
        y: their value, less that of the empty one ``(n, m)``.
        weight: of each ``(m,)``.
        total: the value of the full one, less that of the empty one ``(n,)``.
    """
    players = keep.shape[2]
    z = keep.double()
    if players == 1 or not z.shape[1]:
        return (total[:, None] / players).expand(-1, players)
    weighted = z.mT * weight
    inverse = torch.linalg.pinv(weighted @ z, hermitian=True)
    free: Tensor = (inverse @ (weighted @ y[..., None]))[..., 0]
    ones: Tensor = inverse.sum(2)
    return free - ones * ((free.sum(1) - total) / ones.sum(1))[:, None]


def _to_filled(values: Tensor, sizes: Tensor) -> Tensor:
    """Returns the values with what the fit left on empty parts, by chance, shared among those that have cells."""
    filled = sizes > 0
    lost = values.where(~filled, 0).sum(1, keepdim=True)
    return (values + lost / filled.sum(1, keepdim=True).clamp_min(1)).where(filled, 0)
