"""Making an explanation again, for the tests that ask whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import get
from ironglass.core.results import Attribution, Map


def explain_again(model: Model, attribution: Attribution, x: Tensor) -> Tensor:
    """Returns the maps that the attribution's own method, with its own options, makes of other samples ``(N, *map)``.

    Args:
        model: that is explained; opened to all it gives.
        attribution: whose method, options and targets are taken.
        x: the samples to explain ``(N, *shape)``, one for each of the attribution's.
    """
    return values(attribution.method, model, x, attribution.target, attribution.options).to(attribution.values.dtype)


def values(method: str, model: Model, x: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Returns the maps of a method by name, bare: uncounted but for the model's own ledger, and not judged."""
    found = get(method).raw(model.opened(), x, target, **options)
    return found.values if isinstance(found, Map) else found


def onto_input(values: Tensor, x: Tensor) -> Tensor:
    """Returns maps in the shape of the samples: a map without channels is shared evenly among them."""
    if values.shape == x.shape:
        return values
    return (values.unsqueeze(1) / x.shape[1]).expand_as(x)
