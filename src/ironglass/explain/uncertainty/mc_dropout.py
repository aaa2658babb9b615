"""Monte Carlo dropout: thinned networks that disagree."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ironglass.core.method import uncertainty
from ironglass.models.adapter import Adapter
from ironglass.models.dropout import thinned
from ironglass.ops.uncertainty import Predicted, predicted


@uncertainty(
    title="Monte Carlo dropout",
    paper="gal2016",
    access="training",
    cost="samples",
    kind="specific",
    lecture="uncertainty: epistemic, by dropout",
)
def mc_dropout(
    model: Adapter,
    x: Tensor,
    *,
    samples: int = 50,
    rate: float | None = None,
    heteroscedastic: bool = False,
    of: Literal["classes", "values"] = "classes",
    noise: int = 50,
    seed: int = 0,
) -> Predicted:
    r"""Predict with dropout switched on, and see how far the predictions differ.

    .. math:: p_t = \mathrm{softmax}\, f(x; W \odot m_t), \qquad m_t \sim \mathrm{Bernoulli}(1 - p)

    Normalization layers stay in eval mode. A draw is one thinned network, the same for all samples. Known limit: where
    there is no data, thinned networks agree more than networks trained apart; prefer `deep_ensemble` to find gaps.

    Args:
        samples: draws T.
        rate: dropout probability of all layers in place of their own; 0.2 in the paper on maps.
        heteroscedastic: whether the network gives ``(logits, log_variance)``; then noise of that size is laid on the
            logits (kendall2017), or is the variance of its values.
        of: ``classes``, where outputs are logits ``(N, K, …)``, or ``values`` for a regression.
        noise: draws of the noise on the logits.
        seed: of masks and noise.

    Returns:
        The prediction of each draw.

    Raises:
        InputError: if the network has no dropout, or an option is out of range.
        AccessError: if the model is no network.
    """
    views = thinned(model, samples, seed, rate)
    views.prepare(x)
    out, log_variance = views.both(x) if heteroscedastic else (views(x), None)
    return predicted(out, log_variance, of, noise, seed)
