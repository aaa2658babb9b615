"""The data randomization test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import get, study
from ironglass.core.statistics import bootstrap
from ironglass.core.values import Threat
from ironglass.ops.again import values
from ironglass.ops.similarity import SIMILARITIES


@study(
    title="Data randomization test",
    paper="adebayo2018",
    access="internals",
    cost="20",
    lecture="sanity checks for saliency maps",
)
def data_randomization(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None = None,
    *,
    methods: tuple[str, ...] = ("saliency", "gradient_x_input", "grad_cam"),
    similarity: Literal["spearman", "spearman_abs", "ssim", "hog"] = "spearman",
    seed: int = 0,
) -> Study:
    """Explain the same samples on a model trained on true labels and on one trained on labels drawn by chance.

    The second has learned its training set by heart and nothing of the classes. An explanation that looks the same on
    both shows the image, and not what the model has learned from the data. The class explained is the sample's label.

    Args:
        methods: explanations, at their own defaults.
        similarity: of two maps of a sample, as in the parameter randomization test.
        seed: of the resampling for the intervals.

    Returns:
        A row a method, a column a model beside the first: the mean similarity of its maps to those of the first one.
        An explanation whose interval lies near 100 % fails; one that has learned something else lies near 0 %.

    Raises:
        InputError: if there is one model alone, or an option is unknown.
    """
    if len(models) < 2:
        raise InputError(
            "data_randomization compares models and got one",
            "{'honest': model, 'permuted': the same architecture trained on permuted labels}",
        )
    if similarity not in SIMILARITIES:
        raise InputError(f"'{similarity}' is unknown to data_randomization", suggest(similarity, tuple(SIMILARITIES)))
    (_, honest), *others = models.items()
    cells: list[list[tuple[float, float, float]]] = []
    for name in methods:
        options = get(name).card.filled({})
        original = values(name, honest, x, y, options)
        row = []
        for _, other in others:
            alike = SIMILARITIES[similarity](original, values(name, other, x, y, options).to(original.dtype)).tolist()
            row.append((sum(alike) / len(alike), *bootstrap(alike, seed=seed)))
        cells.append(row)
    table = torch.tensor(cells, dtype=torch.double)
    return Study(
        x=x,
        y=y,
        method="data_randomization",
        row_names=methods,
        column_names=tuple(name for name, _ in others),
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.full(table.shape[:2], len(x)),
        caption=f"Similarity ({similarity}) of explanations to those of the first model, with 95 % intervals",
        row_head="explanation",
        seed=seed,
    )
