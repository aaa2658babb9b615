"""The joint detector of feature squeezing: predictions that a squeezer changes are suspicious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import detector, get
from ironglass.models.adapter import Adapter
from ironglass.models.defended import defend
from ironglass.models.detector import Watch
from ironglass.models.joint import Several

SETS = {
    "mnist": ("bits 1", "median 2"),
    "cifar": ("bits 5", "median 2", "non_local 13 3 2"),
    "imagenet": ("bits 5", "median 2", "non_local 11 3 4"),
}
"""The paper's joint sets."""


@dataclass(frozen=True)
class _Moved:
    r"""The largest change: :math:`\max_j \| \mathrm{softmax} f(x) - \mathrm{softmax} f(s_j(x)) \|_1`."""

    def __call__(self, views: Tensor) -> Tensor:
        probabilities = views.softmax(2)
        moved: Tensor = (probabilities[1:] - probabilities[0]).abs().sum(2).amax(0)
        return moved


@detector(
    title="Joint detection by feature squeezing",
    paper="xu2018",
    access="scores",
    cost="4",
    lecture="defences: detection",
    inputs=("image",),
)
def squeezing_detector(model: Adapter, *, squeezers: str | Sequence[str] = "imagenet", fpr: float = 0.05) -> Watch:
    r"""Flag what a squeezer predicts otherwise.

    .. math:: s(x) = \max_j \bigl\| \mathrm{softmax} f(x) - \mathrm{softmax} f(s_j(x)) \bigr\|_1

    Args:
        squeezers: ``bits B``, ``median SIZE`` or ``non_local SEARCH BLOCK STRENGTH``, or the name of a set of the
            paper: ``mnist``, ``cifar`` or ``imagenet``.
        fpr: share of the legitimate samples, on which the threshold is set, that may be flagged.

    Returns:
        The views and the statistic.

    Raises:
        InputError: if a squeezer is unknown.
    """
    chosen = SETS.get(squeezers, (squeezers,)) if isinstance(squeezers, str) else tuple(squeezers)
    squeezing = get("feature_squeezing", "defend")
    squeezed = [defend(squeezing, model, options(each)).backend for each in chosen]
    return Watch(Several([model.backend, *squeezed]), _Moved(), fpr)


def options(squeezer: str) -> dict[str, Any]:
    """Returns the options of feature squeezing that a squeezer's words stand for.

    Raises:
        InputError: if they stand for none.
    """
    kind, *numbers = squeezer.split()
    try:
        values = [float(number) for number in numbers]
        match kind, values:
            case (("bits" | "median"), [value]):
                return {"bits": None, kind: int(value)}
            case "non_local", [search, block, strength]:
                return {"bits": None, kind: (int(search), int(block), strength)}
    except ValueError:
        pass
    raise InputError(
        f"'{squeezer}' is no squeezer", "'bits 1', 'median 2', 'non_local 11 3 4', or a set: " + ", ".join(SETS)
    )
