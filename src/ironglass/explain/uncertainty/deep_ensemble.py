"""Deep ensembles: networks trained apart that disagree where they have seen nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import uncertainty
from ironglass.models.adapter import Adapter
from ironglass.models.joint import Joint, Several
from ironglass.models.network import Torch
from ironglass.ops.uncertainty import Predicted, predicted


@uncertainty(
    title="Deep ensemble",
    paper="lakshminarayanan2017",
    access="scores",
    cost="1",
    lecture="uncertainty: epistemic, by an ensemble",
)
def deep_ensemble(
    model: Adapter,
    x: Tensor,
    *,
    heteroscedastic: bool = False,
    of: Literal["classes", "values"] = "classes",
    noise: int = 50,
    seed: int = 0,
) -> Predicted:
    r"""Predict with several models, and see how far their predictions differ.

    .. math:: H\Bigl[\frac1M \sum_m p_m\Bigr] = \frac1M \sum_m H[p_m] + I

    Called with a list of models, ``deep_ensemble([first, second, third], x)``. A single model is an ensemble of one;
    all its uncertainty is aleatoric.

    Args:
        heteroscedastic: whether the networks give ``(logits, log_variance)``; then noise of that size is laid on the
            logits (kendall2017), or is the variance of their values.
        of: ``classes``, where outputs are logits ``(N, K, …)``, or ``values`` for a regression.
        noise: draws of the noise on the logits.
        seed: of the noise.

    Returns:
        The prediction of each model.

    Raises:
        InputError: if the models give no log-variance where they should.
    """
    joint = isinstance(model.backend, Joint) and isinstance(model.backend.views, Several)
    members = model.backend.views.backends if joint else [model.backend]  # type: ignore[attr-defined]
    for member in members:
        member.prepare(x)
    if not heteroscedastic:
        return predicted(torch.stack([member.scores(x) for member in members]), None, of, noise, seed)
    networks = [member for member in members if isinstance(member, Torch)]
    if len(networks) < len(members):
        raise InputError("a function gives no log-variance", "heteroscedastic=False")
    pairs = [_both(network, x) for network in networks]
    out, log_variance = (torch.stack(part) for part in zip(*pairs, strict=True))
    return predicted(out, log_variance, of, noise, seed)


def _both(network: Torch, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        parts = network.plainly(x, lambda whole, leaf, _: whole.both(leaf), network.rows_at_once)
    out, log_variance = (torch.cat(part) for part in zip(*parts, strict=True))
    return out, log_variance
