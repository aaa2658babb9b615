"""The model parameter randomization test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import get, metric
from ironglass.core.results import Attribution, Map, Score
from ironglass.ops import lp
from ironglass.ops.similarity import SIMILARITIES


@metric(
    title="Model parameter randomization test",
    paper="adebayo2018",
    access="internals",
    cost="2 * steps * redraws",
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
    redraws: int = 1,
    threshold: float = 0.5,
    seed: int = 0,
) -> Score:
    """Explain again with the network's layers drawn anew, from the output down, and see whether the map changes.

    What a network has learned is in its parameters. An explanation that looks the same when they are gone does not
    explain the network: it shows the image, as an edge detector does. Layers are drawn by their own initializers,
    running statistics are forgotten.

    Args:
        mode: ``cascading`` draws all layers from the output down to one; ``independent`` one alone, and at last all.
        similarity: ``spearman`` for the rank correlation of the values, ``spearman_abs`` of their magnitudes, ``ssim``
            for the structural similarity of the images, ``hog`` for their histograms of oriented gradients.
        steps: how many stages, spread evenly over the layers: the first draws the output layer, the last all of them.
        redraws: times each stage is drawn; similarities are averaged. A map of few cells, such as Grad-CAM's, resembles
            a chance one more or less by luck: average some there.
        threshold: the similarity, once every layer is drawn anew, from which on an explanation fails.
        seed: of the first draw; the next ones count up from it.

    Returns:
        The similarity to the given map at each stage ``(N, steps)``, each named by the layer it comes to; 0 where a map
        is constant. Passed where the last is below the threshold and the given map itself is not constant.

    Raises:
        InputError: if an option is unknown, or the network has no parameters.
    """
    for given, known in ((mode, ("cascading", "independent")), (similarity, tuple(SIMILARITIES))):
        if given not in known:
            raise InputError(f"'{given}' is unknown to parameter_randomization", suggest(given, known))
    if steps < 2 or redraws < 1:
        raise InputError(f"steps={steps}, redraws={redraws}: at least 2 and 1 are needed", "e.g. steps=5, redraws=1")
    method, original = get(attribution.method), attribution.values

    def alike(layers: Sequence[str], draw: int) -> Tensor:
        fresh = model.reinitialized(layers, seed + draw)
        found = method.raw(fresh, attribution.x, attribution.target, **attribution.options)
        again = (found.values if isinstance(found, Map) else found).to(original.dtype)
        return SIMILARITIES[similarity](original, _finite(again))

    stages = _stages(model.parameter_layers()[::-1], mode, steps)
    values = [torch.stack([alike(layers, draw) for draw in range(redraws)]).mean(0) for _, layers in stages]
    flat = original.flatten(1)
    passed = (values[-1] < threshold) & (flat.amax(1) > flat.amin(1))
    return Score(
        x=attribution.x,
        method="parameter_randomization",
        values=torch.stack(values, 1),
        passed=passed,
        steps=[name for name, _ in stages],
        of=attribution.method,
    )


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
