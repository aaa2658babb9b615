"""Local interpretable model-agnostic explanations."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import views
from ironglass.ops.designs import balanced
from ironglass.ops.observe import Fit, Output, blocks, observe, outcome, ridge
from ironglass.ops.views import View


@explain(
    title="LIME",
    paper="ribeiro2016",
    access="scores",
    cost="samples",
    kind="agnostic",
    lecture="surrogates: LIME",
)
def lime(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 1000,
    view: View | str | None = None,
    baseline: str | float | None = None,
    width: float = 0.25,
    alpha: float = 1.0,
    output: Output = "logit",
    seed: int = 0,
) -> Map:
    r"""Fit a linear model to the model's answers around a sample, as functions of which of its parts are there.

    .. math:: \min_{\beta, c} \sum_i \omega(z_i) \big(f_t(x_{z_i}) - c - z_i^\top \beta\big)^2 + \alpha \|\beta\|^2,
        \qquad \omega(z) = \exp\Big(-\frac{(1 - \sqrt{|z| / P})^2}{2 w^2}\Big)

    Superpixels, columns, tokens or stretches of sound: the view says what a part is and what stands in its place. Masks
    come in opposite pairs from a Hadamard matrix drawn for each sample, which errs less than independent masks, and
    the same seed gives the same bits. How well the linear model fits, and how sure its weights are, come with the map:
    of a poor fit nothing should be believed.

    Args:
        samples: masks a sample; the first two are the whole sample and nothing of it.
        view: what the parts are: ``superpixels``, ``grid``, ``table``, ``text``, ``audio`` or a view of your own (rows
            of a background, for a table); None to tell by the sample's shape.
        baseline: what stands where parts are gone: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number; None
            for the view's own: a region's mean colour, other rows of a table, 0 in text and sound.
        width: of the kernel that weighs masks by how much of the sample they keep.
        alpha: the ridge's penalty.
        output: explain the target's ``logit`` or its ``probability``.
        seed: of the masks.

    Returns:
        The weight of each part, at each of its cells. Extras: ``fit (N,)``, the weighted R² of the linear model;
        ``interval``, the half-width of a 95 % interval about each weight; ``parts``, the part of each cell.

    Raises:
        InputError: if an option is out of range.
    """
    if samples < 4 or width <= 0 or alpha < 0:
        raise InputError(f"samples={samples}, width={width}, alpha={alpha}", "e.g. samples=1000, width=0.25, alpha=1")
    parts, draws = views.cut(x, model.bounds, view, baseline), model.draws(seed)
    everyone = torch.arange(len(x), device=x.device)

    def fit(rows: Tensor) -> Fit:
        whole = torch.tensor([True, False], device=x.device)[:, None].expand(len(rows), 2, parts.count)
        keep = torch.cat([whole, balanced(draws, samples - 2, parts.count, rows)], 1)
        draw = draws.below(1 << 30, (1,), rows) + torch.arange(samples, device=x.device) // 2

        def make(which: slice, part: slice) -> Tensor:
            return parts.masked(keep[which, part], rows[which], draw[which, part])

        y = outcome(observe(model, make, x, samples, rows), target[rows], output)
        return ridge(keep, y[..., None], _closeness(keep, width), alpha)

    found = [fit(everyone[block]) for block in blocks(len(x), samples * (model.classes + 4 * parts.count))]
    weights, _, quality, interval = (torch.cat(part)[..., 0] for part in zip(*found, strict=True))
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    extras = {"fit": quality, "interval": parts.spread(interval), "parts": labels}
    return Map(parts.spread(weights), extras=extras)


def _closeness(keep: Tensor, width: float) -> Tensor:
    """Returns how near each mask is to the whole sample, by the cosine between the two ``(n, S)``."""
    distance = 1 - keep.double().mean(2).sqrt()
    return (-((distance / width) ** 2) / 2).exp()
