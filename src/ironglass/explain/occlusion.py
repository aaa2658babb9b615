"""Occlusion."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import views
from ironglass.ops.baselines import baseline as filling
from ironglass.ops.observe import Output, chunks, observe, outcome
from ironglass.ops.views import View


@explain(
    title="Occlusion",
    paper="zeiler2014",
    access="scores",
    cost="windows * windows + 1",
    kind="agnostic",
    lecture="perturbation explanations: occlusion",
)
def occlusion(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    windows: int = 13,
    size: int | None = None,
    view: View | str | None = None,
    baseline: str | float | None = None,
    output: Output = "logit",
) -> Map:
    r"""Cover a sample piece by piece, and see how far the target's logit falls.

    .. math:: R_i = \frac{1}{|\{k : i \in W_k\}|} \sum_{k : i \in W_k} f_t(x) - f_t(x \text{ without } W_k)

    Over an image a square window slides; where windows overlap, their falls are averaged. Of other samples, or with a
    view, each part is taken away by itself.

    Args:
        windows: positions along each side of an image, evenly spaced.
        size: side of the window in pixels; None so that each overlaps the next by half.
        view: parts to take away instead of windows: ``superpixels``, ``grid``, ``table``, ``text``, ``audio`` or a view
            of your own; None to tell by the sample's shape.
        baseline: what covers: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number; None for ``mid`` in a
            window, and for the view's own in a part.
        output: explain the target's ``logit`` or its ``probability``.

    Returns:
        The fall of the output ``(N, H, W)`` in images, else at each cell of each part. Extras of parts: ``parts``, the
        part of each cell.

    Raises:
        InputError: if an option is out of range.
    """
    if windows < 1 or (size is not None and size < 1):
        raise InputError(f"windows={windows}, size={size}: at least 1", "e.g. windows=13, size=32")
    if view is None and x.ndim == 4:
        return _windows(model, x, target, windows, size, filling(x, model.bounds, baseline or "mid"), output)
    parts = views.cut(x, model.bounds, view, baseline)
    keep = ~torch.eye(parts.count, dtype=torch.bool, device=x.device)
    keep = torch.cat([torch.ones_like(keep[:1]), keep])

    everyone, draw = torch.arange(len(x), device=x.device), torch.arange(len(keep), device=x.device)

    def make(which: slice, part: slice) -> Tensor:
        rows = everyone[which]
        return parts.masked(keep[part].expand(len(rows), -1, -1), rows, draw[part].expand(len(rows), -1))

    y = outcome(observe(model, make, x, parts.count + 1), target, output)
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    return Map(parts.spread(y[:, :1] - y[:, 1:]), extras={"parts": labels})


def _windows(
    model: Model, x: Tensor, target: Tensor, count: int, size: int | None, cover: Tensor, output: Output
) -> Map:
    """Slides the window over images."""
    down, across = (_inside(side, count, size, x.device) for side in x.shape[2:])
    hidden = (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1)

    def make(which: slice, part: slice) -> Tensor:
        return torch.where(hidden[part, None], cover[which, None], x[which, None]).flatten(0, 1)

    start = outcome(model.scores(x)[:, None], target, output)
    fall = start - outcome(observe(model, make, x, len(hidden)), target, output)
    total, covered = x.new_zeros(len(x), *x.shape[2:], dtype=torch.float64), hidden.sum(0)
    for which, part in chunks(len(x), len(hidden), hidden[0].numel()):
        total[which] += torch.einsum("nk,khw->nhw", fall[which, part], hidden[part].double())
    return Map(total / covered.clamp_min(1))


def _inside(side: int, count: int, size: int | None, device: torch.device) -> Tensor:
    """Returns which places along a side each position of the window covers ``(positions, side)``."""
    size = min(-(-2 * side // (count + 1)) if size is None else size, side)
    places = sorted({round((side - size) * k / max(count - 1, 1)) for k in range(count)})
    first, place = torch.tensor(places, device=device)[:, None], torch.arange(side, device=device)
    return torch.logical_and(place >= first, place < first + size)
