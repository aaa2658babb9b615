"""Detection by uncertainty: inputs on which thinned networks, or an ensemble's members, disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ironglass.core.errors import InputError, suggest
from ironglass.core.method import detector
from ironglass.models.adapter import Adapter
from ironglass.models.detector import Watch
from ironglass.models.drawn import together
from ironglass.models.dropout import Beside, thinned
from ironglass.models.joint import Joint, Several

MEASURES = ("total", "aleatoric", "epistemic")


@dataclass(frozen=True)
class _Unsure:
    """One kind of uncertainty of the views but the first, in nats, by logarithms so that its gradient is finite."""

    measure: str

    def __call__(self, views: Tensor) -> Tensor:
        log_p = views[1:].log_softmax(2)
        both = together(log_p)
        total, own = (-(each.exp() * each).sum(-1) for each in (both, log_p))
        return {"total": total, "aleatoric": own.mean(0), "epistemic": total - own.mean(0)}[self.measure]


@detector(
    title="Detection by uncertainty",
    paper="gal2016",
    access="scores",
    cost="samples + 1",
    lecture="defences: detection by uncertainty",
)
def uncertainty_detector(
    model: Adapter,
    *,
    measure: Literal["total", "aleatoric", "epistemic"] = "epistemic",
    samples: int = 20,
    rate: float | None = None,
    fpr: float = 0.05,
    seed: int = 0,
) -> Watch:
    r"""Flag inputs of which the model is unsure.

    .. math:: s(x) = H\bigl[\mathbb E_t\, p_t\bigr] - \mathbb E_t\, H[p_t]

    An ensemble, `ironglass.models.joint.ensemble`, is asked for its members; any other network for thinned networks, by
    dropout.

    Args:
        measure: ``epistemic`` for the mutual information of answer and draw, ``aleatoric`` for the mean entropy of a
            draw, ``total`` for their sum.
        samples: draws of dropout.
        rate: of all dropout layers, in place of their own.
        fpr: share of the legitimate samples, on which the threshold is set, that may be flagged.
        seed: of the masks.

    Returns:
        The views and the statistic.

    Raises:
        InputError: if the measure is unknown, or the network has no dropout.
        AccessError: if the model is a function.
    """
    if measure not in MEASURES:
        raise InputError(f"measure '{measure}' is unknown", suggest(measure, MEASURES))
    backend = model.backend
    if isinstance(backend, Joint) and isinstance(backend.views, Several):
        return Watch(Beside(backend, backend.views), _Unsure(measure), fpr)
    return Watch(Beside(backend, thinned(model, samples, seed, rate)), _Unsure(measure), fpr)
