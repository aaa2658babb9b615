"""Do single units mean something, or does the space of a layer? Units against random directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import study
from ironglass.core.statistics import bootstrap
from ironglass.core.values import Threat

COLUMNS = ("units", "random directions", "chance")


@study(
    title="Units against random directions",
    paper="szegedy2014",
    access="internals",
    cost="1",
    scope="global",
    kind="specific",
    explains="model",
    lecture="intriguing properties: semantics of units",
)
def unit_semantics(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    layer: str | None = None,
    top: int = 8,
    directions: int = 256,
    seed: int = 0,
) -> Study:
    r"""Compare how pure in class the samples are that excite a unit most, and a random direction of its layer.

    .. math:: \operatorname*{top}_{x}\, \langle \varphi(x), e_i\rangle \quad\text{against}\quad
        \operatorname*{top}_{x}\, \langle \varphi(x), v\rangle, \qquad v \sim \mathcal{N}(0, I)

    Purity is the share of the most frequent class among the ``top`` samples. If random directions are as pure as
    units, meaning lies in the space and not in the units. ``chance`` is the purity of samples drawn at random. A
    convolution's unit is a channel, averaged over its positions; units that give all samples the same are left out.
    Give a trained network and an untrained one, to see what is learned. Intervals are bootstrapped over directions.

    Args:
        layer: whose activations φ are taken; if None the last one before the scores.
        top: samples a direction.
        directions: random ones, and at most so many units.
        seed: of the directions.

    Returns:
        Purity, a row a model.

    Raises:
        InputError: if a model has no such layer, or there are fewer samples than ``top``.
    """
    if not 1 <= top <= len(x) or directions < 1:
        raise InputError(f"top={top}, directions={directions} for {len(x)} samples", "give 1 ≤ top ≤ samples")
    labels = Draws(torch.arange(len(x)), seed, x.device).uniform((directions,))
    rows = []
    for name, model in models.items():
        units = _units(model, x, _layer(model, layer, name))
        random = Draws(torch.arange(directions), seed, x.device).normal(units.shape[1:]).to(units)
        live = units[:, (units != units[:1]).any(0)][:, :directions]
        rows.append([purity(part, y, top) for part in (live, units @ random.T, labels)])
    cells = [[_mean(found.tolist()) for found in row] for row in rows]
    value, low, high = (torch.tensor([[cell[k] for cell in row] for row in cells]) for k in range(3))
    return Study(
        x=x,
        method="unit_semantics",
        options={"layer": layer, "top": top, "directions": directions, "seed": seed},
        y=y,
        row_names=tuple(models),
        column_names=COLUMNS,
        values=value,
        low=low,
        high=high,
        counts=torch.tensor([[len(found) for found in row] for row in rows]),
        caption=f"Class purity of the {top} samples that a direction likes most",
        row_head="model",
        seed=seed,
    )


def purity(projections: Tensor, y: Tensor, top: int) -> Tensor:
    """Returns the share of the most frequent class among the samples that each direction likes most ``(D,)``.

    Args:
        projections: of N samples on D directions ``(N, D)``; of equal ones the first counts.
        y: classes ``(N,)``.
        top: how many samples.
    """
    best = projections.argsort(dim=0, descending=True, stable=True)[:top]
    votes = F.one_hot(y[best], int(y.max()) + 1).sum(0)
    return votes.amax(1).double() / top


def _units(model: Model, x: Tensor, layer: str) -> Tensor:
    """Returns the units' values ``(N, units)``."""
    values = model.activations(x, [layer])[layer]
    return values.flatten(2).mean(2) if values.ndim > 2 else values


def _layer(model: Model, layer: str | None, name: str) -> str:
    layers = model.layers()
    if layer is None:
        hidden = [each for each, shape in layers.items() if shape != (model.classes,)]
        if not hidden:
            raise InputError(f"{name} has no layer before its scores", "name one: layer=")
        return hidden[-1]
    if layer not in layers:
        raise InputError(f"{name} has no layer '{layer}'", suggest(layer, layers))
    return layer


def _mean(values: list[float]) -> tuple[float, float, float]:
    return (sum(values) / len(values), *bootstrap(values)) if values else (0.0, 0.0, 1.0)
