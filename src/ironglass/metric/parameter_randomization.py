"""The model parameter randomization test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.ops import lp
from ironglass.ops.again import values
from ironglass.ops.similarity import SIMILARITIES


@metric(
    title="Model parameter randomization test",
    paper="adebayo2018",
    access="internals",
    cost="4 * steps * redraws",
    lecture="sanity checks for saliency maps",
    tags=("explains again", "inside"),
)
def parameter_randomization(
    model: Model,
    attribution: Attribution,
    *,
    mode: Literal["cascading", "independent"] = "cascading",
    similarity: Literal["spearman", "spearman_abs", "ssim", "hog"] = "spearman",
    steps: int = 5,
    redraws: int = 3,
    threshold: float = 0.5,
    seed: int = 0,
) -> Score:
    r"""Explain again with the network's layers drawn anew, from the output down, and see whether the map changes.

    What a network has learned is in its parameters. An explanation that looks the same when they are gone does not
    explain the network: it shows the image, as an edge detector does. Layers are drawn by their own initializers,
    running statistics are forgotten. A map passes if two things hold:

    .. math:: s_{\text{all}} < \tau, \qquad \bar s - \bar g < \tau\,(1 - \bar g)

    With every layer drawn anew the similarity :math:`s` is below the threshold. And while only layers of the upper half
    are, it is no further above that of the plain gradient, :math:`g`, than the threshold's share of what is left up to
    1. The second finds maps that depend on the network but not on what decides: guided backpropagation hardly changes
    until the lowest layers are drawn. How alike two maps are by chance depends on the image, the network and the form
    of the map; the gradient carries every layer's weights by the chain rule, so it is the measure, brought to the map's
    form: without signs or channels where the map has none.

    Of signed maps the size of a similarity counts: one that comes back with its sign turned is the same picture. Rules
    that favour what agrees with the output, LRP's γ, z⁺ and αβ among them, are known to do that (sixt2020).

    Args:
        mode: ``cascading`` draws all layers from the output down to one; ``independent`` one alone, and at last all.
        similarity: ``spearman`` for the rank correlation of the values, ``spearman_abs`` of their magnitudes, ``ssim``
            for the structural similarity of the images, ``hog`` for their histograms of oriented gradients. The last
            three see a black background, in which the gradient is not black, as likeness.
        steps: how many stages, spread evenly over the layers: the first draws the output layer, the last all of them.
        redraws: times each stage is drawn; similarities are averaged. A map of few cells, such as Grad-CAM's, resembles
            a chance one more or less by luck: average more there.
        threshold: τ.
        seed: of the first draw; the next ones count up from it.

    Returns:
        The similarity to the given map at each stage ``(N, steps)``, each named by the layer it comes to; 0 where a map
        is constant, which never passes. ``reference (N, steps)`` is the gradient's.

    Raises:
        InputError: if an option is unknown, or the network has no parameters.
    """
    for given, known in ((mode, ("cascading", "independent")), (similarity, tuple(SIMILARITIES))):
        if given not in known:
            raise InputError(f"'{given}' is unknown to parameter_randomization", suggest(given, known))
    if steps < 2 or redraws < 1:
        raise InputError(f"steps={steps}, redraws={redraws}: at least 2 and 1 are needed", "e.g. steps=5, redraws=3")
    x, target, original, options = attribution.x, attribution.target, attribution.values, attribution.options
    signed = _below_zero(original)
    inside = {name: options[name] for name in ("at", "unit") if name in options}

    def maps(of: Model) -> tuple[Tensor, Tensor]:
        gradient = values("saliency", of, x, target, {"absolute": False, **inside})
        found = values(attribution.method, of, x, target, options)
        return found.to(original.dtype), _in_form(gradient, original, signed)

    _, gradient = maps(model)

    def alike(layers: Sequence[str], draw: int) -> Tensor:
        found = []
        for first, again in zip((original, gradient), maps(model.reinitialized(layers, seed + draw)), strict=True):
            each = SIMILARITIES[similarity](first, _finite(again))
            turns = (signed | _below_zero(again)) & (similarity in ("spearman", "ssim"))
            found.append(torch.where(turns, each.abs(), each))
        return torch.stack(found)

    order = model.parameter_layers()[::-1]
    stages = _stages(order, mode, steps)
    s, g = torch.stack(
        [torch.stack([alike(layers, draw) for draw in range(redraws)]).mean(0) for _, layers in stages], 2
    )
    upper = [i for i, (_, layers) in enumerate(stages[:-1]) if order.index(layers[-1]) <= len(order) // 2] or [0]
    above, usual = s[:, upper].mean(1), g[:, upper].mean(1)
    flat = original.flatten(1)
    passed = (s[:, -1] < threshold) & (above - usual < threshold * (1 - usual)) & (flat.amax(1) > flat.amin(1))
    return Score(
        x=x,
        method="parameter_randomization",
        values=s,
        passed=passed,
        steps=[name for name, _ in stages],
        of=attribution.method,
        reference=g,
    )


def _below_zero(maps: Tensor) -> Tensor:
    return (maps < 0).flatten(1).any(1)


def _in_form(gradient: Tensor, original: Tensor, signed: Tensor) -> Tensor:
    """Returns gradients in the form of a map: sizes where it has no sign, the sum over the axis that it has not."""
    gradient = torch.where(lp.column(signed, gradient), gradient, gradient.abs())
    for axis in (1, gradient.ndim - 1):
        if gradient.ndim == original.ndim + 1 and gradient.sum(axis).shape == original.shape:
            return gradient.sum(axis)
    return gradient if gradient.shape == original.shape else torch.zeros_like(original)


def _stages(layers: Sequence[str], mode: str, steps: int) -> list[tuple[str, Sequence[str]]]:
    """Returns the stages: a name, and the layers drawn anew; ``layers`` are given from the output down."""
    if not layers:
        raise InputError("the network has no parameters", "there is nothing to draw anew")
    single = mode == "independent"
    count = steps - single
    at = sorted({round(i * (len(layers) - 1) / max(count - 1, 1)) for i in range(count)})
    stages = [(layers[i] or "the network's own", layers[i : i + 1] if single else layers[: i + 1]) for i in at]
    return [*stages, ("all layers", layers)] if single else stages


def _finite(maps: Tensor) -> Tensor:
    """Returns the maps; those of an untrained network that overflowed as constants, which resemble nothing."""
    good = maps.flatten(1).isfinite().all(1)
    return maps.where(lp.column(good, maps), 0)
